package authz

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/netip"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// rawName is a Name of one commonName with a value of the given tag.
func rawName(t *testing.T, tag int, value []byte) []byte {
	t.Helper()
	type atv struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	return marshal(t, []asn1.RawValue{{
		Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true,
		Bytes: marshal(t, atv{asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.RawValue{Tag: tag, Bytes: value}}),
	}})
}

func many(t *testing.T, n int) []byte {
	t.Helper()
	var pairs []string
	for range n {
		pairs = append(pairs, "OU=x")
	}
	return subject(t, pairs...)
}

func TestNames(t *testing.T) {
	name := func(pairs ...string) []byte { return subject(t, pairs...) }
	device := name("CN=device-1")
	both := NamesConfig{Device: Places{"subject.CN", "san.dns"}, SAN: SANConfig{DNS: &SANRule{}}}
	all := &SANRule{}
	dns := NamesConfig{SAN: SANConfig{DNS: all}}
	for test, c := range map[string]struct {
		config  NamesConfig
		subject []byte
		san     []byte
		device  string
		reason  gateway.Reason // "" when allowed
		note    string
	}{
		"default: a subject":               {subject: device, note: "subject CN=device-1, subjectAltName (none)"},
		"default: many attributes":         {subject: name("C=DE", "O=Operator", "OU=RAN", "CN=device-1", "serialNumber=42")},
		"64 characters of UTF-8":           {subject: name("CN=" + strings.Repeat("ü", 64))},
		"a longer bound":                   {config: NamesConfig{MaxLength: 80}, subject: name("CN=" + strings.Repeat("x", 80))},
		"the pattern matches":              {config: NamesConfig{CommonName: `device-\d+`}, subject: device},
		"only listed attributes":           {config: NamesConfig{Attributes: []string{"CN", "2.5.4.5"}}, subject: name("CN=d", "serialNumber=1")},
		"an OID that has no name":          {config: NamesConfig{Attributes: []string{"1.2.3.4"}}, subject: name("1.2.3.4=x")},
		"no subject, a SAN":                {config: NamesConfig{Subject: "optional", SAN: SANConfig{DNS: all}}, subject: []byte{0x30, 0}, san: sans(t, 2, "a.example")},
		"no subject known, a SAN":          {config: NamesConfig{Subject: "optional", SAN: SANConfig{DNS: all}}, san: sans(t, 2, "a.example")},
		"a DNS name":                       {config: dns, subject: device, san: sans(t, 2, "d_1.example"), note: "dns:d_1.example"},
		"a DNS pattern":                    {config: NamesConfig{SAN: SANConfig{DNS: &SANRule{Pattern: `[a-z]+\.example`}}}, subject: device, san: sans(t, 2, "a.example")},
		"a wildcard, allowed":              {config: NamesConfig{Wildcards: true, SAN: SANConfig{DNS: all}}, subject: name("CN=*.example.com"), san: sans(t, 2, "*.example.com")},
		"an address":                       {config: NamesConfig{SAN: SANConfig{IP: &IPRule{}}}, subject: device, san: sans(t, 7, []byte{10, 0, 0, 1}), note: "ip:10.0.0.1"},
		"an address of the network":        {config: NamesConfig{SAN: SANConfig{IP: &IPRule{Within: prefixes("10.0.0.0/8", "2001:db8::/32")}}}, subject: device, san: sans(t, 7, netip.MustParseAddr("2001:db8::7").AsSlice())},
		"an e-mail address":                {config: NamesConfig{SAN: SANConfig{Email: all}}, subject: device, san: sans(t, 1, "anna@example.com")},
		"a URI":                            {config: NamesConfig{SAN: SANConfig{URI: all}}, subject: device, san: sans(t, 6, "urn:gsma:imei:35-209900-176148-1")},
		"a URI without scheme":             {config: NamesConfig{SAN: SANConfig{URI: &SANRule{Pattern: `//m2m\.example\.com/.*`}}}, subject: device, san: sans(t, 6, "//m2m.example.com/S98821")},
		"the device's own name":            {config: NamesConfig{Device: Places{"subject.commonName"}}, subject: device, device: "device-1", note: "of the device that authenticated"},
		"the device's subject, no SAN":     {config: both, subject: device, device: "device-1", note: "of the device that authenticated"},
		"the device's subject and SAN":     {config: both, subject: device, san: sans(t, 2, "device-1"), device: "device-1"},
		"the device's own SAN":             {config: NamesConfig{Device: Places{"san.dns"}, SAN: SANConfig{DNS: all}}, subject: device, san: sans(t, 2, "d1.example"), device: "d1.example"},
		"no subject":                       {reason: gateway.BadTemplate, note: "subject is empty"},
		"an empty subject":                 {subject: []byte{0x30, 0}, reason: gateway.BadTemplate, note: "subject is empty"},
		"neither subject nor SAN":          {config: NamesConfig{Subject: "optional"}, subject: []byte{0x30, 0}, reason: gateway.BadTemplate, note: "subject and subjectAltName are empty"},
		"no subject, a SAN left out":       {config: NamesConfig{Subject: "optional", DropOtherSANs: true}, san: sans(t, 2, "a.example"), reason: gateway.BadTemplate},
		"a subject that does not parse":    {subject: []byte{0x30, 1, 1}, reason: gateway.BadTemplate, note: "malformed"},
		"bytes behind the subject":         {subject: append(bytes.Clone(device), 0), reason: gateway.BadTemplate},
		"an attribute that is not listed":  {config: NamesConfig{Attributes: []string{"CN"}}, subject: name("CN=d", "O=Rival"), reason: gateway.BadTemplate, note: "organizationName"},
		"an attribute without a name":      {subject: name("CN=d", "1.2.3.4=x"), reason: gateway.BadTemplate, note: "1.2.3.4"},
		"an empty value":                   {subject: name("CN="), reason: gateway.BadTemplate, note: "commonName is empty"},
		"65 characters":                    {subject: name("CN=" + strings.Repeat("x", 65)), reason: gateway.BadTemplate, note: "65 characters"},
		"a country of one letter":          {subject: name("C=D", "CN=d"), reason: gateway.BadTemplate, note: "no code of two letters"},
		"a URI with a quotation mark":      {config: NamesConfig{SAN: SANConfig{URI: all}}, subject: device, san: sans(t, 6, `http://a.example/"onload`), reason: gateway.BadTemplate, note: "is not a URI"},
		"a country of three letters":       {subject: name("C=DEU", "CN=d"), reason: gateway.BadTemplate, note: "countryName"},
		"over the configured bound":        {config: NamesConfig{MaxLength: 4}, subject: device, reason: gateway.BadTemplate, note: "most is 4"},
		"two common names":                 {subject: name("CN=device-1", "CN=victim"), reason: gateway.BadTemplate, note: "more than one commonName"},
		"no common name for the pattern":   {config: NamesConfig{CommonName: ".*"}, subject: name("O=x"), reason: gateway.BadTemplate, note: "no commonName"},
		"33 attributes":                    {subject: many(t, 33), reason: gateway.BadTemplate, note: "more than 32"},
		"the pattern matches a part":       {config: NamesConfig{CommonName: `device-1`}, subject: name("CN=device-10"), reason: gateway.NotAuthorized, note: "does not match"},
		"a branch matches a part":          {config: NamesConfig{CommonName: `a|device`}, subject: device, reason: gateway.NotAuthorized},
		"a line of many":                   {config: NamesConfig{CommonName: `(?m)^device-1$`}, subject: name("CN=device-1\nvictim"), reason: gateway.BadTemplate, note: "control"},
		"a wildcard in the CN":             {subject: name("CN=*.example.com"), reason: gateway.NotAuthorized, note: "wildcard"},
		"two wildcards":                    {config: NamesConfig{Wildcards: true}, subject: name("CN=*.*.com"), reason: gateway.NotAuthorized},
		"a wildcard for everything":        {config: NamesConfig{Wildcards: true, SAN: SANConfig{DNS: all}}, subject: device, san: sans(t, 2, "*."), reason: gateway.NotAuthorized},
		"NUL":                              {subject: name("CN=device-1\x00.example"), reason: gateway.BadTemplate, note: "control"},
		"a right-to-left mark":             {subject: rawName(t, asn1.TagUTF8String, []byte("a\u202eb")), reason: gateway.BadTemplate, note: "invisible"},
		"invalid UTF-8":                    {subject: rawName(t, asn1.TagUTF8String, []byte{0xff}), reason: gateway.BadTemplate, note: "invalid"},
		"PrintableString that is none":     {subject: rawName(t, asn1.TagPrintableString, []byte("a@b")), reason: gateway.BadTemplate, note: "0x40"},
		"BMPString":                        {subject: rawName(t, asn1.TagBMPString, []byte{0, 'a'}), reason: gateway.BadTemplate, note: "commonName: BMPString, where"},
		"TeletexString":                    {subject: rawName(t, asn1.TagT61String, []byte("a")), reason: gateway.BadTemplate, note: "commonName: TeletexString, where"},
		"a number for a name":              {subject: rawName(t, asn1.TagInteger, []byte{7}), reason: gateway.BadTemplate, note: "tag 0x02"},
		"letters in a NumericString":       {subject: rawName(t, asn1.TagNumericString, []byte("1a")), reason: gateway.BadTemplate, note: "NumericString"},
		"a SAN where none is allowed":      {subject: device, san: sans(t, 2, "a.example"), reason: gateway.BadTemplate, note: "san does not allow dns"},
		"an address where none is allowed": {config: dns, subject: device, san: sans(t, 7, []byte{10, 0, 0, 1}), reason: gateway.BadTemplate, note: "ip:10.0.0.1"},
		"an e-mail where none is allowed":  {config: dns, subject: device, san: sans(t, 1, "a@b.example"), reason: gateway.BadTemplate},
		"a URI where none is allowed":      {config: dns, subject: device, san: sans(t, 6, "urn:x"), reason: gateway.BadTemplate},
		"an otherName":                     {config: dns, subject: device, san: sans(t, 2, "a.example", 0, []byte{6, 1, 42, 0xa0, 2, 5, 0}), reason: gateway.BadTemplate, note: "does not allow other"},
		"a SAN that does not parse":        {config: dns, subject: device, san: []byte{0x30, 2, 0x82}, reason: gateway.BadTemplate, note: "malformed"},
		"an empty SAN":                     {config: dns, subject: device, san: []byte{0x30, 0}, reason: gateway.BadTemplate},
		"a SAN of no bytes":                {config: dns, subject: device, san: []byte{}, reason: gateway.BadTemplate},
		"too many names":                   {config: NamesConfig{SAN: SANConfig{DNS: &SANRule{Max: 1}}}, subject: device, san: sans(t, 2, "a.example", 2, "b.example"), reason: gateway.BadTemplate, note: "more than 1 names"},
		"a required name is missing":       {config: NamesConfig{SAN: SANConfig{DNS: all, URI: &SANRule{Required: true}}}, subject: device, san: sans(t, 2, "a.example"), reason: gateway.BadTemplate, note: "no name of kind uri"},
		"a required address, no SAN":       {config: NamesConfig{SAN: SANConfig{IP: &IPRule{Required: true}}}, subject: device, reason: gateway.BadTemplate},
		"the DNS pattern does not match":   {config: NamesConfig{SAN: SANConfig{DNS: &SANRule{Pattern: `[a-z]+\.example`}}}, subject: device, san: sans(t, 2, "a.example", 2, "a.example.evil"), reason: gateway.NotAuthorized, note: "a.example.evil"},
		"a DNS name that is an address":    {config: dns, subject: device, san: sans(t, 2, "10.0.0.1"), reason: gateway.BadTemplate, note: "dns:10.0.0.1 is an address"},
		"a DNS name of five numbers":       {config: dns, subject: device, san: sans(t, 2, "1.10.0.0.1")},
		"a DNS wildcard":                   {config: dns, subject: device, san: sans(t, 2, "*.example.com"), reason: gateway.NotAuthorized, note: "wildcard"},
		"a DNS name with a space":          {config: dns, subject: device, san: sans(t, 2, "a b"), reason: gateway.BadTemplate},
		"a DNS name with an empty label":   {config: dns, subject: device, san: sans(t, 2, "a..b"), reason: gateway.BadTemplate, note: "not a host name"},
		"a DNS label of 64 bytes":          {config: dns, subject: device, san: sans(t, 2, strings.Repeat("x", 64)+".example"), reason: gateway.BadTemplate},
		"an address of another network":    {config: NamesConfig{SAN: SANConfig{IP: &IPRule{Within: prefixes("10.0.0.0/8")}}}, subject: device, san: sans(t, 7, []byte{192, 0, 2, 1}), reason: gateway.NotAuthorized, note: "192.0.2.1"},
		"an address of 5 bytes":            {config: NamesConfig{SAN: SANConfig{IP: &IPRule{}}}, subject: device, san: sans(t, 7, []byte{1, 2, 3, 4, 5}), reason: gateway.BadTemplate},
		"an e-mail address without host":   {config: NamesConfig{SAN: SANConfig{Email: all}}, subject: device, san: sans(t, 1, "anna"), reason: gateway.BadTemplate},
		"an e-mail address in brackets":    {config: NamesConfig{SAN: SANConfig{Email: all}}, subject: device, san: sans(t, 1, "<anna@example.com"), reason: gateway.BadTemplate},
		"a URI that does not parse":        {config: NamesConfig{SAN: SANConfig{URI: all}}, subject: device, san: sans(t, 6, "http://a%zz"), reason: gateway.BadTemplate},
		"a URI whose host is none":         {config: NamesConfig{SAN: SANConfig{URI: all}}, subject: device, san: sans(t, 6, "http://a..b/"), reason: gateway.BadTemplate},
		"a URI of 1025 bytes":              {config: NamesConfig{SAN: SANConfig{URI: all}}, subject: device, san: sans(t, 6, "urn:"+strings.Repeat("x", 1021)), reason: gateway.BadTemplate, note: "1025 bytes"},
		"the URI pattern does not match":   {config: NamesConfig{SAN: SANConfig{URI: &SANRule{Pattern: "urn:imei:.*"}}}, subject: device, san: sans(t, 6, "urn:other:1"), reason: gateway.NotAuthorized},
		"another device's name":            {config: NamesConfig{Device: Places{"subject.CN"}}, subject: name("CN=victim"), device: "device-2", reason: gateway.NotAuthorized, note: `"victim"`},
		"the device is not known":          {config: NamesConfig{Device: Places{"subject.CN"}}, subject: device, reason: gateway.NotAuthorized, note: "no stage before"},
		"no name where the device stands":  {config: NamesConfig{Device: Places{"subject.serialNumber"}}, subject: device, device: "device-1", reason: gateway.BadTemplate, note: "0 values"},
		"another device's SAN":             {config: both, subject: device, san: sans(t, 2, "victim"), device: "device-1", reason: gateway.NotAuthorized, note: `san.dns is "victim"`},
		"a SAN beside the device's":        {config: both, subject: device, san: sans(t, 2, "device-1", 2, "victim"), device: "device-1", reason: gateway.BadTemplate, note: "2 values"},
		"its SAN, another's subject":       {config: both, subject: name("CN=victim"), san: sans(t, 2, "device-1"), device: "device-1", reason: gateway.NotAuthorized},
		"its SAN alone":                    {config: both, subject: name("O=x"), san: sans(t, 2, "device-1"), device: "device-1", reason: gateway.BadTemplate, note: "0 values"},
		"two names where it stands":        {config: NamesConfig{Device: Places{"san.dns"}, SAN: SANConfig{DNS: all}}, subject: device, san: sans(t, 2, "device-1", 2, "victim"), device: "device-1", reason: gateway.BadTemplate, note: "2 values"},
	} {
		t.Run(test, func(t *testing.T) {
			s, err := NewNames(c.config)
			if err != nil {
				t.Fatal(err)
			}
			r := &gateway.Request{Subject: c.subject, Extensions: sanExtension(c.san)}
			g := &gateway.Grant{Subject: c.subject, SubjectAltName: c.san, Device: c.device}
			v := s.Decide(context.Background(), r, g)
			if c.reason == "" {
				expect(t, v, gateway.Allow, "", c.note)
			} else {
				expect(t, v, gateway.Deny, c.reason, c.note)
			}
			if !bytes.Equal(g.Subject, c.subject) || !bytes.Equal(g.SubjectAltName, c.san) {
				t.Error("the names were changed")
			}
			endedDenies(t, s, r)
		})
	}
}

