package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
)

// keyKinds are the kinds of key that a CA is made with, by the name that Issuer.Key gives them. All of them sign without
// a random part: ECDSA as in RFC 6979, Ed25519 (RFC 8032), RSA PKCS #1 v1.5.
var keyKinds = map[string]func() (crypto.Signer, error){
	"P-256":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	"P-384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	"Ed25519":  func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err },
	"RSA-2048": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	"RSA-3072": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) },
	"RSA-4096": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 4096) },
}

// keyNames lists keyKinds for people.
var keyNames = []string{"P-256", "P-384", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"}

func isRSA(kind string) bool { return strings.HasPrefix(kind, "RSA-") }

// kindOf names the kind of a public key. It is "" for one that no CA here may have, imported ones included.
func kindOf(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return k.Curve.Params().Name
		}
	case ed25519.PublicKey:
		return "Ed25519"
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= minRSA && n <= maxRSA {
			return fmt.Sprintf("RSA-%d", n)
		}
	}
	return ""
}
