package pkix

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"slices"
)

// GeneratedKinds lists the kinds of keys that GenerateKey makes, as KeyName has them. Larger RSA keys would take minutes.
func GeneratedKinds() []string {
	return []string{"P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"}
}

// GenerateKey makes a key of one of GeneratedKinds: *ecdsa.PrivateKey, *rsa.PrivateKey (which may take seconds) or
// ed25519.PrivateKey. The error is ErrAlgorithm for another kind.
func GenerateKey(kind string) (crypto.Signer, error) {
	if !slices.Contains(GeneratedKinds(), kind) {
		return nil, because(ErrAlgorithm, "keys of the kind %q are not made", kind)
	}
	switch kind {
	case "P-256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "Ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "RSA-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "RSA-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return rsa.GenerateKey(rand.Reader, 4096)
}
