package profile

import (
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

var (
	clientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	serverAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	start      = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
)

// shaper reads a configuration as it stands in a file.
func shaper(t testing.TB, config string) *Shaper {
	t.Helper()
	s, err := read(config)
	if err != nil {
		t.Fatalf("%s: %v", config, err)
	}
	return s
}

func read(config string) (*Shaper, error) {
	var c Config
	if err := strictyaml.Decode("muster.yaml", []byte(config), &c); err != nil {
		return nil, err
	}
	return New(c, Limits{
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth, serverAuth},
	})
}

// asked is a world with the grant as the gateway begins it.
func asked(t testing.TB) *facts {
	f := world(t)
	f.g.Subject, f.g.SubjectAltName = f.r.Subject, f.r.Extensions[0].Value
	f.g.NotBefore, f.g.NotAfter = start, start.Add(397*24*time.Hour)
	f.g.KeyUsage, f.g.ExtKeyUsage = x509.KeyUsageDigitalSignature, []asn1.ObjectIdentifier{clientAuth}
	return f
}

func (f *facts) want(id asn1.ObjectIdentifier, value any) *facts {
	der, ok := value.([]byte)
	if !ok {
		var err error
		if der, err = asn1.Marshal(value); err != nil {
			panic(err)
		}
	}
	f.r.Extensions = append(f.r.Extensions, stdpkix.Extension{Id: id, Value: der})
	return f
}

// nothing leaves the request without names.
func (f *facts) nothing() *facts {
	f.r.Subject, f.r.Extensions, f.g.Subject, f.g.SubjectAltName = nil, nil, nil, nil
	return f
}

// refused checks the reason of a refusal, what the device is told and what the operator is.
func refused(t *testing.T, err error, reason gateway.Reason, detail, note string) {
	t.Helper()
	e, ok := errors.AsType[*gateway.Error](err)
	if !ok || e.Reason != reason || !strings.Contains(e.Detail, detail) || !strings.Contains(e.Err.Error(), note) {
		t.Errorf("%v; want %s, to the device %q, to the operator %q", err, reason, detail, note)
	}
}

const askedSAN = "dns:first.example, dns:second.example, uri:urn:x:1"

func TestNames(t *testing.T) {
	for i, tt := range []struct {
		config  string
		nothing bool // is asked for
		subject string
		san     string
	}{
		{`{ask: {validity: allow}}`, false, "O=Two+O=One,CN=asked", askedSAN}, // what Go's Name makes of two organizations
		{`{subject: "CN={{device.serial}}"}`, false, "CN=0017", "no subjectAltName"},
		{`{subject: "CN={{device.serial}}"}`, true, "CN=0017", "no subjectAltName"},
		{`{subject: "CN={{device.serial}}", ask: {san: allow}}`, false, "CN=0017", askedSAN},
		{`{subject: "CN={{device.serial}}", ask: {subject: allow}}`, false, "O=Two+O=One,CN=asked", "no subjectAltName"},
		{`{subject: "CN={{device.serial}}", ask: {subject: allow}}`, true, "CN=0017", "no subjectAltName"},
		{`{subject: "CN={{device.serial}}", ask: {subject: refuse, san: refuse}}`, true, "CN=0017", "no subjectAltName"},
		{`{san: {dns: ["{{device.name}}.x", "*.{{device.name}}.x", "{{device.name}}.x"], ip: ["10.0.0.1", "2001:db8::1"], email: ["{{device.name}}@x"], uri: ["//m2m.example.com/{{device.serial}}"]}}`,
			false, "O=Two+O=One,CN=asked", "dns:bts-17.x, dns:*.bts-17.x, ip:10.0.0.1, ip:2001:db8::1, email:bts-17@x, uri://m2m.example.com/0017"},
		{`{san: {uri: ["urn:x:{{device.serial}}"]}, ask: {subject: replace}}`, false, "", "uri:urn:x:0017"},
		{`{san: {uri: ["urn:x:{{device.serial}}"]}, ask: {san: allow}}`, false, "O=Two+O=One,CN=asked", askedSAN},
		{`{san: {uri: ["urn:x:{{device.serial}}"], dns: ["{{device.udid | optional}}.x"]}, ask: {subject: refuse, san: allow}}`, true, "", "uri:urn:x:0017"},
		{`{san: {other: [{type: 1.3.6.1.4.1.311.20.2.3, utf8: "{{device.name}}@x"}, {type: 1.3.6.1.5.5.7.8.7, ia5: "_x.example"}]}}`, false, "O=Two+O=One,CN=asked", "other:2"},
	} {
		f := asked(t)
		if tt.nothing {
			f.nothing()
			if i%2 == 0 { // as a PKCS#10 request says it
				f.r.Subject, f.g.Subject = []byte{0x30, 0}, []byte{0x30, 0}
			}
		}
		if err := shaper(t, tt.config).Shape(f.r, f.g); err != nil {
			t.Errorf("%s: %v", tt.config, err)
			continue
		}
		if got := pkix.FormatName(f.g.Subject); got != tt.subject && !(strings.Contains(got, "O=One") && strings.Contains(tt.subject, "O=One")) {
			t.Errorf("%s: subject %s, want %s", tt.config, got, tt.subject)
		}
		if got := sanText(f.g.SubjectAltName); got != tt.san {
			t.Errorf("%s: subjectAltName %s, want %s", tt.config, got, tt.san)
		}
	}
}

