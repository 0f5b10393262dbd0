package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// sweepTests are about what is taken away when it is over.
var sweepTests = []part{
	{"sweep: refused", testSweepRefused},
	{"sweep: ended", testSweepEnded},
	{"sweep: claims stay", testSweepClaims},
	{"sweep: lapsed uses", testSweepUses},
	{"sweep: batches", testSweepBatches},
	{"sweep: one at a time", testSweepRace},
}

const month = 30 * day

// sweeps sweeps until nothing is left to, with a month for all, and wants so many to go.
func (e *env) sweeps(refused, ended, uses int) {
	e.Helper()
	now := e.clock.Now()
	var all gateway.SweepResult
	for more := true; more; {
		done, err := e.s.Sweep(e.ctx(), gateway.SweepOrder{Refused: now.Add(-month), Ended: now.Add(-month)})
		e.must(err)
		all.Refused, all.Ended, all.Uses, more = all.Refused+done.Refused, all.Ended+done.Ended, all.Uses+done.Uses, done.More
	}
	if want := (gateway.SweepResult{Refused: refused, Ended: ended, Uses: uses}); all != want {
		e.Errorf("swept %+v, want %+v", all, want)
	}
}

// gone says of each transaction whether it is.
func (e *env) gone(want bool, list ...*gateway.Transaction) {
	e.Helper()
	for _, t := range list {
		_, err := e.s.Transaction(e.ctx(), t.ID)
		if got := errors.Is(err, gateway.ErrNotFound); got != want {
			e.Errorf("%s, %s: gone %t, want %t (%v)", t.ID, t.State, got, want, err)
		}
	}
}

func (e *env) refused() *gateway.Transaction {
	e.Helper()
	t := e.transaction(gateway.StateRefused)
	e.must(e.s.Refuse(e.ctx(), t, event("refused", t)))
	return t
}

func testSweepRefused(e *env) {
	refused := e.refused()
	e.must(e.s.Heard(e.ctx(), []gateway.Message{{Transaction: refused.ID, Kind: "repeat", Count: 1, First: e.clock.Now(), Last: e.clock.Now()}}))
	failed, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.failed(failed, epoch)))
	held, denied := e.held(1), e.held(1)
	d := e.denial(denied, "anna")
	d.RepeatUntil = e.clock.Now().Add(2 * month)
	e.must(e.s.Deny(e.ctx(), d))
	open, _ := e.begun()
	// What the CA made otherwise than granted has a certificate, and is none of them.
	mismatch, epoch := e.begun()
	s := e.issued(mismatch, epoch)
	s.State, s.Reason, s.RepeatUntil, s.Audit = gateway.StateFailed, gateway.Internal, time.Time{}, event("failed", mismatch)
	e.must(e.s.Settle(e.ctx(), s))
	issued, _ := e.certified(nil)
	last := e.clock.Now()
	e.sweeps(0, 0, 0)
	e.clock.Advance(month - e.clock.Now().Sub(last))
	// For ever, where nothing says how long.
	done, err := e.s.Sweep(e.ctx(), gateway.SweepOrder{})
	if err != nil || done != (gateway.SweepResult{}) {
		e.Errorf("%+v, %v", done, err)
	}
	e.gone(false, refused, failed)
	e.clock.Advance(time.Second)
	done, err = e.s.Sweep(e.ctx(), gateway.SweepOrder{Refused: e.clock.Now().Add(-month)})
	if want := (gateway.SweepResult{Refused: 2}); err != nil || done != want {
		e.Errorf("%+v, %v, want %+v", done, err, want)
	}
	e.gone(true, refused, failed)
	e.gone(false, held, denied, open, mismatch, issued)
	e.wantAudited("refused", refused.ID, true)
	messages, err := e.s.Messages(e.ctx(), refused.ID)
	if err != nil || len(messages) != 0 {
		e.Errorf("messages: %v, %v", messages, err)
	}
	// A denial is told for as long as it is repeated.
	e.wantRepeat(denied.Repeat, denied.ID)
	e.clock.Advance(month)
	done, err = e.s.Sweep(e.ctx(), gateway.SweepOrder{Refused: e.clock.Now().Add(-month)})
	if want := (gateway.SweepResult{Refused: 1}); err != nil || done != want {
		e.Errorf("%+v, %v, want %+v", done, err, want)
	}
	e.gone(true, denied)
	e.gone(false, held, open, mismatch, issued)
	// It was old when it was denied.
	d = e.denial(held, "anna")
	d.RepeatUntil, d.Denied.At = e.clock.Now(), e.clock.Now()
	e.must(e.s.Deny(e.ctx(), d))
	e.clock.Advance(month)
	e.sweeps(0, 2, 0) // with the certificates, which have expired long since
	e.gone(false, held)
	e.clock.Advance(time.Second)
	e.sweeps(1, 0, 0)
	e.gone(true, held)
	e.gone(false, open)
}

