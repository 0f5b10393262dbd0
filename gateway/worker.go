package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

const (
	workEvery    = time.Second      // how often the table is looked at when nobody nudges
	strangersFor = time.Minute      // how often refusals of strangers are summed up in the audit trail
	backoffCap   = 30 * time.Second // "settled within 60 s": two attempts fit
	retryCap     = 10 * time.Minute // of a delay that the CA asks for
)

// Run does the work that outlives requests, until ctx ends: it settles unknown outcomes, polls, revokes, sums up
// the refusals of strangers, and sweeps what is over. It returns when what it had begun is done.
func (g *Gateway) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { g.keepHouse(ctx) })
	both.Go(func() { g.keepChecking(ctx) })
	both.Go(func() { g.keepDraining(ctx) })
	g.keepWorking(ctx)
	both.Wait()
	g.SumUp(context.WithoutCancel(ctx))
	g.keepHeard(context.WithoutCancel(ctx))
}

// keepWorking does what is due in the work table, until ctx ends and what it had begun is done. As soon as a place is free the
// table is looked at again.
func (g *Gateway) keepWorking(ctx context.Context) {
	var doing sync.WaitGroup
	defer doing.Wait()
	tick := time.NewTicker(workEvery)
	defer tick.Stop()
	var soon <-chan time.Time
	for ctx.Err() == nil {
		n, err := g.beginWork(ctx, &doing)
		if err != nil && ctx.Err() == nil {
			g.log.Error("the work table cannot be read", "err", err)
		}
		if n > 0 {
			continue // until nothing is due, or no place free
		}
		for waiting := true; waiting; {
			waiting = false
			select {
			case <-ctx.Done():
			case <-tick.C:
			case <-g.places.freed:
			case <-soon:
				soon = nil
			case <-g.wake: // What was just recorded becomes due a moment later.
				if soon == nil {
					soon = time.After(firstSettle)
				}
				waiting = true
			}
		}
	}
}

// keepHouse does what is to be done from time to time, until ctx ends.
func (g *Gateway) keepHouse(ctx context.Context) {
	tick := time.NewTicker(workEvery)
	defer tick.Stop()
	sum := time.NewTicker(strangersFor)
	defer sum.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.keepHeard(ctx)
			g.Sweep(ctx)
		case <-sum.C:
			g.SumUp(ctx)
			g.tellPaces()
		}
	}
}

// nudge has the worker look soon.
func (g *Gateway) nudge() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Work does what is due, as far as there are places, and says how many rows it took. Tests call it instead of Run.
func (g *Gateway) Work(ctx context.Context) (int, error) {
	var doing sync.WaitGroup
	defer doing.Wait()
	return g.beginWork(ctx, &doing)
}

// do does one row of work. What it cannot end it postpones; nothing is dropped. Its error says why it did not end; errRevokedHere, which
// it wraps then, that it has ended otherwise.
func (g *Gateway) do(ctx context.Context, w Work, deadline time.Time) error {
	ctx, span := g.opt.Trace(ctx, "work")
	defer span.End()
	attempt, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	_, err := shielded(g, func() (struct{}, error) { return struct{}{}, g.attempt(attempt, w) })
	g.meter.work.WithLabelValues(string(w.Kind), outcomeOf(err)).Inc()
	span.Set("muster.transaction", w.Transaction)
	span.Set("muster.work", string(w.Kind))
	span.Set("muster.decision", outcomeOf(err))
	if err == nil || errors.Is(err, errRevokedHere) {
		return err
	}
	delay := backoff(w.Attempts)
	if wait, ok := backend.RetryAfter(err); ok {
		delay = max(delay, min(wait, retryCap))
	}
	g.log.Warn("work postponed", "id", w.Transaction, "kind", w.Kind, "attempts", w.Attempts, "again_in", delay, "err", err)
	ctx, cancel = context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if failed := g.store.Postpone(ctx, w, delay, err.Error()); failed != nil && !errors.Is(failed, ErrStale) {
		g.log.Error("work could not be postponed", "id", w.Transaction, "kind", w.Kind, "err", failed)
	}
	return err
}

