package pkix

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const vectors = "../../testdata/pkix"

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every file of testdata/pkix and what it must give.
var files = []struct {
	name    string
	parse   error // of ParseCSR
	check   error // of CheckSignature
	key     string
	alg     x509.SignatureAlgorithm
	subject string
}{
	{"rsa2048.der", nil, nil, "RSA-2048", x509.SHA256WithRSA, "CN=rsa-2048,O=Muster Test,C=DE"},
	{"rsa2048.pem", ErrMalformed, nil, "", 0, ""},
	{"rsa2048-pss.der", nil, nil, "RSA-2048", x509.SHA384WithRSAPSS, "CN=rsa-2048-pss"},
	{"rsa2048-pss-maxsalt.der", nil, nil, "RSA-2048", x509.SHA256WithRSAPSS, "CN=rsa-2048-pss-maximal-salt"},
	{"rsa2048-sha1.der", nil, ErrWeak, "RSA-2048", x509.SHA1WithRSA, "CN=sha-1"},
	{"rsa2048-md5.der", nil, ErrWeak, "RSA-2048", x509.MD5WithRSA, "CN=md5"},
	{"rsa2048-exponent3.der", nil, nil, "RSA-2048", x509.SHA256WithRSA, "CN=exponent-3"},
	{"rsa2048-wide-exponent.der", nil, nil, "RSA-2048", x509.SHA256WithRSA, "CN=wide-exponent"},
	{"rsa3072.der", nil, nil, "RSA-3072", x509.SHA512WithRSA, "CN=rsa-3072"},
	{"rsa1024.der", ErrWeak, nil, "", 0, ""},
	{"p256.der", nil, nil, "P-256", x509.ECDSAWithSHA256, "CN=p-256"},
	{"p256-san.der", nil, nil, "P-256", x509.ECDSAWithSHA256, "serialNumber=SN-0001,CN=device-0001,O=Muster Test,C=DE"},
	{"p256-sha1.der", nil, ErrWeak, "P-256", x509.ECDSAWithSHA1, "CN=p-256-sha-1"},
	{"p256-nosubject.der", nil, nil, "P-256", x509.ECDSAWithSHA256, ""},
	{
		"p256-odd-name.der", nil, nil, "P-256", x509.ECDSAWithSHA256,
		`CN=\#1 \"x\" \<y\>\; z\\\ ,OU=a+OU=b,O=Müster\, Inc.,DC=example,DC=com`,
	},
	{"p256-compressed.der", ErrAlgorithm, nil, "", 0, ""},
	{"p256-explicit.der", ErrAlgorithm, nil, "", 0, ""},
	{"p384.der", nil, nil, "P-384", x509.ECDSAWithSHA384, "CN=p-384"},
	{"p521.der", nil, nil, "P-521", x509.ECDSAWithSHA512, "CN=p-521"},
	{"secp256k1.der", ErrAlgorithm, nil, "", 0, ""},
	{"ed25519.der", nil, nil, "Ed25519", x509.PureEd25519, "CN=ed25519"},
	{"ed448.der", ErrAlgorithm, nil, "", 0, ""},
	{"p256-bad-signature.der", nil, ErrSignature, "P-256", x509.ECDSAWithSHA256, "serialNumber=SN-0001,CN=device-0001,O=Muster Test,C=DE"},
	{"rsa2048-bad-signature.der", nil, ErrSignature, "RSA-2048", x509.SHA256WithRSA, "CN=rsa-2048,O=Muster Test,C=DE"},
}