func TestOtherName(t *testing.T) {
	f := asked(t)
	if err := shaper(t, `{san: {other: [{type: 1.3.6.1.4.1.311.20.2.3, utf8: "{{device.name}}"}]}}`).Shape(f.r, f.g); err != nil {
		t.Fatal(err)
	}
	var list []asn1.RawValue
	if _, err := asn1.Unmarshal(f.g.SubjectAltName, &list); err != nil || len(list) != 1 {
		t.Fatal(err, len(list))
	}
	var other struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"explicit,tag:0,utf8"`
	}
	if _, err := asn1.UnmarshalWithParams(list[0].FullBytes, &other, "tag:0"); err != nil || other.Value != "bts-17" || !other.Type.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}) {
		t.Error(other, err)
	}
}

func TestRefusedNames(t *testing.T) {
	for _, tt := range []struct {
		config string
		change func(*facts)
		reason gateway.Reason
		detail string
		note   string
	}{
		{`{subject: "CN={{device.serial}}", ask: {subject: refuse}}`, nil, gateway.BadTemplate, "ask for CN=0017", "profile base-station refuses the subject"},
		{`{subject: "CN={{device.serial}}", ask: {san: refuse}}`, nil, gateway.BadTemplate, "ask for no subjectAltName", "first.example"},
		{`{san: {dns: ["{{device.name}}.x"]}, ask: {san: refuse}}`, nil, gateway.BadTemplate, "ask for dns:bts-17.x", "first.example"},
		{`{san: {dns: ["{{device.name}}.x"]}, ask: {subject: refuse}}`, nil, gateway.BadTemplate, "ask for no subject", "asked"},
		{`{subject: "CN={{device.attributes.side}}"}`, nil, gateway.NotAuthorized, "ask its operator",
			"profile base-station, subject: {{device.attributes.side}}: the inventory entry bts-17 has no attribute side"},
		{`{subject: "CN={{request.subject.OU}}"}`, nil, gateway.BadTemplate, "the subject of the request has no organizationalUnitName", "{{request.subject.OU}}"},
		{`{subject: "C={{request.subject.CN}}"}`, nil, gateway.BadTemplate, "at most 2 are certified", "countryName"},
		{`{subject: "C={{device.name}}"}`, nil, gateway.NotAuthorized, "ask its operator", "at most 2 are certified"},
		{`{subject: "CN=x", san: {ip: ["{{device.name}}"]}}`, nil, gateway.NotAuthorized, "ask its operator", `ip "bts-17" is not an address`},
		{`{subject: "CN=x", san: {dns: ["{{device.attributes.site}}"]}}`, nil, gateway.NotAuthorized, "", "is not a host name"},
		{`{subject: "CN=x", san: {dns: ["{{device.name}}"]}}`, func(f *facts) { f.g.Inventory.Name = "10.0.0.1" }, gateway.NotAuthorized, "", "is an address: it stands under ip"},
		{`{subject: "CN=x", san: {dns: ["{{device.name}}.x"]}}`, func(f *facts) { f.g.Inventory.Name = "*" }, gateway.NotAuthorized, "", "is not a host name"},
		{`{subject: "CN=x", san: {uri: ["urn:{{device.name}}"]}}`, func(f *facts) { f.g.Inventory.Name = "a b" }, gateway.NotAuthorized, "", "IA5String"},
		{`{subject: "CN=x", san: {uri: ["http://{{device.name}}/"]}}`, func(f *facts) { f.g.Inventory.Name = "a@b:x" }, gateway.NotAuthorized, "", "is not a URI"},
		{`{subject: "CN=x", san: {email: ["{{device.name}}"]}}`, nil, gateway.NotAuthorized, "", "is not a mailbox"},
		{`{subject: "CN={{old.subject.CN}}", renew-names: template}`, func(f *facts) { f.r.OldCert = nil }, gateway.NotAuthorized, "", "no certificate is renewed"},
		{`{ask: {validity: allow}}`, func(f *facts) { f.nothing() }, gateway.BadTemplate, "a subject or a subjectAltName is required", "neither"},
	} {
		f := asked(t)
		if tt.change != nil {
			tt.change(f)
		}
		refused(t, shaper(t, tt.config).Shape(f.r, f.g), tt.reason, tt.detail, tt.note)
	}
}

// Messages stay short, whatever was asked for.
func TestRefusalsAreShort(t *testing.T) {
	f := asked(t)
	f.r.Subject = name(t, stdpkix.Name{CommonName: strings.Repeat("ü", 5000)})
	f.r.Extensions[0].Value = san(t, pkix.GeneralNames{URI: []string{"urn:" + strings.Repeat("x", 5000)}})
	for _, config := range []string{`{subject: CN=x, ask: {subject: refuse}}`, `{subject: CN=x, ask: {san: refuse}}`} {
		e, ok := errors.AsType[*gateway.Error](shaper(t, config).Shape(f.r, f.g))
		if !ok || len(e.Detail) > 512 || len(e.Err.Error()) > 1024 || !utf8.ValidString(e.Err.Error()) {
			t.Errorf("%s: %.2000v", config, e)
		}
	}
}

// A device that asks for what the profile says is refused nothing.
func TestRefuseTakesTheSame(t *testing.T) {
	f := asked(t)
	f.r.Subject = name(t, stdpkix.Name{CommonName: "0017"})
	f.r.Extensions[0].Value = san(t, pkix.GeneralNames{URI: []string{"urn:x:1"}, DNS: []string{"b.x", "a.x"}})
	if err := shaper(t, `{subject: "CN={{device.serial}}", san: {dns: [a.x, b.x], uri: ["urn:x:1"]}, ask: {subject: refuse, san: refuse}}`).Shape(f.r, f.g); err != nil {
		t.Error(err)
	}
}

// A renewal has the names that its stage granted, unless the profile says otherwise.
func TestRenewal(t *testing.T) {
	old := "CN=old-name"
	for config, want := range map[string]string{
		`{subject: "CN={{device.serial}}"}`:                                                old,
		`{subject: "CN={{device.serial}}", ask: {subject: refuse, san: refuse}}`:           old,
		`{subject: "CN={{device.serial}}", renew-names: certificate}`:                      old,
		`{subject: "CN={{device.serial}}", renew-names: template}`:                         "CN=0017",
		`{subject: "CN={{device.serial}}", renew-names: template, ask: {subject: refuse}}`: "CN=0017",
		`{subject: "CN={{device.serial}}", renew-names: template, ask: {subject: allow}}`:  "CN=0017",
		`{subject: "CN={{old.subject.CN}}-2", renew-names: template}`:                      "CN=old-name-2",
		`{san: {dns: ["{{device.name}}.x"]}, renew-names: template}`:                       old,
	} {
		for _, op := range []gateway.Operation{gateway.Renew, gateway.Rekey} {
			f := asked(t)
			f.r.Operation = op
			f.r.Subject = f.r.OldCert.RawSubject
			f.g.Subject, f.g.SubjectAltName = f.r.OldCert.RawSubject, f.r.OldCert.Extensions[0].Value
			if err := shaper(t, config).Shape(f.r, f.g); err != nil {
				t.Errorf("%s %s: %v", op, config, err)
			}
			if got := pkix.FormatName(f.g.Subject); got != want {
				t.Errorf("%s %s: %s, want %s", op, config, got, want)
			}
			names, kept := sanText(f.g.SubjectAltName), !strings.Contains(config, "renew-names: template")
			if strings.Contains(config, "san: {dns") && names != "dns:bts-17.x" || kept && names != "dns:old.example" {
				t.Errorf("%s %s: %s", op, config, names)
			}
		}
	}
}

func TestUsagesAskedFor(t *testing.T) {
	ku := func(bits byte, unused int) asn1.BitString {
		return asn1.BitString{Bytes: []byte{bits}, BitLength: 8 - unused}
	}
	agreement, encipherment := ku(0x08, 3), ku(0x20, 5)
	for _, tt := range []struct {
		config string
		id     asn1.ObjectIdentifier
		value  any
		want   string // the refusal; "" for none
		ku     x509.KeyUsage
		eku    asn1.ObjectIdentifier
	}{
		{`{ask: {subject: allow, validity: replace}}`, oidKeyUsage, encipherment, "", x509.KeyUsageDigitalSignature, clientAuth},
		{`{ask: {key-usage: refuse}}`, oidKeyUsage, agreement, "not the device's to choose", 0, nil},
		{`{ask: {key-usage: refuse}}`, oidKeyUsage, ku(0x80, 7), "", x509.KeyUsageDigitalSignature, clientAuth},
		{`{ask: {key-usage: allow}}`, oidKeyUsage, agreement, "", x509.KeyUsageKeyAgreement, clientAuth},
		{`{ask: {key-usage: allow}}`, oidKeyUsage, encipherment, "more than is certified", 0, nil},
		{`{ask: {key-usage: allow}}`, oidKeyUsage, ku(0x04, 2), "more than is certified", 0, nil}, // keyCertSign
		{`{ask: {key-usage: allow}}`, oidKeyUsage, ku(0, 0), "more than is certified", 0, nil},
		{`{ask: {key-usage: allow}}`, oidKeyUsage, []byte{5, 0}, "malformed", 0, nil},
		{`{ask: {key-usage: refuse}}`, oidExtKeyUsage, []asn1.ObjectIdentifier{serverAuth}, "", x509.KeyUsageDigitalSignature, clientAuth},
		{`{ask: {ext-key-usage: refuse}}`, oidExtKeyUsage, []asn1.ObjectIdentifier{serverAuth}, "not the device's to choose", 0, nil},
		{`{ask: {ext-key-usage: refuse}}`, oidExtKeyUsage, []asn1.ObjectIdentifier{clientAuth}, "", x509.KeyUsageDigitalSignature, clientAuth},
		{`{ask: {ext-key-usage: allow}}`, oidExtKeyUsage, []asn1.ObjectIdentifier{serverAuth}, "", x509.KeyUsageDigitalSignature, serverAuth},
		{`{ask: {ext-key-usage: allow}}`, oidExtKeyUsage, []asn1.ObjectIdentifier{{2, 5, 29, 37, 0}}, "more than is certified", 0, nil},
		{`{ask: {ext-key-usage: allow}}`, oidExtKeyUsage, []byte{0x30, 0}, "malformed", 0, nil},
		{`{ask: {ext-key-usage: allow}}`, oidExtKeyUsage, []asn1.ObjectIdentifier{clientAuth, clientAuth}, "malformed", 0, nil},
	} {
		f := asked(t).want(tt.id, tt.value)
		err := shaper(t, tt.config).Shape(f.r, f.g)
		if tt.want != "" {
			refused(t, err, gateway.BadTemplate, tt.want, "profile base-station")
			continue
		}
		if err != nil || f.g.KeyUsage != tt.ku || len(f.g.ExtKeyUsage) != 1 || !f.g.ExtKeyUsage[0].Equal(tt.eku) {
			t.Errorf("%s %v: %v, %#x, %v", tt.config, tt.value, err, f.g.KeyUsage, f.g.ExtKeyUsage)
		}
	}
}

func TestValidityAskedFor(t *testing.T) {
	end := start.Add(397 * 24 * time.Hour)
	day, hour := 24*time.Hour, time.Hour
	for _, tt := range []struct {
		word     string
		from, to time.Time
		want     string
		a, b     time.Time
	}{
		{"replace", start.Add(hour), start.Add(day), "", start, end},
		{"refuse", time.Time{}, time.Time{}, "", start, end},
		{"refuse", start, end, "", start, end},
		{"refuse", time.Time{}, start.Add(day), "not the device's to choose", start, end},
		{"refuse", start.Add(hour), time.Time{}, "not the device's to choose", start, end},
		{"allow", time.Time{}, time.Time{}, "", start, end},
		{"allow", start.Add(hour), start.Add(day), "", start.Add(hour), start.Add(day)},
		{"allow", start.Add(-day), start.Add(day), "", start.Add(-day), start.Add(day)},
		{"allow", time.Time{}, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), "", start, end},
		{"allow", start.Add(day + time.Second), time.Time{}, "more than a day", start, end},
		{"allow", start.Add(-day - time.Second), time.Time{}, "more than a day", start, end},
		{"allow", start.Add(hour), start.Add(hour), "ends before it begins", start, end},
		{"allow", time.Time{}, start.Add(-hour), "ends before it begins", start, end},
	} {
		f := asked(t)
		f.r.Validity = gateway.Validity{NotBefore: tt.from, NotAfter: tt.to}
		err := shaper(t, `{ask: {validity: `+tt.word+`}}`).Shape(f.r, f.g)
		if tt.want != "" {
			refused(t, err, gateway.BadTemplate, tt.want, "profile base-station")
		} else if err != nil {
			t.Error(err)
		}
		if !f.g.NotBefore.Equal(tt.a) || !f.g.NotAfter.Equal(tt.b) {
			t.Errorf("%s %s to %s: %s to %s", tt.word, tt.from, tt.to, f.g.NotBefore, f.g.NotAfter)
		}
	}
}

func TestExtensionsAskedFor(t *testing.T) {
	policies, other := asn1.ObjectIdentifier{2, 5, 29, 32}, asn1.ObjectIdentifier{1, 2, 3, 4}
	allow := `{ask: {extensions: allow, allowed: {extensions: [2.5.29.32]}}}`
	for _, tt := range []struct {
		config  string
		change  func(f *facts)
		want    string
		granted int
	}{
		{`{ask: {extensions: replace}}`, func(f *facts) { f.want(other, 1) }, "", 0},
		{`{ask: {extensions: refuse}}`, func(f *facts) { f.want(other, 1) }, "the extension 1.2.3.4 is not certified here", 0},
		{`{ask: {extensions: refuse}}`, func(f *facts) {
			f.want(oidBasicConstraints, []byte{0x30, 0}).want(oidSubjectKeyID, []byte{4, 1, 1}).want(oidKeyUsage, []byte{3, 2, 7, 128})
		}, "", 0},
		{`{ask: {extensions: refuse}}`, func(f *facts) { f.want(oidBasicConstraints, []byte{0x30, 3, 1, 1, 0xff}) }, "the extension 2.5.29.19", 0},
		{`{ask: {extensions: refuse}}`, func(f *facts) { f.want(oidBasicConstraints, []byte{0x30}) }, "the extension 2.5.29.19", 0},
		{`{ask: {extensions: allow, allowed: {extensions: [1.2.3.4]}}}`, func(f *facts) { f.want(other, []byte{}) }, "the value of the extension 1.2.3.4 is not one DER element", 0},
		{`{ask: {extensions: allow, allowed: {extensions: [1.2.3.4]}}}`, func(f *facts) { f.want(other, []byte{0xff, 0xff, 0xff}) }, "is not one DER element", 0},
		{`{ask: {extensions: allow, allowed: {extensions: [1.2.3.4]}}}`, func(f *facts) { f.want(other, []byte{5, 0, 5, 0}) }, "is not one DER element", 0},
		{allow, func(f *facts) { f.want(policies, 1) }, "", 1},
		{allow, func(f *facts) { f.want(other, 1) }, "the extension 1.2.3.4", 0},
		{allow, func(f *facts) { f.want(policies, 1).want(policies, 2) }, "twice", 0},
		{allow, func(f *facts) { f.want(policies, make([]byte, 4097)) }, "too long", 0},
	} {
		f := asked(t)
		tt.change(f)
		err := shaper(t, tt.config).Shape(f.r, f.g)
		if tt.want != "" {
			refused(t, err, gateway.BadTemplate, tt.want, "profile base-station")
		} else if err != nil {
			t.Error(err)
		}
		if len(f.g.Extensions) != tt.granted {
			t.Errorf("%s: %v", tt.config, f.g.Extensions)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	for config, want := range map[string]string{
		"subject: \"CN={{device.seral}}\"":               `muster.yaml:1: subject: CN: {{device.seral}}: device has no "seral" (did you mean "serial"?)`,
		"san:\n  dns:\n  - ok.x\n  - \"{{devce.x}}\"":    `muster.yaml:4: san.dns[1]: {{devce.x}}: there is no value "devce" (did you mean "device"?)`,
		"san:\n  dsn: [x]":                               `unknown key "dsn" in san (did you mean "dns"?)`,
		"san: {dns: [\"a b\"]}":                          "san.dns.0: dns \"a b\" is not a host name",
		"san: {ip: [x]}":                                 "san.ip.0: ip \"x\" is not an address",
		"san: {}":                                        "san: there is no name",
		"san: {other: [{type: x, utf8: x}]}":             `san.other.0: type: "x" is not an OID`,
		"san: {other: [{type: 1.2.3}]}":                  "give one value: utf8 or ia5",
		"san: {other: [{type: 1.2.3, utf8: a, ia5: b}]}": "give one value: utf8 or ia5",
		"ask: {subject: yes}":                            `"yes" is not known (known: replace, refuse, allow)`,
		"ask: {subjct: allow}":                           `unknown key "subjct" in ask (did you mean "subject"?)`,
		"ask: {subject: replace, san: replace}":          "ask.subject: replace, and no name would remain",
		"ask: {subject: refuse, san: refuse}":            "ask.subject: refuse, and no name would remain",
		"{san: {dns: [\"{{device.name | optional}}\"]}, ask: {subject: refuse}}": "no name would remain",
		"subject: \"CN={{device.udid | optional}}\"":                             "subject: all of it is optional",
		"{subject: CN=x, renew-names: never}":                                    `"never" is not known`,
		"renew-names: template":                                                  "renew-names: there is no template",
		"subject: \"CN={{old.subject.CN}}\"":                                     "say `renew-names: template`",
		"ask: {extensions: allow}":                                               "which may be asked for?",
		"ask: {extensions: allow, allowed: {extensions: [x]}}":                   "ask.allowed.extensions.0: \"x\" is not an OID",
		"ask: {extensions: allow, allowed: {extensions: [2.5.29.19]}}":           "2.5.29.19 cannot be asked for: the CA sets it",
		"ask: {allowed: {extensions: [1.2.3]}}":                                  "ask.allowed.extensions: it counts only with `ask: {extensions: allow}`",
		"ask: {allowed: {key-usage: [x]}}":                                       "ask.allowed.key-usage: it counts only",
	} {
		if _, err := read(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n  %v\n  want %s", config, err, want)
		}
	}
}

func TestWhatAShaperSays(t *testing.T) {
	for config, want := range map[string][4]bool{ // derives subject, names from request, sets subject, sets SAN
		`{ask: {validity: allow}}`:                                       {false, true, false, false},
		`{subject: "CN={{device.serial}}"}`:                              {true, false, true, true},
		`{subject: "CN={{request.subject.CN}}"}`:                         {true, true, true, true},
		`{subject: "CN={{device.serial}}", ask: {san: allow}}`:           {true, true, true, false},
		`{subject: "CN={{device.serial}}", ask: {subject: allow}}`:       {true, true, true, true},
		`{san: {dns: ["{{device.name}}"]}}`:                              {false, true, false, true},
		`{san: {dns: ["{{device.name}}"]}, ask: {subject: refuse}}`:      {true, false, true, true},
		`{san: {dns: ["{{request.san.dns}}"]}, ask: {subject: replace}}`: {true, true, true, true},
	} {
		s := shaper(t, config)
		if got := [4]bool{s.DerivesSubject(), s.NamesFromRequest(), s.SetsSubject(), s.SetsSAN()}; got != want {
			t.Errorf("%s: %v, want %v", config, got, want)
		}
	}
	if !(Config{}).IsZero() || (Config{RenewNames: RenewTemplate}).IsZero() {
		t.Error("IsZero")
	}
}

// What the grant had is not written into: others may hold it.
func TestNothingChangesInPlace(t *testing.T) {
	f := asked(t).want(asn1.ObjectIdentifier{1, 2, 3}, 1).want(oidExtKeyUsage, []asn1.ObjectIdentifier{serverAuth})
	subject, names := f.g.Subject, f.g.SubjectAltName
	wasSubject, wasNames := slices.Clone(subject), slices.Clone(names)
	eku := f.g.ExtKeyUsage
	further := make([]stdpkix.Extension, 1, 4)
	f.g.Extensions = further
	if err := shaper(t, `{subject: "CN={{device.serial}}", san: {dns: [a.x]}, ask: {ext-key-usage: allow, extensions: allow, allowed: {extensions: [1.2.3]}}}`).Shape(f.r, f.g); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(subject, wasSubject) || !slices.Equal(names, wasNames) || !eku[0].Equal(clientAuth) || further[:2][1].Id != nil {
		t.Error("changed in place")
	}
}
