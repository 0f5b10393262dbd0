package cmp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// Bounds of header fields, in bytes.
const (
	maxTransactionID = 128
	maxNonce         = 128
	maxExtraCerts    = 16
)

// The versions that are served (RFC 9810 section 7).
const (
	minPVNO = 2 // cmp2000
	maxPVNO = 3 // cmp2021
)

// handle answers one message. What costs least is judged first: form, header, then protection, then the body.
func (x *exchange) handle(der []byte) *refusal {
	m, err := cmpmsg.Parse(der)
	if m == nil {
		x.recall(der)
		return refused(gateway.Malformed, parseDetail(err), err)
	}
	return x.take(m, der, err)
}

// hashOf is what a message is known again by: all of it that is protected. extraCerts are not, nor are signatures always the only ones
// that hold: who changes these in a message that he recorded has the same message.
func hashOf(m *cmpmsg.Message, der []byte) []byte {
	if part := m.Protected(); part != nil && m.Header.ProtectionAlg != nil {
		der = part
	}
	sum := sha256.Sum256(der)
	return sum[:]
}

// recall takes from a message that does not parse what the client knows its answer by, lest it drop the error that would tell it.
func (x *exchange) recall(der []byte) {
	id, nonce := cmpmsg.Remains(der)
	if n := len(id); n > 0 && n <= maxTransactionID {
		x.transactionID, x.Request.WireID = id, hex.EncodeToString(id)
	}
	if len(nonce) <= maxNonce {
		x.recalled = nonce
	}
}

// take answers a message whose header at least parses; err is what was wrong with its body.
func (x *exchange) take(m *cmpmsg.Message, der []byte, err error) *refusal {
	x.message = m
	x.Request.Raw = der
	x.hash = hashOf(m, der)
	x.transactionID = m.Header.TransactionID
	if x.transactionID == nil {
		// RFC 9810 section 5.1.1: the server makes one. It is made of the message, so that the same message belongs to
		// the same transaction.
		x.transactionID = x.hash[:nonceSize]
	}
	x.Request.WireID = hex.EncodeToString(x.transactionID)
	if ref := x.checkHeader(); ref != nil {
		return ref
	}
	if b, ok := m.Body.(*cmpmsg.Nested); ok {
		return x.unwrap(b)
	}
	var prior *prior
	if followUp(m) {
		p, ref := x.prior()
		if ref != nil {
			return ref
		}
		prior = p
	}
	if ref := x.authenticate(prior); ref != nil {
		return ref
	}
	if x.relay != nil {
		x.Request.Credentials = append(x.Request.Credentials, x.relay.credential)
	}
	if err != nil {
		return refused(gateway.Malformed, parseDetail(err), err)
	}
	if prior != nil && prior.record.Forward != nil {
		return x.passOn(prior)
	}
	if ref := x.taken(m.Body.Type()); ref != nil {
		return ref
	}
	switch b := m.Body.(type) {
	case *cmpmsg.CertReqMessages:
		switch b.Kind {
		case cmpmsg.TypeIR, cmpmsg.TypeCR:
			return x.certify(func() (*wish, *refusal) { return x.fillTemplate(b, nil) }, b.Kind, 0, x.oneRequest(b))
		case cmpmsg.TypeKUR:
			return x.update(b)
		}
	case *cmpmsg.PKCS10:
		return x.pkcs10(b)
	case *cmpmsg.RevReq:
		return x.revoke(b)
	case *cmpmsg.General:
		if b.Kind == cmpmsg.TypeGenM {
			return x.inform(b)
		}
	case *cmpmsg.CertConf:
		return x.confirm(b, prior)
	case *cmpmsg.PollReq:
		return x.poll(b, prior)
	case *cmpmsg.ErrorMsg:
		return x.abort(b, prior)
	}
	return refused(gateway.Unsupported, unsupported(m.Body.Type()), fmt.Errorf("%s is not supported", m.Body.Type()))
}

// parseDetail says where a message does not parse.
func parseDetail(err error) string {
	if e, ok := errors.AsType[*cmpmsg.Error](err); ok {
		return fmt.Sprintf("the message does not parse, at byte %d: %s", e.Offset, e.What)
	}
	return "the message does not parse"
}

// followUp reports whether a message belongs to a transaction that another one began.
func followUp(m *cmpmsg.Message) bool {
	switch m.Body.(type) {
	case *cmpmsg.CertConf, *cmpmsg.PollReq, *cmpmsg.ErrorMsg:
		return true
	}
	return false
}

