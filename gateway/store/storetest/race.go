package storetest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/muster-pki/muster/gateway"
)

const racers = 64

func (e *env) transactions(n int) []*gateway.Transaction {
	txs := make([]*gateway.Transaction, n)
	for i := range txs {
		txs[i] = e.transaction(gateway.StateIssuing)
	}
	return txs
}

// instances are two stores on one database where it can be shared, else the same one twice.
func (e *env) instances() [2]Store {
	if !e.db.Shared() {
		return [2]Store{e.s, e.s}
	}
	return [2]Store{e.s, e.db.Open(e, "two", e.clock.Now)}
}

func testRaceForClaim(e *env) {
	stores, txs := e.instances(), e.transactions(racers)
	errs := together(racers, func(i int) error {
		_, err := stores[i%2].Begin(e.ctx(), &gateway.Beginning{Transaction: txs[i], Lease: lease,
			Claims: []gateway.Claim{{Key: "challenge:once", Limit: 1}}})
		return err
	})
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			e.wantState(txs[i].ID, gateway.StateIssuing)
			continue
		}
		if lost, ok := errors.AsType[*gateway.ClaimLostError](err); !ok || lost.Claim.Key != "challenge:once" {
			e.Errorf("racer %d: %v", i, err)
		}
		_, err = e.s.Transaction(e.ctx(), txs[i].ID)
		e.wantErr(err, gateway.ErrNotFound)
	}
	if won != 1 {
		e.Errorf("%d spent a challenge that can be spent once", won)
	}
}

// raceOfTwins has both replicas begin transactions of which only one can, and returns it: the others are its twins.
func (e *env) raceOfTwins(stores [2]Store, txs []*gateway.Transaction) (winner string) {
	e.Helper()
	errs := together(len(txs), func(i int) error {
		_, err := stores[i%2].Begin(e.ctx(), &gateway.Beginning{Transaction: txs[i], Lease: lease,
			Claims: []gateway.Claim{{Key: "count", Limit: racers}}})
		return err
	})
	for i, err := range errs {
		if err == nil {
			if winner != "" {
				e.Errorf("%s and %s began both", winner, txs[i].ID)
			}
			winner = txs[i].ID
		}
	}
	for i, err := range errs {
		if twin, ok := errors.AsType[*gateway.TwinError](err); txs[i].ID != winner && (!ok || twin.Transaction != winner) {
			e.Errorf("racer %d: %v, want the twin %s", i, err, winner)
		}
	}
	return winner
}

func testRaceOfTwins(e *env) {
	stores, txs := e.instances(), e.transactions(racers)
	for _, tx := range txs {
		tx.Repeat = "the same request"
	}
	winner := e.raceOfTwins(stores, txs)
	e.wantRepeat("the same request", winner)
	// 63 uses are left: only the winner's was spent.
	e.begun(gateway.Claim{Key: "count", Limit: 2})
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateIssuing), Lease: lease,
		Claims: []gateway.Claim{{Key: "count", Limit: 2}}})
	if _, ok := errors.AsType[*gateway.ClaimLostError](err); !ok {
		e.Errorf("a twin's claim counts: %v", err)
	}
}

func testRaceForWork(e *env) {
	stores := e.instances()
	const rows = 100
	for range rows {
		e.begun()
	}
	e.clock.Advance(2 * lease)
	var mu sync.Mutex
	taken := map[string]string{}
	for _, err := range together(16, func(i int) error {
		for {
			due, err := stores[i%2].ClaimDue(e.ctx(), lease, 3, AnyPlace)
			if err != nil || len(due) == 0 {
				return err
			}
			if len(due) > 3 {
				return fmt.Errorf("%d rows, at most 3 were asked for", len(due))
			}
			mu.Lock()
			for _, w := range due {
				if by := taken[w.Transaction]; by != "" {
					err = fmt.Errorf("%s was leased to %s and %s", w.Transaction, by, w.Owner)
				}
				taken[w.Transaction] = w.Owner
			}
			mu.Unlock()
			if err != nil {
				return err
			}
		}
	}) {
		if err != nil {
			e.Error(err)
		}
	}
	// A row that another one was just locking is passed over, and comes with the next look.
	for _, w := range e.due(e.s) {
		if taken[w.Transaction] != "" {
			e.Errorf("%s was leased twice", w.Transaction)
		}
		taken[w.Transaction] = w.Owner
	}
	if len(taken) != rows {
		e.Errorf("%d rows were leased, want %d", len(taken), rows)
	}
}

// testRaceOfInstances: claims taken in any order by several callers of two instances never make one of them fail.
func testRaceOfInstances(e *env) {
	stores, txs := e.instances(), e.transactions(4*racers)
	for _, err := range together(racers, func(i int) error {
		for n := i * 4; n < i*4+4; n++ {
			tx := txs[n]
			var claims []gateway.Claim
			for k := range 4 {
				claims = append(claims, gateway.Claim{Key: fmt.Sprintf("quota:%d", (n+k*n)%7), Limit: 1 << 20})
			}
			s := stores[n%2]
			epoch, err := s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Lease: lease, Claims: claims})
			if err != nil {
				return fmt.Errorf("begin: %w", err)
			}
			set := &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: gateway.StateFailed, Release: n%3 == 0,
				Now: tx.Received, Audit: event("failed", tx)}
			if err := s.Settle(e.ctx(), set); err != nil {
				return fmt.Errorf("settle: %w", err)
			}
			if err := s.Record(e.ctx(), gateway.AuditEvent{Kind: "strangers", At: tx.Received}); err != nil {
				return fmt.Errorf("record: %w", err)
			}
		}
		return nil
	}) {
		if err != nil {
			e.Error(err)
		}
	}
	for _, s := range stores {
		e.must(s.Ready(e.ctx()))
	}
}
