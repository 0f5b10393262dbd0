package gateway

import (
	"crypto"
	"crypto/x509"
)

// Identity is a key of the gateway's own with its certificate: what answers are signed with, and encrypted to. It is
// never changed.
type Identity struct {
	Key         crypto.Signer // *ecdsa.PrivateKey or ed25519.PrivateKey; for SCEP *rsa.PrivateKey, which decrypts too; or one that a backend holds
	Certificate *x509.Certificate
	Chain       []*x509.Certificate // its issuer first, the root last
	Previous    *Identity           // the one before, while there may be requests that are encrypted to it, and so on; nil for none
}
