package pkix

import (
	"strings"
	"testing"
)

func TestParseRFC4514(t *testing.T) {
	for in, want := range map[string]string{ // the same name as FormatName prints it
		"":                                 "",
		"CN=a":                             "CN=a",
		"CN=a,O=b":                         "CN=a,O=b",
		"cn=a, o=b , C=DE":                 "CN=a,O=b,C=DE",
		"commonName=a,serialNumber=SN 1":   "CN=a,serialNumber=SN 1",
		`CN=James \"Jim\" Smith\, III,O=x`: `CN=James \"Jim\" Smith\, III,O=x`,
		`CN=Lu\C4\8Di\C4\87`:               "CN=Lučić",
		`CN=\ a\ `:                         `CN=\ a\ `,
		`CN=a=b#c`:                         `CN=a=b#c`,
		`CN=\#1`:                           `CN=\#1`,
		"2.5.4.3=#0c0161,O=b":              "CN=a,O=b",
		"1.3.6.1.4.1.99999=#0c0161":        "1.3.6.1.4.1.99999=#0c0161",
	} {
		der, err := ParseRFC4514(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := FormatName(der); got != want {
			t.Errorf("%q is read as %q, want %q", in, got, want)
		}
		again, err := ParseRFC4514(FormatName(der))
		if err != nil || !SameName(again, der) {
			t.Errorf("%q: what is printed is read as another name: %v", in, err)
		}
	}
	// Several attributes in one step, in whichever order they are written.
	a, err1 := ParseRFC4514("CN=a+UID=1,O=x")
	b, err2 := ParseRFC4514("UID=1+CN=a,O=x")
	if err1 != nil || err2 != nil || !SameName(a, b) || SameName(a, mustParse(t, "CN=a,UID=1,O=x")) {
		t.Errorf("%v %v: %s, %s", err1, err2, FormatName(a), FormatName(b))
	}
	for _, in := range []string{
		"CN", "CN=", "CN=a,", ",CN=a", "CN=a,,O=b", "CN=a+", "frob=a", `CN=a\`, `CN=a\g`, `CN=a\4`, `CN="a"`, "CN=a;O=b", "CN=<a>",
		"CN=#", "CN=#0c", "CN=#0c016100", "CN=#zz", `CN=\ff`, "CN=\xff", "CN=" + strings.Repeat("a", 5000), strings.Repeat("CN=a,", 32) + "CN=a",
	} {
		if der, err := ParseRFC4514(in); err == nil {
			t.Errorf("%q is read as %s", in, FormatName(der))
		}
	}
}

func mustParse(t *testing.T, s string) []byte {
	t.Helper()
	der, err := ParseRFC4514(s)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func FuzzParseRFC4514(f *testing.F) {
	for _, s := range []string{"", "CN=a, O=b", `CN=\ a\2c+UID=#0c0131`, "CN=a,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		der, err := ParseRFC4514(s)
		if err != nil {
			return
		}
		if _, err := ParseName(der); err != nil {
			t.Fatalf("%q gives no Name: %v", s, err)
		}
	})
}
