package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
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
	// passingPart is the part of Options.MaxInFlight, one in so many, that may be with one backend at once.
	passingPart = 4
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
func (g *Gateway) forward(ctx context.Context, rt *Runtime, e *Endpoint, d *decision, out *ruling, k keys) (*Result, error) {
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
	if r.Operation != Revoke {
		if err := possession(r, gr, false); err != nil {
			return refuse(err)
		}
	}
	claims := onceEach(out.Claims)
	if r.Operation != Revoke && !g.hopeless(ctx, rt, d, gr.Forward, claims) {
		if busy := g.takeTurn(ctx, rt, d, gr.Forward, k); busy != nil {
			return nil, busy
		}
	}
	t := transactionOf(d, StateForwarded)
	t.Repeat, t.Resume, t.Backend, t.Profile, t.Exchange = k.repeat, k.resume, gr.Forward, gr.Profile, r.Exchange
	t.ConfirmWait = min(max(orDefault(r.ConfirmWait, orDefault(e.ConfirmWait, defaultConfirmWait)), forwardedConfirmWait), forwardWait)
	if gr.Replaces != nil {
		t.Replaces = gr.Replaces.Serial
	}
	t.Note, t.Updated = "passed on to "+gr.Forward+", not answered yet", g.now()

	leave, busy := g.seat(t.Backend)
	if busy != nil {
		return nil, busy
	}
	defer leave()
	land := g.takeOff(t.ID)
	defer land()
	g.opt.Crash(CrashBeforeIntent)
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	begin := &Beginning{Transaction: t, Claims: claims, Lease: g.lease(), Wait: forwardWait, Audit: auditOf(t, "passed-on", d.stage)}
	begin.countActive(gr, gr.NotAfter) // which the profile says: the answer's is not known yet
	epoch, res, err := g.begin(ctx, d, begin, k)
	if res != nil || err != nil {
		return res, err
	}
	g.opt.Crash(CrashAfterIntent)
	res, err = g.passOn(ctx, t, epoch, r, deadline, r.Operation != Revoke)
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
		d.grant = &Grant{Requester: t.Requester, Device: t.Device} // for the log: the adapter found that it is they again
		res, err := g.goOn(ctx, t, r, nil, false)
		if err == nil && res == nil {
			return nil, over(t)
		}
		return res, err
	})
}

// goOn answers a message of a transaction whose messages are passed on: as before, where it was answered, else by passing it
// on. With an adoption the message begins a new exchange, in which the transaction goes on: not while a message of the one
// before is under way, whose answer would be taken down in its place. nil, nil when the transaction is over.
//
// asks says that the message asks for the certificate, again: whoever it is passed on to should know its repeats, but need not have
// had the first.
func (g *Gateway) goOn(ctx context.Context, t *Transaction, r *Request, adopt *Adoption, asks bool) (*Result, error) {
	if adopt == nil {
		if res := repeatedAnswer(t, r, g.now()); res != nil || t.State != StateForwarded {
			return res, nil
		}
	}
	if asks = asks && r.Operation != Revoke; asks {
		d := &decision{request: r, grant: &Grant{Requester: t.Requester, Device: t.Device}}
		if busy := g.takeTurn(ctx, g.runtime.Load(), d, t.Backend, keys{repeat: t.Repeat}); busy != nil {
			return nil, busy
		}
	}
	leave, busy := g.seat(t.Backend)
	if busy != nil {
		return nil, busy
	}
	defer leave()
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
	if adopt != nil {
		var twin *TwinError
		switch err := g.store.Adopt(ctx, adopt); {
		case errors.As(err, &twin):
			return nil, nil // the same message made a transaction meanwhile: Begin finds it
		case err != nil:
			return nil, unavailable("the message cannot be recorded", err)
		}
	}
	// As it stands now that nobody else is at it.
	if t, err = g.store.Transaction(ctx, t.ID); err != nil {
		return nil, unavailable("the store cannot be read", err)
	}
	if t.WireID != r.WireID { // it goes on in another exchange
		return nil, nil
	}
	return g.passOn(ctx, t, epoch, r, deadline, asks)
}

// seat takes one of the bounded number of messages that are with a backend at once, so that one that hangs leaves the others
// their part of the requests under way. What it refuses has claimed nothing.
func (g *Gateway) seat(name string) (leave func(), busy *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.passing[name] >= max(g.opt.MaxInFlight/passingPart, 1) {
		return nil, &Error{Reason: Busy, Detail: "too many messages at once are being passed on", RetryAfter: time.Second,
			Err: fmt.Errorf("%d messages are with the backend %s", g.passing[name], name)}
	}
	g.passing[name]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.passing[name]--; g.passing[name] == 0 {
			delete(g.passing, name)
		}
	}, nil
}

// repeatedAnswer is the answer that was given to this very message, nil when there is none. A certificate that no longer is one
// is not given again; what it was rejected with is.
func repeatedAnswer(t *Transaction, r *Request, now time.Time) *Result {
	if r.Forwarding == nil || len(t.Exchange) == 0 {
		return nil
	}
	if c := t.Certificate; c != nil && t.State != StateRejected && (!c.RevokedAt.IsZero() || now.After(c.NotAfter)) {
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
func (g *Gateway) passOn(ctx context.Context, t *Transaction, epoch int64, r *Request, deadline time.Time, asks bool) (*Result, error) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	answer, failure := g.exchange(ctx, t, r, asks)
	g.opt.Crash(CrashAfterIssue)
	var back *Forwarded
	refusal := unavailable("the authority behind this one does not answer now: send the same message again", failure)
	if failure == nil {
		back, failure = shielded(g, func() (*Forwarded, error) { return r.Forwarding.Judge(t.Exchange, answer) })
		refusal = Errorf(Internal, "the authority behind this one gave an answer that cannot be passed on", "what %s answered: %w", t.Backend, failure)
	}
	commit, done := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer done()
	if err := g.spell(commit, back); err != nil {
		return nil, unavailable("the store cannot be read", err)
	}
	s := g.outcome(t, epoch, back, failure)
	if failure != nil {
		g.log.Warn("a message could not be passed on, or its answer not be given back", "id", t.ID, "backend", t.Backend, "err", failure)
	}
	t.Note, t.Updated = s.Note, s.Now
	err := g.keep(commit, s)
	if errors.Is(err, ErrCertificateExists) {
		given := g.givenBefore(commit, t, s.Certificate)
		if !given {
			failure = err
			refusal = Errorf(Internal, "", "what %s answered: %w", t.Backend, err)
			g.log.Error("ALARM: the certificate in an answer is another transaction's", "id", t.ID, "backend", t.Backend)
		}
		g.anothers(t, s, given)
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
func (g *Gateway) exchange(ctx context.Context, t *Transaction, r *Request, asks bool) ([]byte, error) {
	if err := ctx.Err(); err != nil { // we stood still: the lease may be another's
		return nil, err
	}
	if asks {
		if err := g.begins(ctx, t); err != nil {
			return nil, err
		}
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
