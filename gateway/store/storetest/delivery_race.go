package storetest

import (
	"context"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// testRaceOfSupersessions: of 16 retries at once, at two replicas, one takes the place; the claims are used once.
func testRaceOfSupersessions(e *env) {
	stores := e.instances()
	for round := range rounds {
		claim := gateway.Claim{Key: fmt.Sprint("count ", round), Limit: 100}
		tx, cert := e.delivered(claim)
		var all []*gateway.Supersession
		for range 16 {
			all = append(all, e.supersession(tx))
		}
		winner := e.oneWins(together(len(all), func(i int) error {
			_, err := stores[i%2].Supersede(e.ctx(), all[i])
			return err
		}))
		next := all[winner].Transaction
		e.wantRepeat(tx.Repeat, next.ID)
		e.wantRevoked(cert, all[winner].At, 4)
		e.wantUsed(claim.Key, 1)
		for i, p := range all {
			if _, err := e.s.Transaction(e.ctx(), p.Transaction.ID); (err == nil) != (i == winner) {
				e.Fatalf("%d of %d, who won: %v", i, winner, err)
			}
		}
		e.endAll(stores, next, cert)
		e.wantUsed(claim.Key, 0)
	}
}

// endAll ends the work that a supersession left.
func (e *env) endAll(stores [2]Store, next *gateway.Transaction, cert *gateway.Certificate) {
	e.Helper()
	e.clock.Advance(lease)
	for _, w := range e.due(stores[0]) {
		switch {
		case w.Kind == gateway.WorkRevoke && w.Transaction == cert.Transaction:
			e.must(stores[0].MarkRevoked(e.ctx(), e.told(cert, &w)))
		case w.Kind == gateway.WorkSettle && w.Transaction == next.ID:
			e.must(stores[0].Settle(e.ctx(), e.failed(next, w.Epoch)))
		default:
			e.Errorf("work: %+v", w)
		}
	}
	e.wantNoWork()
}

// testRaceOfSupersessionAndOrder: an operator revokes what its requester asks for again: one of the two counts, and the claims are
// somebody's in any case.
func testRaceOfSupersessionAndOrder(e *env) {
	stores := e.instances()
	for round := range rounds {
		key := fmt.Sprint("count ", round)
		tx, cert := e.delivered(gateway.Claim{Key: key, Limit: 100})
		p, o := e.supersession(tx), e.order(cert)
		var stale error
		var epoch int64
		calls := []func() error{
			func() error { _, stale = stores[0].Supersede(e.ctx(), p); return nil },
			func() (err error) { epoch, err = stores[1].OrderRevocation(e.ctx(), o); return err },
			func() error {
				return stores[1].FreeClaims(e.ctx(), []string{key}, gateway.AuditEvent{Kind: "claims-freed", At: e.clock.Now()})
			},
		}
		for _, err := range together(3, func(i int) error { return calls[(i+round)%3]() }) {
			e.must(err)
		}
		if stale != nil {
			e.wantErr(stale, gateway.ErrStale)
		}
		if (stale == nil) == (epoch != 0) {
			e.Fatalf("round %d: superseded %v, ordered under %d", round, stale, epoch)
		}
		reason := 1
		if stale == nil {
			reason = 4
		}
		e.wantRevoked(cert, p.At, reason)
		e.wantUsed(key, 0)
		e.endAll(stores, p.Transaction, cert)
		e.wantUsed(key, 0)
	}
}

// testRaceOfCollection: the requester comes for what an operator denies, and what the worker gives up: one of them counts.
func testRaceOfCollection(e *env) {
	stores := e.instances()
	for round := range rounds {
		tx := e.heldForKey()
		e.approveForKey(tx, time.Minute)
		e.clock.Advance(time.Minute)
		w := e.theOnly(stores[1])
		c, d, late := e.collection(tx), e.denial(tx, "bert"), e.denial(tx, "")
		late.Work = &w
		calls := []func(context.Context) error{
			func(ctx context.Context) error { _, err := stores[0].Collect(ctx, c); return err },
			func(ctx context.Context) error { return stores[0].Deny(ctx, d) },
			func(ctx context.Context) error { return stores[1].Deny(ctx, late) },
		}
		order := func(i int) int { return (i + round) % 3 }
		winner := order(e.oneWins(together(3, func(i int) error { return calls[order(i)](e.ctx()) })))
		want := gateway.StateDenied
		if winner == 0 {
			want = gateway.StateIssuing
		}
		e.wantState(tx.ID, want)
		e.clock.Advance(lease)
		if winner == 0 {
			e.must(e.s.Settle(e.ctx(), e.failed(tx, e.theOnly(e.s).Epoch)))
		}
		e.wantNoWork()
	}
}

// testCrashSuperseded: what a crash leaves of a supersession is done: the one certificate is revoked, the other one settled.
func testCrashSuperseded(e *env) {
	tx, cert := e.delivered(gateway.Claim{Key: "count", Limit: 1})
	held := e.heldForKey()
	e.approveForKey(held, time.Hour)
	p := e.supersession(tx)
	e.supersede(p)
	_, err := e.s.Collect(e.ctx(), e.collection(held))
	e.must(err)
	e.db.Crash(e, e.s)
	e.clock.Advance(lease)
	e.s = e.db.Open(e, "two", e.clock.Now)
	kinds := map[string]gateway.WorkKind{}
	for _, w := range e.due(e.s) {
		kinds[w.Transaction] = w.Kind
	}
	e.equal("work", kinds, map[string]gateway.WorkKind{
		tx.ID: gateway.WorkRevoke, p.Transaction.ID: gateway.WorkSettle, held.ID: gateway.WorkSettle,
	})
	e.equal("the new one", e.get(p.Transaction.ID), p.Transaction)
	e.wantRevoked(cert, p.At, 4)
	e.wantRepeat(tx.Repeat, p.Transaction.ID)
	e.wantState(held.ID, gateway.StateIssuing)
}
