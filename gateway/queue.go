package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// Offline is what becomes of requests while their CA cannot be asked: they are allowed, recorded and kept, their requesters are told to
// wait, and the CA is asked in the order in which they came, one after the other, once it can be.
type Offline struct {
	Keep int           // how many may wait at once; further ones are refused (Busy)
	For  time.Duration // after which one that the CA has nothing of is refused
}

// QueueRecord is what a later decision about a request goes by that may wait for its CA.
type QueueRecord struct {
	Basis // as of the intent: dates in it that are not fixed move with Since
}

// Queue is what waits for one CA.
type Queue struct {
	Backend string
	Length  int
	First   string // the transaction whose turn is next, "" for none
}

// Queues is the part of the Store for requests that wait until their CA can be asked: those with WorkQueue, which Settle makes. ClaimDue
// leaves them alone.
type Queues interface {
	// ClaimQueued leases the oldest of a backend's queue to this instance, whether it is due or not. ErrNotFound when there is none, when
	// somebody is at it, or while an older request, which is with the CA or was when its instance ended, has yet to stand in the queue:
	// none passes another.
	ClaimQueued(ctx context.Context, backend string, lease time.Duration) (*Work, error)
	// Queues lists those that are not empty, by backend.
	Queues(ctx context.Context) ([]Queue, error)
	// Queue is one, of length 0 where there is none.
	Queue(ctx context.Context, backend string) (Queue, error)
}

// QueuedConfirmWait is for how long at least a certificate waits to be confirmed that had to wait for its CA: its requester learns of it
// when it polls next. Settle sees to it.
const QueuedConfirmWait = heldConfirmWait

const (
	// neverDue is the delay of WorkQueue: it is the queue's turn that counts.
	neverDue = 100 * 365 * 24 * time.Hour
	// queueRetry is when whoever finds the queue full may come back.
	queueRetry = 5 * time.Minute
	// stageQueue is where log and trail show what this file decides.
	stageQueue = "offline"
)

// standsBehind says why a new request for a CA does not go to it now: others wait for it, or it was not reached a moment ago; "" when it
// goes. The error refuses it: as many wait as may. It stands before all that a request uses up.
func (g *Gateway) standsBehind(ctx context.Context, rt *Runtime, d *decision, name string) (why string, _ *Error) {
	o, keeps := rt.Offline[name]
	if !keeps || d.request.KeyGen.bare() || d.request.Protocol == Self {
		return "", nil
	}
	q, err := g.store.Queue(ctx, name)
	switch {
	case err != nil:
		return "", unavailable("the store cannot be read", err)
	case q.Length >= o.Keep:
		d.stage = stageQueue
		d.note = fmt.Sprintf("the CA %s cannot be asked, and %d requests wait for it: backends.%s.offline keeps no more", name, q.Length, name)
		return "", &Error{Reason: Busy, Detail: "the CA cannot be reached, and no more requests are kept for it", RetryAfter: queueRetry, Err: errors.New(d.note)}
	case q.Length > 0:
		return fmt.Sprintf("%d wait for it already", q.Length), nil
	}
	if err := g.cannot(rt, name); err != nil {
		return err.Error(), nil
	}
	return "", nil
}

// putOff has a request that was just recorded wait for its turn, without asking the CA.
func (g *Gateway) putOff(ctx context.Context, a *ask, why string) *Result {
	res, _, err := g.settle(ctx, a, nil, backend.NotAsked(errors.New(why)))
	if err != nil || res == nil { // whoever takes over the lease sees to it
		return &Result{Kind: ResultPending, Transaction: a.t.ID, RetryAfter: pendingRetry, Exchange: a.t.Exchange}
	}
	return res
}

// queues reports whether a request stays in its CA's queue, or goes there, after the CA could not be asked, or its answer was lost.
func (g *Gateway) queues(a *ask) bool {
	if a.queued {
		return true
	}
	_, keeps := g.runtime.Load().Offline[a.t.Backend]
	return keeps && a.t.Delivery == nil && a.actor == "" && !a.passed && a.t.Protocol != Self && a.desc != nil
}

// queueRecord is a transaction's. One that was held first goes on with that record, and with the dates that the approval has set. One that was
// recorded when its CA had no queue, by an earlier release or configuration, keeps its dates: nobody knows what they count from.
func queueRecord(t *Transaction) *QueueRecord {
	switch {
	case t.Queue != nil:
		return t.Queue
	case t.Hold != nil:
		q := &QueueRecord{Basis: t.Hold.Basis}
		q.Since = t.Updated.UTC().Truncate(time.Second)
		return q
	}
	return &QueueRecord{Basis: Basis{Since: IDTime(t.ID).UTC().Truncate(time.Second), Fixed: true}}
}