// attempt tries to end a row of work. Its error says why it did not.
func (g *Gateway) attempt(ctx context.Context, w Work) error {
	t, err := g.store.Transaction(ctx, w.Transaction)
	if err != nil {
		return err
	}
	g = g.worksFor(t)
	rt := g.runtime.Load()
	a := &ask{t: t, epoch: w.Epoch, backend: rt.Backends[t.Backend], desc: rt.descriptions[t.Backend]}
	switch {
	case w.Kind == WorkConfirm: // which needs no CA
		return g.expire(ctx, a)
	case w.Kind == WorkWipe:
		return g.wipe(ctx, a)
	case w.Kind == WorkForward:
		return g.expireForward(ctx, a)
	case w.Kind == WorkHold:
		return g.expireHold(ctx, t, w)
	case a.backend == nil && w.Kind == WorkSettle:
		return g.stillUnknown(ctx, a, fmt.Errorf("%w: %s", errNoBackend, t.Backend))
	case a.backend == nil:
		return fmt.Errorf("%w: %s", errNoBackend, t.Backend)
	case w.Kind == WorkSettle && t.State == StateIssuing && g.queues(a): // it broke off, and stands before those that came later
		return g.settled(ctx, a, nil, errors.New("the gateway ended while the CA was asked"))
	case w.Kind == WorkSettle:
		a.passed = t.State == StateUnknown && t.Queue != nil
		return g.settleWork(ctx, a)
	case w.Kind == WorkPoll:
		return g.pollWork(ctx, a)
	case w.Kind == WorkRevoke:
		return g.revokeWork(ctx, a, w)
	}
	return fmt.Errorf("work of an unknown kind %q: a newer version wrote it", w.Kind)
}

func outcomeOf(err error) string {
	if err != nil && !errors.Is(err, errRevokedHere) {
		return "postponed"
	}
	return "done"
}

// backoff doubles from half a second to its cap.
func backoff(attempts int) time.Duration {
	return min(500*time.Millisecond<<min(max(attempts, 0), 10), backoffCap)
}

// settleWork finds out what became of an intent whose issuing broke off, and settles it. Where the CA says that
// nothing was issued, it is asked again under the same ID: the pipeline has allowed that, and the claims are spent.
func (g *Gateway) settleWork(ctx context.Context, a *ask) error {
	land := g.takeOff(a.t.ID)
	defer land()
	if a.desc.Idempotency == backend.IdempotencyNone {
		return g.settled(ctx, a, nil, errors.New("the CA keeps no record by ID: the operator has to look"))
	}
	found, err := shielded(g, func() (*backend.Outcome, error) { return a.backend.Lookup(ctx, a.asked()) })
	if err == nil && found == nil {
		err = errors.New("no answer")
	}
	if err != nil {
		return g.stillUnknown(ctx, a, fmt.Errorf("lookup: %w", err))
	}
	switch found.State {
	case backend.OutcomeIssued, backend.OutcomePending:
		if found.Issuance == nil {
			return g.stillUnknown(ctx, a, fmt.Errorf("lookup: %q without what belongs to it", found.State))
		}
		return g.settled(ctx, a, found.Issuance, nil)
	case backend.OutcomeNever:
		return g.issueAfterAll(ctx, a)
	}
	return g.stillUnknown(ctx, a, errors.New("the CA cannot say yet"))
}

// issueAfterAll asks for what a CA has said that it never issued: that CA, or another of the profile's where it cannot be asked.
func (g *Gateway) issueAfterAll(ctx context.Context, a *ask) error {
	defer func() { a.call.drop() }()
	if why := g.cannot(g.runtime.Load(), a.t.Backend); why != nil && g.reroute(ctx, a, why) {
		return g.issueAfterAll(ctx, a)
	}
	if err := g.beginsAgain(ctx, a.t); err != nil {
		return g.stillUnknown(ctx, a, fmt.Errorf("issue: %w", err))
	}
	if a.desc.Idempotency == backend.IdempotencyLookup { // the next Lookup has to know of this call
		if err := g.store.AskAgain(ctx, a.t.ID, a.epoch, g.now()); err != nil {
			return fmt.Errorf("not asked again: %w", err)
		}
	}
	issuance, err := g.callIssue(ctx, a)
	if notNow(err) && g.reroute(ctx, a, err) {
		return g.issueAfterAll(ctx, a)
	}
	if err != nil && (!backend.Definite(err) || a.passed && notNow(err)) {
		return g.stillUnknown(ctx, a, fmt.Errorf("issue: %w", err))
	}
	return g.settled(ctx, a, issuance, err)
}

