package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// testRaceOfApprovers: 16 at once, at two replicas. Some are the same person, and three are needed; or all are needed, and
// nobody comes in vain.
func testRaceOfApprovers(e *env) {
	stores := e.instances()
	for round := range rounds / 2 {
		people, needed := 5, 3
		if round%2 == 1 {
			people, needed = 16, 16
		}
		tx := e.held(needed)
		var orders []*gateway.ApprovalOrder
		for i := range 16 {
			orders = append(orders, e.approval(tx, fmt.Sprintf("person %d", i%people)))
		}
		epochs := make([]int64, len(orders))
		errs := together(len(orders), func(i int) (err error) {
			epochs[i], err = stores[(i+i/5)%2].Approve(e.ctx(), orders[i])
			return err
		})
		counted, last := 0, int64(0)
		for i, err := range errs {
			switch {
			case err == nil:
				counted++
				if epochs[i] != 0 {
					if last != 0 {
						e.Error("two had the last approval")
					}
					last = epochs[i]
				}
			case epochs[i] != 0 || !errors.Is(err, gateway.ErrStale) && !errors.Is(err, gateway.ErrApproved):
				e.Errorf("approver %d: %d, %v", i, epochs[i], err)
			}
		}
		got := e.get(tx.ID)
		different := map[string]bool{}
		for _, a := range got.Hold.Approvals {
			different[a.By] = true
		}
		if counted != needed || last == 0 || len(different) != needed || len(got.Hold.Approvals) != needed || got.State != gateway.StateIssuing {
			e.Fatalf("round %d: %d counted, epoch %d, %+v", round, counted, last, got.Hold)
		}
		owner := stores[0]
		if err := owner.Settle(e.ctx(), e.failed(tx, last)); errors.Is(err, gateway.ErrStale) && stores[0] != stores[1] {
			owner = stores[1]
			e.must(owner.Settle(e.ctx(), e.failed(tx, last)))
		} else {
			e.must(err)
		}
	}
}

// testRaceOfHoldEnds: the last approval, a denial and the time that runs out, all at once. One counts.
func testRaceOfHoldEnds(e *env) {
	stores := e.instances()
	won := [3]int{}
	for round := range rounds {
		claim := gateway.Claim{Key: fmt.Sprint("count ", round), Limit: 1}
		tx := e.held(1, claim)
		a, d, expired := e.approval(tx, "anna"), e.denial(tx, "bert"), e.denial(tx, "")
		e.clock.Advance(time.Hour)
		w := e.theOnly(stores[1])
		expired.Work = &w
		calls := []func() error{
			func() error { _, err := stores[0].Approve(e.ctx(), a); return err }, // said in time, and late on its way
			func() error { return stores[0].Deny(e.ctx(), d) },
			func() error { return stores[1].Deny(e.ctx(), expired) },
		}
		winner := (e.oneWins(together(3, func(i int) error { return calls[(i+round)%3]() })) + round) % 3
		won[winner]++
		got := e.get(tx.ID)
		if winner == 0 {
			if got.State != gateway.StateIssuing || got.Hold.Denied != nil || len(got.Hold.Approvals) != 1 {
				e.Fatalf("approved: %+v %+v", got, got.Hold)
			}
			e.wantClaim(claim, false)
			e.clock.Advance(lease)
			e.must(e.s.Settle(e.ctx(), e.failed(tx, e.theOnly(e.s).Epoch)))
			continue
		}
		if got.State != gateway.StateDenied || got.Hold.Denied.By != []string{"", "bert", ""}[winner] || len(got.Hold.Approvals) != 0 {
			e.Fatalf("denied: %+v %+v", got, got.Hold)
		}
		e.wantClaim(claim, true)
		e.wantClaim(claim, false)
		e.wantNoWork()
	}
	e.Logf("approved %d, denied %d, expired %d", won[0], won[1], won[2])
}

// testCrashHeld: a hold, its approvals and a denial are there after an abrupt end.
func testCrashHeld(e *env) {
	waits, approved, denied := e.held(2), e.held(1), e.held(1)
	e.approve(e.s, e.approval(waits, "anna"))
	e.approve(e.s, e.approval(approved, "anna"))
	e.must(e.s.Deny(e.ctx(), e.denial(denied, "anna")))
	var want []*gateway.Transaction
	for _, tx := range []*gateway.Transaction{waits, approved, denied} {
		want = append(want, e.get(tx.ID))
	}
	e.db.Crash(e, e.s)
	e.s = e.db.Open(e, "one", e.clock.Now)
	for _, tx := range want {
		e.equal("transaction", e.get(tx.ID), tx)
	}
	e.clock.Advance(lease)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkSettle || w.Transaction != approved.ID {
		e.Errorf("work: %+v", w)
	}
	e.must(e.s.Settle(e.ctx(), e.issued(approved, w.Epoch)))
	if epoch := e.approve(e.s, e.approval(waits, "bert")); epoch == 0 {
		e.Error("the first approval is forgotten")
	}
}