func testSweepEnded(e *env) {
	first, cert := e.certified(nil)
	renew := func(serial []byte, validity time.Duration) (*gateway.Transaction, *gateway.Certificate) {
		tx := e.transaction(gateway.StateIssuing)
		tx.Replaces = serial
		s := e.issued(tx, e.mustBegin(e.s, tx))
		s.Certificate.Replaces, s.Certificate.NotAfter = serial, s.Certificate.NotAfter.Add(validity)
		e.must(e.s.Settle(e.ctx(), s))
		return tx, s.Certificate
	}
	// Valid for longer than what renewed it: that one says for as long that it has been renewed.
	long, longCert := renew(cert.Serial, 100*day)
	short, shortCert := renew(longCert.Serial, 0)
	// Somebody still decides about a renewal of it.
	renewed, renewedCert := e.certified(nil)
	waits := e.transaction(gateway.StateHeld)
	waits.Replaces = renewedCert.Serial
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: waits})
	e.must(err)
	// The CA has yet to be told of a revocation; another one was.
	ordered, orderedCert := e.certified(nil)
	_, err = e.s.OrderRevocation(e.ctx(), e.order(orderedCert))
	e.must(err)
	revoked, revokedCert := e.certified(nil)
	e.must(e.s.MarkRevoked(e.ctx(), e.told(revokedCert, nil)))
	// One is given again still, one waits to be confirmed.
	repeated, epoch := e.begun()
	s := e.issued(repeated, epoch)
	s.RepeatUntil = e.clock.Now().Add(50 * day)
	e.must(e.s.Settle(e.ctx(), s))
	unconfirmed, _ := e.waitsToBeConfirmed(1000 * day)

	e.clock.Advance(month + day - time.Hour)
	e.sweeps(0, 0, 0)
	e.clock.Advance(2 * time.Hour)
	done, err := e.s.Sweep(e.ctx(), gateway.SweepOrder{Refused: e.clock.Now()})
	if err != nil || done != (gateway.SweepResult{}) {
		e.Errorf("%+v, %v", done, err)
	}
	e.sweeps(0, 2, 0)
	e.gone(true, first, revoked)
	e.gone(false, long, short, renewed, waits, ordered, repeated, unconfirmed)
	for _, c := range []*gateway.Certificate{cert, revokedCert} {
		_, err := e.s.Certificate(e.ctx(), c.Issuer, c.Serial)
		e.wantErr(err, gateway.ErrNotFound)
	}
	for _, c := range []*gateway.Certificate{longCert, shortCert, renewedCert, orderedCert} {
		_, err := e.s.Certificate(e.ctx(), c.Issuer, c.Serial)
		e.must(err)
	}
	e.wantAudited("issued", first.ID, true)
	e.wantRepeat(first.Repeat, "")
	e.wantRepeat(repeated.Repeat, repeated.ID)

	d := e.denial(waits, "anna")
	d.RepeatUntil, d.Denied.At = e.clock.Now(), e.clock.Now()
	e.must(e.s.Deny(e.ctx(), d))
	for _, w := range e.due(e.s) {
		if w.Kind == gateway.WorkRevoke {
			e.must(e.s.MarkRevoked(e.ctx(), e.told(orderedCert, &w)))
		}
	}
	e.clock.Advance(20 * day)
	e.sweeps(0, 3, 0)
	e.gone(true, renewed, ordered, repeated)
	e.gone(false, long, short, waits, unconfirmed)
	e.clock.Advance(100 * day)
	done, err = e.s.Sweep(e.ctx(), gateway.SweepOrder{Ended: e.clock.Now().Add(-month)})
	if want := (gateway.SweepResult{Ended: 2}); err != nil || done != want {
		e.Errorf("%+v, %v, want %+v", done, err, want)
	}
	e.gone(true, long, short)
	e.gone(false, waits, unconfirmed)
	// The chain is still known, whoever uses it next.
	_, again := e.certified(nil)
	got, err := e.s.Certificate(e.ctx(), again.Issuer, again.Serial)
	e.must(err)
	if len(got.Chain) != 2 {
		e.Errorf("chain: %q", got.Chain)
	}
}

