package cmp

import (
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// certify answers a request for one certificate: ir, cr, p10cr, kur. fill writes what is asked for into the request,
// after the cheap checks; form is what was wrong with the body's form, if anything.
func (x *exchange) certify(fill func() (*wish, *refusal), body cmpmsg.BodyType, reqID int64, form *refusal) *refusal {
	if form != nil {
		return form
	}
	x.reqID = reqID
	if ref := x.checkInfo(); ref != nil {
		return ref
	}
	if ref := x.readProfile(); ref != nil {
		return ref
	}
	late, ref := x.checkTransaction()
	if ref != nil {
		return ref
	}
	if late != nil {
		x.Request.OnlyRepeat = late.Err
	}
	w, ref := fill()
	if ref != nil {
		return ref
	}
	if ref := x.identified(); ref != nil {
		return ref
	}
	if x.Request.OnlyRepeat == nil && x.nameless() {
		x.Request.OnlyRepeat = &gateway.Error{Reason: gateway.BadTemplate, Detail: "the request has no subject and no subjectAltName, and the profile gives none: ask for a name"}
	}
	rec, err := x.begin(body, w)
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	resume, err := resumeOf(x.Request, body, x.pvno)
	if err != nil {
		return rejected(gateway.Malformed, "the request cannot be encoded again", err)
	}
	exchange, err := x.write(rec)
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	x.Request.Content, x.Request.Message = x.hash, x.hash
	x.Request.Resume = resume
	x.Request.Confirm = !rec.Implicit
	x.Request.Exchange, x.Request.Forwarding = exchange, forwarding{x}
	x.Request.Notes = append(x.Request.Notes, x.facts(rec))

	result, err := x.h.gateway.Enroll(x.R.Context(), x.Request)
	if err != nil {
		e := gateway.AsError(err)
		// The gateway has noted it.
		if late != nil && e.Reason == late.Err.Reason { // the message's fault, not the request's
			return &refusal{Refusal: wire.Refusal{Err: e}, fail: late.fail, noted: true}
		}
		return &refusal{Refusal: wire.Refusal{Err: e}, rejection: true, noted: true}
	}
	return x.answer(result)
}

// nameless reports whether nothing gives the certificate a name: the request has none, renews no certificate that has, and no
// profile makes one (RFC 9483 section 4.1.1 leaves the subject out where the RA knows it).
func (x *exchange) nameless() bool {
	r := x.Request
	if x.h.gateway.ForwardsTo(r.Endpoint, r.Operation) != "" {
		return false // that is for those to say who certify
	}
	return r.Operation == gateway.Enroll && isNullDN(r.Subject) && sanOf(r.Extensions) == nil && !x.h.gateway.DerivesSubject(r.Endpoint, r.Profile)
}

// checkTransaction judges transactionID and messageTime: a repetition of a message is answered as it was before, whatever
// its time; no other message may use the identifier of an open transaction (RFC 9810 section 5.1.1). late is what to say to a
// message that begins nothing any more, if there is no answer to repeat.
func (x *exchange) checkTransaction() (late, ref *refusal) {
	p, ref := x.prior()
	if ref != nil {
		return nil, ref
	}
	if p != nil && p.State.Open() {
		switch {
		case p.repeats(x.hash):
			return nil, nil
		case p.record.MAC != (x.requester.mac != nil):
			return nil, mixed(x.requester.mac != nil)
		}
		return nil, failing(cmpmsg.TransactionIDInUse, gateway.DuplicateCert, "the transactionID belongs to another transaction that is not finished: use a new one")
	}
	if late := x.checkTime(); late != nil {
		return late, nil
	}
	if p != nil && p.repeats(x.hash) && (p.State == gateway.StateIssued || p.State == gateway.StateRejected) {
		// Whoever recorded the message could have certificates made of it else, for ever where no time is checked.
		return failing(cmpmsg.TransactionIDInUse, gateway.DuplicateCert, "the transaction that this very message began is over: begin a new one"), nil
	}
	return nil, nil
}

// begin makes the record of a new transaction, with the random parts of its answer.
func (x *exchange) begin(body cmpmsg.BodyType, w *wish) (*record, error) {
	answer, err := x.h.parts()
	if err != nil {
		return nil, err
	}
	key, err := x.h.random(keySize)
	if err != nil {
		return nil, err
	}
	envelope, err := x.envelope()
	if err != nil {
		return nil, err
	}
	h := &x.message.Header
	rec := &record{
		Version: recordVersion, Body: body, ReqID: x.reqID, Message: x.hash, PVNO: x.pvno, ClientNonce: h.SenderNonce,
		// A key is kept for as long as its certificate waits to be confirmed; and certConf is what proves encrCert.
		Implicit: x.endpoint.Config.Confirm == ConfirmOnRequest && asks(h, cmpmsg.OIDImplicitConfirm) && x.Request.KeyGen == nil && envelope == nil,
		TellWait: asks(h, cmpmsg.OIDConfirmWaitTime),
		Wish:     *w, Key: key, Answer: answer, ByFile: x.byFile, Forward: x.passes(),
		KeyGen: x.Request.KeyGen != nil, Envelope: envelope,
	}
	if q := x.requester; q.mac != nil {
		rec.MAC, rec.Reference = true, q.reference
	} else {
		rec.Signer = q.signer.Raw
	}
	return rec, nil
}

// answer renders what came of a request, from the record as it is stored: it may be that of an earlier, equal request.
func (x *exchange) answer(result *gateway.Result) *refusal {
	if result == nil {
		return refused(gateway.Internal, "", fmt.Errorf("the gateway answered an enrollment with nothing"))
	}
	if result.Kind == gateway.ResultAnswer {
		return x.relayed(result.Answer)
	}
	rec, err := x.read(result.Exchange)
	if err != nil {
		return refused(gateway.Internal, "", fmt.Errorf("transaction %s: %w", result.Transaction, err))
	}
	switch {
	case rec.Forward != nil: // what is answered elsewhere is never answered here
		return refused(gateway.Unavailable, "the answer of the authority behind this one is not there", fmt.Errorf("transaction %s has no answer: %s", result.Transaction, result.Kind))
	case result.Kind == gateway.ResultIssued && result.Certificate != nil:
		return x.sendCertificate(rec, rec.Answer, result.Certificate, result.Chain, result.Unconfirmed, rec.until(result.ConfirmUntil), result.Key)
	case result.Kind == gateway.ResultPending:
		return x.sendWaiting(rec, result.Transaction)
	}
	return refused(gateway.Internal, "", fmt.Errorf("the gateway answered an enrollment with %q", result.Kind))
}
