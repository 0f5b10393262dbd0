package storetest

import (
	"strings"
	"testing"
	"time"

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

// testCrashUnconfirmed: whatever of an exchange was acknowledged, the next process goes on with it: it waits, was adopted,
// was confirmed, was rejected and not revoked yet.
func testCrashUnconfirmed(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 4}
	var txs []*gateway.Transaction
	var certs []*gateway.Certificate
	for range 4 {
		tx, s := e.waitsToBeConfirmed(time.Hour, claim)
		txs, certs = append(txs, tx), append(certs, s.Certificate)
	}
	waits, adopted, accepted, rejected := txs[0], txs[1], txs[2], txs[3]
	a := &gateway.Adoption{Transaction: adopted.ID, WireID: "second", Repeat: "second", Exchange: []byte("second"), At: e.clock.Now(), Audit: event("resumed", adopted)}
	e.must(e.s.Adopt(e.ctx(), a))
	e.must(e.s.Conclude(e.ctx(), e.accepted(accepted)))
	e.must(e.s.Conclude(e.ctx(), e.rejected(rejected)))
	var want []*gateway.Transaction
	for _, tx := range txs {
		want = append(want, e.get(tx.ID))
	}
	e.db.Crash(e, e.s)
	e.s = e.db.Open(e, "one", e.clock.Now)
	for _, tx := range want {
		e.equal("transaction", e.get(tx.ID), tx)
	}
	for key, holder := range map[gateway.RepeatKey]string{waits.Repeat: waits.ID, waits.Resume: waits.ID, adopted.Repeat: "",
		a.Repeat: adopted.ID, adopted.Resume: adopted.ID, accepted.Repeat: accepted.ID, accepted.Resume: "", rejected.Repeat: "", rejected.Resume: ""} {
		e.wantRepeat(key, holder)
	}
	e.wantClaim(claim, true) // that of the rejected one
	e.wantClaim(claim, false)
	w := e.theOnly(e.s)
	if w.Transaction != rejected.ID || w.Kind != gateway.WorkRevoke {
		e.Errorf("work: %+v", w)
	}
	e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: certs[3].Issuer, Serial: certs[3].Serial, Reason: 4,
		At: e.clock.Now(), Work: &w, Audit: event("revoked", rejected)}))
	e.must(e.s.Conclude(e.ctx(), e.accepted(waits)))
	e.clock.Advance(time.Hour)
	if w := e.theOnly(e.s); w.Transaction != adopted.ID || w.Kind != gateway.WorkConfirm {
		e.Errorf("work: %+v", w)
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
