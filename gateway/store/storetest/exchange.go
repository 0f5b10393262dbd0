package storetest

import (
	"errors"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func (e *env) wantTwin(t *gateway.Transaction, of string) {
	e.Helper()
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Lease: lease})
	if te, ok := errors.AsType[*gateway.TwinError](err); !ok || te.Transaction != of {
		e.Errorf("Begin: %v, want the twin %s", err, of)
	}
	_, err = e.s.Transaction(e.ctx(), t.ID)
	e.wantErr(err, gateway.ErrNotFound)
}

// keyed is a transaction to begin with two keys.
func (e *env) keyed(repeat, resume gateway.RepeatKey) *gateway.Transaction {
	t := e.transaction(gateway.StateIssuing)
	t.Repeat, t.Resume = repeat, resume
	return t
}

func testTwoKeys(e *env) {
	first := e.keyed("m", "d")
	epoch := e.mustBegin(e.s, first)
	e.equal("transaction", e.get(first.ID), first)
	e.wantRepeat("m", first.ID)
	e.wantRepeat("d", first.ID)
	// Either key makes a twin, whichever of the two it is there; what a twin would have taken beside it is free.
	for _, t := range []*gateway.Transaction{e.keyed("m", "x"), e.keyed("x", "d"), e.keyed("d", "x"), e.keyed("x", "m"),
		e.keyed("m", ""), e.keyed("", "d"), e.keyed("m", "d"), e.keyed("a", "d"), e.keyed("z", "d")} {
		e.wantTwin(t, first.ID)
	}
	for _, free := range []gateway.RepeatKey{"x", "a", "z"} {
		e.wantRepeat(free, "")
	}
	// Of two twins the one with the same message is told.
	second := e.keyed("a", "z")
	secondEpoch := e.mustBegin(e.s, second)
	e.wantTwin(e.keyed("a", "d"), second.ID)
	e.wantTwin(e.keyed("z", "d"), second.ID)
	e.wantTwin(e.keyed("d", "a"), first.ID)
	e.wantTwin(e.keyed("m", "a"), first.ID)
	// What fails frees both.
	e.must(e.s.Settle(e.ctx(), e.failed(second, secondEpoch)))
	e.wantRepeat("a", "")
	e.wantRepeat("z", "")
	// What is issued keeps both, for one time.
	s := e.issued(first, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	e.wantRepeat("m", first.ID)
	e.wantRepeat("d", first.ID)
	e.wantTwin(e.keyed("y", "d"), first.ID)
	e.clock.Advance(s.RepeatUntil.Sub(e.clock.Now()))
	e.wantRepeat("m", "")
	e.wantRepeat("d", "")
	third := e.keyed("y", "d")
	e.mustBegin(e.s, third)
	e.wantRepeat("d", third.ID)
	// The revocation of the one before takes the key from nobody else.
	e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial, Reason: 1,
		At: e.clock.Now(), Audit: event("revoked", first)}))
	e.wantRepeat("d", third.ID)
	// One key in both places is one key.
	same := e.keyed("s", "s")
	epoch = e.mustBegin(e.s, same)
	e.wantRepeat("s", same.ID)
	e.wantTwin(e.keyed("s", "s"), same.ID)
	e.must(e.s.Settle(e.ctx(), e.failed(same, epoch)))
	e.wantRepeat("s", "")
	// Issued without a time, and revoked: both are free at once.
	for _, end := range []func(t *gateway.Transaction, s *gateway.Settlement){
		func(_ *gateway.Transaction, s *gateway.Settlement) {
			s.RepeatUntil = time.Time{}
			e.must(e.s.Settle(e.ctx(), s))
		},
		func(t *gateway.Transaction, s *gateway.Settlement) {
			e.must(e.s.Settle(e.ctx(), s))
			e.wantRepeat(t.Resume, t.ID)
			e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial,
				Reason: 1, At: e.clock.Now(), Audit: event("revoked", t)}))
		},
	} {
		tx, epoch := e.begun()
		end(tx, e.issued(tx, epoch))
		e.wantRepeat(tx.Repeat, "")
		e.wantRepeat(tx.Resume, "")
	}
	// An older release, which runs beside this one, closes a transaction and knows nothing of its resume key.
	left, _ := e.begun()
	e.db.Exec(e, `DELETE FROM work WHERE tx = '`+left.ID+`'`)
	e.db.Exec(e, `DELETE FROM repeats WHERE key = '`+string(left.Repeat)+`'`)
	e.wantTwin(e.keyed("of another", left.Resume), left.ID)
	e.db.Exec(e, `UPDATE transactions SET state = 'failed' WHERE id = '`+left.ID+`'`)
	e.wantRepeat(left.Resume, "")
	heir := e.keyed("of another", left.Resume)
	e.mustBegin(e.s, heir)
	e.wantRepeat(left.Resume, heir.ID)
	// No key, no twin.
	for range 2 {
		e.mustBegin(e.s, e.keyed("", ""))
	}
}

