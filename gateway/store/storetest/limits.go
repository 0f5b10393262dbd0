package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// limitTests are about claims that lapse.
var limitTests = []part{
	{"limits: a use lapses", testLapse},
	{"limits: much has lapsed", testLapseOfMany},
	{"limits: when a use is left", testLapseFree},
	{"limits: given back once", testLapseRelease},
	{"limits: used up already", testSpent},
	{"limits: freed", testLapseFreed},
	{"limits: ends with the certificate", testActiveEnds},
	{"limits: held, superseded", testActiveDates},
	{"limits: renewal", testTakeOverUse},
	{"limits: renewals race", testRaceOfRenewals},
	{"limits: race for the last uses", testRaceForLimit},
	{"limits: race of uses that lapse", testRaceOfLapsing},
	{"limits: under a prefix", testUsesUnder},
}

// perHour is a use of a number per hour.
func (e *env) perHour(key string, limit int64) gateway.Claim {
	return gateway.Claim{Key: key, Limit: limit, Until: e.clock.Now().Add(time.Hour)}
}

// active is the use of a certificate as e.certificate makes it.
func (e *env) active(key string, limit int64) gateway.Claim {
	return gateway.Claim{Key: key, Limit: limit, Active: true, Until: e.clock.Now().Truncate(time.Second).Add(24 * time.Hour)}
}

// lost wants a claim to have no use left, and returns what is said of it.
func (e *env) lost(c gateway.Claim) *gateway.ClaimLostError {
	e.Helper()
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateIssuing), Lease: lease, Claims: []gateway.Claim{c}})
	lost, ok := errors.AsType[*gateway.ClaimLostError](err)
	if !ok {
		e.Fatalf("%v, want that no use of %s is left", err, c.Key)
	}
	return lost
}

// certified begins a transaction, of a renewal where that is not nil, and has it issued.
func (e *env) certified(renews *gateway.Certificate, claims ...gateway.Claim) (*gateway.Transaction, *gateway.Certificate) {
	e.Helper()
	t, epoch := e.renewing(renews, claims...)
	s := e.issued(t, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	return t, s.Certificate
}

func (e *env) renewing(renews *gateway.Certificate, claims ...gateway.Claim) (*gateway.Transaction, int64) {
	e.Helper()
	t := e.transaction(gateway.StateIssuing)
	b := &gateway.Beginning{Transaction: t, Lease: lease, Claims: claims}
	if renews != nil {
		b.Renews = &gateway.Replaced{Issuer: renews.Issuer, Serial: renews.Serial}
	}
	epoch, err := e.s.Begin(e.ctx(), b)
	e.must(err)
	return t, epoch
}

func testLapse(e *env) {
	first := e.perHour("k", 2)
	e.certified(nil, first)
	e.clock.Advance(30 * time.Minute)
	e.certified(nil, e.perHour("k", 2))
	if lost := e.lost(e.perHour("k", 2)); lost.Used != 2 || !lost.Free.Equal(first.Until) {
		e.Errorf("%d used, free at %s", lost.Used, lost.Free)
	}
	e.clock.Advance(first.Until.Sub(e.clock.Now()) - time.Second)
	e.lost(e.perHour("k", 2))
	e.clock.Advance(first.Until.Sub(e.clock.Now()) - time.Microsecond)
	e.wantUsed("k", 2)
	e.clock.Advance(time.Microsecond) // at that instant
	e.wantUsed("k", 1)
	e.begun(e.perHour("k", 2))
	e.lost(e.perHour("k", 2))
	e.clock.Advance(2 * time.Hour)
	e.wantUsed("k", 0)
	e.begun(e.perHour("k", 1))
	e.wantUsed("k", 1)
	// Others' keys are as before.
	e.begun(gateway.Claim{Key: "once", Limit: 1})
	e.clock.Advance(1000 * time.Hour)
	e.wantClaim(gateway.Claim{Key: "once", Limit: 1}, false)
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateIssuing), Lease: lease,
		Claims: []gateway.Claim{{Key: "k", Limit: 1, Active: true}}})
	if err == nil {
		e.Error("a certificate's use without an end was taken")
	}
}

