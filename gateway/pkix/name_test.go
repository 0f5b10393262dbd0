package pkix

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidCN           = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidO            = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
)

type pair struct {
	oid   asn1.ObjectIdentifier
	value []byte
}

// name builds a DER Name, a step for each argument.
func name(rdns ...[]pair) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range rdns {
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				for _, p := range rdn {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(p.oid)
						b.AddBytes(p.value)
					})
				}
			})
		}
	})
	return b.BytesOrPanic()
}

func cn(tag cbasn1.Tag, s string) []byte { return name([]pair{{oidCN, text(tag, s)}}) }

func TestFormatName(t *testing.T) {
	const utf8String = cbasn1.UTF8String
	for _, tt := range []struct {
		der  []byte
		want string
	}{
		{name(), ""},
		{cn(utf8String, "device"), "CN=device"},
		{cn(cbasn1.PrintableString, "a_b@c"), "CN=a_b@c"},
		{cn(cbasn1.IA5String, "a@b"), "CN=a@b"},
		{cn(tagNumericString, "12 3"), "CN=12 3"},
		{cn(tagVisibleString, "x"), "CN=x"},
		{cn(tagBMPString, "\x00A\x20\xac"), "CN=A€"},
		{cn(cbasn1.T61String, "M\xfcller"), "CN=Müller"},
		{cn(utf8String, ""), "CN="},
		{cn(utf8String, " "), `CN=\ `},
		{cn(utf8String, "  "), `CN=\ \ `},
		{cn(utf8String, " a b "), `CN=\ a b\ `},
		{cn(utf8String, "##"), `CN=\##`},
		{cn(utf8String, `"+,;<>\=`), `CN=\"\+\,\;\<\>\\=`},
		{cn(utf8String, "a\x00b\r\nc"), `CN=a\00b\0d\0ac`},
		{cn(utf8String, "a\u202eb\u2028"), `CN=a\e2\80\aeb\e2\80\a8`},
		{cn(utf8String, "\ufffd"), "CN=\ufffd"},
		// Not text: the encoding in hexadecimal.
		{cn(utf8String, "\xff"), "CN=#0c01ff"},
		{cn(cbasn1.PrintableString, "\xe4"), "CN=#1301e4"},
		{cn(tagBMPString, "\x00"), "CN=#1e0100"},
		{cn(tagBMPString, "\xd8\x00"), "CN=#1e02d800"},
		{cn(cbasn1.INTEGER, "\x05"), "CN=#020105"},
		{name([]pair{{asn1.ObjectIdentifier{1, 2, 3}, text(utf8String, "x")}}), "1.2.3=#0c0178"},
		{
			name([]pair{{oidO, text(utf8String, "Example, Inc.")}}, []pair{{oidCN, text(utf8String, "a")}, {oidSerialNumber, text(cbasn1.PrintableString, "7")}}),
			`CN=a+serialNumber=7,O=Example\, Inc.`,
		},
		{nil, malformedName},
		{[]byte{0x30}, malformedName},
		{[]byte{0x30, 0x00, 0x00}, malformedName},
		{[]byte{0x30, 0x02, 0x31, 0x00}, malformedName}, // a step without an attribute
		{[]byte{0x30, 0x80, 0x00, 0x00}, malformedName},
		{name([]pair{{oidCN, nil}}), malformedName},
	} {
		if got := FormatName(tt.der); got != tt.want {
			t.Errorf("%x: %s, want %s", tt.der, got, tt.want)
		}
	}
}

func TestNameValues(t *testing.T) {
	n, err := ParseName(name([]pair{{oidCN, text(cbasn1.UTF8String, "a")}, {oidO, text(cbasn1.UTF8String, "o")}},
		[]pair{{oidCN, text(cbasn1.UTF8String, "\xff")}}, []pair{{oidCN, text(cbasn1.IA5String, "b")}}))
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Values(oidCN); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q", got)
	}
	for _, known := range []string{"serialNumber", "SERIALNUMBER"} {
		if oid, ok := AttributeOID(known); !ok || !oid.Equal(oidSerialNumber) {
			t.Errorf("%s is %v", known, oid)
		}
	}
	if _, ok := AttributeOID("serial"); ok {
		t.Error("a name that is none")
	}
}

func TestSameName(t *testing.T) {
	const utf8String, printable = cbasn1.UTF8String, cbasn1.PrintableString
	two := name([]pair{{oidO, text(utf8String, "o")}}, []pair{{oidCN, text(utf8String, "a")}})
	for _, tt := range []struct {
		a, b []byte
		want bool
	}{
		{cn(utf8String, "a"), cn(utf8String, "a"), true},
		{cn(utf8String, "a"), cn(printable, "a"), true},
		{cn(utf8String, "a"), cn(utf8String, "A"), false},
		{cn(utf8String, "a"), cn(utf8String, "a "), false},
		{cn(utf8String, "a"), name([]pair{{oidO, text(utf8String, "a")}}), false},
		{cn(utf8String, "a"), two, false},
		{two, name([]pair{{oidCN, text(utf8String, "a")}}, []pair{{oidO, text(utf8String, "o")}}), false},
		{two, name([]pair{{oidO, text(utf8String, "o")}, {oidCN, text(utf8String, "a")}}), false},
		{cn(cbasn1.INTEGER, "\x01"), cn(cbasn1.INTEGER, "\x02"), false},
		{cn(utf8String, "\xff"), cn(printable, "\xff"), false},
		{nil, nil, true},
		{nil, name(), false},
		{name(), []byte{0x30, 0x01}, false},
	} {
		if got := SameName(tt.a, tt.b); got != tt.want {
			t.Errorf("%s and %s: %t", FormatName(tt.a), FormatName(tt.b), got)
		}
		if got := SameName(tt.b, tt.a); got != tt.want {
			t.Errorf("%s and %s: %t", FormatName(tt.b), FormatName(tt.a), got)
		}
	}
}