// waitsToBeConfirmed is an unconfirmed transaction that has spent the claim, and its settlement.
func (e *env) waitsToBeConfirmed(delay time.Duration, claims ...gateway.Claim) (*gateway.Transaction, *gateway.Settlement) {
	e.Helper()
	tx, epoch := e.begun(claims...)
	s := e.unconfirmed(tx, epoch, delay)
	e.must(e.s.Settle(e.ctx(), s))
	return tx, s
}

// wantClaim says whether a use of the claim is left, and takes it.
func (e *env) wantClaim(c gateway.Claim, left bool) {
	e.Helper()
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateHeld), Claims: []gateway.Claim{c}})
	if _, lost := errors.AsType[*gateway.ClaimLostError](err); left && err != nil || !left && !lost {
		e.Errorf("claim %s: %v, want a use left: %t", c.Key, err, left)
	}
}

func (e *env) wantNoWork() {
	e.Helper()
	e.clock.Advance(10000 * time.Hour)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("work is left: %+v", due)
	}
}

// wantAudited says whether an event of the kind is in the audit trail for the transaction: if so, the trail breaks
// when it is touched.
func (e *env) wantAudited(kind, tx string, want bool) {
	e.Helper()
	where := ` WHERE body LIKE '{"kind":"` + kind + `"%"transaction":"` + tx + `"%'`
	e.db.Exec(e, `UPDATE audit SET body = body || ' '`+where)
	if broken := e.s.VerifyAudit(e.ctx()) != nil; broken != want {
		e.Errorf("audit event %s of %s is there: %t, want %t", kind, tx, broken, want)
	}
	e.db.Exec(e, `UPDATE audit SET body = substr(body, 1, length(body) - 1)`+where)
}