func testLapseOfMany(e *env) {
	const many = 700 // more than are taken away with one claim
	for range many / 100 {
		var claims []gateway.Claim
		for range 100 {
			claims = append(claims, e.perHour("k", many))
		}
		for _, c := range claims {
			e.begun(c)
		}
	}
	e.lost(e.perHour("k", 3))
	e.clock.Advance(time.Hour)
	e.wantUsed("k", 0)
	if spent, err := e.s.Spent(e.ctx(), &gateway.Beginning{Claims: []gateway.Claim{e.perHour("k", 3)}}); spent || err != nil {
		e.Errorf("more has lapsed than is looked at: spent %t, %v", spent, err)
	}
	e.begun(e.perHour("k", 3)) // where the limit is lower now, all has to go first
	e.wantUsed("k", 1)
	e.begun(e.perHour("k", 3))
	e.begun(e.perHour("k", 3))
	if lost := e.lost(e.perHour("k", 3)); lost.Used != 3 {
		e.Errorf("%d used", lost.Used)
	}
}

func testLapseFree(e *env) {
	var uses []gateway.Claim
	for range 5 {
		uses = append(uses, e.perHour("k", 5))
		e.begun(uses[len(uses)-1])
		e.clock.Advance(time.Minute)
	}
	for limit, first := range map[int64]int{5: 0, 4: 1, 3: 2, 1: 4} { // where it was higher, more have to lapse
		if lost := e.lost(e.perHour("k", limit)); lost.Used != 5 || !lost.Free.Equal(uses[first].Until) {
			e.Errorf("limit %d: %d used, free at %s", limit, lost.Used, lost.Free)
		}
	}
	if lost := e.lost(e.perHour("k", 0)); !lost.Free.IsZero() {
		e.Errorf("a limit of none is free at %s", lost.Free)
	}
}

func testLapseRelease(e *env) {
	t, epoch := e.begun(e.perHour("k", 3))
	e.begun(e.perHour("k", 3))
	e.must(e.s.Settle(e.ctx(), e.failed(t, epoch)))
	e.wantUsed("k", 1)
	// Lapsed, taken away, and then given back: it is subtracted once.
	t, epoch = e.begun(e.perHour("k", 3))
	e.clock.Advance(2 * time.Hour)
	e.begun(e.perHour("k", 3))
	e.must(e.s.Settle(e.ctx(), e.failed(t, epoch)))
	e.wantUsed("k", 1)
	// Lapsed, given back before anybody took it away.
	t, epoch = e.begun(e.perHour("k", 3))
	e.clock.Advance(2 * time.Hour)
	e.must(e.s.Settle(e.ctx(), e.failed(t, epoch)))
	e.wantUsed("k", 0)
	e.begun(e.perHour("k", 1))
	e.lost(e.perHour("k", 1))
	e.wantUsed("k", 1)
	// Denied.
	held := e.held(1, e.perHour("r", 1), e.active("ra", 1))
	e.wantUsed("ra", 1)
	e.must(e.s.Deny(e.ctx(), e.denial(held, "anna")))
	e.wantUsed("r", 0)
	e.wantUsed("ra", 0)
	// Rejected: it was made, so that it counts in its time, and for nothing else.
	once := gateway.Claim{Key: "once", Limit: 1}
	wait, s := e.waitsToBeConfirmed(time.Hour, e.perHour("r", 1), e.active("ra", 1), once)
	e.must(e.s.Conclude(e.ctx(), &gateway.Conclusion{Transaction: wait.ID, State: gateway.StateRejected, Now: e.clock.Now(), Audit: event("rejected", wait)}))
	e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, nil)))
	e.wantUsed("ra", 0)
	e.wantUsed("once", 0)
	e.wantUsed("r", 1)
	e.lost(e.perHour("r", 1))
	e.clock.Advance(time.Hour)
	e.wantUsed("r", 0)
	e.begun(e.perHour("r", 1), once)
}

