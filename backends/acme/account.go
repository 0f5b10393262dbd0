package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// accountKey signs for the account.
type accountKey struct {
	crypto.Signer
	id string // of its public half, for tickets
}

// String keeps the key out of whatever prints a configuration.
func (*accountKey) String() string { return "account key" }

// openAccountKey reads the file, or makes it: one of several who make it at once wins, and the others take his.
func openAccountKey(path string) (*accountKey, error) {
	text, err := upstream.Secret(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeAccountKey(path); err != nil {
			return nil, err
		}
		text, err = upstream.Secret(path)
	}
	if err != nil {
		return nil, err
	}
	b, rest := pem.Decode(text)
	if b == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s is not one PEM block", path)
	}
	signer, err := parseKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	return &accountKey{signer, hex.EncodeToString(sum[:8])}, nil
}

// parseKey reads PKCS#8, SEC 1 and PKCS#1. ACME signs with ES256, ES384 and RS256 at least (RFC 8555 section 6.2).
func parseKey(der []byte) (crypto.Signer, error) {
	var key any
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		key = k
	} else if k, err := x509.ParseECPrivateKey(der); err == nil {
		key = k
	} else if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		key = k
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		return k, nil
	}
	return nil, errors.New("no private key that ACME signs with: ECDSA or RSA, not encrypted")
}

func makeAccountKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".account-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// secret reads the HMAC key of the binding.
func (e *ExternalAccount) secret() ([]byte, error) {
	text, err := upstream.Secret(e.Key)
	if err != nil {
		return nil, err
	}
	key, err := base64.RawURLEncoding.DecodeString(string(bytes.TrimRight(text, "=")))
	if err != nil || len(key) < 16 {
		return nil, fmt.Errorf("%s has no HMAC key in base64url, of 16 bytes at least", e.Key)
	}
	return key, nil
}
