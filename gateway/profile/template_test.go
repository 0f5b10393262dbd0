package profile

import (
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

func name(t testing.TB, n stdpkix.Name) []byte {
	t.Helper()
	der, err := asn1.Marshal(n.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func san(t testing.TB, n pkix.GeneralNames) []byte {
	t.Helper()
	der, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// certificate is one whose names are to be read: nothing here verifies it.
func certificate(t testing.TB, subject stdpkix.Name, names pkix.GeneralNames) *x509.Certificate {
	c := &x509.Certificate{
		Raw: []byte(subject.CommonName + subject.SerialNumber), SerialNumber: big.NewInt(0xabc),
		RawSubject: name(t, subject), RawIssuer: name(t, stdpkix.Name{CommonName: "Vendor CA"}),
	}
	if der := san(t, names); der != nil {
		c.Extensions = []stdpkix.Extension{{Id: oidSubjectAlt, Value: der}}
	}
	return c
}

// world is a request of a device with an entry, that a vendor's certificate has authenticated.
func world(t testing.TB) *facts {
	vendor := certificate(t, stdpkix.Name{CommonName: "unit", SerialNumber: "V-0017"}, pkix.GeneralNames{})
	signer := gateway.Credential{Kind: gateway.CredentialSigner, ID: "v", Chain: []*x509.Certificate{vendor}}
	g := &gateway.Grant{Profile: "base-station", Device: "bts-17", Vendor: "Acme", Inventory: &gateway.Device{
		Name: "bts-17", Vendor: "ACME Radio",
		Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "0017"}, {Kind: "cse-id", Value: "/in-cse-7"}, {Kind: "imei", Value: "352099001761481"}},
		Attributes:  map[string]string{"site": "Köln-7", "tail": "x.example"},
	}}
	g.Authenticate(signer)
	return &facts{&gateway.Request{
		Operation: gateway.Enroll,
		Subject:   name(t, stdpkix.Name{CommonName: "asked", Organization: []string{"One", "Two"}}),
		Extensions: []stdpkix.Extension{{Id: oidSubjectAlt, Value: san(t, pkix.GeneralNames{
			DNS: []string{"first.example", "second.example"}, URI: []string{"urn:x:1"},
		})}},
		Credentials: []gateway.Credential{signer},
		OldCert:     certificate(t, stdpkix.Name{CommonName: "old-name"}, pkix.GeneralNames{DNS: []string{"old.example"}}),
	}, g}
}

func TestTemplate(t *testing.T) {
	for _, tt := range []struct{ source, want string }{
		{`plain`, "plain"},
		{`{{device.name}}`, "bts-17"},
		{`{{device.serial}}.{{device.attributes.tail}}`, "0017.x.example"},
		{`{{ device.attr "site" }}`, "Köln-7"},
		{`{{device.id "cse-id"}}`, "/in-cse-7"},
		{`urn:gsma:imei:{{device.imei}}`, "urn:gsma:imei:352099001761481"},
		{`{{device.vendor}}`, "ACME Radio"},
		{`{{request.subject.CN}}`, "asked"},
		{`{{request.subject.commonName}}`, "asked"},
		{`{{request.subject "2.5.4.3"}}`, "asked"},
		{`{{request.san.dns}}`, "first.example"},
		{`{{request.san.uri}}`, "urn:x:1"},
		{`{{certificate.subject.serialNumber}}`, "V-0017"},
		{`{{certificate.issuer.CN}}`, "Vendor CA"},
		{`{{certificate.serial}}`, "abc"},
		{`{{old.subject.CN}}/{{old.san.dns}}`, "old-name/old.example"},
		{`{{device.name | upper}}`, "BTS-17"},
		{`{{device.vendor | lower | replace " " "-"}}`, "acme-radio"},
		{`{{device.attributes.none | default "somewhere"}}`, "somewhere"},
		{`{{device.attributes.none | default "a" | prefix "p-" | suffix "-s"}}`, "p-a-s"},
		{`{{device.name | part 1 "-"}}{{device.name | part -1 "-"}}`, "bts17"},
		{`{{device.name | hex}}`, "6274732d3137"},
		{`{{device.name | match "[0-9]+$"}}`, "17"},
		{`{{device.name | match "^([a-z]+)-"}}`, "bts"},
		{`{{"fixed" | upper}}`, "FIXED"},
		{`{{"a}}b"}}`, "a}}b"},
	} {
		template, err := ParseTemplate(tt.source)
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		if got, ok, err := template.render(world(t)); err != nil || !ok || got != tt.want {
			t.Errorf("%s: %q, %t, %v; want %q", tt.source, got, ok, err, tt.want)
		}
	}
}

func TestTemplateFaults(t *testing.T) {
	long := strings.Repeat("x", maxSource+1)
	for source, want := range map[string]string{
		``:                                    "the template is empty",
		long:                                  "at most 1024",
		strings.Repeat("x", 300):              "at most 256 stand in a name",
		`{{device.serial`:                     "{{ stands without }}",
		`device.serial}}`:                     "}} stands without {{",
		`{{devise.serial}}`:                   `there is no value "devise" (did you mean "device"?)`,
		`{{device.seral}}`:                    `device has no "seral" (did you mean "serial"?); an identifier of another kind is written device.id "seral"`,
		`{{device.cse-id}}`:                   `{{device.id "cse-id"}}`,
		`{{device}}`:                          "device has the fields name, serial",
		`{{device.serial.x}}`:                 "device.serial has no fields",
		`{{device.attributes}}`:               "wants the attribute",
		`{{device.id}}`:                       "wants the kind of identifier",
		`{{device.a.b.c.d}}`:                  "device has the fields",
		`{{request.subject}}`:                 "request.subject wants the attribute",
		`{{request.subject.CM}}`:              `no attribute "CM" (did you mean "CN"?)`,
		`{{request.issuer.CN}}`:               `request has no "issuer"`,
		`{{request.san.dsn}}`:                 `no kind of name "dsn" (did you mean "dns"?)`,
		`{{certificate.serial.x}}`:            "certificate.serial has no fields",
		`{{.Device}}`:                         "without a dot before it",
		`{{lower}}`:                           "lower is a pipe",
		`{{device.serial | lowr}}`:            `there is no pipe "lowr" (did you mean "lower"?)`,
		`{{device.serial | lower "x"}}`:       "lower is written lower",
		`{{device.serial | default}}`:         `default is written default "x"`,
		`{{device.serial | default ""}}`:      "the text is empty",
		`{{device.serial | part "-"}}`:        "part wants a number and a separator",
		`{{device.serial | part 0 "-"}}`:      "part wants a number and a separator",
		`{{device.serial | part 1 ""}}`:       "the separator is empty",
		`{{device.serial | replace "" "x"}}`:  "what is to be replaced is empty",
		`{{device.serial | match "("}}`:       "missing closing )",
		`{{device.serial | match "(a)(b)"}}`:  "one group at most",
		`{{device.serial | optional | trim}}`: "stands last",
		`{{device.serial | prefix 1}}`:        "want a text in quotes",
		`{{device.serial | device.serial}}`:   "is no pipe",
		`{{device.serial "x" "y"}}`:           "one name at most",
		`{{if device.serial}}x{{end}}`:        "only values stand in {{ }}: no conditions",
		`{{range device.serial}}`:             "only values stand in {{ }}: no conditions",
		`{{device.attributes.my-site}}`:       "an attribute's has none",
		`{{device.id "CSE-ID"}}`:              "no device has such an identifier",
		`{{device.attr "my-site"}}`:           "no device has such an attribute",
		`{{define "x"}}`:                      "only values stand in {{ }}: no conditions",
		`{{template "x"}}`:                    "only values stand in {{ }}",
		`{{$x := device.serial}}`:             "variables",
		`{{- device.serial -}}`:               "without - and comments",
		`{{/* x */}}`:                         "without - and comments",
		`{{(device.serial)}}`:                 "want a value such as device.serial",
		`{{len device.serial}}`:               `there is no value "len"`,
		`{{5}}`:                               "want a value such as device.serial",
		strings.Repeat(`{{device.name}}`, 17): "at most 16 are taken",
		`{{device.name` + strings.Repeat(` | trim`, 9) + `}}`:        "at most 8 are taken",
		`{{device.name | match "` + strings.Repeat("a", 257) + `"}}`: "at most 256 are taken",
	} {
		if _, err := ParseTemplate(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", source, err, want)
		}
	}
}

func TestMissingValues(t *testing.T) {
	bare := func(t *testing.T) *facts { return &facts{&gateway.Request{}, &gateway.Grant{}} }
	unlisted := func(t *testing.T) *facts {
		return &facts{&gateway.Request{}, &gateway.Grant{Device: "unit-9", Vendor: "Acme"}}
	}
	claimed := func(t *testing.T) *facts { // a certificate that no stage has accepted
		f := world(t)
		f.g = &gateway.Grant{Device: "x"}
		return f
	}
	for _, tt := range []struct {
		source string
		world  func(*testing.T) *facts
		want   string // an error, or = and the value
	}{
		{`{{device.attributes.sit}}`, func(t *testing.T) *facts { return world(t) }, "{{device.attributes.sit}}: the inventory entry bts-17 has no attribute sit"},
		{`{{device.udid}}`, func(t *testing.T) *facts { return world(t) }, "the inventory entry bts-17 has no udid"},
		{`{{device.serial | part 3 "-"}}`, func(t *testing.T) *facts { return world(t) }, `"0017" has no part 3 between "-"`},
		{`{{device.serial | match "x"}}`, func(t *testing.T) *facts { return world(t) }, `"0017" does not match x`},
		{`{{request.subject.O}}`, func(t *testing.T) *facts { return world(t) }, "has 2 values of organizationName, one is wanted"},
		{`{{request.subject.O | default "x"}}`, func(t *testing.T) *facts { return world(t) }, "has 2 values of organizationName"},
		{`{{request.subject.OU}}`, func(t *testing.T) *facts { return world(t) }, "the subject of the request has no organizationalUnitName"},
		{`{{request.san.ip}}`, func(t *testing.T) *facts { return world(t) }, "has no name of kind ip"},
		{`{{device.name}}`, bare, "no stage has named the device"},
		{`{{device.vendor}}`, bare, "the device's vendor is not known"},
		{`{{certificate.subject.CN}}`, bare, "no certificate has authenticated the request"},
		{`{{certificate.subject.CN}}`, claimed, "no certificate has authenticated the request"},
		{`{{old.subject.CN}}`, bare, "no certificate is renewed"},
		{`{{request.subject.CN}}`, bare, "the request has no subject"},
		{`{{device.name}}/{{device.serial}}`, unlisted, "=unit-9/unit-9"},
		{`{{device.vendor}}`, unlisted, "=Acme"},
		{`{{device.imei}}`, unlisted, "device unit-9 has no imei: it has no inventory entry"},
		{`{{device.attributes.site}}`, unlisted, "the device unit-9 has no inventory entry"},
		{`{{device.attributes.site | optional}}.x`, unlisted, "="},
		{`{{device.name | replace "bts" "" | replace "-17" ""}}`, func(t *testing.T) *facts { return world(t) }, "the value is empty"},
		{`{{device.name | replace "b" "` + strings.Repeat("y", 300) + `"}}`, func(t *testing.T) *facts { return world(t) }, "it makes 305 bytes, at most 256 are taken"},
		{`{{device.name | hex | hex | hex | hex | hex | hex | hex | hex}}`, func(t *testing.T) *facts { return world(t) }, "at most 1024 are taken"},
		{`{{device.name | replace "b" "` + strings.Repeat("b", 300) + `" | replace "b" "bbbbbb"}}`, func(t *testing.T) *facts { return world(t) }, "over 1024 bytes"},
	} {
		template, err := ParseTemplate(tt.source)
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		got, ok, err := template.render(tt.world(t))
		if want, value := strings.CutPrefix(tt.want, "="); value {
			if err != nil || got != want || ok != (want != "") {
				t.Errorf("%s: %q, %t, %v; want %q", tt.source, got, ok, err, want)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %q", tt.source, got, err, want)
		}
	}
}