func testLapseFreed(e *env) {
	t, epoch := e.begun(e.perHour("k", 2), e.active("v", 1))
	e.clock.Advance(2 * time.Hour)
	e.begun(e.perHour("k", 2))
	e.begun(e.perHour("k", 2))
	e.freed("k", "v")
	e.wantUsed("k", 0)
	e.wantUsed("v", 0)
	e.begun(e.perHour("k", 1), e.active("v", 1))
	e.must(e.s.Settle(e.ctx(), e.failed(t, epoch)))
	e.wantUsed("k", 1)
	e.wantUsed("v", 1)
}

func testActiveEnds(e *env) {
	both := func(key string) []gateway.Claim { return []gateway.Claim{e.perHour(key, 9), e.active("v"+key, 1)} }
	_, cert := e.certified(nil, both("a")...)
	e.lost(e.active("va", 1))
	e.must(e.s.MarkRevoked(e.ctx(), e.told(cert, nil)))
	e.wantUsed("va", 0)
	e.wantUsed("a", 1) // what was made was made
	e.begun(e.active("va", 1))
	e.must(e.s.MarkRevoked(e.ctx(), e.told(cert, nil))) // once more
	e.wantUsed("va", 1)

	_, cert = e.certified(nil, both("b")...)
	e.ordered(e.order(cert))
	e.wantUsed("vb", 0)
	e.wantUsed("b", 1)
	e.must(e.s.MarkRevoked(e.ctx(), e.told(cert, nil)))
	e.wantUsed("vb", 0)

	_, s := e.waitsToBeConfirmed(time.Hour, both("c")...)
	e.ordered(e.order(s.Certificate)) // rejected with it
	e.wantUsed("vc", 0)
	e.wantUsed("c", 1)

	e.certified(nil, both("d")...)
	e.clock.Advance(24 * time.Hour)
	e.wantUsed("vd", 0)
	e.begun(e.active("vd", 1))
}

func testActiveDates(e *env) {
	// A held one counts from the dates that it may have, and from approval on by those that it gets.
	c := e.active("h", 1)
	c.Until = e.clock.Now().Add(1000 * time.Hour)
	held := e.held(1, c)
	e.clock.Advance(time.Minute)
	o := e.approval(held, "anna")
	o.Intent.Template.NotAfter = e.clock.Now().Add(time.Hour)
	_, err := e.s.Approve(e.ctx(), o)
	e.must(err)
	e.clock.Advance(time.Hour - time.Second)
	e.wantUsed("h", 1)
	e.clock.Advance(time.Second)
	e.wantUsed("h", 0)
	// One whose key is made when its requester comes, or again, likewise.
	claim := e.active("k", 1)
	waits := e.heldForKey(claim)
	e.approveForKey(waits, 2*time.Hour)
	coming := e.collection(waits)
	coming.Intent.Template.NotAfter = e.clock.Now().Add(time.Hour)
	_, err = e.s.Collect(e.ctx(), coming)
	e.must(err)
	e.clock.Advance(time.Hour)
	e.wantUsed("k", 0)
	tx, _ := e.delivered(e.active("s", 1))
	again := e.supersession(tx)
	again.Transaction.Intent.Template.NotAfter = e.clock.Now().Add(time.Hour)
	e.supersede(again)
	e.wantUsed("s", 1)
	e.clock.Advance(time.Hour)
	e.wantUsed("s", 0)
	// One that another CA issued: as its answer says, not as was thought.
	claim = e.active("f", 1)
	claim.Until = e.clock.Now().Add(time.Hour)
	there, epoch := e.passed(claim)
	answer := e.goesOn(there, epoch)
	answer.Certificate = e.certificate(there)
	e.must(e.s.Settle(e.ctx(), answer))
	e.clock.Advance(answer.Certificate.NotAfter.Sub(e.clock.Now()) - time.Second)
	e.wantUsed("f", 1)
	e.clock.Advance(time.Second)
	e.wantUsed("f", 0)
	// One whose CA has made it end later than it was asked to.
	claim = e.active("d", 1)
	longer, epoch := e.begun(claim)
	issued := e.issued(longer, epoch)
	issued.Ends = claim.Until.Add(time.Hour)
	e.must(e.s.Settle(e.ctx(), issued))
	e.clock.Advance(issued.Ends.Sub(e.clock.Now()) - time.Second)
	e.wantUsed("d", 1)
	e.clock.Advance(time.Second)
	e.wantUsed("d", 0)
}

