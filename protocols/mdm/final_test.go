package mdm

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

func TestFinalProfileFaults(t *testing.T) {
	for name, tt := range map[string]struct{ from, to, want string }{
		"as it stands":           {"", "", ""},
		"no property list":       {"<plist", "<plast", "property list"},
		"signed, or binary":      {finalText, "bplist00", "not an XML"},
		"another type":           {">Configuration<", ">X<", "PayloadType is not"},
		"no identifier":          {"PayloadIdentifier", "X", "no PayloadIdentifier"},
		"no UUID":                {"F-1", "", "no PayloadUUID"},
		"no payloads":            {"PayloadContent", "X", "no payloads"},
		"two MDM payloads":       {"com.apple.wifi.managed", "com.apple.mdm", "two MDM payloads"},
		"the UUID is taken":      {"<key>SignMessage</key>", "<key>IdentityCertificateUUID</key><string>W-1</string><key>SignMessage</key>", "W-1"},
		"no such value":          {"{{device.attributes.site}}", "{{device.attributes}}", "no value"},
		"no end":                 {"{{scep.uuid}}", "{{scep.uuid", "without }}"},
		"another value":          {"{{scep.uuid}}", "{{scep.password}}", "no value"},
		"another of the message": {"{{message.UDID}}", "{{message.udid}}", "no value"},
		"too many":               {"{{scep.uuid}}", strings.Repeat("{{scep.uuid}}", 65), "more than 64"},
		"a payload of no type":   {"<key>PayloadType</key><string>com.apple.wifi.managed</string>", "", "payload 2 has no PayloadType"},
		"a payload of no name":   {"<key>PayloadIdentifier</key><string>com.example.wifi</string>", "", "payload 2 has no PayloadIdentifier"},
		"a payload of no UUID":   {"<string>W-1</string>", "<array/>", "payload 2 has no PayloadUUID"},
		"two payloads, one UUID": {"W-1", "M-1", "M-1 stands twice"},
		"the profile's own UUID": {"W-1", "F-1", "F-1 stands twice"},
		"no version":             {"<key>PayloadVersion</key><integer>1</integer>", "", "it has no PayloadVersion"},
		"another version":        {"<integer>1</integer><key>PayloadIdentifier</key><string>com.example.wifi</string>", "<integer>2</integer><key>PayloadIdentifier</key><string>com.example.wifi</string>", "payload 2 has no PayloadVersion"},
		"a UUID of each device":  {"<key>SignMessage</key>", "<key>IdentityCertificateUUID</key><string>{{device.udid}}</string><key>SignMessage</key>", "IdentityCertificateUUID"},
		"a secret in clear":      {"<key>PayloadContent</key>", "<key>PayloadDescription</key><string>{{scep.challenge}}</string><key>PayloadContent</key>", "PayloadDescription: there is no value"},
		"deeper than is good":    {"<data>AAEC</data>", strings.Repeat("<array>", 33) + strings.Repeat("</array>", 33), "deeper"},
	} {
		_, err := parseFinalProfile([]byte(strings.Replace(finalText, tt.from, tt.to, 1)), "U-1")
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The placeholder may have space in it.
	f, err := parseFinalProfile([]byte(strings.Replace(finalText, "<key>SignMessage</key>", "<key>IdentityCertificateUUID</key><string>{{ scep.uuid }}</string><key>SignMessage</key>", 1)), "U-1")
	if err != nil || f.uuid != "U-1" {
		t.Errorf("%+v %v", f, err)
	}
	// The UUID that the MDM payload states is that of the SCEP payload.
	f, err = parseFinalProfile([]byte(strings.Replace(finalText, "<key>SignMessage</key>", "<key>IdentityCertificateUUID</key><string>I-1</string><key>SignMessage</key>", 1)), "U-1")
	if err != nil || f.uuid != "I-1" {
		t.Errorf("%+v %v", f, err)
	}
}

func TestTemplateValues(t *testing.T) {
	v := values{
		who: &gateway.Recognised{Device: "phone-7", Inventory: &gateway.Device{
			Name: "phone-7", Vendor: "Apple", Identifiers: []gateway.DeviceID{{Kind: "udid", Value: "U7"}, {Kind: "asset-tag", Value: "A1"}}, Attributes: map[string]string{"site": `x,O=Evil+CN="y"`, "edge": " #a "},
		}},
		message: map[string]string{"SERIAL": "S7"}, scep: map[string]string{"url": "u"},
	}
	for text, want := range map[string]string{
		"{{device.name}}/{{ device.vendor }}/{{device.udid}}/{{device.asset-tag}}/{{message.SERIAL}}/{{scep.url}}": "phone-7/Apple/U7/A1/S7/u",
		"plain } { text": "plain } { text", "{{device.serial}}": "", "{{message.IMEI}}": "", "{{scep.challenge}}": "", "{{device.attributes.nothing}}": "",
	} {
		made, err := must(parseTemplate(text, deviceValues|scepValues)).expand(v, nil)
		if made != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q %v", text, made, err)
		}
	}
	// No value is more than a value of the subject.
	e := &endpoint{subject: must(parseTemplate("CN={{device.attributes.site}},O=Good", deviceValues))}
	rdns, err := appleSubject(must(e.subjectOf(v)))
	if err != nil || len(rdns) != 2 || rdns[1].([]any)[0].([]any)[1] != `x,O=Evil+CN="y"` || len(rdns[1].([]any)) != 1 {
		t.Errorf("%v %v", rdns, err)
	}
	e.subject = must(parseTemplate("CN={{device.attributes.edge}}", deviceValues))
	if rdns, err := appleSubject(must(e.subjectOf(v))); err != nil || rdns[0].([]any)[0].([]any)[1] != " #a " {
		t.Errorf("%v %v", rdns, err)
	}
	if made, err := must(parseTemplate("{{device.udid}}", deviceValues)).expand(values{who: &gateway.Recognised{Device: "x"}}, nil); err == nil {
		t.Errorf("without an entry: %q", made)
	}
}
