package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// Forwarder is implemented by the stage at whose end a request is not certified here: its message is passed on, unchanged.
type Forwarder interface {
	Stage
	// ForwardsTo is the backend that it is passed on to.
	ForwardsTo() string
}

// Forwarding is an adapter's part in passing a message on: the gateway knows no protocol.
type Forwarding interface {
	// Answered returns the answer to this very message that the transaction's record (Request.Exchange) holds, nil when it
	// holds none.
	Answered(exchange []byte) []byte
	// Judge reads what came back, of which nothing is trusted. Its error says why it must not reach the requester; where
	// Forwarded has a certificate beside it, that was made for somebody else's key.
	Judge(exchange, answer []byte) (*Forwarded, error)
}

// Forwarded is what an answer means for the transaction.
type Forwarded struct {
	// State is StateForwarded while messages are to follow, StateIssued, StateRejected for a certificate that the requester
	// did not take, StateRevoked, or StateFailed.
	State       State
	Reason      Reason              // StateFailed
	Note        string              // for the operator
	Certificate *x509.Certificate   // that is in the answer, nil for none
	Chain       []*x509.Certificate // its issuer first, as far as the answer has it
	Revokes     *CertID             // StateRevoked: which certificate, and why
	Exchange    []byte              // takes the place of the transaction's record
}

// Forwards is the part of the Store for transactions whose messages are passed on (StateForwarded). Settle ends them and brings
// them further.
type Forwards interface {
	// LeaseForward leases a forwarded transaction to this instance, so that one of its messages is passed on at a time; a lease
	// that the instance has itself passes to the caller. ErrStale when another instance has it, or it is no longer forwarded.
	LeaseForward(ctx context.Context, transaction string, lease time.Duration) (epoch int64, err error)
}

const (
	// forwardWait is when a transaction whose messages are passed on is closed if nothing else has ended it.
	forwardWait = 30 * 24 * time.Hour
	// forwardedConfirmWait is for how long at least a certificate waits for the message that confirms it: how long it waits
	// where it was issued is not known here.
	forwardedConfirmWait = 24 * time.Hour
)

// ForwardsTo returns the backend that the endpoint passes requests for the operation on to, "" when they are decided here.
func (g *Gateway) ForwardsTo(endpoint string, op Operation) string {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return ""
	}
	return e.pipeline(op).forwardsTo()
}

// forwardsTo is the backend that a stage of the pipeline itself passes on to; within anyOf there is none.
func (p Pipeline) forwardsTo() string {
	for _, s := range p {
		if f, ok := s.(Forwarder); ok {
			return f.ForwardsTo()
		}
	}
	return ""
}

// forward commits what the pipeline decided, claims included, and passes the message on.
func (g *Gateway) forward(ctx context.Context, e *Endpoint, d *decision, out *ruling, k keys) (*Result, error) {
	r, gr := d.request, d.grant
	refuse := func(err *Error) (*Result, error) {
		d.stage, d.note = "forward", cause(err, "")
		return nil, g.refuse(ctx, d, err)
	}
	switch {
	case out.Decision == Hold:
		return refuse(Errorf(NotAuthorized, "a message that is passed on cannot wait for approval here", "%s", out.Note))
	case gr.Requester == "":
		return refuse(Errorf(NotAuthorized, "", "the stages allowed it without knowing who asks"))
	case r.Forwarding == nil || len(r.Raw) == 0:
		return refuse(Errorf(Unsupported, "this message cannot be passed on", "the adapter of %s passes nothing on", r.Protocol))
	case r.Operation != Revoke && (r.PublicKey == nil || r.POP == POPConfirm):
		return refuse(Errorf(Unsupported, "a message is passed on with the device's own key in it and a proof of its possession: what answers it could not be checked",
			"the request asks for a key, or for an encrypted certificate"))
	}
	t := transactionOf(d, StateForwarded)
	t.Repeat, t.Resume, t.Backend, t.Profile, t.Exchange = k.repeat, k.resume, gr.Forward, gr.Profile, r.Exchange
	t.ConfirmWait = min(max(orDefault(e.ConfirmWait, defaultConfirmWait), forwardedConfirmWait), forwardWait)
	if gr.Replaces != nil {
		t.Replaces = gr.Replaces.Serial
	}
	t.Note, t.Updated = "passed on to "+gr.Forward+", not answered yet", g.now()

	land := g.takeOff(t.ID)
	defer land()
	g.opt.Crash(CrashBeforeIntent)
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	begin := &Beginning{Transaction: t, Claims: onceEach(out.Claims), Lease: g.lease(), Wait: forwardWait}
	epoch, err := g.store.Begin(ctx, begin)
	var lost *ClaimLostError
	var twin *TwinError
	if errors.As(err, &twin) {
		d.note = "the same request as " + twin.Transaction
		if res, err := g.join(ctx, r, k, twin.Transaction); err != nil {
			return nil, notGivenAgain(err)
		} else if res != nil {
			return res, nil
		}
		if t.Resume != "" { // as in commit
			t.Resume = ""
			epoch, err = g.store.Begin(ctx, begin)
		}
	}
	switch {
	case errors.As(err, &lost):
		return nil, g.claimLost(ctx, d, lost)
	case errors.As(err, &twin):
		return nil, unavailable("the same request has just failed", twin)
	case err != nil:
		return nil, unavailable("the request cannot be recorded", err)
	}
	d.recorded = true
	g.opt.Crash(CrashAfterIntent)
	res, err := g.passOn(ctx, t, epoch, r, deadline)
	d.stage, d.note = "forward", t.Note
	return res, err
}