// A client cannot mend what it is not told: the string type is its own choice and often its library's.
func TestNamesTellsTheClientWhichAttribute(t *testing.T) {
	s, err := NewNames(NamesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	subject := rawName(t, asn1.TagBMPString, []byte{0, 'a'})
	v := s.Decide(t.Context(), &gateway.Request{Subject: subject}, &gateway.Grant{Subject: subject})
	want := "the subject is malformed: commonName: BMPString, where UTF8String, PrintableString, IA5String and NumericString are read"
	if v.Detail != want {
		t.Errorf("the client is told %q, want %q", v.Detail, want)
	}
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestNamesDropOtherSANs(t *testing.T) {
	s, err := NewNames(NamesConfig{DropOtherSANs: true, SAN: SANConfig{DNS: &SANRule{}, IP: &IPRule{}}})
	if err != nil {
		t.Fatal(err)
	}
	asked := sans(t, 1, "anna@example.com", 2, "a.example", 7, []byte{10, 0, 0, 1}, 0, []byte{6, 1, 42, 0xa0, 2, 5, 0})
	before := bytes.Clone(asked)
	g := &gateway.Grant{Subject: subject(t, "CN=d"), SubjectAltName: asked}
	expect(t, s.Decide(context.Background(), &gateway.Request{}, g), gateway.Allow, "", "left out of the certificate: email:anna@example.com, other:1")
	if got := formatSAN(g.SubjectAltName); got != "dns:a.example, ip:10.0.0.1" {
		t.Errorf("granted %s", got)
	}
	if !bytes.Equal(asked, before) {
		t.Error("what was asked for was changed in place")
	}
	g = &gateway.Grant{Subject: subject(t, "CN=d"), SubjectAltName: sans(t, 6, "urn:x")}
	expect(t, s.Decide(context.Background(), &gateway.Request{}, g), gateway.Allow, "", "left out of the certificate: uri:urn:x")
	if g.SubjectAltName != nil {
		t.Errorf("granted %x", g.SubjectAltName)
	}
	// What is allowed is judged all the same.
	g = &gateway.Grant{Subject: subject(t, "CN=d"), SubjectAltName: sans(t, 6, "urn:x", 2, "*.example")}
	expect(t, s.Decide(context.Background(), &gateway.Request{}, g), gateway.Deny, gateway.NotAuthorized, "wildcard")
}

// New names are judged wherever the stage stands.
func TestNamesJudgesAChange(t *testing.T) {
	s, err := NewNames(NamesConfig{CommonName: `device-\d+`})
	if err != nil {
		t.Fatal(err)
	}
	r := &gateway.Request{NewNames: &gateway.Names{Subject: subject(t, "CN=root")}}
	g := &gateway.Grant{Subject: subject(t, "CN=device-1")}
	expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.NotAuthorized, "the names to change to", `"root"`)
	r.NewNames.Subject = subject(t, "CN=device-2")
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "")
}