// What crypto/x509/pkix builds and prints agrees with what is parsed and printed here.
func TestNameAgainstStandardLibrary(t *testing.T) {
	std := pkix.Name{CommonName: `a "b", c`, Organization: []string{"O"}, Country: []string{"DE"}, SerialNumber: "17"}
	der, err := asn1.Marshal(std.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := FormatName(der), strings.Replace(std.String(), "SERIALNUMBER", "serialNumber", 1); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestGeneralNames(t *testing.T) {
	full := &GeneralNames{
		DNS: []string{"a.example", "*.example"}, Email: []string{"a@b.example"}, URI: []string{"//m2m.example.com/S98821"},
		IP: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.1")},
	}
	der, err := full.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseGeneralNames(der)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.DNS, full.DNS) || !slices.Equal(got.Email, full.Email) || !slices.Equal(got.URI, full.URI) ||
		!slices.Equal(got.IP, full.IP) || got.Other != 0 || !slices.Equal(got.Raw, der) {
		t.Errorf("%+v", got)
	}
	if der, err := (&GeneralNames{}).Marshal(); der != nil || err != nil {
		t.Errorf("no names: %x %v", der, err)
	}
	for _, bad := range []*GeneralNames{
		{DNS: []string{""}}, {DNS: []string{"a b"}}, {Email: []string{"ä@b"}}, {URI: []string{"a\x00b"}},
		{IP: []netip.Addr{{}}}, {IP: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}}, {Other: 1},
		{DNS: slices.Repeat([]string{"a"}, maxGeneralNames+1)},
	} {
		if der, err := bad.Marshal(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%+v: %x %v", bad, der, err)
		}
	}
}

func TestParseGeneralNames(t *testing.T) {
	sequence := func(elements ...[]byte) []byte {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, e := range elements {
				b.AddBytes(e)
			}
		})
		return b.BytesOrPanic()
	}
	dns := func(s string) []byte { return text(contextTag(tagDNSName), s) }
	constructed := func(n uint8, content []byte) []byte { return text(contextTag(n).Constructed(), string(content)) }
	upn := constructed(tagOtherName, []byte("\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03\xa0\x03\x0c\x01u"))
	for _, tt := range []struct {
		name  string
		der   []byte
		want  error
		other int
	}{
		{"DNS", sequence(dns("a")), nil, 0},
		{"other kinds", sequence(upn, constructed(tagDirectoryName, cn(cbasn1.UTF8String, "a")), text(contextTag(tagRegisteredID), "\x2a\x03")), nil, 3},
		{"directoryName that is none", sequence(constructed(tagDirectoryName, []byte{5, 0})), ErrMalformed, 0},
		{"otherName without content", sequence(constructed(tagOtherName, nil)), ErrMalformed, 0},
		{"empty", sequence(), ErrMalformed, 0},
		{"nothing", nil, ErrMalformed, 0},
		{"trailing", append(sequence(dns("a")), 0), ErrMalformed, 0},
		{"empty DNS", sequence(dns("")), ErrMalformed, 0},
		{"NUL in DNS", sequence(dns("a\x00.example")), ErrMalformed, 0},
		{"UTF-8 in DNS", sequence(dns("ä.example")), ErrMalformed, 0},
		{"address of 5 bytes", sequence(text(contextTag(tagIPAddress), "12345")), ErrMalformed, 0},
		{"address with mask", sequence(text(contextTag(tagIPAddress), "12345678")), ErrMalformed, 0},
		{"constructed DNS", sequence(constructed(tagDNSName, []byte{0x16, 1, 'a'})), ErrMalformed, 0},
		{"primitive otherName", sequence(text(contextTag(tagOtherName), "a")), ErrMalformed, 0},
		{"tag 9", sequence(text(contextTag(9), "a")), ErrMalformed, 0},
		{"universal tag", sequence(text(cbasn1.IA5String, "a")), ErrMalformed, 0},
		{"128 names", sequence(slices.Repeat([][]byte{dns("a")}, maxGeneralNames)...), nil, 0},
		{"129 names", sequence(slices.Repeat([][]byte{dns("a")}, maxGeneralNames+1)...), ErrMalformed, 0},
	} {
		got, err := ParseGeneralNames(tt.der)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err == nil && got.Other != tt.other {
			t.Errorf("%s: %d other names, want %d", tt.name, got.Other, tt.other)
		}
	}
}

// What is wrong with a name is said in words, with its place and its kind.
func TestGeneralNameFaults(t *testing.T) {
	for want, n := range map[string]struct {
		tag     cbasn1.Tag
		content string
	}{
		"name 2, a dNSName, is empty, or has other characters than printable ASCII without space (names of other scripts are written xn--...)": {contextTag(tagDNSName), "bücher.example"},
		"name 2, an rfc822Name, is empty":                {contextTag(tagRFC822Name), ""},
		"name 2, a URI, is empty":                        {contextTag(tagURI), "http://a b/"},
		"name 2, an iPAddress, has not 4 or 16 bytes":    {contextTag(tagIPAddress), "abc"},
		"name 2, a directoryName, is no Name":            {contextTag(tagDirectoryName).Constructed(), "x"},
		"name 2 has the tag 0x89, which no GeneralName ": {contextTag(9), "x"},
	} {
		der := text(cbasn1.SEQUENCE, string(text(contextTag(tagDNSName), "a.example"))+string(text(n.tag, n.content)))
		if _, err := ParseGeneralNames(der); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// printable checks what FormatName promises for any input.
func printable(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("%q is not one line of text", s)
	}
}