// Forward passes on a later message of a transaction of which an earlier one was (StateForwarded). The adapter has checked
// that it comes from who began it. The message that was passed on before, and has its answer, gets it again. The error is an
// *Error; it wraps ErrStale when the transaction is over.
func (g *Gateway) Forward(ctx context.Context, transaction string, r *Request) (*Result, error) {
	return g.answer(ctx, r, func(ctx context.Context, r *Request, d *decision) (*Result, error) {
		if _, err := d.at(g.runtime.Load()); err != nil {
			return nil, err
		}
		t, err := g.settledOrNot(ctx, transaction)
		if err != nil {
			return nil, unavailable("the store cannot be read", err)
		}
		d.stage, d.note = "forward", "goes on with "+t.ID
		res, err := g.goOn(ctx, t, r)
		if err == nil && res == nil {
			return nil, over(t)
		}
		return res, err
	})
}

// goOn answers a message of a transaction whose messages are passed on: as before, where it was answered, else by passing it
// on. nil, nil when the transaction is over.
func (g *Gateway) goOn(ctx context.Context, t *Transaction, r *Request) (*Result, error) {
	if res := repeatedAnswer(t, r, g.now()); res != nil || t.State != StateForwarded {
		return res, nil
	}
	land, alone := g.takeOffAlone(t.ID)
	if !alone {
		return nil, unavailable("another message of the transaction is being passed on", nil)
	}
	defer land()
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	epoch, err := g.store.LeaseForward(ctx, t.ID, g.lease())
	switch {
	case errors.Is(err, ErrStale):
		return nil, unavailable("another message of the transaction is being passed on, or it has just ended", err)
	case err != nil:
		return nil, unavailable("the message cannot be recorded", err)
	}
	// As it stands now that nobody else is at it.
	if t, err = g.store.Transaction(ctx, t.ID); err != nil {
		return nil, unavailable("the store cannot be read", err)
	}
	return g.passOn(ctx, t, epoch, r, deadline)
}

// repeatedAnswer is the answer that was given to this very message, nil when there is none. A certificate that no longer is one
// is not given again.
func repeatedAnswer(t *Transaction, r *Request, now time.Time) *Result {
	if r.Forwarding == nil || len(t.Exchange) == 0 {
		return nil
	}
	if c := t.Certificate; c != nil && (!c.RevokedAt.IsZero() || now.After(c.NotAfter)) {
		return nil
	}
	answer := r.Forwarding.Answered(t.Exchange)
	if answer == nil {
		return nil
	}
	return &Result{Kind: ResultAnswer, Transaction: t.ID, Answer: answer, Repeated: true, Exchange: t.Exchange}
}

