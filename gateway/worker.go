package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

const (
	workBatch    = 32               // rows leased at once
	workers      = 4                // rows done at once
	workEvery    = time.Second      // how often the table is looked at when nobody nudges
	strangersFor = time.Minute      // how often refusals of strangers are summed up in the audit trail
	backoffCap   = 30 * time.Second // "settled within 60 s": two attempts fit
)

// Run does the work that outlives requests, until ctx ends: it settles unknown outcomes, polls, revokes, and sums up
// the refusals of strangers. It returns when what it had begun is done.
func (g *Gateway) Run(ctx context.Context) {
	tick := time.NewTicker(workEvery)
	defer tick.Stop()
	sum := time.NewTicker(strangersFor)
	defer sum.Stop()
	for {
		for {
			n, err := g.Work(ctx)
			if err != nil && ctx.Err() == nil {
				g.log.Error("the work table cannot be read", "err", err)
			}
			if n < workBatch {
				break
			}
		}
		select {
		case <-ctx.Done():
			g.SumUp(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		case <-g.wake:
			// What was just recorded becomes due a moment later.
			select {
			case <-time.After(firstSettle):
			case <-ctx.Done():
			}
		case <-sum.C:
			g.SumUp(ctx)
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

// Work leases what is due, does it, and says how many rows it took. Tests call it instead of Run.
func (g *Gateway) Work(ctx context.Context) (int, error) {
	due, err := g.store.ClaimDue(ctx, g.opt.IssueTimeout+leaseMargin, workBatch)
	if err != nil {
		return 0, err
	}
	queue := make(chan Work)
	var wg sync.WaitGroup
	for range min(workers, len(due)) {
		wg.Go(func() {
			for w := range queue {
				g.do(context.WithoutCancel(ctx), w)
			}
		})
	}
	for _, w := range due {
		queue <- w
	}
	close(queue)
	wg.Wait()
	return len(due), nil
}

// do does one row of work. What it cannot end it postpones; nothing is dropped.
func (g *Gateway) do(ctx context.Context, w Work) {
	ctx, cancel := context.WithTimeout(ctx, g.opt.IssueTimeout)
	defer cancel()
	t, err := g.store.Transaction(ctx, w.Transaction)
	if err == nil {
		rt := g.runtime.Load()
		a := &ask{t: t, epoch: w.Epoch, backend: rt.Backends[t.Backend], desc: rt.descriptions[t.Backend]}
		switch {
		case a.backend == nil:
			err = fmt.Errorf("%w: %s", errNoBackend, t.Backend)
		case w.Kind == WorkSettle:
			err = g.settleWork(ctx, a)
		case w.Kind == WorkPoll:
			err = g.pollWork(ctx, a)
		case w.Kind == WorkRevoke:
			err = g.revokeWork(ctx, a, w)
		default:
			err = fmt.Errorf("work of an unknown kind %q: a newer version wrote it", w.Kind)
		}
	}
	g.meter.work.WithLabelValues(string(w.Kind), outcomeOf(err)).Inc()
	if err == nil {
		return
	}
	delay := backoff(w.Attempts)
	g.log.Warn("work postponed", "id", w.Transaction, "kind", w.Kind, "attempts", w.Attempts, "again_in", delay, "err", err)
	if err := g.store.Postpone(context.WithoutCancel(ctx), w, delay, err.Error()); err != nil && !errors.Is(err, ErrStale) {
		g.log.Error("work could not be postponed", "id", w.Transaction, "kind", w.Kind, "err", err)
	}
}

func outcomeOf(err error) string {
	if err != nil {
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
		_, err := g.settle(ctx, a, nil, errors.New("the CA keeps no record by ID: the operator has to look"))
		return asWork(err)
	}
	found, err := a.backend.Lookup(ctx, a.t.ID)
	if err != nil {
		return g.stillUnknown(ctx, a, fmt.Errorf("lookup: %w", err))
	}
	switch found.State {
	case backend.OutcomeIssued, backend.OutcomePending:
		_, err := g.settle(ctx, a, found.Issuance, nil)
		return asWork(err)
	case backend.OutcomeNever:
		issuance, err := a.backend.Issue(ctx, a.t.Intent)
		if err != nil && !backend.Definite(err) {
			return g.stillUnknown(ctx, a, fmt.Errorf("issue: %w", err))
		}
		_, err = g.settle(ctx, a, issuance, err)
		return asWork(err)
	}
	return g.stillUnknown(ctx, a, errors.New("the CA cannot say yet"))
}

// stillUnknown lists a transaction as unknown from the first time that its outcome could not be found out.
func (g *Gateway) stillUnknown(ctx context.Context, a *ask, why error) error {
	if a.t.State == StateUnknown {
		return why
	}
	_, err := g.settle(ctx, a, nil, why)
	return asWork(err)
}

// pollWork asks the CA with a ticket.
func (g *Gateway) pollWork(ctx context.Context, a *ask) error {
	issuance, err := a.backend.Poll(ctx, a.t.Ticket)
	if err != nil && !backend.Definite(err) {
		return err
	}
	_, err = g.settle(ctx, a, issuance, err)
	return asWork(err)
}

// revokeWork revokes a transaction's certificate.
func (g *Gateway) revokeWork(ctx context.Context, a *ask, w Work) error {
	c := a.t.Certificate
	if c == nil {
		return errors.New("the transaction has no certificate to revoke")
	}
	now := g.now()
	err := a.backend.Revoke(ctx, &backend.RevokeRequest{Issuer: c.Issuer, Serial: c.Serial, Reason: superseded, At: now})
	if err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	a.t.Updated = now
	e := auditOf(a.t, "revoked", "")
	if err != nil {
		e.Note = "the CA does not know the certificate: " + err.Error()
	}
	return g.store.MarkRevoked(ctx, &Revocation{Issuer: c.Issuer, Serial: c.Serial, Reason: superseded, At: now, Work: &w, Audit: e})
}

// superseded is the CRLReason (RFC 5280 section 5.3.1) of a certificate that nobody was given.
const superseded = 4

// asWork drops what settle tells a client: a refusal by the CA has been recorded, so the work is done.
func asWork(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return nil
	}
	return err
}
