package storetest

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// testCrash: what was acknowledged is there after an abrupt end, and what was under a lease is done again.
func testCrash(e *env) {
	var open, closed []*gateway.Transaction
	claim := gateway.Claim{Key: "count", Limit: 8}
	for i := range 8 {
		tx, epoch := e.begun(claim)
		if i%2 == 0 {
			e.must(e.s.Settle(e.ctx(), e.issued(tx, epoch)))
			closed = append(closed, e.get(tx.ID))
		} else {
			open = append(open, e.get(tx.ID))
		}
	}
	e.db.Crash(e, e.s)
	e.s = e.db.Open(e, "one", e.clock.Now)
	for _, want := range append(open, closed...) {
		e.equal("transaction", e.get(want.ID), want)
		e.wantRepeat(want.Repeat, want.ID)
	}
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateIssuing), Lease: lease, Claims: []gateway.Claim{claim}})
	if err == nil {
		e.Error("the spent claims are forgotten")
	}
	if e.db.Shared() {
		e.clock.Advance(lease) // of the old process
	}
	due := e.due(e.s)
	if len(due) != len(open) {
		e.Errorf("%d rows are due, want %d", len(due), len(open))
	}
	for _, w := range due {
		if w.Epoch < 2 {
			e.Errorf("the epoch did not grow: %+v", w)
		}
		for _, tx := range open {
			if tx.ID == w.Transaction {
				e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
			}
		}
	}
	e.must(e.s.VerifyAudit(e.ctx()))
}

// Refusing is what a Database can also do: it tells why an instance cannot be opened a second time.
type Refusing interface {
	OpenError(t testing.TB, instance string) error
}

// testInstanceInUse: two processes of one instance name would share leases and an audit stream.
func testInstanceInUse(e *env) {
	r, ok := e.db.(Refusing)
	if !ok {
		e.Fatal("the database does not implement Refusing")
	}
	err := r.OpenError(e, "one")
	if err == nil || !strings.Contains(err.Error(), "in use by") {
		e.Errorf("got %v, want an error that says who uses it", err)
	}
	e.events(e.s) // the first one works on
	e.must(e.s.Close())
	e.s = e.db.Open(e, "one", e.clock.Now)
	e.events(e.s)
}
