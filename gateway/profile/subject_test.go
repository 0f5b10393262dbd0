package profile

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

func TestSubject(t *testing.T) {
	for _, tt := range []struct{ source, want string }{
		{`CN={{device.serial}},O=Operator`, `CN=0017,O=Operator`},
		{` CN = {{device.serial}} , O = Big Operator , C=DE `, `CN=0017,O=Big Operator,C=DE`},
		{`CN={{device.name | part 1 ","  | default "a,b+c"}},O=X`, `CN=bts-17,O=X`},
		{`CN={{device.udid | default "a,b+c=d"}},O=X`, `CN=a\,b\+c=d,O=X`},
		{`serialNumber={{device.serial}}+CN={{device.name}},O=Operator`, `serialNumber=0017+CN=bts-17,O=Operator`},
		{`commonName={{device.name}},2.5.4.10=Operator,DC=ran,DC=example`, `CN=bts-17,O=Operator,DC=ran,DC=example`},
		{`CN={{device.name}},OU={{device.attributes.none | optional}},O=X`, `CN=bts-17,O=X`},
		{`CN={{device.attributes.site}}`, `CN=Köln-7`},
		{`CN=x\C3\B6y`, `CN=xöy`},
		{`emailAddress={{device.name}}@x.example`, `emailAddress=bts-17@x.example`},
	} {
		s, err := ParseSubject(tt.source)
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		der, err := s.make(world(t))
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		if got := pkix.FormatName(der); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.source, got, tt.want)
		}
	}
}

// String types are those of RFC 5280 appendix A.1.
func TestStringTypes(t *testing.T) {
	s, err := ParseSubject("CN=a,serialNumber=b,C=DE,DC=c,emailAddress=d@e,dnQualifier=f")
	if err != nil {
		t.Fatal(err)
	}
	der, err := s.make(world(t))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pkix.ParseName(der)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]byte{"2.5.4.3": 12, "2.5.4.5": 19, "2.5.4.6": 19, "0.9.2342.19200300.100.1.25": 22, "1.2.840.113549.1.9.1": 22, "2.5.4.46": 19}
	for _, rdn := range parsed {
		if a := rdn[0]; a.Value[0] != want[a.OID.String()] {
			t.Errorf("%s has the type %d, want %d", a.OID, a.Value[0], want[a.OID.String()])
		}
	}
}

func TestSubjectFaults(t *testing.T) {
	for source, want := range map[string]string{
		``:                              "the subject is empty",
		`CN`:                            "want ATTRIBUTE=VALUE",
		`{{device.dn}}`:                 "want ATTRIBUTE=VALUE",
		`CM={{device.serial}}`:          `no attribute "CM" (did you mean "CN"?)`,
		`CN=`:                           "CN: the value is empty",
		`CN=,O=x`:                       "CN: the value is empty",
		`CN=a,`:                         "nothing stands behind the last",
		`CN=a+`:                         "nothing stands behind the last",
		`CN=a;O=b`:                      `write \; for the character itself`,
		`CN="a"`:                        "has a meaning of its own",
		`CN=#0c0161`:                    "hexadecimal",
		`CN=a\`:                         `\ stands before`,
		`CN=a\zz`:                       `\ stands before`,
		`CN={{device.seral}}`:           `did you mean "serial"`,
		`CN={{device.serial`:            "{{ stands without }}",
		`C=Germany`:                     "has 7 characters, at most 2",
		`C=de`:                          "two capital letters",
		`serialNumber=a_b`:              "PrintableString",
		`serialNumber=ä`:                `the character 'ä'`,
		`DC=köln`:                       "IA5String",
		`emailAddress=x`:                "is no address",
		`CN=\00`:                        "control or invisible characters",
		`CN=\ff`:                        "is not UTF-8",
		`CN=\ a`:                        "has space around it",
		`CN=` + strings.Repeat("a", 65): "at most 64",
		strings.TrimSuffix(strings.Repeat("OU=a,", 17), ","): "more than 16 attributes",
	} {
		if _, err := ParseSubject(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
}

// Values that a device or a list brings never become more than the text of one attribute, nor anything that reads otherwise
// than it is.
func TestInjection(t *testing.T) {
	s, err := ParseSubject("CN={{device.serial}},O=Operator")
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"CN=a,O=b":               `CN=CN=a\,O=b,O=Operator`,
		"a,O=Evil":               `CN=a\,O=Evil,O=Operator`,
		"a+serialNumber=1":       `CN=a\+serialNumber=1,O=Operator`,
		`a\,b`:                   `CN=a\\\,b,O=Operator`,
		"{{device.name}}":        "CN={{device.name}},O=Operator",
		"#0500":                  `CN=\#0500,O=Operator`,
		"日本語":                    "CN=日本語,O=Operator",
		"a\x00b":                 "!control or invisible",
		"a\nb":                   "!control or invisible",
		"a\u202eb":               "!control or invisible",
		"a\u200bb":               "!control or invisible",
		"a\xff":                  "!is not UTF-8",
		" a":                     "!has space around it",
		strings.Repeat("ü", 64):  "CN=" + strings.Repeat("ü", 64) + ",O=Operator",
		strings.Repeat("a", 65):  "!at most 64",
		strings.Repeat("a", 257): "!at most 256",
	} {
		f := &facts{&gateway.Request{}, &gateway.Grant{Device: "d", Inventory: &gateway.Device{
			Name: "d", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: value}},
		}}}
		der, err := s.make(f)
		if fault, wants := strings.CutPrefix(want, "!"); wants {
			if err == nil || !strings.Contains(err.Error(), fault) {
				t.Errorf("%q: %v, want %q", value, err, fault)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		if got := pkix.FormatName(der); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
		if parsed, err := pkix.ParseName(der); err != nil || len(parsed) != 2 || parsed[1][0].Text != value {
			t.Errorf("%q: %v, %v", value, parsed, err)
		}
	}
}
