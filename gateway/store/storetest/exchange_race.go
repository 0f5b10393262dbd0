package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// testRaceOfResumed: one device asks again and again, each time in a new exchange, at every replica.
func testRaceOfResumed(e *env) {
	stores, txs := e.instances(), e.transactions(racers)
	for _, tx := range txs {
		tx.Resume = "the same wish"
	}
	winner := e.raceOfTwins(stores, txs)
	for _, tx := range txs {
		if tx.ID != winner {
			e.wantRepeat(tx.Repeat, "") // nothing of a twin stands
		}
	}
	e.wantRepeat("the same wish", winner)
	claim := gateway.Claim{Key: "count", Limit: 2}
	e.wantClaim(claim, true)
	e.wantClaim(claim, false)
}

// testRaceOfCrossedKeys: keys that are taken in any order by several callers of two instances, one's repeat being
// another's resume key, never make one of them fail but as a twin.
func testRaceOfCrossedKeys(e *env) {
	stores, txs := e.instances(), e.transactions(4*racers)
	for _, err := range together(racers, func(i int) error {
		for n := i * 4; n < i*4+4; n++ {
			tx, s := txs[n], stores[n%2]
			tx.Repeat, tx.Resume = gateway.RepeatKey(fmt.Sprintf("key %d", n%5)), gateway.RepeatKey(fmt.Sprintf("key %d", n*n%7))
			epoch, err := s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Lease: lease})
			if _, twin := errors.AsType[*gateway.TwinError](err); twin {
				continue
			}
			if err != nil {
				return fmt.Errorf("begin: %w", err)
			}
			err = s.Adopt(e.ctx(), &gateway.Adoption{Transaction: tx.ID, Repeat: gateway.RepeatKey(fmt.Sprintf("key %d", n%3)), At: tx.Received, Audit: event("resumed", tx)})
			if _, twin := errors.AsType[*gateway.TwinError](err); err != nil && !twin {
				return fmt.Errorf("adopt: %w", err)
			}
			if err := s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: gateway.StateFailed,
				Now: tx.Received, Audit: event("failed", tx)}); err != nil {
				return fmt.Errorf("settle: %w", err)
			}
		}
		return nil
	}) {
		if err != nil {
			e.Error(err)
		}
	}
	for i := range 7 { // all have ended, and hold nothing
		e.wantRepeat(gateway.RepeatKey(fmt.Sprintf("key %d", i)), "")
	}
}

// oneWins checks that exactly one of several calls was made, and that the others came too late. It returns which.
func (e *env) oneWins(errs []error) int {
	e.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			e.Fatalf("racers %d and %d have both won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, gateway.ErrStale):
			e.Errorf("racer %d: %v", i, err)
		}
	}
	if winner < 0 {
		e.Fatal("nobody has won")
	}
	return winner
}

// wantConcluded checks that everything stands as one outcome leaves it, and that nothing of the other happened.
func (e *env) wantConcluded(tx *gateway.Transaction, state gateway.State, claim gateway.Claim) {
	e.Helper()
	e.wantState(tx.ID, state)
	rejected := state == gateway.StateRejected
	e.wantAudited("rejected", tx.ID, rejected)
	e.wantAudited("confirmed", tx.ID, !rejected)
	if rejected {
		e.wantRepeat(tx.Repeat, "")
		e.wantClaim(claim, true)
	} else {
		e.wantRepeat(tx.Repeat, tx.ID)
	}
	e.wantRepeat(tx.Resume, "")
	e.wantClaim(claim, false)
	due := e.due(e.s)
	if len(due) > 1 || rejected != (len(due) == 1) || rejected && due[0].Kind != gateway.WorkRevoke {
		e.Errorf("%s, and its work is %+v", state, due)
	}
	for _, w := range due {
		c := e.get(tx.ID).Certificate
		e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: c.Issuer, Serial: c.Serial, Reason: 4, At: e.clock.Now(),
			Work: &w, Audit: event("revoked", tx)}))
	}
}

const rounds = 20

// testRaceOfConclusions: a requester's words come twice, and contradict themselves.
func testRaceOfConclusions(e *env) {
	stores := e.instances()
	for round := range rounds {
		claim := gateway.Claim{Key: fmt.Sprint("count ", round), Limit: 1}
		tx, _ := e.waitsToBeConfirmed(time.Hour, claim)
		accepted, rejected := e.accepted(tx), e.rejected(tx)
		errs := together(4, func(i int) error {
			if (i+round)%4 < 2 {
				return stores[i%2].Conclude(e.ctx(), accepted)
			}
			return stores[i%2].Conclude(e.ctx(), rejected)
		})
		state := gateway.StateIssued
		if (e.oneWins(errs)+round)%4 >= 2 {
			state = gateway.StateRejected
		}
		e.wantConcluded(tx, state, claim)
	}
}

// testRaceOfTimeOut: the requester confirms at the moment at which the worker gives up waiting.
func testRaceOfTimeOut(e *env) {
	stores := e.instances()
	won := map[int]int{}
	for round := range rounds {
		claim := gateway.Claim{Key: fmt.Sprint("count ", round), Limit: 1}
		tx, _ := e.waitsToBeConfirmed(time.Hour, claim)
		e.clock.Advance(time.Hour)
		w := e.theOnly(stores[1])
		c := e.accepted(tx)
		timeOut := &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: gateway.StateRejected, Release: true,
			Next: gateway.WorkRevoke, Now: e.clock.Now(), Audit: event("rejected", tx)}
		calls := []func() error{
			func() error { return stores[1].Settle(e.ctx(), timeOut) },
			func() error { return stores[0].Conclude(e.ctx(), c) },
		}
		winner := (e.oneWins(together(2, func(i int) error { return calls[(i+round)%2]() })) + round) % 2
		won[winner]++
		e.wantConcluded(tx, []gateway.State{gateway.StateRejected, gateway.StateIssued}[winner], claim)
	}
	e.Logf("the time-out won %d, the requester %d", won[0], won[1])
}

// testRaceOfAdoption: an exchange ends while a new one takes the transaction over. Where the new one is late, none
// of it stands.
func testRaceOfAdoption(e *env) {
	stores := e.instances()
	for round := range rounds {
		tx, _ := e.waitsToBeConfirmed(time.Hour)
		a := &gateway.Adoption{Transaction: tx.ID, WireID: "second", Repeat: keyOf("second", tx.ID), At: e.clock.Now(), Audit: event("resumed", tx)}
		c := e.accepted(tx)
		if round%2 == 0 {
			c = e.rejected(tx)
		}
		var adopted, concluded error
		calls := []func(){
			func() { adopted = stores[0].Adopt(e.ctx(), a) },
			func() { concluded = stores[1].Conclude(e.ctx(), c) },
		}
		together(2, func(i int) error { calls[(i+round)%2](); return nil })
		e.must(concluded) // it is the requester's own word, in whichever exchange
		e.wantState(tx.ID, c.State)
		holds, free := tx.Repeat, a.Repeat
		if adopted == nil {
			holds, free = a.Repeat, tx.Repeat
		} else {
			e.wantErr(adopted, gateway.ErrStale)
		}
		if got := e.get(tx.ID).Repeat; got != holds {
			e.Errorf("the repeat key is %q, want %q", got, holds)
		}
		e.wantRepeat(free, "")
		if c.State == gateway.StateIssued {
			e.wantRepeat(holds, tx.ID)
		} else {
			e.wantRepeat(holds, "")
		}
		e.wantRepeat(tx.Resume, "")
	}
}
