package pkix

import (
	"strings"
	"testing"
)

func TestAttributeTypeNamed(t *testing.T) {
	for name, want := range map[string]struct {
		oid   string
		long  string
		bound int
	}{
		"CN": {"2.5.4.3", "commonName", 64}, "cn": {"2.5.4.3", "commonName", 64}, "commonName": {"2.5.4.3", "commonName", 64},
		"2.5.4.3": {"2.5.4.3", "commonName", 64}, "C": {"2.5.4.6", "countryName", 2}, "DC": {"0.9.2342.19200300.100.1.25", "domainComponent", 128},
		"description": {"2.5.4.13", "2.5.4.13", 128}, "1.2.3.4": {"1.2.3.4", "1.2.3.4", 128},
	} {
		a, ok := AttributeTypeNamed(name)
		if !ok || a.OID.String() != want.oid || a.Name != want.long || a.Bound != want.bound {
			t.Errorf("%s: %+v, %t", name, a, ok)
		}
	}
	for _, name := range []string{"", "CM", "2.5.4.x", "2", "2.5.", "3.1", "1.40.1", "2.05.1", "-1.2"} {
		if a, ok := AttributeTypeNamed(name); ok {
			t.Errorf("%q: %+v", name, a)
		}
	}
	if len(AttributeTypes()) < 10 {
		t.Error(AttributeTypes())
	}
}

func TestParseOID(t *testing.T) {
	for _, s := range []string{"2.5.29.37", "0.39", "1.3.6.1.4.1.311.20.2.3", "2.999.1"} {
		if oid, ok := ParseOID(s); !ok || oid.String() != s {
			t.Errorf("%s: %v, %t", s, oid, ok)
		}
	}
	for _, s := range []string{"1." + strings.Repeat("1.", 31) + "1", "1.2.99999999999", "1..2", "0.40"} {
		if _, ok := ParseOID(s); ok {
			t.Errorf("%s is read", s)
		}
	}
}

func TestTextsOfNames(t *testing.T) {
	label := strings.Repeat("a", 63)
	for text, want := range map[string][3]bool{ // host name, mailbox, URI
		"a.example":                     {true, false, true},
		"a_b.example":                   {true, false, true},
		label + ".x":                    {true, false, true},
		label + "a.x":                   {false, false, true},
		"-a.x":                          {false, false, true},
		"a-.x":                          {false, false, true},
		"a..x":                          {false, false, true},
		"*.x":                           {false, false, true},
		"a b":                           {false, false, false},
		"http://a.example/\"onload":     {false, false, false},
		"http://a.example/<b>":          {false, false, false},
		"http://a.example/{x}":          {false, false, false},
		"http://a.example/\\":           {false, false, false},
		"":                              {false, false, true},
		"x@a.example":                   {false, true, true},
		"@a.example":                    {false, false, true},
		"<x@a.example>":                 {false, false, false},
		"x@":                            {false, false, true},
		"//m2m.example.com/S98821":      {false, false, true},
		"urn:gsma:imei:1":               {false, false, true},
		"http://[2001:db8::1]/":         {false, false, true},
		"http://a b/":                   {false, false, false},
		"http://a..b/":                  {false, false, false},
		"http://%zz":                    {false, false, false},
		strings.Repeat("a.", 127) + "a": {false, false, true},
	} {
		if got := [3]bool{IsHostName(text), IsMailbox(text), IsURI(text)}; got != want {
			t.Errorf("%.80q: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]bool{"Köln 7": true, "日本": true, "": true, "a\x00": false, "a\u202eb": false, "a\u2028b": false, "\xff": false, "\u200b": false} {
		if IsPrintable(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}