func testUnconfirmed(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx, s := e.waitsToBeConfirmed(time.Hour, claim)
	want := *tx
	want.State, want.Note, want.Updated, want.Certificate = gateway.StateUnconfirmed, "", s.Now, s.Certificate
	e.equal("transaction", e.get(tx.ID), &want)
	e.wantAudited("unconfirmed", tx.ID, true)
	e.wantClaim(claim, false)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due before its time: %+v", due)
	}
	e.clock.Advance(time.Hour)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkConfirm || w.Attempts != 0 || w.Epoch != 2 {
		e.Errorf("work: %+v", w)
	}
	// Both keys stand, however long it takes.
	e.clock.Advance(10000 * time.Hour)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantRepeat(tx.Resume, tx.ID)
	e.wantTwin(e.keyed("another message", tx.Resume), tx.ID)
	got, err := e.s.Repeat(e.ctx(), tx.Resume, e.clock.Now())
	e.must(err)
	e.equal("what is resumed", got, &want)
	// It is found as open, and by its state.
	list, err := e.s.Transactions(e.ctx(), gateway.TransactionFilter{States: []gateway.State{gateway.StateUnconfirmed}})
	e.must(err)
	if len(list) != 1 || list[0].ID != tx.ID {
		e.Errorf("%d are unconfirmed", len(list))
	}
	// Its certificate was revoked by hand: nobody gets it any more, and it still waits.
	w = e.theOnly(e.s)
	e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial, Reason: 1,
		At: e.clock.Now(), Audit: event("revoked", tx)}))
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	e.wantState(tx.ID, gateway.StateUnconfirmed)
	e.must(e.s.Postpone(e.ctx(), w, 0, "later"))
	if w := e.theOnly(e.s); w.Kind != gateway.WorkConfirm {
		e.Errorf("work: %+v", w)
	}
	// From an unknown outcome and a ticket too; and a stuck one, by the operator.
	for _, from := range []gateway.State{gateway.StateUnknown, gateway.StateStuck} {
		tx, epoch := e.begun()
		u := e.unknown(tx, epoch)
		u.State = from
		if from == gateway.StateStuck {
			u.Next = ""
		}
		e.must(e.s.Settle(e.ctx(), u))
		e.clock.Advance(time.Second)
		epoch = 0
		if from == gateway.StateUnknown {
			epoch = e.theOnly(e.s).Epoch
		}
		e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, time.Second)))
		e.wantState(tx.ID, gateway.StateUnconfirmed)
		e.clock.Advance(time.Second)
		if w := e.theOnly(e.s); w.Kind != gateway.WorkConfirm || w.Transaction != tx.ID || w.Attempts != 0 {
			e.Errorf("work: %+v", w)
		}
	}
}

// testConfirmTimeOut: the worker ends what nobody confirmed.
func testConfirmTimeOut(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx, first := e.waitsToBeConfirmed(time.Hour, claim)
	e.clock.Advance(time.Hour)
	w := e.theOnly(e.s)
	rejected := &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: gateway.StateRejected, Note: "never confirmed",
		Release: true, Next: gateway.WorkRevoke, Now: e.clock.Now(), Audit: event("rejected", tx)}
	stale := *rejected
	stale.Epoch--
	e.wantErr(e.s.Settle(e.ctx(), &stale), gateway.ErrStale)
	e.wantClaim(claim, false)
	e.must(e.s.Settle(e.ctx(), rejected))
	want := *tx
	want.State, want.Note, want.Updated, want.Certificate = gateway.StateRejected, rejected.Note, rejected.Now, first.Certificate
	e.equal("transaction", e.get(tx.ID), &want)
	e.wantAudited("rejected", tx.ID, true)
	e.wantClaim(claim, true)
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	w = e.theOnly(e.s)
	if w.Kind != gateway.WorkRevoke || w.Attempts != 0 {
		e.Errorf("work: %+v", w)
	}
	e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: first.Certificate.Issuer, Serial: first.Certificate.Serial,
		Reason: 4, At: e.clock.Now(), Work: &w, Audit: event("revoked", tx)}))
	e.wantState(tx.ID, gateway.StateRejected)
	e.wantNoWork()

	// Or it keeps it: an endpoint may take silence for consent. The claim stays spent.
	claim.Key = "another"
	tx, first = e.waitsToBeConfirmed(time.Hour, claim)
	e.clock.Advance(time.Hour)
	now := e.clock.Now()
	e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: e.theOnly(e.s).Epoch, State: gateway.StateIssued,
		RepeatUntil: now.Add(time.Minute), Now: now, Audit: event("issued", tx)}))
	e.wantState(tx.ID, gateway.StateIssued)
	e.equal("certificate", e.get(tx.ID).Certificate, first.Certificate)
	e.wantClaim(claim, false)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantRepeat(tx.Resume, tx.ID)
	e.clock.Advance(time.Minute)
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	e.wantNoWork()

	// Or it waits on.
	tx, _ = e.waitsToBeConfirmed(time.Hour)
	e.clock.Advance(time.Hour)
	again := e.unconfirmed(tx, e.theOnly(e.s).Epoch, time.Hour)
	again.Certificate = nil
	e.must(e.s.Settle(e.ctx(), again))
	e.clock.Advance(time.Hour)
	if w := e.theOnly(e.s); w.Kind != gateway.WorkConfirm || w.Attempts != 1 {
		e.Errorf("work: %+v", w)
	}
}

