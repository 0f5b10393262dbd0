package storetest

import (
	"errors"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// testSpent: it says what Begin would, and takes nothing.
func testSpent(e *env) {
	spent := func(renews *gateway.Certificate, claims ...gateway.Claim) bool {
		e.Helper()
		b := &gateway.Beginning{Claims: claims}
		if renews != nil {
			b.Renews = &gateway.Replaced{Issuer: renews.Issuer, Serial: renews.Serial}
		}
		is, err := e.s.Spent(e.ctx(), b)
		e.must(err)
		return is
	}
	want := func(what string, got, want bool) {
		e.Helper()
		if got != want {
			e.Errorf("%s: spent %t", what, got)
		}
	}
	want("nothing", spent(nil), false)
	want("unused", spent(nil, e.perHour("k", 1), gateway.Claim{Key: "once", Limit: 1}), false)
	_, cert := e.certified(nil, e.perHour("k", 2), e.active("v", 1), gateway.Claim{Key: "once", Limit: 1})
	want("one left", spent(nil, e.perHour("k", 2)), false)
	want("none left", spent(nil, e.perHour("j", 1), e.perHour("k", 1)), true)
	want("used for good", spent(nil, gateway.Claim{Key: "once", Limit: 1}), true)
	want("valid", spent(nil, e.active("v", 1)), true)
	want("a renewal", spent(cert, e.active("v", 1)), false)
	want("a renewal of another", spent(&gateway.Certificate{Issuer: []byte("nobody"), Serial: []byte{1}}, e.active("v", 1)), true)
	e.renewing(cert, e.active("v", 1))
	want("another renewal", spent(cert, e.active("v", 1)), true)
	e.wantUsed("v", 1)
	e.wantUsed("k", 1)
	e.clock.Advance(time.Hour)
	want("lapsed", spent(nil, e.perHour("k", 1)), false)
	for range 3 {
		e.begun(e.perHour("lower", 3))
	}
	want("full where the limit is lower now", spent(nil, e.perHour("lower", 1)), true)
}

func testTakeOverUse(e *env) {
	_, first := e.certified(nil, e.active("v", 1))
	// A renewal counts in its place, also while it is under way; an enrollment does not.
	second, epoch := e.renewing(first, e.active("v", 1))
	e.wantUsed("v", 1)
	e.lost(e.active("v", 1))
	s := e.issued(second, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	e.wantUsed("v", 1)
	// What is renewed does not count any more, so that its revocation frees nothing; its successor's does.
	e.must(e.s.MarkRevoked(e.ctx(), e.told(first, nil)))
	e.wantUsed("v", 1)
	_, third := e.certified(s.Certificate, e.active("v", 1)) // a chain of them
	e.wantUsed("v", 1)
	// A second renewal of the same certificate is one more.
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: e.transaction(gateway.StateIssuing), Lease: lease, Claims: []gateway.Claim{e.active("v", 1)},
		Renews: &gateway.Replaced{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial}})
	if _, ok := errors.AsType[*gateway.ClaimLostError](err); !ok {
		e.Errorf("a second renewal: %v", err)
	}
	// Refused by the CA, or rejected: what was to be renewed counts again.
	for _, end := range []func() string{
		func() string {
			tx, epoch := e.renewing(third, e.active("v", 1))
			e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch)))
			return "failed"
		},
		func() string {
			tx, epoch := e.renewing(third, e.active("v", 1))
			e.must(e.s.Settle(e.ctx(), e.unconfirmed(tx, epoch, time.Hour)))
			e.wantUsed("v", 1)
			e.must(e.s.Conclude(e.ctx(), &gateway.Conclusion{Transaction: tx.ID, State: gateway.StateRejected, Now: e.clock.Now(), Audit: event("rejected", tx)}))
			return "rejected"
		},
	} {
		what := end()
		e.wantUsed("v", 1)
		if lost := e.lost(e.active("v", 1)); lost.Used != 1 || lost.Free.IsZero() {
			e.Errorf("%s: %d used, free at %s", what, lost.Used, lost.Free)
		}
	}
	tx, epoch := e.renewing(third, e.active("v", 1)) // it can be taken over again
	e.must(e.s.MarkRevoked(e.ctx(), e.told(third, nil)))
	e.wantUsed("v", 1)
	e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch))) // and what was revoked meanwhile does not count again
	e.wantUsed("v", 0)
	// Nor what ended meanwhile.
	_, short := e.certified(nil, e.active("w", 1))
	e.clock.Advance(23 * time.Hour)
	tx, epoch = e.renewing(short, e.active("w", 1))
	e.clock.Advance(2 * time.Hour)
	e.wantUsed("w", 1)
	e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch)))
	e.wantUsed("w", 0)
	// Another key is not the one that the renewed certificate counts under: it goes on counting there.
	_, here := e.certified(nil, e.active("here", 1))
	e.certified(here, e.active("there", 1))
	e.wantUsed("here", 1)
	e.wantUsed("there", 1)
	e.must(e.s.MarkRevoked(e.ctx(), e.told(here, nil)))
	e.wantUsed("here", 0)
	e.wantUsed("there", 1)
	// A certificate that is not ours, or did not count, has nothing to take over.
	e.certified(&gateway.Certificate{Issuer: []byte("nobody"), Serial: []byte{1}}, e.active("x", 1))
	_, uncounted := e.certified(nil)
	e.certified(uncounted, e.active("y", 1))
	e.wantUsed("x", 1)
	e.wantUsed("y", 1)
}

// testRaceOfRenewals: of many renewals of one certificate at once one counts in its place, whatever becomes of them.
func testRaceOfRenewals(e *env) {
	stores := e.instances()
	_, cert := e.certified(nil, e.active("v", 3))
	renews := &gateway.Replaced{Issuer: cert.Issuer, Serial: cert.Serial}
	txs := e.transactions(racers)
	epochs := make([]int64, racers)
	c := e.active("v", 3)
	errs := together(racers, func(i int) (err error) {
		epochs[i], err = stores[i%2].Begin(e.ctx(), &gateway.Beginning{Transaction: txs[i], Lease: lease, Claims: []gateway.Claim{c}, Renews: renews})
		return err
	})
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			e.must(stores[i%2].Settle(e.ctx(), e.failed(txs[i], epochs[i])))
		} else if _, ok := errors.AsType[*gateway.ClaimLostError](err); !ok {
			e.Errorf("racer %d: %v", i, err)
		}
	}
	if won != 3 {
		e.Errorf("%d renewals, want one in its place, and two more", won)
	}
	e.wantUsed("v", 1)
}
