package mdm

import (
	"crypto"
	"encoding/base64"
	"strings"
	"testing"
)

// FuzzFinalProfile: what is taken for the operator's profile can be filled in, and stays the same profile.
func FuzzFinalProfile(f *testing.F) {
	f.Add([]byte(finalText))
	f.Add([]byte(strings.Replace(finalText, "M-1", "W-1", 1)))
	f.Add([]byte("<plist><dict>" + strings.Repeat("<key>a</key><dict>", 40) + strings.Repeat("</dict>", 40) + "</dict></plist>"))
	f.Add([]byte("bplist00\xd0"))
	w := newWorld(f)
	v := values{who: w.gateway.who, message: map[string]string{"UDID": "u7"}, scep: map[string]string{"url": "https://x", "challenge": "c", "uuid": "S"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseFinalProfile(data, "S-1")
		if err != nil {
			if p != nil || err.Error() == "" {
				t.Fatalf("%v, %v", p, err)
			}
			return
		}
		filled, err := p.fill(v, dict{"PayloadUUID": p.uuid})
		if err != nil {
			return // a value that the device lacks
		}
		if lacks := lacking(filled); lacks == "PayloadVersion of 1" || p.uuid == "" {
			t.Errorf("it lacks %s: %v", lacks, filled)
		}
		if list := filled["PayloadContent"].([]any); len(list) < 2 || list[0].(dict)["PayloadUUID"] != p.uuid {
			t.Errorf("%v", list)
		}
	})
}

// FuzzTemplate: what is read is bounded, and what no placeholder stands in comes out as it went in.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{{device.name}}", "a{{ message.UDID }}b{{device.attributes.site}}", "{{scep.challenge}}", "{{", "}}", "{{{{device.name}}}}", "{{device.}}", ""} {
		f.Add(s)
	}
	w := newWorld(f)
	v := values{who: w.gateway.who, message: map[string]string{"UDID": "{{scep.challenge}}"}, scep: map[string]string{"challenge": "secret"}}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseTemplate(text, deviceValues)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("%.2000s", err)
			}
			return
		}
		if len(p.names) > maxPlaceholders || len(p.literals) != len(p.names)+1 {
			t.Fatalf("%+v", p)
		}
		made, err := p.expand(v, nil)
		switch {
		case err != nil:
		case strings.Contains(made, "secret") && !strings.Contains(text, "secret"):
			t.Errorf("%q becomes %q", text, made)
		case len(p.names) == 0 && made != text:
			t.Errorf("%q becomes %q", text, made)
		}
	})
}

// FuzzDeviceCAs: a CA that is read has a key that may sign devices' certificates.
func FuzzDeviceCAs(f *testing.F) {
	f.Add([]byte(appleDeviceCA))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseDeviceCAs(data)
		if err != nil && all != nil {
			t.Fatalf("%v, %v", all, err)
		}
		for _, ca := range all {
			if ca.key == nil {
				t.Error("a CA without a key")
			}
		}
	})
}

// FuzzOverTheAir: whatever a device sends, signed by itself, by a certificate of the gateway's or by nobody, is answered within HTTP's words for
// a client's fault; a profile goes to who signed only, and no challenge is made for more than one request.
func FuzzOverTheAir(f *testing.F) {
	w := newWorld(f)
	for _, content := range [][]byte{stating("UDID", "u7", "SERIAL", "S7"), stating("UDID", "u7", "CHALLENGE", w.token()), checkIn, []byte("bplist00\xd0"), nil} {
		for by := range uint8(3) {
			f.Add(content, by, "")
		}
	}
	f.Add(w.own.signs(checkIn, crypto.SHA256), uint8(3), "")
	f.Add(checkIn, uint8(3), w.mdmSignature(checkIn))
	f.Fuzz(func(t *testing.T, content []byte, by uint8, signature string) {
		w.t = t
		w.gateway.asked, w.gateway.rejected, w.gateway.challenges, w.gateway.secrets = nil, nil, nil, nil
		body := content
		switch by % 4 {
		case 0:
			body = w.own.signs(content, crypto.SHA256)
		case 1:
			body = w.device.signs(content, crypto.SHA256)
		case 2:
			signature = base64.StdEncoding.EncodeToString(detached(w.own.signs(content, crypto.SHA256)))
		}
		if strings.ContainsAny(signature, "\r\n\x00") {
			return
		}
		for _, rec := range []int{
			w.send("POST", "/ota/ota", body).Code, w.send("PUT", "/ota/ota/check", content, "Mdm-Signature", signature).Code,
		} {
			if rec != 200 && (rec < 400 || rec > 499) {
				t.Errorf("%d", rec)
			}
		}
		if len(w.gateway.challenges) > 1 || by%4 > 1 && signature == "" && len(w.gateway.asked) > 1 {
			t.Errorf("%d challenges, %d requests", len(w.gateway.challenges), len(w.gateway.asked))
		}
	})
}
