package storetest

import (
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func testClaimDue(e *env) {
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("an empty table has work: %+v", due)
	}
	var ids []string
	for i := range 5 {
		tx, epoch := e.begun()
		s := e.unknown(tx, epoch)
		s.Delay = time.Duration(5-i) * time.Minute // the last is due first
		e.must(e.s.Settle(e.ctx(), s))
		ids = append(ids, tx.ID)
	}
	e.clock.Advance(3 * time.Minute) // the delays ran a few milliseconds apart: 3, 2 and 1 minutes are over
	due, err := e.s.ClaimDue(e.ctx(), lease, 2, AnyPlace)
	e.must(err)
	if len(due) != 2 || due[0].Transaction != ids[4] || due[1].Transaction != ids[3] {
		e.Fatalf("got %+v, want the two that were due first", due)
	}
	for _, w := range due {
		if w.Owner != "one" || w.Epoch != 2 || w.Kind != gateway.WorkSettle || w.Due.After(e.clock.Now()) {
			e.Errorf("work: %+v", w)
		}
	}
	e.clock.Advance(time.Millisecond)
	if w := e.theOnly(e.s); w.Transaction != ids[2] {
		e.Errorf("got %+v", w)
	}
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("leased twice: %+v", due)
	}
	// A lease that ends leaves the row due, with a higher epoch.
	e.clock.Advance(lease)
	again := e.due(e.s)
	for _, w := range again {
		if want := int64(3); w.Transaction != ids[1] && (w.Epoch != want || w.Attempts != 1) {
			e.Errorf("work: %+v", w)
		}
	}
	if len(again) != 4 {
		e.Errorf("%d rows, want the three and one more: %+v", len(again), again)
	}
	for _, limit := range []int{0, -1} {
		if _, err := e.s.ClaimDue(e.ctx(), lease, limit, AnyPlace); err == nil {
			e.Errorf("limit %d: no error", limit)
		}
	}
	if _, err := e.s.ClaimDue(e.ctx(), 0, 1, AnyPlace); err == nil {
		e.Error("no lease: no error")
	}
}

// testClaimDueByCA: of the rows that ask one CA no more are leased than there are places, whichever way they came to ask it, and the
// others stay as they are.
func testClaimDueByCA(e *env) {
	of := map[string]string{} // the CA that a transaction's row asks
	begun := func(ca string) (*gateway.Transaction, int64) {
		tx := e.transaction(gateway.StateIssuing)
		tx.Backend = ca
		of[tx.ID] = ca
		return tx, e.mustBegin(e.s, tx)
	}
	const each = 5
	for range each { // due first
		tx, epoch := begun("hung")
		s := e.unknown(tx, epoch)
		s.Delay = 0
		e.must(e.s.Settle(e.ctx(), s))
	}
	e.clock.Advance(time.Second)
	for range each {
		begun("good")
	}
	// Work that asks no CA, and some that does again.
	tx, epoch := begun("hung")
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, lease)))
	of[tx.ID] = ""
	tx, epoch = begun("hung")
	e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, lease)))
	e.must(e.s.Conclude(e.ctx(), &gateway.Conclusion{Transaction: tx.ID, State: gateway.StateRejected, Now: e.clock.Now(), Audit: event("rejected", tx)}))
	e.clock.Advance(2 * lease)

	taken, seen := map[string]int{}, map[string]bool{}
	places := map[string]int{"hung": 2, "good": 100, "": 100}
	claim := func(limit, want int) {
		e.Helper()
		due, err := e.s.ClaimDue(e.ctx(), lease, limit, func(ca string) int { return places[ca] - taken[ca] })
		e.must(err)
		for _, w := range due {
			if w.Backend != of[w.Transaction] || seen[w.Transaction] || (w.Backend == "") == w.Kind.AsksCA() {
				e.Errorf("%+v, want one of %q that was not leased", w, of[w.Transaction])
			}
			seen[w.Transaction] = true
			taken[w.Backend]++
		}
		if len(due) != want {
			e.Errorf("%d rows, want %d: %+v", len(due), want, due)
		}
	}
	claim(3, 3) // two of the hung one, which are due first, and one more
	if taken["hung"] != 2 {
		e.Errorf("taken: %v, want two of what was due first", taken)
	}
	claim(100, each)
	if taken["good"] != each || taken[""] != 1 {
		e.Errorf("taken: %v", taken)
	}
	claim(100, 0)
	places["hung"] = 100
	claim(100, each-1) // as they were: leased to nobody meanwhile
	if taken["hung"] != each+1 {
		e.Errorf("taken: %v", taken)
	}
}

func testPostpone(e *env) {
	tx, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	e.clock.Advance(time.Second)
	for i := range 3 {
		w := e.theOnly(e.s)
		if w.Attempts != i {
			e.Errorf("attempts: %d, want %d", w.Attempts, i)
		}
		note := fmt.Sprintf("attempt %d: no answer\x00", i)
		e.must(e.s.Postpone(e.ctx(), w, time.Hour, note))
		e.wantErr(e.s.Postpone(e.ctx(), w, 0, "again"), gateway.ErrStale)
		e.wantErr(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)), gateway.ErrStale)
		if due := e.due(e.s); len(due) != 0 {
			e.Errorf("due before its delay: %+v", due)
		}
		e.clock.Advance(time.Hour)
	}
	w := e.theOnly(e.s)
	if w.Note != "attempt 2: no answer\uFFFD" {
		e.Errorf("note: %q", w.Note)
	}
	e.wantState(tx.ID, gateway.StateUnknown)
	stranger := w
	stranger.Transaction = "nobody"
	e.wantErr(e.s.Postpone(e.ctx(), stranger, 0, ""), gateway.ErrStale)
}

