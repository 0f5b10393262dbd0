package mdm

import (
	"crypto"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/micromdm/plist"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

func (w *world) phase2(pairs ...string) (int, string) {
	w.t.Helper()
	rec := w.send("POST", "/ota/ota", w.device.signs(stating(append([]string{"UDID", "u7", "SERIAL", "S7"}, pairs...)...), crypto.SHA256))
	return rec.Code, rec.Body.String()
}

// The first certificate signs, and the final profile is encrypted to it, whatever the second is for.
func TestKeyUsage(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.SCEP.KeyUsage = 1 })
	first := w.content(w.send("POST", "/ota/ota", w.device.signs(stating("UDID", "u7", "CHALLENGE", w.token()), crypto.SHA256)))["PayloadContent"].([]any)[0].(map[string]any)
	sealed := w.content(w.send("POST", "/ota/ota", w.own.signs(stating("UDID", "u7"), crypto.SHA256)))["EncryptedPayloadContent"].([]byte)
	var payloads []map[string]any
	if err := plist.Unmarshal(must(must(cms.ParseEnveloped(sealed, cms.Limits{})).Decrypt(ownKey(), w.own.cert)), &payloads); err != nil {
		t.Fatal(err)
	}
	if a, b := first["PayloadContent"].(map[string]any)["Key Usage"], payloads[0]["PayloadContent"].(map[string]any)["Key Usage"]; a != uint64(5) || b != uint64(1) {
		t.Errorf("Key Usage %v, then %v", a, b)
	}
}

// Phase 1: Apple, Profile Service payload: URL, Challenge, DeviceAttributes.
func TestPhase1(t *testing.T) {
	w := newWorld(t)
	made := w.content(w.send("GET", "/ota/ota/profile", nil))
	content := made["PayloadContent"].(map[string]any)
	if made["PayloadType"] != "Profile Service" || content["URL"] != "https://pki.example.com/ota/ota" || content["Challenge"] == "" || len(content["DeviceAttributes"].([]any)) != 6 {
		t.Errorf("%v", made)
	}
	if one := w.token(); one == w.token() {
		t.Error("two profiles have one token")
	}
	if len(w.gateway.asked)+len(w.gateway.challenges) != 0 {
		t.Error("a first profile asked or stored something")
	}
	off := false
	w = newWorld(t, func(c *Config) { c.Sign, c.Challenge = &off, ChallengeNone })
	var plain map[string]any
	rec := w.send("GET", "/ota/profile", nil) // the default endpoint
	if err := plist.Unmarshal(rec.Body.Bytes(), &plain); err != nil || plain["PayloadContent"].(map[string]any)["Challenge"] != nil {
		t.Errorf("unsigned, without a challenge: %v %v", plain, err)
	}
}

