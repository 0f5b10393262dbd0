package scep

import (
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// poll answers a CertPoll (RFC 8894 sections 3.3.3 and 4.4: what became of a request that was answered PENDING). The
// request is found by the transactionID, and by the key or certificate that signed both messages: whoever else asks is
// told what is told of a transactionID that nobody used.
//
// What the envelope holds is not looked at:
//
//	IssuerAndSubject ::= SEQUENCE { issuer Name, subject Name }    -- section 3.3.3
//
// It says less than what the request is found by, and nothing in it is authenticated. A certification request in an envelope is
// signed, so that nobody learns from an answer what somebody else's envelope holds; two Names are not. Whoever has a
// pending request of his own could put together pieces of others' envelopes, poll with that, and see from PENDING or
// FAILURE whether they decrypt to something that parses: byte for byte, their challenges (Vaudenay's padding oracle).
func (x *exchange) poll() *wire.Refusal {
	x.Request.Operation = gateway.Query
	if _, ref := x.envelope(); ref != nil {
		return ref
	}
	signer := x.message.signed.Signer
	x.Request.Credentials = []gateway.Credential{signerCredential(x.message.signed.Certificates, signer), keyCredential(signer)}
	return x.answer(x.h.gateway.Poll(x.R.Context(), x.Request))
}