func testAskAgain(e *env) {
	tx, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	at := e.clock.Now().Add(time.Second)
	e.must(e.s.AskAgain(e.ctx(), tx.ID, w.Epoch, at))
	if got, err := e.s.Transaction(e.ctx(), tx.ID); err != nil || !got.Updated.Equal(at) || got.State != gateway.StateUnknown {
		e.Errorf("%+v, %v", got, err)
	}
	e.wantErr(e.s.AskAgain(e.ctx(), tx.ID, epoch, at), gateway.ErrStale)
	e.wantErr(e.s.AskAgain(e.ctx(), "nobody", w.Epoch, at), gateway.ErrStale)
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
	e.wantErr(e.s.AskAgain(e.ctx(), tx.ID, w.Epoch, at), gateway.ErrStale)
}

func testLeaseWork(e *env) {
	tx, epoch := e.begun()
	_, err := e.s.LeaseWork(e.ctx(), tx.ID, lease)
	e.wantErr(err, gateway.ErrStale) // who issues is at it
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	mine, err := e.s.LeaseWork(e.ctx(), tx.ID, lease)
	e.must(err)
	e.clock.Advance(time.Second)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("leased, and taken all the same: %+v", due)
	}
	_, err = e.s.LeaseWork(e.ctx(), tx.ID, lease)
	e.wantErr(err, gateway.ErrStale)
	e.wantErr(e.s.Settle(e.ctx(), e.issued(tx, epoch)), gateway.ErrStale)
	e.must(e.s.Settle(e.ctx(), e.issued(tx, mine)))
	for _, id := range []string{tx.ID, "nobody"} {
		_, err = e.s.LeaseWork(e.ctx(), id, lease)
		e.wantErr(err, gateway.ErrStale)
	}
	if _, err := e.s.LeaseWork(e.ctx(), tx.ID, 0); err == nil {
		e.Error("no lease: no error")
	}
}

// other is another instance on the same database. Where only one can have it open, the first one ends.
func (e *env) other(name string) Store {
	e.Helper()
	if !e.db.Shared() {
		e.db.Crash(e, e.s)
	}
	s := e.db.Open(e, name, e.clock.Now)
	if !e.db.Shared() {
		e.s = s
	}
	return s
}

func testTakeOver(e *env) {
	tx, epoch := e.begun()
	left, leftEpoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.unknown(left, leftEpoch)))
	first := e.s
	two := e.other("two")
	if e.db.Shared() {
		if due := e.due(two); len(due) != 0 {
			e.Errorf("a lease of another instance was taken: %+v", due)
		}
		e.clock.Advance(lease)
	} else {
		e.clock.Advance(time.Second)
	}
	due := e.due(two)
	if len(due) != 2 {
		e.Fatalf("due: %+v", due)
	}
	for _, w := range due {
		if w.Owner != "two" || w.Epoch < 2 {
			e.Errorf("work: %+v", w)
		}
		if e.db.Shared() {
			mine := w
			mine.Owner = "one"
			e.wantErr(first.Postpone(e.ctx(), mine, 0, ""), gateway.ErrStale)
			e.wantErr(first.Settle(e.ctx(), e.issued(tx, w.Epoch)), gateway.ErrStale) // knowing the epoch is not enough
			e.wantErr(first.Settle(e.ctx(), e.issued(tx, epoch)), gateway.ErrStale)
		}
		settled := tx
		if w.Transaction == left.ID {
			settled = left
		}
		e.must(two.Settle(e.ctx(), e.issued(settled, w.Epoch)))
	}
	e.wantState(tx.ID, gateway.StateIssued)
	e.wantState(left.ID, gateway.StateIssued)
}

// testDatabaseClock: without a clock of the test's, leases run by the implementation's own.
func testDatabaseClock(e *env) {
	if !e.db.Shared() {
		e.must(e.s.Close())
	}
	s := e.db.Open(e, "two", nil)
	if !e.db.Shared() {
		e.s = s
	}
	tx := e.transaction(gateway.StateIssuing)
	epoch := e.mustBegin(s, tx)
	if due := e.due(s); len(due) != 0 {
		e.Fatalf("due within the lease: %+v", due)
	}
	now := time.Now()
	set := e.unknown(tx, epoch)
	set.Delay = 0
	e.must(s.Settle(e.ctx(), set))
	w := e.theOnly(s)
	if d := w.Due.Sub(now).Abs(); d > 5*time.Minute {
		e.Errorf("due at %v, now is %v", w.Due, now)
	}
	if due := e.due(s); len(due) != 0 {
		e.Errorf("leased twice: %+v", due)
	}
	e.must(s.Postpone(e.ctx(), w, time.Hour, "later"))
	if due := e.due(s); len(due) != 0 {
		e.Errorf("due before its delay: %+v", due)
	}
	e.must(s.Ready(e.ctx()))
}