// testRaceForLimit: as many as there are uses left have one, of two keys that all take, and with more that has lapsed.
func testRaceForLimit(e *env) {
	stores := e.instances()
	for range 20 {
		e.begun(e.perHour("b", 100))
	}
	e.clock.Advance(time.Hour)
	txs := e.transactions(racers)
	a, b := e.perHour("a", 1000), e.perHour("b", 10)
	errs := together(racers, func(i int) error {
		_, err := stores[i%2].Begin(e.ctx(), &gateway.Beginning{Transaction: txs[i], Lease: lease, Claims: []gateway.Claim{b, a}})
		return err
	})
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
		} else if lost, ok := errors.AsType[*gateway.ClaimLostError](err); !ok || lost.Claim.Key != "b" || lost.Used != 10 {
			e.Errorf("racer %d: %v", i, err)
		}
	}
	if won != 10 {
		e.Errorf("%d had one of 10 uses", won)
	}
	e.wantUsed("a", 10)
	e.wantUsed("b", 10)
}

// testRaceOfLapsing: uses lapse, are given back and freed while others are taken; in the end none stands, and none is missing.
func testRaceOfLapsing(e *env) {
	stores, txs := e.instances(), e.transactions(4*racers)
	for _, err := range together(16, func(i int) error {
		for n := i; n < len(txs); n += 16 {
			s, tx := stores[n%2], txs[n]
			if n%64 == 63 {
				if err := s.FreeClaims(e.ctx(), []string{"a", "b"}, gateway.AuditEvent{Kind: "claims-freed", At: tx.Received}); err != nil {
					return err
				}
				continue
			}
			var claims []gateway.Claim
			for _, key := range []string{"c", "a", "b", fmt.Sprint("device ", n%5)}[n%2 : 3+n%2] {
				c := e.perHour(key, 1<<20)
				c.Until = e.clock.Now().Add(time.Duration(n%3) * time.Millisecond)
				claims = append(claims, c)
			}
			epoch, err := s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Lease: time.Hour, Claims: claims})
			if err != nil {
				return fmt.Errorf("begin: %w", err)
			}
			e.clock.Advance(time.Millisecond)
			if n%4 == 0 {
				continue
			}
			err = s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: gateway.StateFailed, Release: true,
				Now: tx.Received, Audit: event("failed", tx)})
			if err != nil {
				return fmt.Errorf("settle: %w", err)
			}
		}
		return nil
	}) {
		e.must(err)
	}
	e.clock.Advance(time.Hour)
	for _, key := range []string{"a", "b", "c", "device 0", "device 1"} {
		e.wantUsed(key, 0)
		e.begun(e.perHour(key, 1)) // all of it is taken away: none is missing, so that it would let two in, or too many
		e.lost(e.perHour(key, 1))
		e.wantUsed(key, 1)
	}
}

func testUsesUnder(e *env) {
	for _, key := range []string{"limit:device:1:a:active", "limit:device:1:a:issued:1h", "limit:device:1:b:active", "limit:device:10:a:active"} {
		e.begun(e.perHour(key, 9))
	}
	e.begun(e.perHour("limit:device:1:a:active", 9))
	got, err := e.s.UsesUnder(e.ctx(), "limit:device:1:a:")
	e.must(err)
	e.equal("uses", got, map[string]int64{"limit:device:1:a:active": 2, "limit:device:1:a:issued:1h": 1})
	e.clock.Advance(time.Hour)
	got, err = e.s.UsesUnder(e.ctx(), "limit:device:1:a:")
	e.must(err)
	e.equal("uses that have lapsed", got, map[string]int64{})
	for _, prefix := range []string{"", "a", "\xff:"} {
		if _, err := e.s.UsesUnder(e.ctx(), prefix); err == nil {
			e.Errorf("%q is taken for a prefix", prefix)
		}
	}
}