// checkHeader judges the header as far as nothing else is needed (RFC 9810 section 5.1.1).
func (x *exchange) checkHeader() *refusal {
	h := &x.message.Header
	switch {
	case h.PVNO > maxPVNO:
		x.pvno = maxPVNO
		return failing(cmpmsg.UnsupportedVersion, gateway.Unsupported, "versions 2 and 3 of the protocol are supported")
	case h.PVNO < minPVNO:
		x.pvno = minPVNO
		return failing(cmpmsg.UnsupportedVersion, gateway.Unsupported, "versions 2 and 3 of the protocol are supported")
	}
	x.pvno = h.PVNO
	if len(x.transactionID) > maxTransactionID || len(x.transactionID) == 0 {
		return refused(gateway.Malformed, fmt.Sprintf("the transactionID has %d bytes: use 1 to %d, 16 random ones best", len(x.transactionID), maxTransactionID), nil)
	}
	if n := len(h.SenderNonce); n < nonceSize || n > maxNonce {
		return failing(cmpmsg.BadSenderNonce, gateway.Malformed, fmt.Sprintf("the senderNonce has %d bytes: use 16 random ones, at most %d", n, maxNonce))
	}
	if h.RecipNonce != nil && firstMessage(x.message) {
		return failing(cmpmsg.BadRecipientNonce, gateway.Malformed, "the first message of a transaction has no recipNonce")
	}
	if len(x.message.ExtraCerts) > maxExtraCerts {
		return refused(gateway.Malformed, fmt.Sprintf("more than %d extraCerts", maxExtraCerts), nil)
	}
	if (h.ProtectionAlg == nil) != (x.message.Protection == nil) {
		return refused(gateway.BadIntegrity, "protectionAlg and protection come together or not at all", nil)
	}
	if h.ProtectionAlg == nil {
		return refused(gateway.BadIntegrity, "the message is not protected: protect it with a MAC or a signature", nil)
	}
	return nil
}

// firstMessage reports whether the body can only begin a transaction.
func firstMessage(m *cmpmsg.Message) bool {
	switch b := m.Body.(type) {
	case *cmpmsg.CertReqMessages:
		return true
	case *cmpmsg.PKCS10:
		return true
	case nil:
		return false
	default:
		return b.Type() == cmpmsg.TypeGenM || b.Type() == cmpmsg.TypeRR
	}
}

// checkTime holds messageTime against the clock.
func (x *exchange) checkTime() *refusal {
	if x.relay != nil && x.relay.late != nil {
		return x.relay.late
	}
	skew := x.endpoint.Config.ClockSkew
	if x.byFile {
		skew = x.endpoint.Config.Files.ClockSkew
	}
	if skew.Any {
		return nil
	}
	sent := x.message.Header.MessageTime
	if sent.IsZero() {
		return refused(gateway.BadTime, "the message has no messageTime", nil)
	}
	if d := x.Request.Received.Sub(sent); d > skew.Window || d < -skew.Window {
		return refused(gateway.BadTime, fmt.Sprintf("the messageTime is too far from this server's clock (allowed: %s)", skew.Window),
			fmt.Errorf("messageTime %s is %s off", sent.UTC().Format(time.RFC3339), d.Round(time.Second)))
	}
	return nil
}

// prior is the transaction that a message belongs to, with its record.
type prior struct {
	*gateway.Transaction
	record *record
}

// prior looks the message's transaction up; nil when there is none.
func (x *exchange) prior() (*prior, *refusal) {
	t, err := x.h.gateway.ByWireID(x.R.Context(), x.endpoint.Name, x.Request.WireID)
	if err != nil {
		return nil, &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}}
	}
	if t == nil || t.Protocol != gateway.CMP {
		return nil, nil
	}
	p := &prior{Transaction: t}
	if p.record, err = decodeRecord(t.Exchange); err != nil {
		if !t.State.Open() {
			return nil, nil // nothing goes on from it
		}
		return nil, refused(gateway.Internal, "", fmt.Errorf("transaction %s: %w", t.ID, err))
	}
	return p, nil
}

// confirmUntil is when the time to confirm ends, zero when nothing waits: it counts from when the certificate was there, however
// late the client asks for it.
func (p *prior) confirmUntil() time.Time {
	if p.State != gateway.StateUnconfirmed {
		return time.Time{}
	}
	return p.Updated.Add(p.ConfirmWait)
}

// repeats reports whether the message is the very one that began the transaction.
func (p *prior) repeats(hash []byte) bool { return string(p.record.Message) == string(hash) }

// unsupported says in plain words that a body is not served.
func unsupported(t cmpmsg.BodyType) string {
	names := map[cmpmsg.BodyType]string{
		cmpmsg.TypePOPDecR: "popdecr: proof of possession by challenge and response", cmpmsg.TypeKRR: "krr: key recovery",
		cmpmsg.TypeCCR:     "ccr: cross-certification",
		cmpmsg.TypePKIConf: "pkiconf as a confirmation: send certConf, which names the certificate by its hash",
	}
	if name, ok := names[t]; ok {
		return "this server does not support " + name
	}
	return fmt.Sprintf("this server does not answer %s (body type %d): send ir, cr, p10cr, kur, rr, genm, certConf, pollReq, error or nested", t, int(t))
}