func TestVectors(t *testing.T) {
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			der := read(t, f.name)
			c, err := ParseCSR(der)
			if !errors.Is(err, f.parse) {
				t.Fatalf("ParseCSR: %v, want %v", err, f.parse)
			}
			if err != nil {
				return
			}
			if err := c.CheckSignature(); !errors.Is(err, f.check) {
				t.Errorf("CheckSignature: %v, want %v", err, f.check)
			}
			if got := KeyName(c.Key); got != f.key {
				t.Errorf("key %s, want %s", got, f.key)
			}
			if c.SignatureAlgorithm != f.alg {
				t.Errorf("algorithm %v, want %v", c.SignatureAlgorithm, f.alg)
			}
			if got := FormatName(c.Subject); got != f.subject {
				t.Errorf("subject %s, want %s", got, f.subject)
			}
			// The standard library, on what it can read, finds the same parts.
			std, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.RawInfo, std.RawTBSCertificateRequest) || !bytes.Equal(c.Subject, std.RawSubject) ||
				!bytes.Equal(c.PublicKey, std.RawSubjectPublicKeyInfo) || !bytes.Equal(c.Signature, std.Signature) {
				t.Error("the parts differ from crypto/x509's")
			}
			if key, ok := std.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(c.Key) {
				t.Error("the key differs from crypto/x509's")
			}
		})
	}
	present, err := os.ReadDir(vectors)
	if err != nil {
		t.Fatal(err)
	}
	if len(present) != len(files)+1 { // README.md
		t.Errorf("%d files in %s, %d in the table", len(present), vectors, len(files))
	}
}

func TestAllowSHA1(t *testing.T) {
	for name, want := range map[string]error{"rsa2048-sha1.der": nil, "p256-sha1.der": nil, "rsa2048-md5.der": ErrWeak} {
		c, err := ParseCSR(read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckSignature(AllowSHA1()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestAttributes(t *testing.T) {
	c, err := ParseCSR(read(t, "p256-san.der"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Attributes) != 2 {
		t.Fatalf("%d attributes, want 2", len(c.Attributes))
	}
	password, present, err := c.ChallengePassword()
	if err != nil || !present || password != "opensesame" {
		t.Errorf("challengePassword %q %t %v", password, present, err)
	}
	std, err := x509.ParseCertificateRequest(c.Raw)
	if err != nil {
		t.Fatal(err)
	}
	equal := func(a, b pkix.Extension) bool {
		return a.Id.Equal(b.Id) && a.Critical == b.Critical && bytes.Equal(a.Value, b.Value)
	}
	if len(c.Extensions) != 3 || !slices.EqualFunc(c.Extensions, std.Extensions, equal) {
		t.Errorf("extensions %v, crypto/x509 has %v", c.Extensions, std.Extensions)
	}
	names, err := ParseGeneralNames(c.Extensions[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names.DNS, []string{"device-0001.example.com"}) || !slices.Equal(names.Email, []string{"device@example.com"}) ||
		!slices.Equal(names.URI, []string{"urn:example:device-0001"}) || names.Other != 0 ||
		!slices.Equal(names.IP, []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}) {
		t.Errorf("names %+v", names)
	}
	if _, present, err := mustCSR(t, "p256.der").ChallengePassword(); present || err != nil {
		t.Errorf("challengePassword that is not there: %t %v", present, err)
	}
}

func mustCSR(t testing.TB, name string) *CSR {
	t.Helper()
	c, err := ParseCSR(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// request describes a request that is made for a test, sound unless a field says otherwise.
type request struct {
	version    int64
	attributes [][]byte // DER of each; nil leaves the field out
	noField    bool
	trailing   bool // after the attributes
	spki       []byte
}

var testKey = func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

func (r request) der(t testing.TB) []byte {
	t.Helper()
	spki := r.spki
	if spki == nil {
		var err error
		if spki, err = x509.MarshalPKIXPublicKey(testKey.Public()); err != nil {
			t.Fatal(err)
		}
	}
	var info cryptobyte.Builder
	info.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(r.version)
		b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {})
		b.AddBytes(spki)
		if !r.noField {
			b.AddASN1(contextTag(0).Constructed(), func(b *cryptobyte.Builder) {
				for _, a := range r.attributes {
					b.AddBytes(a)
				}
			})
		}
		if r.trailing {
			b.AddASN1NULL()
		}
	})
	signed := info.BytesOrPanic()
	digest := crypto.SHA256.New()
	digest.Write(signed)
	sig, err := ecdsa.SignASN1(rand.Reader, testKey, digest.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(signed)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
		})
		b.AddASN1BitString(sig)
	})
	return b.BytesOrPanic()
}

func attribute(oid asn1.ObjectIdentifier, values ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			for _, v := range values {
				b.AddBytes(v)
			}
		})
	})
	return b.BytesOrPanic()
}

