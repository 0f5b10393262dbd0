package cmp

import (
	"crypto/x509"
	"fmt"
	"math/big"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// poll answers pollReq (RFC 9810 section 5.3.22) from the transaction as it stands; nothing is written.
func (x *exchange) poll(b *cmpmsg.PollReq, p *prior) *refusal {
	if ref := x.goesOn(p); ref != nil {
		return ref
	}
	if ref := x.checkTime(); ref != nil {
		return ref
	}
	if len(b.ReqIDs) != 1 || !b.ReqIDs[0].IsInt64() || b.ReqIDs[0].Int64() != p.record.ReqID && b.ReqIDs[0].Int64() != -1 {
		return refused(gateway.Unsupported, fmt.Sprintf("the pollReq asks for another certReqId than %d (or -1)", p.record.ReqID), nil)
	}
	if p.State == gateway.StateRevoked {
		return refused(gateway.Unsupported, "a revocation is answered at once: there is nothing to poll for", nil)
	}
	// The body of the answer is that of the request which began the transaction, so a failure must be, too.
	answer := parts{Nonce: p.record.nonceFor(x.hash), Time: x.h.now().Unix()}
	var err error
	if answer.Salt, err = x.h.random(saltSize); err != nil {
		return refused(gateway.Internal, "", err)
	}
	x.h.gateway.Heard(p.ID, "poll", string(p.State), x.Request.Source)
	switch p.State {
	case gateway.StateUnconfirmed, gateway.StateIssued:
		return x.deliver(p, answer)
	case gateway.StateRejected:
		return x.reject(p, answer, &gateway.Error{Reason: gateway.Revoked, Transaction: p.ID, Detail: "the certificate was rejected, or not confirmed in time, and is revoked"})
	case gateway.StateDenied:
		return x.reject(p, answer, &gateway.Error{Reason: gateway.NotAuthorized, Transaction: p.ID, Detail: "the request was denied"})
	case gateway.StateFailed, gateway.StateRefused:
		return x.reject(p, answer, &gateway.Error{Reason: p.Reason, Transaction: p.ID, Detail: "the request was refused"})
	}
	return x.send(answer, &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{
		ReqID: b.ReqIDs[0], CheckAfter: x.RetryAfter(0), Reason: []string{wire.Line("the request is not decided yet", p.ID)},
	}}}, nil, nil)
}

// deliver answers with the certificate that is there by now.
func (x *exchange) deliver(p *prior, answer parts) *refusal {
	if p.Certificate == nil {
		return refused(gateway.Internal, "", fmt.Errorf("transaction %s is issued without a certificate", p.ID))
	}
	if !p.Certificate.RevokedAt.IsZero() {
		return x.reject(p, answer, &gateway.Error{Reason: gateway.Revoked, Transaction: p.ID, Detail: "the certificate is revoked"})
	}
	if p.record.KeyGen && p.SealedKey == nil {
		return x.reject(p, answer, &gateway.Error{Reason: gateway.DuplicateCert, Transaction: p.ID, Detail: keyGiven})
	}
	var certs []*x509.Certificate
	for _, der := range append([][]byte{p.Certificate.DER}, p.Certificate.Chain...) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return refused(gateway.Internal, "", fmt.Errorf("transaction %s: %w", p.ID, err))
		}
		certs = append(certs, c)
	}
	return x.sendCertificate(p.record, answer, certs[0], certs[1:], p.State == gateway.StateUnconfirmed, p.record.until(p.confirmUntil()), p.SealedKey)
}

// reject answers that the request has failed meanwhile. It was noted when it did.
func (x *exchange) reject(p *prior, answer parts, e *gateway.Error) *refusal {
	return x.send(answer, &cmpmsg.CertRepMessage{Kind: answerTo(p.record.Body), Responses: []cmpmsg.CertResponse{{
		ReqID: big.NewInt(p.record.ReqID), Status: statusInfo(e, 0),
	}}}, nil, nil)
}