// testSweepClaims: what a device and a message have had stays counted when nothing else is left of it.
func testSweepClaims(e *env) {
	message := gateway.Claim{Key: gateway.MessageClaims + "cmp:0a", Limit: 1}
	count := gateway.Claim{Key: "a", Limit: 1}
	tx, _ := e.certified(nil, message, count)
	e.clock.Advance(2*month + day)
	e.sweeps(0, 1, 0)
	e.gone(true, tx)
	e.wantClaim(message, false)
	e.wantClaim(count, false)
	e.freed("a")
	e.wantClaim(count, true)
	e.wantClaim(message, false)
}

func testSweepUses(e *env) {
	for i := range 3 {
		e.certified(nil, e.perHour(fmt.Sprint("k", i), 5), e.perHour("all", 5), e.active("active", 5))
	}
	e.certified(nil, gateway.Claim{Key: "k0", Limit: 5})
	e.sweeps(0, 0, 0)
	e.clock.Advance(time.Hour + time.Minute)
	stays := e.perHour("all", 5)
	e.certified(nil, stays) // which sweeps the three of that key
	e.sweeps(0, 0, 3)
	for key, want := range map[string]int64{"k0": 1, "k1": 0, "k2": 0, "all": 1, "active": 3} {
		e.wantUsed(key, want)
	}
	under, err := e.s.UsesUnder(e.ctx(), "k:")
	if err != nil || len(under) != 0 {
		e.Errorf("%v, %v", under, err)
	}
	e.clock.Advance(time.Hour)
	e.sweeps(0, 0, 1)
	e.clock.Advance(day)
	e.sweeps(0, 0, 3)
	e.wantUsed("k0", 1)
	e.wantUsed("active", 0)
	// All of them can be used again.
	for range 5 {
		e.certified(nil, e.perHour("k1", 5), e.active("active", 5))
	}
	e.lost(e.perHour("k1", 5))
	e.lost(e.active("active", 5))
}

func testSweepBatches(e *env) {
	var list []*gateway.Transaction
	for range 5 {
		list = append(list, e.refused())
		e.certified(nil, e.perHour("k", 100))
	}
	e.clock.Advance(month + 2*day)
	now := e.clock.Now()
	o := gateway.SweepOrder{Refused: now.Add(-month), Ended: now.Add(-month), Limit: 2}
	for i, want := range []gateway.SweepResult{
		{Refused: 2, Ended: 2, Uses: 5, More: true}, {Refused: 2, Ended: 2, More: true}, {Refused: 1, Ended: 1}, {},
	} {
		got, err := e.s.Sweep(e.ctx(), o)
		if err != nil || got != want {
			e.Errorf("%d: %+v, %v, want %+v", i, got, err, want)
		}
		for n, t := range list { // the oldest first
			e.gone(n < 2*(i+1), t)
		}
	}
}

// testSweepRace: two instances sweep what others use, and each row goes once.
func testSweepRace(e *env) {
	stores := e.instances()
	for range 20 {
		e.refused()
		e.certified(nil, e.perHour("k", 1000))
	}
	e.clock.Advance(month + 2*day)
	now := e.clock.Now()
	o := gateway.SweepOrder{Refused: now.Add(-month), Ended: now.Add(-month), Limit: 3}
	counts := make([]gateway.SweepResult, 4)
	together(4, func(i int) error {
		for range 10 {
			if i >= 2 {
				t := e.transaction(gateway.StateIssuing)
				_, err := stores[i%2].Begin(e.ctx(), &gateway.Beginning{Transaction: t, Lease: lease, Claims: []gateway.Claim{e.perHour("k", 1000)}})
				if err != nil {
					e.Errorf("begin: %v", err)
				}
				continue
			}
			done, err := stores[i].Sweep(e.ctx(), o)
			if err != nil {
				e.Errorf("sweep: %v", err)
			}
			counts[i].Refused, counts[i].Ended = counts[i].Refused+done.Refused, counts[i].Ended+done.Ended
		}
		return nil
	})
	for more := true; more; {
		done, err := stores[0].Sweep(e.ctx(), o)
		e.must(err)
		counts[0].Refused, counts[0].Ended, more = counts[0].Refused+done.Refused, counts[0].Ended+done.Ended, done.More
	}
	if r, n := counts[0].Refused+counts[1].Refused, counts[0].Ended+counts[1].Ended; r != 20 || n != 20 {
		e.Errorf("swept %d refused, %d ended, want 20 each", r, n)
	}
	e.wantUsed("k", 20)
}
