package cmp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// goesOn checks that a message goes on with a transaction: there is one, the same requester began it, and the message
// answers one of our answers in it.
func (x *exchange) goesOn(p *prior) *refusal {
	if p == nil {
		return refused(gateway.Unsupported, "no transaction has this transactionID here", nil)
	}
	x.Request.Operation = p.Operation
	x.reqID = p.record.ReqID
	if !p.record.begunBy(x.requester) {
		return refused(gateway.NotAuthorized, "the transaction was begun by another requester: protect the message with the same secret or certificate as the request", nil)
	}
	x.goingOn = p.record
	if !p.record.gave(x.message.Header.RecipNonce) {
		return failing(cmpmsg.BadRecipientNonce, gateway.Malformed, "the recipNonce is not the senderNonce of the last answer")
	}
	return nil
}

// verdict is what a certConf says of the certificate.
type verdict struct {
	accepted bool
	note     string          // for the operator
	fail     cmpmsg.FailInfo // what is wrong with the certConf; the certificate is given up then
	detail   string
}

// confirm answers certConf (RFC 9810 section 5.3.18).
func (x *exchange) confirm(b *cmpmsg.CertConf, p *prior) *refusal {
	if ref := x.goesOn(p); ref != nil {
		return ref
	}
	if p.kept() {
		return x.confirmKept(b, p)
	}
	if done, ref := x.confirmedBefore(p); done {
		return ref
	}
	if ref := x.checkTime(); ref != nil {
		return ref
	}
	v, ref := x.judge(b, p)
	if ref != nil {
		return ref
	}
	return x.conclude(p, v)
}

// kept reports whether the certificate is issued for good though no certConf came, and none was renounced: the endpoint
// keeps what is not confirmed, or an earlier exchange for the same certificate was granted implicit confirmation.
func (p *prior) kept() bool {
	return p.State == gateway.StateIssued && p.record.Confirmed == nil && !p.record.Implicit && p.Certificate != nil && p.Certificate.RevokedAt.IsZero()
}

// confirmKept answers certConf for a certificate that was kept: a device that takes it, late, must not think that it has
// none. Nothing is left to change, so that whoever does not take it is told as much.
func (x *exchange) confirmKept(b *cmpmsg.CertConf, p *prior) *refusal {
	if ref := x.checkTime(); ref != nil {
		return ref
	}
	v, ref := x.judge(b, p)
	if ref != nil {
		return ref
	}
	if !v.accepted {
		return failing(cmpmsg.CertConfirmed, gateway.Unsupported, "the certificate was kept when no confirmation came: it cannot be rejected any more")
	}
	answer := parts{Nonce: p.record.nonceFor(x.hash), Time: x.h.now().Unix()}
	var err error
	if answer.Salt, err = x.h.random(saltSize); err != nil {
		return refused(gateway.Internal, "", err)
	}
	return x.send(answer, &cmpmsg.PKIConf{}, nil, nil)
}

// abort answers error: the client ends the transaction, and with it its certificate unless that is confirmed (RFC 9810
// section 5.3.21: the answer is pkiconf, or an error when the header is not valid).
func (x *exchange) abort(b *cmpmsg.ErrorMsg, p *prior) *refusal {
	if p == nil || p.State != gateway.StateUnconfirmed && p.record.Confirmed == nil {
		if p != nil && !p.record.begunBy(x.requester) {
			return x.goesOn(p)
		}
		if ref := x.checkTime(); ref != nil {
			return ref
		}
		answer, err := x.h.parts()
		if err != nil {
			return refused(gateway.Internal, "", err)
		}
		return x.send(answer, &cmpmsg.PKIConf{}, nil, nil)
	}
	if ref := x.goesOn(p); ref != nil {
		return ref
	}
	if done, ref := x.confirmedBefore(p); done {
		return ref
	}
	if ref := x.checkTime(); ref != nil {
		return ref
	}
	return x.conclude(p, verdict{note: "the client ended the transaction with an error: " + words(b.Status)})
}

// confirmedBefore answers for a transaction that waits for nothing: done is false when it does wait. The message that
// ended it gets its answer again, byte for byte; any other learns how it ended.
func (x *exchange) confirmedBefore(p *prior) (done bool, ref *refusal) {
	c := p.record.Confirmed
	switch {
	case p.State == gateway.StateUnconfirmed:
		if p.Certificate == nil {
			return true, refused(gateway.Internal, "", fmt.Errorf("transaction %s is unconfirmed without a certificate", p.ID))
		}
		if !p.Certificate.RevokedAt.IsZero() {
			return true, refused(gateway.Revoked, "the certificate is revoked", nil)
		}
		return false, nil
	case c != nil && bytes.Equal(c.Message, x.hash):
		if c.Fail != 0 {
			return true, failing(c.Fail, gateway.UnknownCert, wrongHash)
		}
		return true, x.send(c.Answer, &cmpmsg.PKIConf{}, nil, nil)
	case p.State == gateway.StateIssued && p.record.Implicit && c == nil:
		return true, failing(cmpmsg.CertConfirmed, gateway.Unsupported, "implicit confirmation was granted: no confirmation is waited for")
	case p.State == gateway.StateIssued:
		return true, failing(cmpmsg.CertConfirmed, gateway.Unsupported, "the certificate is confirmed already")
	case p.State == gateway.StateRejected:
		return true, refused(gateway.Revoked, "the certificate was rejected, or not confirmed in time, and is revoked", nil)
	case p.State.Open():
		return true, refused(gateway.Unsupported, "there is no certificate to confirm yet: send pollReq", nil)
	default:
		return true, refused(gateway.Unsupported, "the transaction has no certificate to confirm", nil)
	}
}

