package cms

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// Encrypt makes an EnvelopedData, DER, for one RSA recipient (PKCS #1 v1.5 key transport, named by issuer and serial
// number), with a fresh key and IV. A cipher that is not known and a recipient's key that is not RSA of 1024 to 8192 bits are
// ErrAlgorithm. What RFC 8894 clients do not read is made by NewEnvelope.
//
// The Encrypt of go.mozilla.org/pkcs7 is not used: its cipher is a variable of the whole process, DES by default, with
// neither 3DES nor AES-192.
func Encrypt(content []byte, to *x509.Certificate, c Cipher) ([]byte, error) {
	pub, ok := to.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("cms: encrypt: %w: the recipient's key", ErrAlgorithm)
	}
	e, err := NewEnvelope(c, &KeyTransport{Key: pub, PKCS1v15: true})
	if err != nil {
		return nil, err
	}
	e.ID = RecipientID{Issuer: to.RawIssuer, Serial: to.SerialNumber}
	bare, err := e.Seal(oidData, content)
	if err != nil {
		return nil, err
	}
	return ContentInfo(oidEnvelopedData, bare)
}