func TestNamesConfigErrors(t *testing.T) {
	for want, c := range map[string]NamesConfig{
		`subject: "none"`:                {Subject: "none"},
		`did you mean "commonName"?`:     {Attributes: []string{"comonName"}},
		"common-name: error parsing":     {CommonName: "("},
		"unexpected )":                   {CommonName: `a)|(b`},
		"attributes does not list":       {CommonName: "x", Attributes: []string{"O"}},
		"max-length":                     {MaxLength: -1},
		"san.dns.pattern":                {SAN: SANConfig{DNS: &SANRule{Pattern: "["}}},
		"san.ip.max":                     {SAN: SANConfig{IP: &IPRule{Max: 1000}}},
		"device: san.uri is asked":       {Device: Places{"san.uri"}},
		"device: subject.CN is asked":    {Device: Places{"subject.CN"}, Attributes: []string{"O"}},
		`device: "san.dsn": no kind`:     {Device: Places{"san.dsn"}},
		`device: "CN": want subject.ATT`: {Device: Places{"CN"}},
	} {
		_, err := NewNames(c)
		wantError(t, err, want)
	}
}

func FuzzNames(f *testing.F) {
	s, err := NewNames(NamesConfig{Subject: "optional", DropOtherSANs: true, SAN: SANConfig{DNS: &SANRule{}, IP: &IPRule{}, URI: &SANRule{}}})
	if err != nil {
		f.Fatal(err)
	}
	name, err := asn1.Marshal(pkix.Name{CommonName: "d", Organization: []string{"o"}}.ToRDNSequence())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(name, []byte{0x30, 5, 0x82, 3, 'a', '.', 'b'})
	f.Add([]byte{0x30, 0}, []byte{0x30, 8, 0x81, 0, 0x87, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, subject, san []byte) {
		g := &gateway.Grant{Subject: subject, SubjectAltName: san}
		v := s.Decide(context.Background(), &gateway.Request{}, g)
		if v.Decision != gateway.Allow {
			return
		}
		// What is allowed is allowed again, unchanged: nothing is dropped twice.
		again := s.Decide(context.Background(), &gateway.Request{}, g)
		if again.Decision != gateway.Allow || strings.Contains(again.Note, "left out") {
			t.Errorf("%s, then %s", v.Note, again.Note)
		}
	})
}
