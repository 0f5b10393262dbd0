package storetest

import (
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// keyTests are about keys that the gateway made for devices.
var keyTests = []part{
	{"generated key: kept", testKeyKept},
	{"generated key: erased", testKeyErased},
	{"generated key: nonsense", testKeyNonsense},
}

// withKey begins a transaction with a generated key.
func (e *env) withKey() (*gateway.Transaction, int64) {
	e.Helper()
	t := e.transaction(gateway.StateIssuing)
	t.SealedKey = []byte("sealed for " + t.ID)
	return t, e.mustBegin(e.s, t)
}

// heldWithKey is held for an hour.
func (e *env) heldWithKey() *gateway.Transaction {
	e.Helper()
	t := e.transaction(gateway.StateHeld)
	t.SealedKey = []byte("sealed for " + t.ID)
	t.Hold = &gateway.HoldRecord{Stage: "approval", Approvers: 1, Until: e.clock.Now().Add(time.Hour)}
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Audit: event("held", t)})
	e.must(err)
	return t
}

// wantKey says whether a transaction's key is kept: where it is not, nothing of it is left.
func (e *env) wantKey(after string, t *gateway.Transaction, kept bool) {
	e.Helper()
	want := ""
	if kept {
		want = string(t.SealedKey)
	}
	got, err := e.s.Transaction(e.ctx(), t.ID)
	e.must(err)
	if string(got.SealedKey) != want {
		e.Errorf("%s: the key is %q, want %q", after, got.SealedKey, want)
	}
}

func testKeyKept(e *env) {
	tx, epoch := e.withKey()
	e.equal("begun", e.get(tx.ID), tx)
	byRepeat, err := e.s.Repeat(e.ctx(), tx.Repeat, e.clock.Now())
	e.must(err)
	e.equal("by its repeat key", byRepeat, tx)
	byWire, err := e.s.ByWireID(e.ctx(), tx.Endpoint, tx.WireID)
	e.must(err)
	e.equal("by its wire ID", byWire, tx)
	asked, err := e.s.AskedUnder(e.ctx(), tx.Endpoint, tx.WireID, tx.Credentials)
	e.must(err)
	e.equal("by who asks", asked, tx)
	list, err := e.s.Transactions(e.ctx(), gateway.TransactionFilter{})
	e.must(err)
	if len(list) != 1 || list[0].SealedKey != nil {
		e.Errorf("a list has the key: %+v", list)
	}
	// As long as nobody knows what became of it, and in another exchange.
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	e.wantKey("unknown", tx, true)
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: gateway.StateWaiting, Ticket: "7", Now: e.clock.Now(),
		Next: gateway.WorkPoll, Delay: time.Second}))
	e.wantKey("waiting", tx, true)
	e.must(e.s.Adopt(e.ctx(), &gateway.Adoption{Transaction: tx.ID, WireID: "another", Repeat: keyOf("another", tx.ID), At: e.clock.Now(), Audit: event("resumed", tx)}))
	e.wantKey("adopted", tx, true)
	e.clock.Advance(time.Second)
	w = e.theOnly(e.s)
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, w.Epoch, time.Hour)))
	e.wantKey("unconfirmed", tx, true)
	e.clock.Advance(time.Hour)
	e.must(e.s.Postpone(e.ctx(), e.theOnly(e.s), time.Second, "later"))
	e.wantKey("postponed", tx, true)
	// Others' ends are theirs.
	other, epoch := e.withKey()
	e.must(e.s.Settle(e.ctx(), e.failed(other, epoch)))
	e.wantKey("another failed", tx, true)

	stuck, epoch := e.withKey()
	s := e.unknown(stuck, epoch)
	s.State, s.Next = gateway.StateStuck, ""
	e.must(e.s.Settle(e.ctx(), s))
	e.wantKey("stuck", stuck, true)

	held := e.heldWithKey()
	e.equal("held", e.get(held.ID), held)
	e.approve(e.s, e.approval(held, "anna"))
	e.wantKey("approved", held, true)

	// Issued for good, for as long as the answer is repeated.
	issued, epoch := e.withKey()
	s = e.issued(issued, epoch)
	s.Next, s.Delay = gateway.WorkWipe, s.RepeatUntil.Sub(s.Now)
	e.must(e.s.Settle(e.ctx(), s))
	e.wantKey("issued", issued, true)
	e.wantRepeat(issued.Repeat, issued.ID)
	before := e.get(issued.ID)
	e.clock.Advance(s.Delay)
	e.wantRepeat(issued.Repeat, "")
	for _, w := range e.due(e.s) {
		if w.Transaction == issued.ID {
			if w.Kind != gateway.WorkWipe {
				e.Errorf("work: %+v", w)
			}
			e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: issued.ID, Epoch: w.Epoch, State: gateway.StateIssued, Note: before.Note, Now: before.Updated}))
		}
	}
	e.wantKey("wiped", issued, false)
	before.SealedKey = nil
	e.equal("wiped", e.get(issued.ID), before)
}