// passOn passes a message on, has the answer judged, commits what it means, and only then gives it back. Without an answer that
// is fit for the requester the transaction stays open, so that the same message is passed on again: whoever it is passed on to
// knows its repeats.
func (g *Gateway) passOn(ctx context.Context, t *Transaction, epoch int64, r *Request, deadline time.Time) (*Result, error) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	answer, failure := g.exchange(ctx, t, r)
	g.opt.Crash(CrashAfterIssue)
	var back *Forwarded
	refusal := unavailable("the authority behind this one does not answer now: send the same message again", failure)
	if failure == nil {
		back, failure = shielded(g, func() (*Forwarded, error) { return r.Forwarding.Judge(t.Exchange, answer) })
		refusal = Errorf(Internal, "the authority behind this one gave an answer that cannot be passed on", "what %s answered: %w", t.Backend, failure)
	}
	s := g.outcome(t, epoch, back, failure)
	if failure != nil {
		g.log.Warn("a message could not be passed on, or its answer not be given back", "id", t.ID, "backend", t.Backend, "err", failure)
	}
	t.Note, t.Updated = s.Note, s.Now
	commit, done := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer done()
	err := g.keep(commit, s)
	if errors.Is(err, ErrCertificateExists) {
		if !g.givenBefore(commit, t, s.Certificate) {
			failure = err
			refusal = Errorf(Internal, "", "what %s answered: %w", t.Backend, err)
			g.log.Error("ALARM: the certificate in an answer is another transaction's", "id", t.ID, "backend", t.Backend)
		}
		s.State, s.Reason, s.Next, s.Delay, s.Release = StateFailed, DuplicateCert, "", 0, true
		s.Note = fmt.Sprintf("certificate %x was issued in another transaction", s.Certificate.Serial)
		s.Certificate, s.Instead, s.RepeatUntil = nil, false, time.Time{}
		s.Audit = forwardAudit(t, s)
		t.Note = s.Note
		err = g.keep(commit, s)
	}
	switch {
	case errors.Is(err, ErrStale): // our lease went to another message, or to another instance
		if now, again := g.store.Transaction(commit, t.ID); again == nil {
			if res := repeatedAnswer(now, r, s.Now); res != nil {
				return res, nil
			}
		}
		return nil, unavailable("the transaction went on meanwhile: send the same message again", err)
	case err != nil:
		return nil, unavailable("the answer cannot be recorded", err)
	}
	g.opt.Crash(CrashAfterSettle)
	g.Heard(t.ID, "forward", s.Note, r.Source)
	if s.Next == WorkRevoke {
		g.nudge()
	}
	if failure != nil {
		return nil, refusal
	}
	return &Result{Kind: ResultAnswer, Transaction: t.ID, Answer: answer, Exchange: s.Exchange}, nil
}

// exchange hands the message, as it came, to the transaction's backend.
func (g *Gateway) exchange(ctx context.Context, t *Transaction, r *Request) ([]byte, error) {
	if err := ctx.Err(); err != nil { // we stood still: the lease may be another's
		return nil, err
	}
	x, ok := g.runtime.Load().Backends[t.Backend].(backend.Exchanger)
	if !ok {
		return nil, fmt.Errorf("the backend %q is not configured, or passes nothing on", t.Backend)
	}
	answer, err := shielded(g, func() ([]byte, error) { return x.Exchange(backend.WithRequestID(ctx, t.ID), t.ID, r.Raw) })
	if err == nil && len(answer) == 0 {
		err = errors.New("an empty answer")
	}
	return answer, err
}

