package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func (e *env) accepted(t *gateway.Transaction) *gateway.Conclusion {
	return &gateway.Conclusion{Transaction: t.ID, State: gateway.StateIssued, Note: "taken", Exchange: []byte("confirmed"),
		Now: e.clock.Now(), RepeatUntil: e.clock.Now().Add(time.Minute), Audit: event("confirmed", t)}
}

func (e *env) rejected(t *gateway.Transaction) *gateway.Conclusion {
	return &gateway.Conclusion{Transaction: t.ID, State: gateway.StateRejected, Note: "not taken", Exchange: []byte("rejected"),
		Now: e.clock.Now(), Audit: event("rejected", t)}
}

// leasedOrNot runs a test while nobody, and while the worker, holds the lease to time the transaction out.
func (e *env) leasedOrNot(test func(e *env, tx *gateway.Transaction, s *gateway.Settlement, claim gateway.Claim, w *gateway.Work)) {
	for _, leased := range []bool{false, true} {
		name := map[bool]string{false: "nobody's lease", true: "the worker's lease"}[leased]
		e.Run(name, func(t *testing.T) {
			e.serial += 10
			e := &env{T: t, db: e.db, clock: e.clock, s: e.s, serial: e.serial}
			claim := gateway.Claim{Key: name, Limit: 1}
			tx, s := e.waitsToBeConfirmed(time.Hour, claim)
			var w *gateway.Work
			if leased {
				e.clock.Advance(time.Hour)
				of := e.theOnly(e.s)
				w = &of
			}
			test(e, tx, s, claim, w)
		})
	}
}

// wantLost: whoever holds the lease on what was concluded can do nothing with it.
func (e *env) wantLost(tx *gateway.Transaction, w *gateway.Work) {
	e.Helper()
	if w == nil {
		return
	}
	before := e.get(tx.ID)
	for _, state := range []gateway.State{gateway.StateRejected, gateway.StateIssued} {
		e.wantErr(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: state, Next: gateway.WorkRevoke,
			Note: "never confirmed", Now: e.clock.Now(), Audit: event("timed-out", tx)}), gateway.ErrStale)
	}
	e.wantErr(e.s.Postpone(e.ctx(), *w, 0, "later"), gateway.ErrStale)
	e.equal("after a stale time-out", e.get(tx.ID), before)
	e.wantAudited("timed-out", tx.ID, false)
}

func testAccepted(e *env) {
	e.leasedOrNot(func(e *env, tx *gateway.Transaction, s *gateway.Settlement, claim gateway.Claim, w *gateway.Work) {
		c := e.accepted(tx)
		e.must(e.s.Conclude(e.ctx(), c))
		want := *tx
		want.State, want.Note, want.Updated, want.Certificate, want.Exchange = gateway.StateIssued, c.Note, c.Now, s.Certificate, c.Exchange
		e.equal("transaction", e.get(tx.ID), &want)
		e.wantAudited("confirmed", tx.ID, true)
		e.wantLost(tx, w)
		e.wantClaim(claim, false)
		// The same message gets it a little longer; the same wish is a new one.
		e.wantRepeat(tx.Resume, "")
		e.wantRepeat(tx.Repeat, tx.ID)
		next := e.keyed(tx.Repeat, tx.Resume)
		e.wantTwin(next, tx.ID)
		e.clock.Advance(c.RepeatUntil.Sub(e.clock.Now()))
		e.wantRepeat(tx.Repeat, "")
		epoch := e.mustBegin(e.s, next)
		e.must(e.s.Settle(e.ctx(), e.failed(next, epoch)))
		e.wantNoWork()
	})
	// Without a time to repeat in, and without a record.
	e.serial += 10
	tx, _ := e.waitsToBeConfirmed(time.Hour)
	c := e.accepted(tx)
	c.RepeatUntil, c.Exchange = c.Now, nil
	e.must(e.s.Conclude(e.ctx(), c))
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	if x := e.get(tx.ID).Exchange; x != nil {
		e.Errorf("the exchange's record is %x, want none", x)
	}
	// One key in both places is kept as the repeat key.
	same := e.keyed("same", "same")
	epoch := e.mustBegin(e.s, same)
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(same, epoch, time.Hour)))
	e.must(e.s.Conclude(e.ctx(), e.accepted(same)))
	e.wantRepeat("same", same.ID)
	e.clock.Advance(time.Minute)
	e.wantRepeat("same", "")
	// Without a resume key.
	alone := e.keyed("alone", "")
	epoch = e.mustBegin(e.s, alone)
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(alone, epoch, time.Hour)))
	e.must(e.s.Conclude(e.ctx(), e.accepted(alone)))
	e.wantRepeat("alone", alone.ID)
	e.wantNoWork()
}

