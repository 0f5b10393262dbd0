package pkix

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"

	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
)

// RFC 7030 section 4.4.1: of a request for a key its own key and signature are ignored. Without the option they are not.
func TestIgnoreKey(t *testing.T) {
	small := &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 1023), big.NewInt(1)), E: 3}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, edKey)
	if err != nil {
		t.Fatal(err)
	}
	base, err := ParseCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	with := func(spki []byte) []byte {
		info := element(0x30, []byte{2, 1, 0}, base.Subject, spki, []byte{0xa0, 0})
		return element(0x30, info, []byte{0x30, 3, 6, 1, 42}, []byte{3, 1, 0})
	}
	spki := func(pub any) []byte {
		out, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, tt := range map[string]struct {
		spki []byte
		want string
		err  error // without the option
	}{
		"RSA-1024":              {spki(small), "RSA-1024", ErrWeak},
		"P-224":                 {spki(&p224.PublicKey), "", ErrAlgorithm},
		"P-384":                 {spki(&p384.PublicKey), "P-384", nil},
		"Ed25519":               {spki(ed), "Ed25519", nil},
		"an algorithm of none":  {[]byte{0x30, 8, 0x30, 3, 6, 1, 42, 3, 1, 0}, "", ErrAlgorithm},
		"no key at all in it":   {[]byte{0x30, 0}, "", ErrMalformed},
		"RSA without a modulus": {element(0x30, element(0x30, []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0}), []byte{3, 1, 0}), "RSA", ErrMalformed},
		"EC without a point": {element(0x30, element(0x30, []byte{6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1}, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}), []byte{3, 1, 0}),
			"P-256", ErrMalformed},
	} {
		c, err := ParseCSR(with(tt.spki), IgnoreKey())
		if err != nil || c.Key != nil || c.WishedKind() != tt.want {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		if _, err := ParseCSR(with(tt.spki)); !errors.Is(err, tt.err) {
			t.Errorf("%s, without the option: %v", name, err)
		}
	}
	if _, err := ParseCSR([]byte{0x30, 0}, IgnoreKey()); !errors.Is(err, ErrMalformed) {
		t.Errorf("no request: %v", err)
	}
}

func element(tag byte, parts ...[]byte) []byte {
	var content []byte
	for _, p := range parts {
		content = append(content, p...)
	}
	switch n := len(content); {
	case n < 128:
		return append([]byte{tag, byte(n)}, content...)
	case n < 256:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
}
