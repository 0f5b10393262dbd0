package cms

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"slices"
	"testing"

	"go.mozilla.org/pkcs7"
)

func TestSign(t *testing.T) {
	nonce := asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 5}
	for _, signer := range []pair{rsaPair(t), ecPair()} {
		for _, plain := range []bool{false, true} {
			for _, h := range all[1:] {
				o := SignOptions{
					Content: []byte("hello"), Key: signer.key, Certificate: signer.cert, Digest: h, PlainRSA: plain,
					Attributes: []Attribute{AttributeOctets(nonce, []byte("nonce")), AttributePrintable(transactionID, "1234")},
				}
				o.Certificates = append(o.Certificates, otherRSA().cert, signer.cert)
				der, err := Sign(o)
				if err != nil {
					t.Fatalf("%v: %v", h, err)
				}
				if err := Check(der, Limits{}); err != nil {
					t.Errorf("%v: %v", h, err)
				}
				s, err := ParseSigned(der, Limits{})
				if err != nil {
					t.Fatalf("%v: %v", h, err)
				}
				if err := s.Verify([]crypto.Hash{h}); err != nil {
					t.Errorf("%v: %v", h, err)
				}
				if s.Digest != h || string(s.Content) != "hello" || !s.ContentType.Equal(oidData) ||
					len(s.Certificates) != 2 || s.Signer != s.Certificates[1] {
					t.Errorf("%v: %v, %q, %v, %d certificates", h, s.Digest, s.Content, s.ContentType, len(s.Certificates))
				}
				if _, isRSA := signer.key.(*rsa.PrivateKey); isRSA && s.SignatureOID.Equal(oidRSA) != plain {
					t.Errorf("%v: PlainRSA %v is %v", h, plain, s.SignatureOID)
				}
				if len(s.attributes) != 4 || !slices.IsSortedFunc(s.attributes, compareRaw) {
					t.Errorf("%v: %d attributes, or not sorted", h, len(s.attributes))
				}
				if v, ok := s.Attribute(nonce); !ok || string(v) != tlv(4, "nonce") {
					t.Errorf("%v: nonce %x, %v", h, v, ok)
				}
				if h == crypto.SHA224 {
					continue // which the other library does not know
				}
				p7, err := pkcs7.Parse(der)
				if err != nil {
					t.Fatalf("another library: %v", err)
				}
				if err := p7.Verify(); err != nil {
					t.Errorf("another library: %v: %v", h, err)
				}
			}
		}
	}
}

func TestSignForms(t *testing.T) {
	p := rsaPair(t)
	sign := func(edit func(o *SignOptions)) ([]byte, error) {
		o := SignOptions{Content: []byte("hello"), Key: p.key, Certificate: p.cert, Digest: crypto.SHA256}
		edit(&o)
		return Sign(o)
	}
	parsed := func(name string, edit func(o *SignOptions)) *Signed {
		t.Helper()
		der, err := sign(edit)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s, err := ParseSigned(der, Limits{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return s
	}
	if s := parsed("no certificates", func(o *SignOptions) {}); s.Certificates != nil || s.Signer != nil {
		t.Errorf("no certificates: %d", len(s.Certificates))
	}
	s := parsed("no content", func(o *SignOptions) { o.Content, o.Certificates = nil, append(o.Certificates, p.cert) })
	if s.Content != nil || !errors.Is(s.Verify(sha2), ErrSignature) || s.VerifyDetached(nil, sha2) != nil {
		t.Errorf("no content: %q, %v, %v", s.Content, s.Verify(sha2), s.VerifyDetached(nil, sha2))
	}
	s = parsed("empty content", func(o *SignOptions) { o.Content, o.Certificates = []byte{}, append(o.Certificates, p.cert) })
	if err := s.Verify(sha2); s.Content == nil || len(s.Content) != 0 || err != nil {
		t.Errorf("empty content: %v", err)
	}
	s = parsed("another content type", func(o *SignOptions) { o.ContentType, o.Certificates = oidEnvelopedData, append(o.Certificates, p.cert) })
	if err := s.Verify(sha2); !s.ContentType.Equal(oidEnvelopedData) || err != nil {
		t.Errorf("another content type: %v, %v", s.ContentType, err)
	}
	for contentType, version := range map[string]string{"1.2.840.113549.1.7.1": "\x02\x01\x01", "1.2.840.113549.1.7.3": "\x02\x01\x03"} {
		der, err := sign(func(o *SignOptions) {
			if o.ContentType = oidData; contentType != oidData.String() {
				o.ContentType = oidEnvelopedData
			}
		})
		// The version is the first element of SignedData.
		if at := bytes.Index(der, []byte("\x02\x01")); err != nil || string(der[at:at+3]) != version {
			t.Errorf("%s: version %x, %v", contentType, der[at:at+3], err)
		}
	}
	for name, tt := range map[string]struct {
		edit func(o *SignOptions)
		want error
	}{
		"no key":                      {func(o *SignOptions) { o.Key = nil }, nil},
		"no certificate":              {func(o *SignOptions) { o.Certificate = nil }, nil},
		"another's certificate":       {func(o *SignOptions) { o.Certificate = otherRSA().cert }, nil},
		"another kind of certificate": {func(o *SignOptions) { o.Certificate = ecPair().cert }, nil},
		"no digest":                   {func(o *SignOptions) { o.Digest = 0 }, ErrAlgorithm},
		"another digest":              {func(o *SignOptions) { o.Digest = crypto.SHA3_256 }, ErrAlgorithm},
		"attribute twice": {func(o *SignOptions) {
			o.Attributes = []Attribute{AttributeUTF8(transactionID, ""), AttributeUTF8(transactionID, "a")}
		}, nil},
		"messageDigest of the caller's": {func(o *SignOptions) { o.Attributes = []Attribute{AttributeOctets(oidMessageDigest, nil)} }, nil},
		"attribute of two values":       {func(o *SignOptions) { o.Attributes = []Attribute{{transactionID, []byte(null + null)}} }, ErrSyntax},
		"attribute without value":       {func(o *SignOptions) { o.Attributes = []Attribute{{transactionID, nil}} }, ErrSyntax},
		"attribute without type":        {func(o *SignOptions) { o.Attributes = []Attribute{AttributeUTF8(nil, "")} }, nil},
	} {
		if der, err := sign(tt.edit); err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("%s: %x, %v", name, der, err)
		}
	}
}

func signedForBenchmark(b *testing.B) ([]byte, SignOptions) {
	p := rsaPair(b)
	o := SignOptions{
		Content: content[:1800], Key: p.key, Certificate: p.cert, Certificates: nil, Digest: crypto.SHA256, PlainRSA: true,
		Attributes: []Attribute{AttributePrintable(transactionID, "1234567890"), AttributeOctets(asn1.ObjectIdentifier{1, 2, 3}, make([]byte, 16))},
	}
	o.Certificates = append(o.Certificates, p.cert)
	der, err := Sign(o)
	if err != nil {
		b.Fatal(err)
	}
	return der, o
}

func BenchmarkSign(b *testing.B) {
	_, o := signedForBenchmark(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Sign(o); err != nil {
			b.Fatal(err)
		}
	}
}