// outcome is what to commit of an answer, or of the want of one.
func (g *Gateway) outcome(t *Transaction, epoch int64, back *Forwarded, failure error) *Settlement {
	now := g.now()
	s := &Settlement{Transaction: t.ID, Epoch: epoch, Now: now, State: StateForwarded}
	rt := g.runtime.Load()
	desc := rt.descriptions[t.Backend]
	revokes := desc != nil && slices.Contains(desc.Capabilities, backend.CapRevoke)
	has := t.Certificate != nil
	switch {
	case failure != nil && back != nil && back.Certificate != nil:
		g.meter.mismatches.WithLabelValues(t.Backend).Inc()
		g.log.Error("ALARM: the certificate in an answer is not what was asked for", "id", t.ID, "backend", t.Backend, "err", failure)
		s.State, s.Reason, s.Note = StateFailed, Internal, "what "+t.Backend+" answered is not what was asked for: "+failure.Error()
		if !has {
			s.Certificate = forwardedRecord(t, back)
		}
		if revokes {
			s.Next = WorkRevoke
		}
	case failure != nil:
		s.Note = "nothing to give back from " + t.Backend + ": " + failure.Error()
	default:
		s.State, s.Reason, s.Note, s.Exchange = back.State, back.Reason, back.Note, back.Exchange
		if c := back.Certificate; c != nil && !(has && bytes.Equal(t.Certificate.DER, c.Raw)) {
			s.Certificate, s.Instead = forwardedRecord(t, back), has
			has = true
		}
		if s.State == StateIssued && !has || s.State == StateRejected && !has {
			s.State, s.Reason = StateFailed, DuplicateCert // it had one that is another transaction's
		}
		switch s.State {
		case StateFailed:
			s.Reason, s.Release = orDefault(s.Reason, NotAuthorized), true
			if has && revokes {
				s.Next = WorkRevoke
			}
		case StateRejected:
			s.Release = true
			if revokes {
				s.Next = WorkRevoke
			}
		case StateIssued:
			s.RepeatUntil = now.Add(g.repeatFor(t.Endpoint))
		case StateRevoked:
			s.Revokes, s.RepeatUntil = back.Revokes, now.Add(g.repeatFor(t.Endpoint))
		}
	}
	if s.State == StateForwarded {
		until := t.Received.Add(forwardWait)
		if has {
			until = earlier(until, now.Add(t.ConfirmWait))
		}
		s.Next, s.Delay = WorkForward, max(until.Sub(now), 0)
	}
	s.Audit = forwardAudit(t, s)
	if r := s.Revokes; r != nil {
		s.Audit.Issuer, s.Audit.Serial = nameOf(r.Issuer), hex.EncodeToString(r.Serial.Bytes())
	}
	return s
}

// givenBefore reports whether a certificate is one that the same requester was given before, here, and that still counts: an
// authority may answer the same wish with the same certificate.
func (g *Gateway) givenBefore(ctx context.Context, t *Transaction, c *Certificate) bool {
	was, err := g.store.Certificate(ctx, c.Issuer, c.Serial)
	return err == nil && bytes.Equal(was.DER, c.DER) && was.State == StateIssued && was.RevokedAt.IsZero() &&
		was.Endpoint == t.Endpoint && was.Requester == t.Requester && was.Backend == t.Backend
}

// forwardedRecord is the row of a certificate that came in an answer.
func forwardedRecord(t *Transaction, back *Forwarded) *Certificate {
	issuance := &backend.Issuance{}
	for _, c := range back.Chain {
		issuance.Chain = append(issuance.Chain, c.Raw)
	}
	return record(t, back.Certificate, issuance)
}

// forwardAudit is the event of an answer that changed something: a message that gets no answer is no event.
func forwardAudit(t *Transaction, s *Settlement) AuditEvent {
	kind, cert := string(s.State), s.Certificate
	switch {
	case s.State == StateForwarded && cert != nil: // what becomes of it is an event of its own
		kind = string(StateIssued)
	case s.State == StateForwarded && s.Exchange == nil:
		return AuditEvent{}
	case s.State == StateIssued && cert == nil:
		kind = "confirmed"
	}
	if cert == nil && s.State != StateForwarded {
		cert = t.Certificate
	}
	e := certificateAudit(t, kind, cert)
	e.At, e.Reason, e.Note = s.Now, s.Reason, s.Note
	return e
}

// expireForward closes a transaction that has not ended in time. Whether something was issued in it that never came back is not
// known, so that its claims stay used; a certificate that nobody has confirmed gives them back, as any.
func (g *Gateway) expireForward(ctx context.Context, a *ask) error {
	t := a.t
	if t.State != StateForwarded {
		return fmt.Errorf("the end of what is forwarded is due in state %q", t.State)
	}
	s := &Settlement{Transaction: t.ID, Epoch: a.epoch, Now: g.now(), State: StateFailed, Reason: Unavailable,
		Note: "what was passed on to " + t.Backend + " has not ended in time: " + t.Note}
	if t.Certificate != nil {
		s.State, s.Reason, s.Release = StateRejected, "", true
		s.Note = fmt.Sprintf("not confirmed within %s, as far as it is known here", t.ConfirmWait)
		if a.desc != nil && slices.Contains(a.desc.Capabilities, backend.CapRevoke) {
			s.Next = WorkRevoke
		}
	}
	if e := g.runtime.Load().Endpoints[t.Endpoint]; t.Certificate != nil && e != nil && e.KeepUnconfirmed {
		s.State, s.Release, s.Next = StateIssued, false, ""
		s.Note += ", and kept, as configured"
	}
	t.Updated = s.Now
	s.Audit = forwardAudit(t, s)
	return g.store.Settle(ctx, s)
}