func TestPhase2(t *testing.T) {
	w := newWorld(t)
	token := w.token()
	rec := w.send("POST", "/ota/ota", w.device.signs(stating("UDID", "u7", "SERIAL", "S7", "IMEI", "49", "PRODUCT", "iPhone1,1", "CHALLENGE", token), crypto.SHA256))
	made := w.content(rec)
	scep := made["PayloadContent"].([]any)[0].(map[string]any)
	content := scep["PayloadContent"].(map[string]any)
	if scep["PayloadType"] != "com.apple.security.scep" || content["URL"] != "https://pki.example.com/scep/phones" || content["Challenge"] != w.gateway.secrets[0] || len(w.gateway.secrets[0]) != 32 {
		t.Errorf("%v", scep)
	}
	rdns := content["Subject"].([]any)
	if len(rdns) != 2 || !slices.Equal(rdns[0].([]any)[0].([]any), []any{"O", "A, B"}) || !slices.Equal(rdns[1].([]any)[0].([]any), []any{"CN", "phone-7"}) {
		t.Errorf("subject %v", rdns)
	}
	c := w.gateway.challenges[0]
	if c.Endpoint != "phones" || c.Device != "phone-7" || c.Subject != `CN=phone-7,O=A\, B` || c.Uses != 1 || !c.NotAfter.Equal(testTime.Add(time.Hour)) || c.By != "endpoint ota" {
		t.Errorf("%+v", c)
	}
	r := w.gateway.asked[0]
	if r.Protocol != gateway.MDM || r.Operation != gateway.Query || r.Endpoint != "ota" || len(r.Credentials) != 1 || r.Credentials[0].Kind != gateway.CredentialDevice || !r.Credentials[0].Chain[0].Equal(w.device.cert) {
		t.Errorf("%+v", r)
	}
	if want := []gateway.DeviceID{{Kind: "udid", Value: "u7"}, {Kind: "serial", Value: "S7"}, {Kind: "imei", Value: "49"}}; !slices.Equal(r.Identifiers, want) {
		t.Errorf("%+v", r.Identifiers)
	}
	// The same token gives the same device the same challenge, another token another.
	w.phase2("CHALLENGE", token)
	w.phase2("CHALLENGE", w.token())
	w.gateway.who.Device = "phone-8"
	w.phase2("CHALLENGE", token)
	if s := w.gateway.secrets; s[0] != s[1] || s[2] == s[0] || s[3] == s[0] {
		t.Errorf("challenges %q", s)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	token := w.token()
	flipped := []byte(token)
	flipped[4] ^= 1
	elsewhere := w.content(w.send("GET", "/ota/else/profile", nil))["PayloadContent"].(map[string]any)["Challenge"].(string)
	for name, wrong := range map[string]string{"none": "", "another endpoint's": elsewhere, "changed": string(flipped), "short": token[:8], "not base64": "!!", "long": strings.Repeat("A", 1000)} {
		if code, body := w.phase2("CHALLENGE", wrong); code != http.StatusForbidden || len(w.gateway.asked) != 0 {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if code, body := w.phase2(); code != http.StatusForbidden {
		t.Errorf("without: %d %s", code, body)
	}
	w.now = testTime.Add(time.Hour)
	if code, body := w.phase2("CHALLENGE", token); code != http.StatusOK {
		t.Errorf("in time: %d %s", code, body)
	}
	w.now = testTime.Add(time.Hour + time.Second)
	if code, body := w.phase2("CHALLENGE", token); code != http.StatusForbidden {
		t.Errorf("too late: %d %s", code, body)
	}
	w.now = testTime.Add(-2 * time.Minute)
	if code, body := w.phase2("CHALLENGE", token); code != http.StatusForbidden {
		t.Errorf("from the future: %d %s", code, body)
	}
	// In phase 3 a token that is there has to be good.
	w.now = testTime.Add(2 * time.Hour)
	if rec := w.send("POST", "/ota/ota", w.own.signs(stating("UDID", "u7", "CHALLENGE", token), crypto.SHA256)); rec.Code != http.StatusForbidden {
		t.Errorf("phase 3, too late: %d %s", rec.Code, rec.Body)
	}
	w = newWorld(t, func(c *Config) { c.Challenge = ChallengeNone })
	w.phase2()
	w.now = testTime.Add(time.Hour)
	if code, body := w.phase2(); code != http.StatusOK || w.gateway.secrets[0] == w.gateway.secrets[1] {
		t.Errorf("challenge none: %d %s: the second enrollment has the first one's challenge: %q", code, body, w.gateway.secrets)
	}
}

func TestPhase3(t *testing.T) {
	w := newWorld(t)
	made := w.content(w.send("POST", "/ota/ota", w.own.signs(stating("UDID", "u7"), crypto.SHA256)))
	sealed, _ := made["EncryptedPayloadContent"].([]byte)
	if made["PayloadContent"] != nil || made["PayloadIdentifier"] != "com.example.final" {
		t.Fatalf("%v", made)
	}
	content := must(must(cms.ParseEnveloped(sealed, cms.Limits{})).Decrypt(ownKey(), w.own.cert))
	var payloads []any
	if err := plist.Unmarshal(content, &payloads); err != nil || len(payloads) != 3 {
		t.Fatal(err, payloads)
	}
	scep, mdm, wifi := payloads[0].(map[string]any), payloads[1].(map[string]any), payloads[2].(map[string]any)
	secret := w.gateway.secrets[0]
	if scep["PayloadContent"].(map[string]any)["Challenge"] != secret || scep["PayloadUUID"] != mdm["IdentityCertificateUUID"] || scep["PayloadUUID"] != wifi["PayloadCertificateUUID"] || wifi["Password"] != secret {
		t.Errorf("%v", payloads)
	}
	// A value is text, whatever stands in it.
	if mdm["ServerURL"] != "https://mdm/no<r>th&/u7" || mdm["SignMessage"] != true || string(wifi["Raw"].([]byte)) != "\x00\x01\x02" {
		t.Errorf("%v", mdm)
	}
	if r := w.gateway.asked[0]; r.Credentials[0].Kind != gateway.CredentialSigner {
		t.Errorf("%+v", r)
	}
	// The same message at another endpoint gives another challenge.
	w.content(w.send("POST", "/ota/else", w.own.signs(stating("UDID", "u7"), crypto.SHA256)))
	if s := w.gateway.secrets; len(s) != 2 || s[0] == s[1] {
		t.Errorf("two endpoints have one challenge: %q", s)
	}
	// So does the same message by the certificate that renewed the first one.
	renewed := certify("phone-7", nil, ownKey().Public(), ownKey())
	w.gateway.issued[string(renewed.Raw)], w.gateway.who.Certificate = true, &gateway.Certificate{DER: renewed.Raw}
	w.content(w.send("POST", "/ota/ota", signer{ownKey(), renewed}.signs(stating("UDID", "u7"), crypto.SHA256)))
	if s := w.gateway.secrets; len(s) != 3 || s[0] == s[2] {
		t.Errorf("two certificates have one challenge: %q", s)
	}
	w.gateway.secrets, w.gateway.who.Certificate = w.gateway.secrets[:1], &gateway.Certificate{DER: w.own.cert.Raw}
	// A version of iOS that repeats the token in both answers gets two challenges by it.
	token := w.token()
	w.phase2("CHALLENGE", token)
	w.content(w.send("POST", "/ota/ota", w.own.signs(stating("UDID", "u7", "CHALLENGE", token), crypto.SHA256)))
	if s := w.gateway.secrets; len(s) != 3 || s[1] == s[2] {
		t.Errorf("both steps have one challenge: %q", s)
	}
}

func TestPhasesRefused(t *testing.T) {
	stated := stating("UDID", "u7")
	for name, tt := range map[string]struct {
		change func(*world)
		body   func(*world) []byte
		code   int
		asked  bool
	}{
		"nothing":    {body: func(*world) []byte { return nil }, code: 400},
		"not CMS":    {body: func(*world) []byte { return stated }, code: 400},
		"too large":  {body: func(w *world) []byte { return make([]byte, 256<<10+1) }, code: 413},
		"no content": {body: func(w *world) []byte { return detached(w.own.signs(stated, crypto.SHA256)) }, code: 400},
		"a changed content": {body: func(w *world) []byte {
			return []byte(strings.Replace(string(w.own.signs(stated, crypto.SHA256)), ">u7<", ">u8<", 1))
		}, code: 400},
		"SHA-1":               {body: func(w *world) []byte { return w.own.signs(stated, crypto.SHA1) }, code: 400},
		"no UDID":             {body: func(w *world) []byte { return w.own.signs(stating("SERIAL", "x"), crypto.SHA256) }, code: 400},
		"a UDID too long":     {body: func(w *world) []byte { return w.own.signs(stating("UDID", strings.Repeat("x", 500)), crypto.SHA256) }, code: 400},
		"a UDID that hides":   {body: func(w *world) []byte { return w.own.signs(stating("UDID", "u7\u202e"), crypto.SHA256) }, code: 400},
		"a control sequence":  {body: func(w *world) []byte { return w.own.signs(stating("UDID", "u7", "PRODUCT", "\u009b2J"), crypto.SHA256) }, code: 400},
		"a UDID with lines":   {body: func(w *world) []byte { return w.own.signs(stating("UDID", "u&#10;7"), crypto.SHA256) }, code: 400},
		"UDID twice":          {body: func(w *world) []byte { return w.own.signs(stating("UDID", "u7", "UDID", "u8"), crypto.SHA256) }, code: 400},
		"an MDM check-in":     {body: func(w *world) []byte { return w.own.signs(stating("UDID", "u7", "MessageType", "x"), crypto.SHA256) }, code: 400},
		"an MDM result":       {body: func(w *world) []byte { return w.own.signs(stating("UDID", "u7", "Status", "Idle"), crypto.SHA256) }, code: 400},
		"a binary plist":      {body: func(w *world) []byte { return w.own.signs([]byte("bplist00\xd0"), crypto.SHA256) }, code: 400},
		"issued by nobody":    {change: func(w *world) { w.own.cert = certify("x", nil, ownKey().Public(), ownKey()) }, code: 403},
		"the store fails":     {change: func(w *world) { w.gateway.issuedErr = &gateway.Error{Reason: gateway.Unavailable} }, code: 503},
		"no identity":         {change: func(w *world) { w.id = nil }, code: 503},
		"the pipeline":        {change: func(w *world) { w.gateway.refuses = &gateway.Error{Reason: gateway.NotAuthorized, Detail: "no"} }, code: 403, asked: true},
		"another's way in":    {change: func(w *world) { w.gateway.who.Certificate = nil }, code: 403, asked: true},
		"another's cert":      {change: func(w *world) { w.gateway.who.Certificate = &gateway.Certificate{DER: w.device.cert.Raw} }, code: 403, asked: true},
		"not looked up":       {change: func(w *world) { w.gateway.who.Inventory = nil }, code: 403, asked: true},
		"a hole in the entry": {change: func(w *world) { w.gateway.who.Inventory.Attributes = nil }, code: 403, asked: true},
		"a spent challenge":   {change: func(w *world) { w.gateway.issueErr = &gateway.Error{Reason: gateway.NotAuthorized} }, code: 403, asked: true},
		"a panic":             {change: func(w *world) { w.gateway.panics = true }, code: 500},
		"a key that is not RSA": {change: func(w *world) {
			w.own = signer{ecKey(), certify("ec", nil, ecKey().Public(), ecKey())}
			w.gateway.issued[string(w.own.cert.Raw)] = true
			w.gateway.who.Certificate = &gateway.Certificate{DER: w.own.cert.Raw}
		}, code: 400, asked: true},
	} {
		w := newWorld(t)
		if tt.change != nil {
			tt.change(w)
		}
		body := w.own.signs(stated, crypto.SHA256)
		if tt.body != nil {
			body = tt.body(w)
		}
		rec := w.send("POST", "/ota/ota", body)
		if rec.Code != tt.code || (len(w.gateway.asked) > 0) != tt.asked || strings.Contains(rec.Body.String(), "Payload") {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	// Phase 2 without the inventory.
	w := newWorld(t)
	w.gateway.who.Inventory = nil
	if code, body := w.phase2("CHALLENGE", w.token()); code != http.StatusForbidden {
		t.Errorf("phase 2, not looked up: %d %s", code, body)
	}
	// SHA-1 by name only.
	w = newWorld(t, func(c *Config) { c.Legacy = []Legacy{LegacySHA1} })
	if rec := w.send("POST", "/ota/ota", w.own.signs(stated, crypto.SHA1)); rec.Code != http.StatusOK {
		t.Errorf("legacy: %d %s", rec.Code, rec.Body)
	}
}

func TestPathsAndMethods(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/ota/ota/profile", 200}, {"HEAD", "/ota/ota/profile", 200}, {"GET", "/ota/trust", 200}, {"GET", "/ota/else/trust", 200},
		{"POST", "/ota/ota/profile", 405}, {"GET", "/ota/ota", 405}, {"DELETE", "/ota/ota/check", 405}, {"PUT", "/ota/ota", 405},
		{"GET", "/ota/hidden/profile", 404}, {"GET", "/ota/nobody/profile", 404}, {"GET", "/ota/ota/profile/x", 404}, {"GET", "/ota/OTA/profile", 404},
		{"GET", "/ota/" + strings.Repeat("x", 300), 404},
	} {
		if rec := w.send(tt.method, tt.path, nil); rec.Code != tt.code {
			t.Errorf("%s %s: %d", tt.method, tt.path, rec.Code)
		}
	}
}

func TestTrustProfile(t *testing.T) {
	w := newWorld(t)
	below := certify("below", w.gateway.chain[0], otherKey().Public(), caKey())
	w.gateway.chain = []*x509.Certificate{below, w.gateway.chain[0]}
	payloads := w.content(w.send("GET", "/ota/ota/trust", nil))["PayloadContent"].([]any)
	if len(payloads) != 2 { // the root once, though it stands in three chains
		t.Fatalf("%d payloads", len(payloads))
	}
	root, next := payloads[0].(map[string]any), payloads[1].(map[string]any)
	if root["PayloadType"] != "com.apple.security.root" || string(root["PayloadContent"].([]byte)) != string(w.gateway.chain[1].Raw) || next["PayloadType"] != "com.apple.security.pkcs1" {
		t.Errorf("%v", payloads)
	}
}