func extensions(t testing.TB, list ...pkix.Extension) []byte {
	t.Helper()
	der, err := asn1.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func text(tag cbasn1.Tag, s string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	return b.BytesOrPanic()
}

func TestRequestForm(t *testing.T) {
	san := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x03, 0x82, 0x01, 'a'}}
	usage := pkix.Extension{Id: oidKeyUsage, Critical: true, Value: []byte{3, 2, 7, 0x80}}
	ask := func(list ...pkix.Extension) []byte { return attribute(oidExtensionRequest, extensions(t, list...)) }
	var many [][]byte
	for i := range maxEntries + 1 {
		many = append(many, attribute(asn1.ObjectIdentifier{1, 3, 6, 1, i}, []byte{5, 0}))
	}
	for _, tt := range []struct {
		name       string
		request    request
		want       error
		extensions int
	}{
		{"plain", request{}, nil, 0},
		{"attributes field left out", request{noField: true}, nil, 0},
		{"extensions", request{attributes: [][]byte{ask(san, usage)}}, nil, 2},
		{"no extension in extensionRequest", request{attributes: [][]byte{ask()}}, nil, 0},
		{"Microsoft's attribute", request{attributes: [][]byte{attribute(oidMSExtensions, extensions(t, san))}}, nil, 1},
		{"both attributes", request{attributes: [][]byte{ask(usage), attribute(oidMSExtensions, extensions(t, san))}}, nil, 2},
		{"both attributes, one extension", request{attributes: [][]byte{ask(san), attribute(oidMSExtensions, extensions(t, san))}}, ErrMalformed, 0},
		{"extension twice", request{attributes: [][]byte{ask(san, usage, san)}}, ErrMalformed, 0},
		{"extensionRequest twice", request{attributes: [][]byte{ask(san), ask(usage)}}, ErrMalformed, 0},
		{"two values", request{attributes: [][]byte{attribute(oidExtensionRequest, extensions(t, san), extensions(t, usage))}}, ErrMalformed, 0},
		{"attribute without value", request{attributes: [][]byte{attribute(oidChallengePassword)}}, ErrMalformed, 0},
		{"unknown attribute of two values", request{attributes: [][]byte{attribute(asn1.ObjectIdentifier{1, 2, 3}, []byte{5, 0}, []byte{5, 0})}}, nil, 0},
		{"64 attributes", request{attributes: many[:maxEntries]}, nil, 0},
		{"65 attributes", request{attributes: many}, ErrMalformed, 0},
		{"attribute that is none", request{attributes: [][]byte{{5, 0}}}, ErrMalformed, 0},
		{"extensions that are none", request{attributes: [][]byte{attribute(oidExtensionRequest, []byte{5, 0})}}, ErrMalformed, 0},
		{"version 1", request{version: 1}, ErrMalformed, 0},
		{"version -1", request{version: -1}, ErrMalformed, 0},
		{"more after the attributes", request{trailing: true}, ErrMalformed, 0},
		{"key that is none", request{spki: []byte{0x30, 0}}, ErrMalformed, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseCSR(tt.request.der(t))
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if len(c.Extensions) != tt.extensions {
				t.Errorf("%d extensions, want %d", len(c.Extensions), tt.extensions)
			}
			if err := c.CheckSignature(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every prefix of a request, and the request with a byte after it, is refused.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"p256-san.der", "rsa2048-pss.der"} {
		der := read(t, name)
		for n := range der {
			if _, err := ParseCSR(der[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if _, err := ParseCSR(append(slices.Clone(der), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
}

// Whatever is changed in the signed part, the signature no longer verifies.
func TestSignatureCoversTheRequest(t *testing.T) {
	for _, name := range []string{"p256-san.der", "rsa2048.der", "rsa2048-pss.der", "rsa2048-wide-exponent.der", "ed25519.der"} {
		der := read(t, name)
		info := mustCSR(t, name).RawInfo
		offset := bytes.Index(der, info)
		for i := offset; i < offset+len(info); i += 7 {
			changed := slices.Clone(der)
			changed[i] ^= 1
			c, err := ParseCSR(changed)
			if err == nil {
				err = c.CheckSignature()
			}
			if err == nil {
				t.Errorf("%s: byte %d inverted is not noticed", name, i)
			}
		}
	}
}

// A signature is as long as the modulus, and below it (RFC 8017 section 8.2.2), with the exponents verified by hand too.
func TestSignatureLength(t *testing.T) {
	for _, name := range []string{"rsa2048.der", "rsa2048-pss.der", "rsa2048-wide-exponent.der"} {
		c := mustCSR(t, name)
		sig := new(big.Int).SetBytes(c.Signature)
		above := sig.Add(sig, c.Key.(*rsa.PublicKey).N).Bytes()
		for _, bad := range [][]byte{nil, append([]byte{0}, c.Signature...), append(slices.Clone(c.Signature), 0), c.Signature[1:], above} {
			c.Signature = bad
			if err := c.CheckSignature(); !errors.Is(err, ErrSignature) {
				t.Errorf("%s with %d bytes: %v", name, len(bad), err)
			}
		}
	}
}

func TestAlgorithmFitsKey(t *testing.T) {
	names := []string{"p256.der", "rsa2048.der", "rsa2048-pss.der", "ed25519.der"}
	for i, name := range names {
		for j, other := range names {
			c, o := mustCSR(t, name), mustCSR(t, other)
			c.algorithm, c.SignatureAlgorithm, c.Signature = o.algorithm, o.SignatureAlgorithm, o.Signature
			want := ErrAlgorithm
			switch {
			case i == j:
				want = nil
			case (i == 1 || i == 2) && (j == 1 || j == 2):
				want = ErrSignature
			}
			if err := c.CheckSignature(); !errors.Is(err, want) {
				t.Errorf("%s with the signature of %s: %v, want %v", name, other, err, want)
			}
		}
	}
	c := mustCSR(t, "p256.der")
	c.algorithm = algorithm{oid: oidRSA}
	if err := c.CheckSignature(); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("unknown algorithm: %v", err)
	}
	if err := (&CSR{algorithm: mustCSR(t, "rsa2048.der").algorithm}).CheckSignature(); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("no key: %v", err)
	}
}

func TestChallengePassword(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values [][]byte
		want   string
		err    error
	}{
		{"UTF8String", [][]byte{text(cbasn1.UTF8String, "schlüssel")}, "schlüssel", nil},
		{"PrintableString", [][]byte{text(cbasn1.PrintableString, "a+/=")}, "a+/=", nil},
		{"IA5String", [][]byte{text(cbasn1.IA5String, "a@b")}, "a@b", nil},
		{"BMPString", [][]byte{text(tagBMPString, "\x00h\x00\xe4")}, "hä", nil},
		{"empty", [][]byte{text(cbasn1.UTF8String, "")}, "", nil},
		{"bad UTF-8", [][]byte{text(cbasn1.UTF8String, "\xff")}, "", ErrMalformed},
		{"OCTET STRING", [][]byte{text(cbasn1.OCTET_STRING, "a")}, "", ErrMalformed},
		{"two values", [][]byte{text(cbasn1.UTF8String, "a"), text(cbasn1.UTF8String, "b")}, "", ErrMalformed},
	} {
		c, err := ParseCSR(request{attributes: [][]byte{attribute(oidChallengePassword, tt.values...)}}.der(t))
		if err != nil {
			t.Fatal(err)
		}
		got, present, err := c.ChallengePassword()
		if got != tt.want || !present || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q %t %v, want %q %v", tt.name, got, present, err, tt.want, tt.err)
		}
	}
}