func testRejected(e *env) {
	e.leasedOrNot(func(e *env, tx *gateway.Transaction, s *gateway.Settlement, claim gateway.Claim, w *gateway.Work) {
		c := e.rejected(tx)
		c.RepeatUntil = c.Now.Add(time.Hour) // means nothing here
		e.must(e.s.Conclude(e.ctx(), c))
		want := *tx
		want.State, want.Note, want.Updated, want.Certificate, want.Exchange = gateway.StateRejected, c.Note, c.Now, s.Certificate, c.Exchange
		e.equal("transaction", e.get(tx.ID), &want)
		e.wantAudited("rejected", tx.ID, true)
		e.wantLost(tx, w)
		e.wantClaim(claim, true)
		e.wantClaim(claim, false)
		e.wantRepeat(tx.Repeat, "")
		e.wantRepeat(tx.Resume, "")
		// Its revocation is due at once, and counted from the start.
		epoch := int64(3) // begun under 1, concluded
		if w != nil {
			epoch = w.Epoch + 2
		}
		revoke := e.theOnly(e.s)
		if revoke.Kind != gateway.WorkRevoke || revoke.Transaction != tx.ID || revoke.Attempts != 0 || revoke.Note != "" || revoke.Epoch != epoch {
			e.Errorf("work: %+v, want epoch %d", revoke, epoch)
		}
		e.wantLost(tx, w)
		e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial, Reason: 4,
			At: e.clock.Now(), Work: &revoke, Audit: event("revoked", tx)}))
		e.wantNoWork()
	})
	// A row of work that is missing, for whatever reason, is made.
	e.serial += 10
	tx, _ := e.waitsToBeConfirmed(time.Hour)
	e.db.Exec(e, `DELETE FROM work WHERE tx = '`+tx.ID+`'`)
	e.must(e.s.Conclude(e.ctx(), e.rejected(tx)))
	if w := e.theOnly(e.s); w.Kind != gateway.WorkRevoke || w.Transaction != tx.ID {
		e.Errorf("work: %+v", w)
	}
}

func testConcludeStale(e *env) {
	stale := func(tx *gateway.Transaction) {
		e.Helper()
		before := e.get(tx.ID)
		e.wantErr(e.s.Conclude(e.ctx(), e.accepted(tx)), gateway.ErrStale)
		e.wantErr(e.s.Conclude(e.ctx(), e.rejected(tx)), gateway.ErrStale)
		e.equal("transaction", e.get(tx.ID), before)
	}
	// Nothing but an unconfirmed one is concluded, and what is refused takes no work, key or claim away.
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx, epoch := e.begun(claim)
	stale(tx)
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, time.Hour)))
	e.must(e.s.Conclude(e.ctx(), e.accepted(tx)))
	stale(tx)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantAudited("rejected", tx.ID, false)
	e.wantClaim(claim, false)
	rejected, _ := e.waitsToBeConfirmed(time.Hour)
	e.must(e.s.Conclude(e.ctx(), e.rejected(rejected)))
	stale(rejected)
	if w := e.theOnly(e.s); w.Kind != gateway.WorkRevoke || w.Epoch != 3 {
		e.Errorf("work: %+v", w)
	}
	failed, epoch := e.begun()
	s := e.failed(failed, epoch)
	s.Certificate, s.Next, s.Release = e.certificate(failed), gateway.WorkRevoke, false
	e.must(e.s.Settle(e.ctx(), s))
	stale(failed)
	if w := e.theOnly(e.s); w.Kind != gateway.WorkRevoke || w.Epoch != 2 {
		e.Errorf("work: %+v", w)
	}
	held := e.transaction(gateway.StateHeld)
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: held})
	e.must(err)
	stale(held)
	nobody := e.transaction(gateway.StateIssuing)
	e.wantErr(e.s.Conclude(e.ctx(), e.accepted(nobody)), gateway.ErrStale)
	e.wantErr(e.s.Conclude(e.ctx(), e.rejected(nobody)), gateway.ErrStale)

	waits, _ := e.waitsToBeConfirmed(time.Hour)
	for name, change := range map[string]func(*gateway.Conclusion){
		"no state":    func(c *gateway.Conclusion) { c.State = "" },
		"failed":      func(c *gateway.Conclusion) { c.State = gateway.StateFailed },
		"unconfirmed": func(c *gateway.Conclusion) { c.State = gateway.StateUnconfirmed },
		"no audit":    func(c *gateway.Conclusion) { c.Audit = gateway.AuditEvent{} },
	} {
		c := e.accepted(waits)
		change(c)
		if err := e.s.Conclude(e.ctx(), c); err == nil || errors.Is(err, gateway.ErrStale) {
			e.Errorf("%s: %v", name, err)
		}
		e.wantState(waits.ID, gateway.StateUnconfirmed)
	}
	// What a requester sends in its note keeps nothing out of the store.
	c := e.rejected(waits)
	c.Note = "a\x00b\xff"
	e.must(e.s.Conclude(e.ctx(), c))
	if got := e.get(waits.ID).Note; got != "a\uFFFDb\uFFFD" {
		e.Errorf("note: %q", got)
	}
}

