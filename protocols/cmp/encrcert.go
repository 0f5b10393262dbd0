package cmp

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// Methods of POPOPrivKey, and what a subsequent message does (RFC 4211 section 4.2).
const (
	methodSubsequent = 1
	subsequentCert   = 0 // encrCert
)

// encrCert takes the wish to prove possession of a key by decrypting the certificate, which is sent encrypted and proven by the
// hash in certConf (RFC 9810 section 5.2.8.3.2; RFC 4211 sections 4.2 and 4.3).
func (x *exchange) encrCert(m *cmpmsg.CertReqMsg) *refusal {
	bad := func(detail string) *refusal { return rejected(gateway.BadPOP, detail, nil) }
	if p := m.POP.PrivKey; p == nil || p.Method != methodSubsequent || p.Subsequent != subsequentCert {
		return bad("of the proofs of possession without a signature only encrCert is supported: ask for that (subsequentMessage), or sign")
	}
	if x.endpoint.Config.Unconfirmed == UnconfirmedKeep {
		return bad("this endpoint keeps certificates that are not confirmed, so that encrCert would prove nothing: sign the request")
	}
	to, err := x.certRecipient(m.Template.PublicKey)
	if err != nil {
		return rejected(gateway.BadTemplate, "the template's public key is not accepted: "+err.Error(), err)
	}
	switch kind := m.POP.Kind; to := to.(type) {
	case *cms.KeyTransport:
		if !cms.EncryptsTo(to.Key) {
			return bad(oddExponent + ": sign the request")
		}
		if kind != cmpmsg.POPKeyEncipherment {
			return bad("the proof of possession of an RSA key by encrCert is keyEncipherment, not keyAgreement")
		}
	case *cms.KeyAgreement:
		if x.pvno < 3 {
			return bad("a certificate can be encrypted for an EC key in version 3 of the protocol only (EnvelopedData): use that, or sign the request")
		}
		if kind != cmpmsg.POPKeyAgreement {
			return bad("the proof of possession of an EC key by encrCert is keyAgreement, not keyEncipherment")
		}
	default:
		return bad("nothing can be encrypted for a key of this kind: sign the request")
	}
	x.Request.POP = gateway.POPConfirm
	return nil
}

const oddExponent = "nothing can be encrypted for an RSA key with an exponent above 2^31-1"

// certRecipient is the holder of the key that is asked for; nil when nothing can be encrypted for him. In version 2 it is
// EncryptedValue that comes, which goes with PKCS #1 v1.5.
func (x *exchange) certRecipient(spki []byte) (cms.Recipient, error) {
	pub, err := pkix.ParsePublicKey(spki)
	if err != nil {
		return nil, err
	}
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		return &cms.KeyTransport{Key: pub, PKCS1v15: x.pvno < 3}, nil
	case *ecdsa.PublicKey:
		return &cms.KeyAgreement{Key: pub}, nil
	}
	return nil, nil
}

// envelope makes what the certificate will be encrypted with, nil when it goes in the clear. It is kept in the record, since the
// same message has to get the same answer, and another one than the holder of the key never the certificate.
func (x *exchange) envelope() (*cms.Envelope, error) {
	if x.Request.POP != gateway.POPConfirm {
		return nil, nil
	}
	to, err := x.certRecipient(x.Request.PublicKey)
	if err != nil {
		return nil, err
	}
	if to == nil {
		return nil, fmt.Errorf("a certificate is to be encrypted for a key that cannot decrypt")
	}
	return cms.NewEnvelope(cms.AES256, to)
}

// encrypt is the EncryptedKey that holds the certificate. The recipient is named as by CMS, by the certificate itself
// (RFC 9810 section 5.2.8.3.2), without telling what is in it beyond that.
func (r *record) encrypt(cert *x509.Certificate) ([]byte, error) {
	e := *r.Envelope
	e.ID = cms.RecipientOf(cert)
	if r.PVNO < 3 {
		return e.SealValue(cert.Raw)
	}
	der, err := e.Seal(cms.OIDData, cert.Raw)
	if err != nil {
		return nil, err
	}
	return encryptedKey(der), nil
}
