package storetest

import (
	"errors"
	"math"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func testBegin(e *env) {
	tx, epoch := e.begun(gateway.Claim{Key: "challenge:1", Limit: 1})
	if epoch != 1 {
		e.Errorf("epoch %d, want 1", epoch)
	}
	e.equal("transaction", e.get(tx.ID), tx)
	// Its lease is ours until it ends; then any worker may take it.
	e.clock.Advance(lease - time.Microsecond)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due within the lease: %+v", due)
	}
	e.clock.Advance(time.Microsecond)
	w := e.theOnly(e.s)
	if w.Transaction != tx.ID || w.Kind != gateway.WorkSettle || w.Epoch != 2 || w.Attempts != 0 || w.Owner != "one" {
		e.Errorf("work: %+v", w)
	}
	_, err := e.s.Transaction(e.ctx(), "nobody")
	e.wantErr(err, gateway.ErrNotFound)
}

func testBeginNonsense(e *env) {
	for name, b := range map[string]*gateway.Beginning{
		"closed":         {Transaction: e.transaction(gateway.StateIssued), Lease: lease},
		"refused":        {Transaction: e.transaction(gateway.StateRefused), Lease: lease},
		"without lease":  {Transaction: e.transaction(gateway.StateIssuing)},
		"negative wait":  {Transaction: e.waiting(-time.Second), Lease: lease},
		"no ID":          {Transaction: &gateway.Transaction{State: gateway.StateIssuing}, Lease: lease},
		"unnamed claim":  {Transaction: e.transaction(gateway.StateIssuing), Lease: lease, Claims: []gateway.Claim{{Limit: 1}}},
		"unusual claim":  {Transaction: e.transaction(gateway.StateIssuing), Lease: lease, Claims: []gateway.Claim{{Key: "a\x00", Limit: 1}}},
		"misspelt claim": {Transaction: e.transaction(gateway.StateIssuing), Lease: lease, Claims: []gateway.Claim{{Key: "\xff", Limit: 1}}},
	} {
		if _, err := e.s.Begin(e.ctx(), b); err == nil {
			e.Errorf("%s: no error", name)
		}
		if _, err := e.s.Transaction(e.ctx(), b.Transaction.ID); !errors.Is(err, gateway.ErrNotFound) {
			e.Errorf("%s: something was written: %v", name, err)
		}
	}
	// An ID is used once.
	tx, _ := e.begun()
	again := *tx
	again.Repeat, again.Resume = "", ""
	if _, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: &again, Lease: lease}); err == nil {
		e.Error("the same ID began twice")
	}
}

func (e *env) waiting(d time.Duration) *gateway.Transaction {
	t := e.transaction(gateway.StateIssuing)
	t.ConfirmWait = d
	return t
}

func testHeld(e *env) {
	tx := e.transaction(gateway.StateHeld)
	epoch, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Audit: event("held", tx),
		Claims: []gateway.Claim{{Key: "count:1", Limit: 1}}})
	e.must(err)
	if epoch != 0 {
		e.Errorf("epoch %d, want none", epoch)
	}
	e.equal("transaction", e.get(tx.ID), tx)
	e.clock.Advance(1000 * time.Hour)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("a held transaction has work: %+v", due)
	}
	e.wantRepeat(tx.Repeat, tx.ID)
	// Its claim is spent.
	_, err = e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateIssuing), Lease: lease,
		Claims: []gateway.Claim{{Key: "count:1", Limit: 1}}})
	if _, ok := errors.AsType[*gateway.ClaimLostError](err); !ok {
		e.Errorf("the claim of a held transaction was spent twice: %v", err)
	}
}

