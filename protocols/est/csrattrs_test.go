package est

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// asks is a Shaper that wants names.
type asks gateway.NamesWanted

func (asks) Shape(*gateway.Request, *gateway.Grant) error { return nil }
func (asks) DerivesSubject() bool                         { return true }
func (a asks) NamesWanted() gateway.NamesWanted           { return gateway.NamesWanted(a) }

var (
	commonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	serialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
	clientAuth   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

func announced(t *testing.T, p *gateway.Profile, form CSRAttrs, linked bool) []byte {
	t.Helper()
	der, err := announce(p, form, linked)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// asked reads CsrAttrs as a client does (RFC 8951 section 4), with encoding/asn1, one line for each element.
func asked(t *testing.T, der []byte) string {
	t.Helper()
	var elements []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &elements); err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v", der, err)
	}
	var lines []string
	for _, e := range elements {
		var oid asn1.ObjectIdentifier
		if e.Tag == asn1.TagOID {
			if rest, err := asn1.Unmarshal(e.FullBytes, &oid); err != nil || len(rest) > 0 {
				t.Fatal(err)
			}
			lines = append(lines, oid.String())
			continue
		}
		lines = append(lines, readAttribute(t, e.FullBytes))
	}
	return strings.Join(lines, "\n")
}

func readAttribute(t *testing.T, der []byte) string {
	t.Helper()
	var a struct {
		Type   asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	if rest, err := asn1.Unmarshal(der, &a); err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v", der, err)
	}
	line := a.Type.String() + " ="
	for _, v := range a.Values {
		var oid asn1.ObjectIdentifier
		var number int
		switch {
		case a.Type.Equal(oidRequestTemplate):
			line += "\n" + requestInfo(t, v.FullBytes)
		case v.Tag == asn1.TagOID:
			if _, err := asn1.Unmarshal(v.FullBytes, &oid); err != nil {
				t.Fatal(err)
			}
			line += " " + oid.String()
		case v.Tag == asn1.TagInteger:
			if _, err := asn1.Unmarshal(v.FullBytes, &number); err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %d", number)
		case v.Tag == asn1.TagSequence: // Extensions
			var list []pkix.Extension
			if rest, err := asn1.Unmarshal(v.FullBytes, &list); err != nil || len(rest) > 0 {
				t.Fatalf("%x: %v", v.FullBytes, err)
			}
			for _, e := range list {
				line += fmt.Sprintf("\n    %s critical=%t %x", e.Id, e.Critical, e.Value)
			}
		default:
			t.Fatalf("a value of tag %d", v.Tag)
		}
	}
	return line
}

// requestInfo reads a CertificationRequestInfoTemplate (RFC 9908 appendix A).
func requestInfo(t *testing.T, der []byte) string {
	t.Helper()
	var info struct {
		Version    int
		Subject    []asn1.RawValue `asn1:"optional,omitempty"`
		Key        asn1.RawValue   `asn1:"optional,tag:0"`
		Attributes asn1.RawValue   `asn1:"tag:1"`
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v", der, err)
	}
	if bytes.Contains(der, []byte{2, 1, 0, 0x30, 0}) {
		t.Errorf("%x: a subject without attributes, which MUST be absent", der)
	}
	out := fmt.Sprintf("  version %d", info.Version)
	for _, rdn := range info.Subject {
		var attributes []struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue `asn1:"optional"`
		}
		if rest, err := asn1.UnmarshalWithParams(rdn.FullBytes, &attributes, "set"); err != nil || len(rest) > 0 {
			t.Fatalf("%x: %v", rdn.FullBytes, err)
		}
		for _, a := range attributes {
			out += fmt.Sprintf("\n  subject %s %x", a.Type, a.Value.FullBytes)
		}
	}
	if key := info.Key.Bytes; len(key) > 0 {
		var algorithm pkix.AlgorithmIdentifier
		rest, err := asn1.Unmarshal(key, &algorithm)
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("\n  key %s %x", algorithm.Algorithm, algorithm.Parameters.FullBytes)
		if len(rest) > 0 {
			var public asn1.BitString
			if rest, err = asn1.Unmarshal(rest, &public); err != nil || len(rest) > 0 {
				t.Fatal(err)
			}
			rsa, err := x509.ParsePKCS1PublicKey(public.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprintf(" RSA %d", rsa.N.BitLen())
		}
	}
	for rest := info.Attributes.Bytes; len(rest) > 0; {
		var a asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &a); err != nil {
			t.Fatal(err)
		}
		out += "\n  " + readAttribute(t, a.FullBytes)
	}
	return out
}

