package pkix

import (
	"crypto/x509"
	"errors"
	"testing"
)

// What is made is what was asked for, and is certified like any other.
func TestGenerateKey(t *testing.T) {
	for _, kind := range GeneratedKinds() {
		key, err := GenerateKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		pub, err := ParsePublicKey(spki)
		if err != nil || KeyName(pub) != kind {
			t.Errorf("%s: %v, %v", kind, pub, err)
		}
	}
	for _, kind := range []string{"", "RSA-1024", "RSA-8192", "RSA>=2048", "P-224", "p-256", "DSA"} {
		if key, err := GenerateKey(kind); key != nil || !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%q: %v", kind, err)
		}
	}
}