func testRepeatAndTwin(e *env) {
	first, epoch := e.begun()
	e.wantRepeat(first.Repeat, first.ID)
	e.wantRepeat("unheard of", "")
	e.wantRepeat("", "")
	twin := func() *gateway.Transaction {
		t := e.transaction(gateway.StateIssuing)
		t.Repeat = first.Repeat
		return t
	}
	wantTwin := func(of string) {
		e.Helper()
		t := twin()
		_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Lease: lease,
			Claims: []gateway.Claim{{Key: "of the twin", Limit: math.MaxInt64}}, Audit: event("begun", t)})
		if te, ok := errors.AsType[*gateway.TwinError](err); !ok || te.Transaction != of {
			e.Errorf("Begin: %v, want the twin %s", err, of)
		}
		if _, err := e.s.Transaction(e.ctx(), t.ID); !errors.Is(err, gateway.ErrNotFound) {
			e.Errorf("a twin was written: %v", err)
		}
	}
	wantTwin(first.ID)
	e.clock.Advance(1000 * time.Hour) // open transactions hold their key however old they are
	e.wantRepeat(first.Repeat, first.ID)
	wantTwin(first.ID)
	// Nor does it matter which kind of open.
	unknown := e.unknown(first, epoch)
	e.must(e.s.Settle(e.ctx(), unknown))
	wantTwin(first.ID)
	e.clock.Advance(time.Second)
	// Issued: for the key's time.
	e.must(e.s.Settle(e.ctx(), e.issued(first, e.theOnly(e.s).Epoch)))
	got, err := e.s.Repeat(e.ctx(), first.Repeat, e.clock.Now())
	e.must(err)
	e.equal("what is repeated", got, e.get(first.ID))
	until := e.clock.Now().Add(10 * time.Minute)
	e.clock.Advance(10*time.Minute - 3*time.Millisecond)
	wantTwin(first.ID) // a millisecond later
	second := twin()
	e.clock.Advance(until.Add(-time.Microsecond).Sub(e.clock.Now()))
	e.wantRepeat(first.Repeat, first.ID)
	e.clock.Advance(time.Microsecond)
	e.wantRepeat(first.Repeat, "")
	// From that moment it is a new request, which fails and frees the key.
	epoch = e.mustBegin(e.s, second)
	e.wantRepeat(first.Repeat, second.ID)
	e.must(e.s.Settle(e.ctx(), e.failed(second, epoch)))
	e.wantRepeat(first.Repeat, "")
	third := twin()
	e.mustBegin(e.s, third)
	e.wantRepeat(first.Repeat, third.ID)
	// Without a key nobody is a twin.
	for range 2 {
		t := e.transaction(gateway.StateIssuing)
		t.Repeat, t.Resume = "", ""
		e.mustBegin(e.s, t)
	}
	// Twins spent nothing.
	n := 0
	for ; n < 3; n++ {
		t := e.transaction(gateway.StateIssuing)
		if _, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Lease: lease,
			Claims: []gateway.Claim{{Key: "of the twin", Limit: 2}}}); err != nil {
			break
		}
	}
	if n != 2 {
		e.Errorf("%d uses were left, want 2", n)
	}
}

