package simulate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// Kinds of keys that devices may have.
const (
	P256    = "P-256"
	RSA2048 = "RSA-2048"
)

// poolSize is how many RSA keys are made: making one takes as long as hundreds of signatures by it.
const poolSize = 32

// scalarSize is how long a private key on P-256 is.
const scalarSize = 32

// keys are those of all devices, made before anything is timed. On P-256 each device has its own; RSA keys are a pool that
// devices share, number n having the n-th, modulo its size.
type keys struct {
	scalars []byte // P-256: scalarSize bytes each
	pool    []*rsa.PrivateKey
}

func newKeys(kind string, n int) (*keys, error) {
	k := &keys{}
	switch kind {
	case P256:
		k.scalars = make([]byte, 0, n*scalarSize)
		for range n {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return nil, err
			}
			scalar, err := key.Bytes()
			if err != nil {
				return nil, err
			}
			k.scalars = append(k.scalars, scalar...)
		}
	case RSA2048:
		k.pool = make([]*rsa.PrivateKey, min(n, poolSize))
		for i := range k.pool {
			var err error
			if k.pool[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("keys are %s or %s, not %q", P256, RSA2048, kind)
	}
	return k, nil
}

// kind is what newKeys was told.
func (k *keys) kind() string {
	if k.pool != nil {
		return RSA2048
	}
	return P256
}

// of is the key of device n.
func (k *keys) of(n int) (crypto.Signer, error) {
	if k.pool != nil {
		return k.pool[n%len(k.pool)], nil
	}
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), k.scalars[n*scalarSize:(n+1)*scalarSize])
}

// certifies reports whether a certificate in DER is one of the key.
func certifies(der []byte, key crypto.Signer) bool {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return false
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(cert.PublicKey)
}