func testUnconfirmedNonsense(e *env) {
	refused := func(name string, s *gateway.Settlement) {
		e.Helper()
		before := e.get(s.Transaction)
		if err := e.s.Settle(e.ctx(), s); err == nil || errors.Is(err, gateway.ErrStale) || errors.Is(err, gateway.ErrCertificateExists) {
			e.Errorf("%s: %v", name, err)
		}
		e.equal(name, e.get(s.Transaction), before)
	}
	// From an earlier state all three need the certificate.
	tx, epoch := e.begun()
	held := e.transaction(gateway.StateHeld)
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: held})
	e.must(err)
	for _, state := range []gateway.State{gateway.StateIssued, gateway.StateUnconfirmed, gateway.StateRejected} {
		for of, epoch := range map[*gateway.Transaction]int64{tx: epoch, held: 0} {
			refused("nothing became "+string(state), &gateway.Settlement{Transaction: of.ID, Epoch: epoch, State: state,
				Next: gateway.WorkConfirm, Now: e.clock.Now()})
		}
	}
	for name, change := range map[string]func(*gateway.Settlement){
		"rejected with a certificate":  func(s *gateway.Settlement) { s.State = gateway.StateRejected },
		"nothing ends it":              func(s *gateway.Settlement) { s.Next = "" },
		"other work":                   func(s *gateway.Settlement) { s.Next = gateway.WorkRevoke },
		"claims given back":            func(s *gateway.Settlement) { s.Release = true },
		"claims of an issued one":      func(s *gateway.Settlement) { s.State, s.Release = gateway.StateIssued, true },
		"another's certificate":        func(s *gateway.Settlement) { s.Certificate.Transaction = "somebody" },
		"unknown, with a certificate":  func(s *gateway.Settlement) { s.State = gateway.StateUnknown },
		"stuck, with a certificate":    func(s *gateway.Settlement) { s.State = gateway.StateStuck },
		"refused, with a certificate":  func(s *gateway.Settlement) { s.State = gateway.StateRefused },
		"waiting, with a certificate":  func(s *gateway.Settlement) { s.State = gateway.StateWaiting },
		"no state, with a certificate": func(s *gateway.Settlement) { s.State = "" },
	} {
		s := e.unconfirmed(tx, epoch, time.Second)
		change(s)
		refused(name, s)
	}
	// What is unconfirmed has its certificate, and becomes nothing but issued or rejected.
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, time.Second)))
	e.clock.Advance(time.Second)
	epoch = e.theOnly(e.s).Epoch
	refused("a second certificate", e.issued(tx, epoch))
	refused("a second certificate, unconfirmed", e.unconfirmed(tx, epoch, time.Second))
	for _, state := range []gateway.State{gateway.StateFailed, gateway.StateUnknown, gateway.StateStuck, gateway.StateWaiting,
		gateway.StateIssuing, gateway.StateHeld, gateway.StateRefused} {
		s := e.failed(tx, epoch)
		s.State = state
		refused("unconfirmed became "+string(state), s)
	}
	// Without the lease it is nobody's to settle.
	e.wantErr(e.s.Settle(e.ctx(), e.issued(tx, 0)), gateway.ErrStale)
	e.wantErr(e.s.Settle(e.ctx(), e.failed(tx, 0)), gateway.ErrStale)
	// What is closed does not come to wait for a confirmation.
	e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: gateway.StateIssued,
		Next: gateway.WorkForward, Now: e.clock.Now()}))
	epoch = e.theOnly(e.s).Epoch
	for _, state := range []gateway.State{gateway.StateUnconfirmed, gateway.StateRejected} {
		refused("issued became "+string(state), &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: state,
			Next: gateway.WorkConfirm, Now: e.clock.Now()})
	}
	// The work that follows an issued one ends without naming its certificate again.
	e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: gateway.StateIssued, Now: e.clock.Now()}))
	e.wantNoWork()
}