func testKeyErased(e *env) {
	conclude := func(c func(*gateway.Transaction) *gateway.Conclusion) func(*gateway.Transaction, *gateway.Settlement) {
		return func(t *gateway.Transaction, _ *gateway.Settlement) { e.must(e.s.Conclude(e.ctx(), c(t))) }
	}
	timeOut := func(state gateway.State, repeat time.Duration) func(*gateway.Transaction, *gateway.Settlement) {
		return func(t *gateway.Transaction, _ *gateway.Settlement) {
			e.clock.Advance(time.Hour)
			s := &gateway.Settlement{Transaction: t.ID, Epoch: e.theOnly(e.s).Epoch, State: state, Now: e.clock.Now(), Audit: event("over", t)}
			if repeat > 0 {
				s.RepeatUntil = e.clock.Now().Add(repeat)
			}
			e.must(e.s.Settle(e.ctx(), s))
		}
	}
	revoked := func(_ *gateway.Transaction, s *gateway.Settlement) {
		e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, nil)))
	}
	ordered := func(_ *gateway.Transaction, s *gateway.Settlement) {
		w := &gateway.Work{Transaction: s.Transaction, Epoch: e.ordered(e.order(s.Certificate))}
		e.wantKey("ordered to be revoked", &gateway.Transaction{ID: s.Transaction}, false)
		e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, w)))
	}
	for name, end := range map[string]func(*gateway.Transaction, *gateway.Settlement){
		"accepted": conclude(e.accepted), "rejected": conclude(e.rejected), "timed out": timeOut(gateway.StateRejected, 0),
		"kept": timeOut(gateway.StateIssued, 0), "kept, and repeated": timeOut(gateway.StateIssued, time.Minute), "revoked": revoked, "ordered": ordered,
	} {
		tx, epoch := e.withKey()
		s := e.unconfirmed(tx, epoch, time.Hour)
		e.must(e.s.Settle(e.ctx(), s))
		end(tx, s)
		e.wantKey("unconfirmed, "+name, tx, false)
		e.clock.Advance(time.Hour)
		for _, w := range e.due(e.s) { // what is left to do for it
			e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &w)))
		}
	}
	for name, end := range map[string]func(*gateway.Transaction, *gateway.Settlement){"revoked": revoked, "ordered": ordered} {
		tx, epoch := e.withKey()
		s := e.issued(tx, epoch)
		e.must(e.s.Settle(e.ctx(), s))
		e.wantKey("issued", tx, true)
		end(tx, s)
		e.wantKey("issued, "+name, tx, false)
	}
	tx, epoch := e.withKey()
	s := e.issued(tx, epoch)
	s.RepeatUntil = s.Now
	e.must(e.s.Settle(e.ctx(), s))
	e.wantKey("issued, not repeated", tx, false)
	tx, epoch = e.withKey()
	e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch)))
	e.wantKey("failed", tx, false)
	tx, epoch = e.withKey()
	s = e.failed(tx, epoch)
	s.Certificate, s.Release, s.Next = e.certificate(tx), false, gateway.WorkRevoke
	e.must(e.s.Settle(e.ctx(), s))
	e.wantKey("failed, with a certificate", tx, false)
	tx, epoch = e.withKey()
	s = e.unknown(tx, epoch)
	s.State, s.Next = gateway.StateStuck, ""
	e.must(e.s.Settle(e.ctx(), s))
	e.must(e.s.Settle(e.ctx(), e.failed(tx, 0)))
	e.wantKey("failed, by the operator", tx, false)
	for _, until := range []time.Duration{0, time.Minute} {
		tx = e.heldWithKey()
		d := e.denial(tx, "anna")
		d.RepeatUntil = e.clock.Now().Add(until)
		e.must(e.s.Deny(e.ctx(), d))
		e.wantKey("denied", tx, false)
	}
}

func testKeyNonsense(e *env) {
	t := e.transaction(gateway.StateRefused)
	t.SealedKey = []byte("sealed")
	if err := e.s.Refuse(e.ctx(), t, event("refused", t)); err == nil || !strings.Contains(err.Error(), "keeps no key") {
		e.Errorf("a refused request keeps a key: %v", err)
	}
	_, err := e.s.Transaction(e.ctx(), t.ID)
	e.wantErr(err, gateway.ErrNotFound)
}