func testAdopt(e *env) {
	adoption := func(tx *gateway.Transaction, key gateway.RepeatKey) *gateway.Adoption {
		return &gateway.Adoption{Transaction: tx.ID, WireID: "second", Repeat: key, Exchange: []byte("second exchange"), At: e.clock.Now(),
			Audit: event("resumed", tx)}
	}
	for _, state := range []gateway.State{gateway.StateUnconfirmed, gateway.StateIssuing, gateway.StateHeld} {
		tx := e.transaction(gateway.StateIssuing)
		tx.Repeat, tx.Resume = "first of "+gateway.RepeatKey(state), "wish of "+gateway.RepeatKey(state)
		b := &gateway.Beginning{Transaction: tx, Lease: lease}
		if state == gateway.StateHeld {
			tx.State, b.Lease = state, 0
		}
		epoch, err := e.s.Begin(e.ctx(), b)
		e.must(err)
		if state == gateway.StateUnconfirmed {
			e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, time.Hour)))
		}
		e.clock.Advance(time.Second)
		a := adoption(tx, "second of "+gateway.RepeatKey(state))
		want := e.get(tx.ID)
		want.WireID, want.Repeat, want.Exchange = a.WireID, a.Repeat, a.Exchange
		if state != gateway.StateUnconfirmed { // since when its certificate waits
			want.Updated = a.At
		}
		e.must(e.s.Adopt(e.ctx(), a))
		e.wantAudited("resumed", tx.ID, true)
		e.equal("transaction", e.get(tx.ID), want)
		e.wantRepeat(tx.Repeat, "")
		e.wantRepeat(a.Repeat, tx.ID)
		e.wantRepeat(tx.Resume, tx.ID)
		got, err := e.s.ByWireID(e.ctx(), tx.Endpoint, "second")
		e.must(err)
		e.equal("by wire ID", got, want)
		_, err = e.s.ByWireID(e.ctx(), tx.Endpoint, tx.WireID)
		e.wantErr(err, gateway.ErrNotFound)
		// The key that it left is anybody's; the one that it took closes with it.
		free := e.keyed(tx.Repeat, "")
		freeEpoch := e.mustBegin(e.s, free)
		if state == gateway.StateIssuing {
			e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch)))
			e.wantRepeat(a.Repeat, "")
			e.wantRepeat(tx.Resume, "")
			e.wantRepeat(tx.Repeat, free.ID)
		}
		e.must(e.s.Settle(e.ctx(), e.failed(free, freeEpoch)))
	}

	// A key that another one holds, by either of its keys, changes nothing; one whose time is over is free.
	mine, _ := e.waitsToBeConfirmed(1000 * time.Hour)
	other, epoch := e.begun()
	for _, key := range []gateway.RepeatKey{other.Repeat, other.Resume} {
		before := e.get(mine.ID)
		err := e.s.Adopt(e.ctx(), adoption(mine, key))
		if te, ok := errors.AsType[*gateway.TwinError](err); !ok || te.Transaction != other.ID {
			e.Errorf("Adopt: %v, want the twin %s", err, other.ID)
		}
		e.equal("transaction", e.get(mine.ID), before)
		e.wantRepeat(mine.Repeat, mine.ID)
		e.wantRepeat(key, other.ID)
	}
	s := e.issued(other, epoch)
	s.RepeatUntil = e.clock.Now().Add(time.Minute)
	e.must(e.s.Settle(e.ctx(), s))
	e.clock.Advance(time.Minute)
	e.must(e.s.Adopt(e.ctx(), adoption(mine, other.Repeat)))
	e.wantRepeat(other.Repeat, mine.ID)
	e.wantRepeat(mine.Repeat, "")
	// The key that it has already, once more and for ever; its own resume key; and none.
	for _, key := range []gateway.RepeatKey{other.Repeat, mine.Resume, "third", ""} {
		last := e.get(mine.ID).Repeat
		e.must(e.s.Adopt(e.ctx(), adoption(mine, key)))
		if got := e.get(mine.ID).Repeat; got != key {
			e.Errorf("the repeat key is %q, want %q", got, key)
		}
		if last != key && last != mine.Resume {
			e.wantRepeat(last, "")
		}
		e.clock.Advance(100 * time.Hour)
		e.wantRepeat(mine.Resume, mine.ID)
		if key != "" {
			e.wantRepeat(key, mine.ID)
		}
	}
	// Nothing of the first exchange is left.
	a := adoption(mine, "fourth")
	a.WireID, a.Exchange, a.At = "a\x00b", nil, time.Time{}
	e.must(e.s.Adopt(e.ctx(), a))
	if got := e.get(mine.ID); got.WireID != "a\uFFFDb" || got.Exchange != nil {
		e.Errorf("wire ID %q, exchange %x, updated %v", got.WireID, got.Exchange, got.Updated)
	}
	if err := e.s.Adopt(e.ctx(), adoption(mine, "\xff")); err == nil {
		e.Error("a key that cannot be stored was taken")
	}
	a = adoption(mine, "fifth")
	a.Audit = gateway.AuditEvent{}
	if e.s.Adopt(e.ctx(), a) == nil {
		e.Error("a transaction went on elsewhere without an audit event")
	}
	e.must(e.s.Conclude(e.ctx(), e.accepted(mine)))
	e.wantRepeat("fourth", mine.ID)
	e.wantRepeat(mine.Resume, "")

	// What is closed goes on nowhere.
	failed, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.failed(failed, epoch)))
	rejected, _ := e.waitsToBeConfirmed(time.Hour)
	e.must(e.s.Conclude(e.ctx(), e.rejected(rejected)))
	for _, tx := range []*gateway.Transaction{mine, failed, rejected} {
		before := e.get(tx.ID)
		e.wantErr(e.s.Adopt(e.ctx(), adoption(tx, "of a closed one")), gateway.ErrStale)
		e.equal("transaction", e.get(tx.ID), before)
		e.wantRepeat("of a closed one", "")
	}
	e.wantRepeat("fourth", mine.ID)
	e.wantErr(e.s.Adopt(e.ctx(), adoption(e.transaction(gateway.StateIssuing), "nobody's")), gateway.ErrStale)
	e.wantRepeat("nobody's", "")
}

// concludeOtherExchange: what was said in an exchange that another one took over does not count.
func concludeOtherExchange(e *env) {
	tx, _ := e.waitsToBeConfirmed(time.Hour)
	c := e.accepted(tx)
	c.WireID = "an earlier one"
	if err := e.s.Conclude(e.Context(), c); !errors.Is(err, gateway.ErrStale) {
		e.Errorf("said in another exchange: %v", err)
	}
	c.WireID = tx.WireID
	if err := e.s.Conclude(e.Context(), c); err != nil {
		e.Errorf("said in its own: %v", err)
	}
}
