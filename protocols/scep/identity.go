package scep

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// ra is an identity that can do what SCEP asks of it.
type ra struct {
	key  crypto.Signer // *rsa.PrivateKey or cms.HeldKey
	cert *x509.Certificate
}

// checkIdentity tells whether an identity can decrypt requests and sign answers. RFC 8894 section 3.1 encrypts to the
// recipient's public key, and all clients at hand know RSA alone.
func checkIdentity(id *gateway.Identity) (ra, error) {
	if id.Certificate == nil {
		return ra{}, errors.New("the RA has no certificate")
	}
	var of *rsa.PublicKey
	switch key := id.Key.(type) {
	case *rsa.PrivateKey:
		if key != nil {
			of = &key.PublicKey
		}
	case cms.HeldKey:
		of, _ = key.Public().(*rsa.PublicKey)
	}
	if of == nil {
		return ra{}, fmt.Errorf("the RA key is no RSA key but %T: SCEP encrypts requests to it", id.Key)
	}
	if pub, ok := id.Certificate.PublicKey.(*rsa.PublicKey); !ok || !pub.Equal(of) {
		return ra{}, errors.New("the RA certificate is not that of the RA key")
	}
	// Absent, it allows everything (RFC 5280 section 4.2.1.3).
	const needed = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if u := id.Certificate.KeyUsage; u != 0 && u&needed != needed {
		return ra{}, errors.New("the RA certificate's keyUsage lacks digitalSignature or keyEncipherment: it has to have both")
	}
	return ra{id.Key, id.Certificate}, nil
}

// identify sets the identity to answer with.
func (x *exchange) identify() *wire.Refusal {
	id := x.h.identity(x.endpoint.Name)
	if id == nil {
		return wire.Refused(gateway.Unavailable, "the RA has no certificate yet", errors.New("no identity for this endpoint"))
	}
	var err error
	if x.ra, err = checkIdentity(id); err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	for before := id.Previous; before != nil; before = before.Previous {
		if previous, err := checkIdentity(before); err == nil {
			x.previous = append(x.previous, previous)
		}
	}
	return nil
}
