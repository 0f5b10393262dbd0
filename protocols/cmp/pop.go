package cmp

import (
	"bytes"
	"errors"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// checkPOP verifies that the requester has the private key (RFC 4211 section 4.1, RFC 9810 section 5.2.8), and says in the request
// how that was shown.
func (x *exchange) checkPOP(m *cmpmsg.CertReqMsg) *refusal {
	if m.POP == nil {
		return rejected(gateway.BadPOP, "the request has no proof of possession of the private key: sign it (POPOSigningKey)", nil)
	}
	switch m.POP.Kind {
	case cmpmsg.POPSignature:
	case cmpmsg.POPRAVerified:
		return x.raVerified()
	case cmpmsg.POPKeyEncipherment, cmpmsg.POPKeyAgreement:
		return x.encrCert(m)
	default:
		return rejected(gateway.BadPOP, "the kind of proof of possession is not known", nil)
	}
	s := m.POP.Signing
	if s == nil {
		return rejected(gateway.BadPOP, "the proof of possession has no signature", nil)
	}
	data := m.RawRequest
	if s.RawInput != nil {
		if ref := x.checkPOPInput(m, s); ref != nil {
			return ref
		}
		data = s.RawInput
	}
	// RFC 4211 section 4.1 wants poposkInput where the template has no subject, to tell whose key it is. openssl never makes
	// one, and base stations that leave their name to the RA are built on it: the message's own protection covers the
	// same bytes and says who asks.
	err := x.checkSignature(m.Template.PublicKey, &s.Algorithm, data, s.Signature)
	switch {
	case err == nil:
		x.Request.POP = gateway.POPSignature
		return nil
	case errors.Is(err, pkix.ErrAlgorithm), errors.Is(err, pkix.ErrWeak):
		return rejected(gateway.BadAlgorithm, "the signature algorithm of the proof of possession is not accepted: "+err.Error(), err)
	default:
		return rejected(gateway.BadPOP, "the proof of possession does not verify with the public key asked for", err)
	}
}

// checkPOPInput verifies what poposkInput says about the requester: it is the one who protected the message.
func (x *exchange) checkPOPInput(m *cmpmsg.CertReqMsg, s *cmpmsg.POPOSigningKey) *refusal {
	if !bytes.Equal(s.PublicKey, m.Template.PublicKey) {
		return rejected(gateway.BadPOP, "poposkInput has another public key than the template", nil)
	}
	if s.KeyMAC != nil {
		if x.requester.mac == nil {
			return rejected(gateway.BadPOP, "publicKeyMAC needs a shared secret, and the message is signed: name the sender in poposkInput", nil)
		}
		mac, err := cmpmsg.ParseMAC(&s.KeyMAC.Algorithm, x.macPolicy())
		if err != nil {
			return rejected(gateway.BadAlgorithm, "the algorithm of publicKeyMAC is not accepted: "+err.Error(), err)
		}
		if !mac.Verify(x.requester.secret, s.PublicKey, s.KeyMAC.Value) {
			return rejected(gateway.BadPOP, "publicKeyMAC does not verify with the shared secret", nil)
		}
		return nil
	}
	name, ok := cmpmsg.DirectoryName(s.Sender)
	if x.requester.signer == nil || !ok || !pkix.SameName(name, x.requester.signer.RawSubject) {
		return rejected(gateway.BadPOP, "the sender in poposkInput is not the one who signed the message", nil)
	}
	return nil
}