func testClaims(e *env) {
	claim := gateway.Claim{Key: "count:device", Limit: 2, Lost: "enrolled twice"}
	other := gateway.Claim{Key: "a quota", Limit: 100}
	lose := func(claims ...gateway.Claim) {
		e.Helper()
		tx := e.transaction(gateway.StateIssuing)
		_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Lease: lease, Claims: claims})
		lost, ok := errors.AsType[*gateway.ClaimLostError](err)
		if !ok {
			e.Fatalf("Begin: %v, want a lost claim", err)
		}
		if lost.Claim.Key != claims[len(claims)-1].Key || lost.Claim.Lost != claims[len(claims)-1].Lost {
			e.Errorf("lost %+v", lost.Claim)
		}
		if _, err := e.s.Transaction(e.ctx(), tx.ID); !errors.Is(err, gateway.ErrNotFound) {
			e.Errorf("something was written: %v", err)
		}
		e.wantRepeat(tx.Repeat, "")
	}
	a, epochA := e.begun(other, claim)
	_, epochB := e.begun(claim)
	lose(other, claim)
	lose(gateway.Claim{Key: "z", Limit: 0})
	lose(gateway.Claim{Key: "z", Limit: -1})
	// A limit that was lowered counts from now on; one that was raised too.
	lose(gateway.Claim{Key: claim.Key, Limit: 1, Lost: claim.Lost})
	c, epochC := e.begun(gateway.Claim{Key: claim.Key, Limit: 3})
	lose(gateway.Claim{Key: claim.Key, Limit: 3})
	// Released only when asked to.
	s := e.failed(c, epochC)
	s.Release = false
	e.must(e.s.Settle(e.ctx(), s))
	lose(gateway.Claim{Key: claim.Key, Limit: 3})
	e.must(e.s.Settle(e.ctx(), e.failed(a, epochA)))
	d, epochD := e.begun(gateway.Claim{Key: claim.Key, Limit: 3})
	lose(gateway.Claim{Key: claim.Key, Limit: 3})
	e.must(e.s.Settle(e.ctx(), e.issued(d, epochD)))
	lose(gateway.Claim{Key: claim.Key, Limit: 3})
	_ = epochB

	// One request may use a key twice, all or nothing, and gets both back.
	twice := gateway.Claim{Key: "twice", Limit: 2}
	lose(gateway.Claim{Key: "twice", Limit: 1}, gateway.Claim{Key: "twice", Limit: 1})
	f, epochF := e.begun(twice, twice)
	lose(twice)
	e.must(e.s.Settle(e.ctx(), e.failed(f, epochF)))
	e.begun(twice, twice)
	lose(twice)
	// 1 of a, 0 of the lost ones: the quota's lost neighbours spent nothing.
	e.begun(gateway.Claim{Key: other.Key, Limit: 1})
	lose(gateway.Claim{Key: other.Key, Limit: 1})
}

func testRefuse(e *env) {
	tx := e.transaction(gateway.StateRefused)
	e.must(e.s.Refuse(e.ctx(), tx, event("refused", tx)))
	e.equal("transaction", e.get(tx.ID), tx)
	if e.s.Refuse(e.ctx(), e.transaction(gateway.StateHeld), event("refused", tx)) == nil {
		e.Error("a held transaction was refused")
	}
	quiet := e.transaction(gateway.StateRefused)
	if e.s.Refuse(e.ctx(), quiet, gateway.AuditEvent{}) == nil {
		e.Error("refused without an audit event")
	}
	_, err := e.s.Transaction(e.ctx(), quiet.ID)
	e.wantErr(err, gateway.ErrNotFound)
}

// testHostileText: what the network sends must not keep a record out of the store.
func testHostileText(e *env) {
	const nasty = "a\x00b\xff\xfe'; DROP TABLE work --\u202e"
	const kept = "a\uFFFDb\uFFFD'; DROP TABLE work --\u202e"
	tx := e.transaction(gateway.StateIssuing)
	tx.WireID, tx.Source, tx.Requester, tx.Device, tx.Subject, tx.Note = nasty, nasty, nasty, nasty, nasty, nasty
	tx.Credentials = []string{nasty}
	tx.Verdicts = []gateway.Judged{{Note: nasty}}
	epoch := e.mustBegin(e.s, tx)
	got := e.get(tx.ID)
	for what, s := range map[string]string{"wire ID": got.WireID, "source": got.Source, "requester": got.Requester,
		"device": got.Device, "subject": got.Subject, "note": got.Note} {
		if s != kept {
			e.Errorf("%s: %q, want %q", what, s, kept)
		}
	}
	s := e.issued(tx, epoch)
	s.Note, s.Audit.Subject = nasty, nasty
	s.Certificate.Subject = nasty
	e.must(e.s.Settle(e.ctx(), s))
	list, err := e.s.Transactions(e.ctx(), gateway.TransactionFilter{Device: nasty})
	e.must(err)
	if len(list) != 1 {
		e.Errorf("found %d by the device's name as it came", len(list))
	}
	_, err = e.s.Transaction(e.ctx(), nasty)
	e.wantErr(err, gateway.ErrNotFound)
}