const wrongHash = "certHash is not that of the certificate, which is given up and revoked"

// judge reads what a certConf says. A refusal changes nothing.
//
// "Omission of a CertStatus ... indicates rejection of the certificate"; "omission of the statusInfo field indicates
// acceptance" (RFC 9810 section 5.3.18).
func (x *exchange) judge(b *cmpmsg.CertConf, p *prior) (verdict, *refusal) {
	if len(b.Statuses) == 0 {
		return verdict{note: "the client rejected the certificate: empty certConf"}, nil
	}
	if n := len(b.Statuses); n != 1 {
		return verdict{}, refused(gateway.Unsupported, fmt.Sprintf("the certConf has %d statuses for one certificate", n), nil)
	}
	s := &b.Statuses[0]
	// Clients that ask by p10cr use 0 as often as -1.
	id := s.ReqID
	if id == nil || !id.IsInt64() || id.Int64() != p.record.ReqID && id.Sign() != 0 {
		return verdict{}, refused(gateway.Unsupported, fmt.Sprintf("the certReqId of the certConf is not the answer's, %d", p.record.ReqID), nil)
	}
	if s.Status != nil {
		switch s.Status.Status {
		case cmpmsg.StatusAccepted, cmpmsg.StatusGrantedWithMods:
			if s.Status.FailInfo != 0 {
				return verdict{}, refused(gateway.Unsupported, "the status in the certConf accepts, and its failInfo says what is wrong: one of them", nil)
			}
		case cmpmsg.StatusRejection:
			return verdict{note: "the client rejected the certificate: " + words(*s.Status)}, nil
		default:
			return verdict{}, refused(gateway.Unsupported, "the status in the certConf neither accepts nor rejects", nil)
		}
	}
	if s.HashAlg != nil && x.pvno < 3 {
		return verdict{}, refused(gateway.UnknownCert, "hashAlg in certConf needs version 3 of the protocol (RFC 9810 section 5.3.18)", nil)
	}
	cert := p.Certificate.DER
	hash, err := confirmationHash(cert, s.HashAlg)
	if err != nil {
		return verdict{}, refused(gateway.BadAlgorithm, "the hashAlg of the certConf is not accepted: use SHA-256, SHA-384 or SHA-512, or leave it out", err)
	}
	h := hash.New()
	h.Write(cert)
	if !bytes.Equal(h.Sum(nil), s.CertHash) {
		return verdict{note: "certHash is not that of the certificate", fail: cmpmsg.BadCertID, detail: wrongHash}, nil
	}
	return verdict{accepted: true, note: "confirmed by the client"}, nil
}

// conclude tells the gateway what the requester said, and answers.
func (x *exchange) conclude(p *prior, v verdict) *refusal {
	answer, err := x.h.parts()
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	rec := *p.record
	rec.Confirmed = &confirmed{Message: x.hash, Fail: v.fail, Answer: answer}
	if until := p.confirmUntil(); rec.TellWait && !until.IsZero() {
		rec.Until = until.Unix()
	}
	exchange, err := x.write(&rec)
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	t, err := x.h.gateway.Confirm(x.R.Context(), &gateway.Confirmation{
		Transaction: p.ID, Seen: p.Transaction, Request: x.Request, Accepted: v.accepted, Note: v.note, Exchange: exchange,
	})
	switch {
	case errors.Is(err, gateway.ErrStale):
		// Somebody was faster: the same message by another way, or the end of the waiting time.
		again, ref := x.prior()
		if ref != nil {
			return ref
		}
		if again == nil || again.ID != p.ID {
			return refused(gateway.Unavailable, "the transaction has just ended", err)
		}
		if done, ref := x.confirmedBefore(again); done {
			return ref
		}
		return refused(gateway.Unavailable, "the transaction is being ended", err)
	case err != nil:
		return &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}, noted: true}
	case t == nil:
		return refused(gateway.Internal, "", errors.New("the gateway confirmed with nothing"))
	case v.fail != 0:
		return failing(v.fail, gateway.UnknownCert, v.detail)
	}
	stored, err := x.read(t.Exchange)
	if err != nil || stored.Confirmed == nil {
		return refused(gateway.Internal, "", fmt.Errorf("transaction %s is concluded without its record: %w", t.ID, errRecord))
	}
	return x.send(stored.Confirmed.Answer, &cmpmsg.PKIConf{}, nil, nil)
}

// words is what a client's status says, for the operator. The gateway bounds the note.
func words(s cmpmsg.PKIStatusInfo) string {
	text := fmt.Sprintf("status %d", s.Status)
	for i := range 27 {
		if f := cmpmsg.FailInfo(1) << i; s.FailInfo&f != 0 {
			text += ", " + failWords(f)
		}
	}
	for _, t := range s.Text {
		text += ": " + wire.Line(t, "")
	}
	return text
}

// Hashes that hashAlg may name (RFC 9481 section 2.1).
var confirmationHashes = map[string]crypto.Hash{
	"2.16.840.1.101.3.4.2.1": crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	"2.16.840.1.101.3.4.2.3": crypto.SHA512,
}

// confirmationHash is the hash of certHash: the one of the certificate's signature algorithm, or the one that is named.
func confirmationHash(cert []byte, named *cmpmsg.AlgorithmIdentifier) (crypto.Hash, error) {
	if named != nil {
		if h, ok := confirmationHashes[named.OID.String()]; ok {
			return h, nil
		}
		return 0, fmt.Errorf("hashAlg %v", named.OID)
	}
	alg, err := cmpmsg.CertificateAlgorithm(cert)
	if err != nil {
		return 0, err
	}
	return pkix.SignatureHash(alg)
}