// keepsOne reports whether one of a profile's CAs has a queue: a request may come to stand in it by way of another.
func (rt *Runtime) keepsOne(p *Profile) bool {
	return slices.ContainsFunc(p.Routes(), func(r Route) bool { _, keeps := rt.Offline[r.Backend]; return keeps })
}

// allowedAt is when nothing but its CA was missing for a request: when it came, or was approved.
func allowedAt(t *Transaction) time.Time {
	at := IDTime(t.ID)
	if t.Hold != nil {
		for _, a := range t.Hold.Approvals {
			at = later(at, a.At)
		}
	}
	return at
}

// askQueued asks the CA for what waits in its queue, if that stands as things are now. Its error says that the CA cannot be asked yet, or
// that its answer was lost: the request stays where it is.
func (g *Gateway) askQueued(ctx context.Context, a *ask) error {
	rt, now := g.runtime.Load(), g.now()
	if came := allowedAt(a.t); a.t.State == StateQueued && rt.Offline[a.t.Backend].For > 0 && now.Sub(came) > rt.Offline[a.t.Backend].For {
		return g.refuseQueued(ctx, a, &Error{Reason: Unavailable, Detail: "the CA could not be reached in time: ask anew",
			Err: fmt.Errorf("it has waited for the CA since %s, longer than backends.%s.offline allows", came.UTC().Format(time.RFC3339), a.t.Backend)})
	}
	intent := redated(a.t, now)
	if e := g.stands(ctx, rt, a.t, intent, now); e != nil {
		if e.Reason == Unavailable || e.Reason == Busy {
			return e
		}
		return g.refuseQueued(ctx, a, &Error{Reason: e.Reason, Detail: "what was allowed is not issued any more", Err: fmt.Errorf("when its turn came: %w", e.Err)})
	}
	if err := g.beginsAgain(ctx, a.t); err != nil {
		return err
	}
	r := &Rerouting{Transaction: a.t.ID, Epoch: a.epoch, Backend: a.t.Backend, Intent: intent, Verdicts: a.t.Verdicts, Queue: queueRecord(a.t), At: now}
	if r.Queue != nil {
		q := *r.Queue
		q.Since = now.UTC().Truncate(time.Second)
		r.Queue = &q
	}
	g.opt.Crash(CrashBeforeIntent)
	if err := g.store.Reroute(ctx, r); err != nil { // that the CA may have it from now on, and with what dates
		return err
	}
	a.t.Intent, a.t.Queue, a.t.Updated, a.t.State = intent, r.Queue, now, StateIssuing
	g.opt.Crash(CrashAfterIntent)
	issuance, err := g.callIssue(ctx, a)
	a.silent = err != nil && !backend.IsNotAsked(err)
	g.opt.Crash(CrashAfterIssue)
	if err := g.settled(ctx, a, issuance, err); err != nil {
		return err
	}
	if err != nil && (notNow(err) || !backend.Definite(err)) {
		a.returned = true
		return err
	}
	return nil
}

// refuseQueued ends what the CA has nothing of, and is not asked for any more.
func (g *Gateway) refuseQueued(ctx context.Context, a *ask, e *Error) error {
	a.refused = e
	return g.settled(ctx, a, nil, e)
}

// askQueuedAgain finds out what became of a request in the queue that the CA may have. The error is askQueued's.
func (g *Gateway) askQueuedAgain(ctx context.Context, a *ask) error {
	if a.desc.Idempotency == backend.IdempotencyNone {
		return g.settled(ctx, a, nil, errors.New("the CA keeps no record by ID: the operator has to look"))
	}
	found, err := shielded(g, func() (*backend.Outcome, error) { return a.backend.Lookup(ctx, a.asked()) })
	switch {
	case err != nil:
		a.silent = true
		return fmt.Errorf("lookup: %w", err)
	case found == nil:
		a.silent = true
		return errors.New("lookup: no answer")
	case found.State == backend.OutcomeNever:
		return g.askQueued(ctx, a)
	case (found.State == backend.OutcomeIssued || found.State == backend.OutcomePending) && found.Issuance != nil:
		return g.settled(ctx, a, found.Issuance, nil)
	}
	a.silent = true
	return errors.New("the CA cannot say yet")
}