// A certificate tells whether it counts.
func testCertificateState(e *env) {
	state := func(c *gateway.Certificate, want gateway.State) {
		e.Helper()
		got, err := e.s.Certificate(e.ctx(), c.Issuer, c.Serial)
		e.must(err)
		if got.State != want {
			e.Errorf("the certificate's transaction is %q, want %q", got.State, want)
		}
	}
	for _, accepted := range []bool{true, false} {
		tx, epoch := e.begun()
		s := e.unconfirmed(tx, epoch, time.Hour)
		e.must(e.s.Settle(e.ctx(), s))
		state(s.Certificate, gateway.StateUnconfirmed)
		c, want := e.accepted(tx), gateway.StateIssued
		if !accepted {
			c, want = e.rejected(tx), gateway.StateRejected
		}
		e.must(e.s.Conclude(e.ctx(), c))
		state(s.Certificate, want)
	}
	tx, epoch := e.begun()
	s := e.failed(tx, epoch)
	s.Certificate, s.Next, s.Release = e.certificate(tx), gateway.WorkRevoke, false
	e.must(e.s.Settle(e.ctx(), s))
	state(s.Certificate, gateway.StateFailed)
}

func testByWireID(e *env) {
	byWireID := func(endpoint, wireID, want string) {
		e.Helper()
		got, err := e.s.ByWireID(e.ctx(), endpoint, wireID)
		switch {
		case want == "" && !errors.Is(err, gateway.ErrNotFound):
			e.Errorf("%q at %q: %+v, %v; want not found", wireID, endpoint, got, err)
		case want != "" && err != nil:
			e.Errorf("%q at %q: %v, want %s", wireID, endpoint, err, want)
		case want != "":
			e.equal("by wire ID", got, e.get(want))
		}
	}
	begin := func(endpoint, wireID string) (*gateway.Transaction, int64) {
		t := e.transaction(gateway.StateIssuing)
		t.Endpoint, t.WireID = endpoint, wireID
		return t, e.mustBegin(e.s, t)
	}
	byWireID("ran", "0011", "")
	a, epoch := begin("ran", "0011")
	byWireID("ran", "0011", a.ID)
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(a, epoch, time.Hour)))
	byWireID("ran", "0011", a.ID) // with its certificate
	b, _ := begin("core", "0011")
	byWireID("core", "0011", b.ID)
	byWireID("ran", "0011", a.ID)
	c, epoch := begin("ran", "0011")
	e.must(e.s.Settle(e.ctx(), e.failed(c, epoch)))
	byWireID("ran", "0011", a.ID) // the one that goes on
	e.must(e.s.Conclude(e.ctx(), e.accepted(a)))
	byWireID("ran", "0011", c.ID) // the newest, in whatever state
	d := e.transaction(gateway.StateRefused)
	d.WireID = "0011"
	e.must(e.s.Refuse(e.ctx(), d, event("refused", d)))
	byWireID("ran", "0011", c.ID) // but whoever was refused
	d = e.transaction(gateway.StateRefused)
	d.WireID = "0022"
	e.must(e.s.Refuse(e.ctx(), d, event("refused", d)))
	byWireID("ran", "0022", "")
	byWireID("ran", "00", "")
	byWireID("ra", "0011", "")
	byWireID("", "0011", "")
	// Without a wire ID nobody is found, nor by one of any length that a stranger sends.
	begin("ran", "")
	byWireID("ran", "", "")
	long := strings.Repeat("ä", 500)
	x, _ := begin("ran", long)
	byWireID("ran", long, x.ID)
	begin("ran", long+"a")
	byWireID("ran", long+"a", "")
	begin("ran", strings.Repeat("0123456789abcdef", 1<<12))
	// Two that are stored as one text are not each other.
	begin("ran", "\xff")
	byWireID("ran", "\xff", "")
	byWireID("ran", "\xfe", "")
	byWireID("ran\x00", "0011", "")
}