// asked is the intent as a CA is asked about it that may have been asked for it.
func (a *ask) asked() *backend.IssueRequest {
	r := *a.request()
	r.Asked = a.t.Updated
	return &r
}

// settled settles a transaction. What the client would be told is of no interest here: a refusal that is recorded ends
// the work too.
func (g *Gateway) settled(ctx context.Context, a *ask, issuance *backend.Issuance, failure error) error {
	_, _, err := g.settle(ctx, a, issuance, failure)
	return err
}

// stillUnknown lists a transaction as unknown from the first time that its outcome could not be found out.
func (g *Gateway) stillUnknown(ctx context.Context, a *ask, why error) error {
	if a.t.State == StateUnknown {
		return why
	}
	// No more than a text: what a Lookup or a second Issue fails with refuses nothing.
	return g.settled(ctx, a, nil, errors.New(why.Error()))
}

// pollWork asks the CA with a ticket.
func (g *Gateway) pollWork(ctx context.Context, a *ask) error {
	issuance, err := a.backend.Poll(ctx, a.asked(), a.t.Ticket)
	if err != nil && !refusedByPoll(err) {
		return err
	}
	return g.settled(ctx, a, issuance, err)
}

// refusedByPoll reports whether an error of Poll says that the CA refused the request. That the CA is busy, or does not
// poll, is definite for the call only: the request still stands.
func refusedByPoll(err error) bool {
	switch status.Code(err) {
	case codes.ResourceExhausted, codes.Unimplemented:
		return false
	}
	return backend.Definite(err)
}

// revokeWork revokes a transaction's certificate.
func (g *Gateway) revokeWork(ctx context.Context, a *ask, w Work) error {
	c := a.t.Certificate
	if c == nil {
		return errors.New("the transaction has no certificate to revoke")
	}
	at, reason := g.now(), superseded
	if !c.RevokedAt.IsZero() { // on an operator's order
		at, reason = c.RevokedAt, c.Revocation
	}
	err := errRevokedHere
	if a.desc == nil || slices.Contains(a.desc.Capabilities, backend.CapRevoke) {
		err = a.backend.Revoke(ctx, &backend.RevokeRequest{Issuer: c.Issuer, Serial: c.Serial, Reason: reason, At: at, Certificate: c.DER})
	}
	if status.Code(err) == codes.Unimplemented {
		err = fmt.Errorf("%w: %w", errRevokedHere, err)
	}
	here := errors.Is(err, errRevokedHere)
	if err != nil && !here && status.Code(err) != codes.NotFound {
		return err
	}
	g.crlsChanged(a.t.Backend)
	a.t.Updated = g.now()
	e := afterwardsAudit(a.t, "revoked", c)
	switch {
	case here: // it would say the same each time
		e.Note = err.Error()
	case err != nil:
		e.Note = "the CA does not know the certificate: " + err.Error()
	}
	failed := g.store.MarkRevoked(ctx, &Revocation{Issuer: c.Issuer, Serial: c.Serial, Reason: reason, At: at, Work: &w, Audit: e})
	if failed == nil && here {
		g.log.Warn("a certificate is revoked at this gateway alone: its CA takes no revocations from here, and somebody has to revoke it there", "id", a.t.ID, "backend", a.t.Backend, "serial", e.Serial)
		return err
	}
	return failed
}

// superseded is the CRLReason (RFC 5280 section 5.3.1) of a certificate that nobody was given.
const superseded = 4
