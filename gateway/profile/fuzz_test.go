package profile

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// FuzzSubject: whatever stands in a configuration and an inventory entry, nothing panics, and what is made has the RDNs of
// the configuration, each value bounded and printable.
func FuzzSubject(f *testing.F) {
	for _, seed := range [][2]string{
		{"CN={{device.serial}},O=Operator", "CN=a,O=b"},
		{`CN={{device.id "cse-id" | lower}}+serialNumber={{device.serial | default "x"}}`, "/in-cse"},
		{`CN=a\,b{{device.attributes.site | part -1 "," | trim | optional}},C=DE,CN=x`, "a,b"},
		{`CN={{device.serial | match "^(.)" | hex | prefix "p" | suffix "s" | replace "p" "q"}}`, "\u202e"},
		{"CN={{request.subject.CN}},DC={{certificate.issuer.CN}},OU={{old.san.dns}}", "x"},
		{`{{define "x"}}{{end}}`, ""}, {`CN={{"{{"}}`, ""}, {`CN={{"\x00"}}`, ""},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		s, err := ParseSubject(source)
		if err != nil {
			return
		}
		w := &facts{&gateway.Request{}, &gateway.Grant{Device: value, Inventory: &gateway.Device{
			Name: value, Identifiers: []gateway.DeviceID{{Kind: "serial", Value: value}, {Kind: "cse-id", Value: value}},
			Attributes: map[string]string{"site": value},
		}}}
		der, err := s.make(w)
		if err != nil {
			if strings.ContainsRune(err.Error(), 0) {
				t.Errorf("%q %q: the error has a NUL: %q", source, value, err)
			}
			return
		}
		name, err := pkix.ParseName(der)
		if err != nil {
			t.Fatalf("%q %q: %v", source, value, err)
		}
		if len(name) > len(s.rdns) {
			t.Errorf("%q %q: %d RDNs of %d", source, value, len(name), len(s.rdns))
		}
		for _, rdn := range name {
			for _, a := range rdn {
				if len(a.Text) > maxValue || !a.IsText || !utf8.ValidString(a.Text) || !pkix.IsPrintable(a.Text) || a.Text == "" {
					t.Errorf("%q %q: %q", source, value, a.Text)
				}
			}
		}
	})
}

// FuzzTemplate: as FuzzSubject, for the names of a subjectAltName.
func FuzzTemplate(f *testing.F) {
	for _, seed := range [][2]string{{"{{device.name}}.x", "a"}, {"urn:{{device.name | upper}}", "b c"}, {"10.0.0.{{device.name}}", "1"}, {"{{device.name}}@x", "<a>"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		template, err := ParseTemplate(source)
		if err != nil {
			return
		}
		for _, config := range []SAN{
			{DNS: []*Template{template}}, {IP: []*Template{template}}, {URI: []*Template{template}}, {Email: []*Template{template}},
		} {
			list, err := config.entries()
			if err != nil {
				continue
			}
			der, err := makeSAN(list, &facts{&gateway.Request{}, &gateway.Grant{Device: value}})
			if err != nil || der == nil {
				continue
			}
			if _, err := pkix.ParseGeneralNames(der); err != nil {
				t.Errorf("%q %q: %v", source, value, err)
			}
		}
	})
}