// RFC 8951 section 4, byte for byte: its example asks for the MAC address where ours ask for a subjectAltName.
func TestCSRAttrsOfRFC8951(t *testing.T) {
	const example = "30 41 06 09 2a 86 48 86 f7 0d 01 09 07 30 12 06 07 2a 86 48 ce 3d 02 01 31 07 06 05 2b 81 04 00 22 30 16 06 09 2a 86 48 86 f7 0d 01" +
		"09 0e 31 09 06 07 2b 06 01 01 01 01 16 06 08 2a 86 48 ce 3d 04 03 03"
	const text = "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw=="
	want, err := hex.DecodeString(strings.ReplaceAll(example, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	macAddress := asn1.ObjectIdentifier{1, 3, 6, 1, 1, 1, 1, 22}
	key := firstKey([]string{"P-384"})
	got, err := marshalCSRAttrs([]attrOrOID{
		{oid: oidChallengePassword}, key.attribute(), {oidExtensionRequest, oidElement(macAddress), true}, {oid: key.signature},
	})
	if err != nil || !bytes.Equal(got, want) || string(encodeBody(got, false)) != text {
		t.Errorf("%x, %v", got, err)
	}
	got = announced(t, &gateway.Profile{Keys: []string{"P-384", "P-256"}, Shaper: asks{SAN: []uint8{2, 7}}}, CSRAttrsAuto, true)
	ours := bytes.Replace(want, oidElement(macAddress), oidElement(oidSubjectAltName), 1)
	for i, length := range map[int]byte{1: 0x3d, 34: 0x12, 47: 0x05} { // four bytes less
		ours[i] = length
	}
	if !bytes.Equal(got, ours) {
		t.Errorf("%x\nwant %x", got, ours)
	}
}

// RFC 9908 sections 5.4 and 5.5, byte for byte.
func TestCSRAttrsOfRFC9908(t *testing.T) {
	for text, p := range map[string]*gateway.Profile{
		"MCkGCSqGSIb3DQEJBzARBgkqhkiG9w0BAQExBAICEAAGCSqGSIb3DQEBCw==":     {Keys: []string{"RSA-4096"}, Shaper: asks{}},
		"MC4GCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgNVBAUGCCqGSM49BAMD": {Keys: []string{"P-384"}, Shaper: asks{Subject: []asn1.ObjectIdentifier{serialNumber}}},
	} {
		if got := base64.StdEncoding.EncodeToString(announced(t, p, CSRAttrsAuto, true)); got != text {
			t.Errorf("%s\nwant %s", got, text)
		}
	}
}

// What is announced of a profile, in the form of RFC 8951. Only the first key is: RFC 9908 section 3.2 has one.
func TestCSRAttrsOfProfiles(t *testing.T) {
	wants := asks{Subject: []asn1.ObjectIdentifier{commonName, serialNumber}, SAN: []uint8{2}}
	for _, c := range []struct {
		name   string
		p      *gateway.Profile
		linked bool
		want   string
	}{
		{"nothing", &gateway.Profile{Shaper: asks{}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth}}, false, ""},
		{"linking", &gateway.Profile{Shaper: asks{}}, true, "1.2.840.113549.1.9.7"},
		{"as asked for", &gateway.Profile{}, false, "2.5.4.3"},
		{"P-256", &gateway.Profile{Shaper: asks{}, Keys: []string{"P-256", "RSA-3072"}}, false, "1.2.840.10045.2.1 = 1.2.840.10045.3.1.7\n1.2.840.10045.4.3.2"},
		{"P-521", &gateway.Profile{Shaper: asks{}, Keys: []string{"P-521"}}, false, "1.2.840.10045.2.1 = 1.3.132.0.35\n1.2.840.10045.4.3.4"},
		{"RSA", &gateway.Profile{Shaper: asks{}, Keys: []string{"RSA>=3072", "P-256"}}, false, "1.2.840.113549.1.1.1 = 3072\n1.2.840.113549.1.1.11"},
		{"Ed25519", &gateway.Profile{Shaper: asks{}, Keys: []string{"Ed25519"}}, false, "1.3.101.112 ="},
		{"unknown", &gateway.Profile{Shaper: asks{}, Keys: []string{"ML-DSA-44"}}, false, ""},
		{"names", &gateway.Profile{Shaper: wants}, false, "1.2.840.113549.1.9.14 = 2.5.29.17\n2.5.4.3\n2.5.4.5"},
	} {
		der := announced(t, c.p, CSRAttrsAuto, c.linked)
		if c.want == "" {
			if der != nil {
				t.Errorf("%s: %x", c.name, der)
			}
			continue
		}
		if got := asked(t, der); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
		none := announced(t, c.p, CSRAttrsNone, c.linked)
		if !c.linked && none != nil || c.linked && asked(t, none) != "1.2.840.113549.1.9.7" {
			t.Errorf("%s, none: %x", c.name, none)
		}
	}
}

// RFC 9908 section 3.4, read as its ASN.1 module has it.
func TestCSRAttrsTemplates(t *testing.T) {
	const attrs, template = "1.2.840.113549.1.9.7\n", "1.2.840.113549.1.9.16.2.61 =\n  version 0\n"
	for _, c := range []struct {
		name string
		p    *gateway.Profile
		want string
	}{
		{"nothing", &gateway.Profile{Shaper: asks{}}, "1.2.840.113549.1.9.7"},
		{"RSA, usages", &gateway.Profile{
			Shaper: asks{}, Keys: []string{"RSA>=3072"}, KeyUsage: x509.KeyUsageDecipherOnly | x509.KeyUsageKeyAgreement, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth},
		}, attrs + "1.2.840.113549.1.1.1 = 3072\n" + template + "  key 1.2.840.113549.1.1.1 0500 RSA 3072\n" +
			"  1.2.840.113549.1.9.14 =\n    2.5.29.15 critical=true 0303070880\n    2.5.29.37 critical=false 300a06082b06010505070302\n1.2.840.113549.1.1.11"},
		{"names", &gateway.Profile{Shaper: asks{Subject: []asn1.ObjectIdentifier{commonName, serialNumber}, SAN: []uint8{2, 6}}, KeyUsage: x509.KeyUsageDigitalSignature},
			attrs + template + "  subject 2.5.4.3 \n  subject 2.5.4.5 \n" +
				"  1.2.840.113549.1.9.16.2.62 =\n    2.5.29.17 critical=false 300482008600\n    2.5.29.15 critical=true 03020780\n2.5.4.3\n2.5.4.5"},
		{"Ed25519", &gateway.Profile{Shaper: asks{}, Keys: []string{"Ed25519"}}, attrs + "1.3.101.112 =\n" + template + "  key 1.3.101.112 "},
	} {
		if got := asked(t, announced(t, c.p, CSRAttrsTemplate, true)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	if der := announced(t, &gateway.Profile{Shaper: asks{}}, CSRAttrsTemplate, false); der != nil {
		t.Errorf("%x", der)
	}
	if _, err := announce(&gateway.Profile{ExtKeyUsage: []asn1.ObjectIdentifier{{9}}}, CSRAttrsTemplate, false); err == nil {
		t.Error("an OID that is none")
	}
}

// The structure at the end of RFC 9908 section 3.4, with the names that the example gives left out, written by openssl.
func TestCSRAttrsTemplateByOpenSSL(t *testing.T) {
	const structure = `asn1 = SEQUENCE:attrs
[attrs]
key = SEQUENCE:key
template = SEQUENCE:template
name = OID:commonName
signature = OID:1.2.840.10045.4.3.2
[key]
type = OID:id-ecPublicKey
values = SET:curve
[curve]
curve = OID:prime256v1
[template]
type = OID:1.2.840.113549.1.9.16.2.61
values = SET:infos
[infos]
info = SEQUENCE:info
[info]
version = INTEGER:0
subject = SEQUENCE:names
subjectPKInfo = IMPLICIT:0,SEQUENCE:spki
attributes = IMPLICIT:1,SET:attributes
[names]
rdn = SET:rdn
[rdn]
attribute = SEQUENCE:cn
[cn]
type = OID:commonName
[spki]
algorithm = SEQUENCE:algorithm
[algorithm]
type = OID:id-ecPublicKey
curve = OID:prime256v1
[attributes]
requested = SEQUENCE:requested
[requested]
type = OID:1.2.840.113549.1.9.16.2.62
values = SET:extensions
[extensions]
list = SEQUENCE:list
[list]
san = SEQUENCE:san
usage = SEQUENCE:usage
extended = SEQUENCE:extended
[san]
id = OID:subjectAltName
value = OCTWRAP,SEQUENCE:general
[general]
ip = IMPLICIT:7,OCTETSTRING:
[usage]
id = OID:keyUsage
critical = BOOLEAN:TRUE
value = OCTWRAP,FORMAT:BITLIST,BITSTRING:0,4
[extended]
id = OID:extendedKeyUsage
value = OCTWRAP,SEQUENCE:purposes
[purposes]
one = OID:clientAuth
`
	dir := t.TempDir()
	file, out := filepath.Join(dir, "structure"), filepath.Join(dir, "csrattrs.der")
	if err := os.WriteFile(file, []byte(structure), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("openssl", "asn1parse", "-genconf", file, "-noout", "-out", out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got := announced(t, &gateway.Profile{
		Shaper: asks{Subject: []asn1.ObjectIdentifier{commonName}, SAN: []uint8{7}}, Keys: []string{"P-256"},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth},
	}, CSRAttrsTemplate, false)
	if !bytes.Equal(got, want) {
		t.Errorf("%x\nwant %x", got, want)
	}
}

// An RSA key's size is told by a modulus of that size, which has to be none that anybody could have.
func TestTemplateModulus(t *testing.T) {
	der := announced(t, &gateway.Profile{Shaper: asks{}, Keys: []string{"RSA-4096"}}, CSRAttrsTemplate, false)
	all := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 4096), big.NewInt(1))
	if all.ProbablyPrime(1) || !bytes.Contains(der, all.Bytes()) {
		t.Errorf("%x", der)
	}
}

// RFC 7030 section 4.5, over the wire: for everybody, of the endpoint's own profile, with a length, and in lines for libest alone.
func TestCSRAttrs(t *testing.T) {
	w := newWorld(t, worldOptions{endpoints: []Endpoint{{Name: "ran", Default: true}, {Name: "plant", Config: Config{CSRAttrs: CSRAttrsNone}}}})
	w.gateway.profile = &gateway.Profile{Shaper: asks{SAN: []uint8{2}}, Keys: []string{"P-384"}}
	w.gateway.linked = true
	client := w.client(nil, nil, nil)
	get := func(path, agent string) reply {
		r := w.request(http.MethodGet, root+path, nil)
		r.Header.Set("User-Agent", agent)
		return send(t, client, r)
	}
	first := get("/csrattrs", "")
	for name, want := range map[string]string{
		"Content-Type": "application/csrattrs", "Content-Transfer-Encoding": "base64", "Content-Length": fmt.Sprint(len(first.body)), "WWW-Authenticate": "",
	} {
		if got := first.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	der, err := base64.StdEncoding.Strict().DecodeString(first.body)
	if first.StatusCode != 200 || err != nil || !strings.HasPrefix(asked(t, der), "1.2.840.113549.1.9.7\n1.2.840.10045.2.1 = 1.3.132.0.34\n") {
		t.Fatalf("%d %q", first.StatusCode, first.body)
	}
	if lines := get("/csrattrs", "libest 1.0").body; strings.ReplaceAll(lines, "\n", "") != first.body || !strings.HasSuffix(lines, "\n") || strings.Index(lines, "\n") != lineLength {
		t.Errorf("%q", lines)
	}
	if got := send(t, client, w.request(http.MethodHead, root+"/csrattrs", nil)); got.StatusCode != 200 || got.body != "" || got.ContentLength != int64(len(first.body)) {
		t.Errorf("HEAD: %d %q", got.StatusCode, got.body)
	}
	if got := send(t, client, w.request(http.MethodPost, root+"/csrattrs", nil)); got.StatusCode != 405 {
		t.Errorf("POST: %d", got.StatusCode)
	}
	if got := get("/plant/csrattrs", ""); got.StatusCode != 200 || got.body != "MAsGCSqGSIb3DQEJBw==" { // what is required MUST be said
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
	if n := len(w.gateway.allEnrolled()); n != 0 {
		t.Errorf("%d enrolled", n)
	}

	// The bytes are kept for a profile, and no longer.
	w.gateway.profile.Keys = []string{"P-256"}
	if got := get("/csrattrs", ""); got.body != first.body {
		t.Errorf("made again: %q", got.body)
	}
	w.gateway.profile, w.gateway.linked = &gateway.Profile{Shaper: asks{}}, false
	for _, path := range []string{"/csrattrs", "/plant/csrattrs"} {
		if got := get(path, ""); got.StatusCode != 204 || got.body != "" || got.Header.Get("Content-Type") != "" {
			t.Errorf("nothing to ask for: %d %q %q", got.StatusCode, got.body, got.Header)
		}
	}
	for _, p := range []*gateway.Profile{nil, {Shaper: asks{Subject: []asn1.ObjectIdentifier{{9}}}}} {
		w.gateway.profile = p
		if got := get("/csrattrs", ""); got.StatusCode != 500 {
			t.Errorf("%d %q", got.StatusCode, got.body)
		}
	}
}
