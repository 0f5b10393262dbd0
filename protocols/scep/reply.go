package scep

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"

	smallscep "github.com/smallstep/scep"

	"github.com/muster-pki/muster/protocols/cms"
)

// writeSuccess answers with a CertRep SUCCESS (RFC 8894 section 3.3.2.1): the certificates in a certs-only message,
// encrypted to the key that signed the request, with the request's cipher. Nowhere else is the certificate to be seen.
func (x *exchange) writeSuccess(certs []*x509.Certificate) error {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	content, err := cms.CertsOnly(raw...)
	if err != nil {
		return err
	}
	return x.writeEnveloped(content)
}

// writeEnveloped answers with a CertRep SUCCESS that holds the content, encrypted as writeSuccess has it.
func (x *exchange) writeEnveloped(content []byte) error {
	envelope, err := cms.Encrypt(content, x.message.signed.Signer, x.message.cipher)
	if err != nil {
		return err
	}
	return x.writeCertRep(smallscep.SUCCESS, envelope)
}

// writePending answers with a CertRep PENDING (section 3.3.2.3).
func (x *exchange) writePending() error { return x.writeCertRep(smallscep.PENDING, nil) }

// writeFailure answers with a CertRep FAILURE (section 3.3.2.2), and says why in plain words (section 3.2.1.4).
func (x *exchange) writeFailure(info smallscep.FailInfo, text string) error {
	return x.writeCertRep(smallscep.FAILURE, nil,
		cms.AttributePrintable(cms.SCEPFailInfo, string(info)), cms.AttributeUTF8(cms.SCEPFailInfoText, text))
}

// nonceSize is that of a senderNonce, in bytes (section 3.2.1.5).
const nonceSize = 16

// writeCertRep signs and sends an answer. envelope is nil for none: the content is then an empty OCTET STRING, not absent,
// since OpenSSL's PKCS7_verify, and so certmonger, takes absent content for a detached signature ("no content"). The digest is
// the request's; the signature algorithm is the plain one, which is all that strongSwan 5.9.8 takes.
func (x *exchange) writeCertRep(status smallscep.PKIStatus, envelope []byte, more ...cms.Attribute) error {
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(x.h.rand, nonce); err != nil {
		return fmt.Errorf("senderNonce: %w", err)
	}
	if envelope == nil {
		envelope = []byte{}
	}
	der, err := cms.Sign(cms.SignOptions{
		Content: envelope, Key: x.ra.key, Certificate: x.ra.cert, Certificates: []*x509.Certificate{x.ra.cert},
		Digest: x.message.digest, PlainRSA: true,
		Attributes: append([]cms.Attribute{
			cms.AttributePrintable(cms.SCEPMessageType, typeCertRep),
			cms.AttributePrintable(cms.SCEPPKIStatus, string(status)),
			{Type: cms.SCEPTransactionID, Value: x.message.transactionID},
			cms.AttributeOctets(cms.SCEPSenderNonce, nonce),
			{Type: cms.SCEPRecipientNonce, Value: x.message.senderNonce},
		}, more...),
	})
	if err != nil {
		return err
	}
	x.Write(http.StatusOK, "application/x-pki-message", der)
	return nil
}
