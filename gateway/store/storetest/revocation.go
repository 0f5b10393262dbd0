package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// revocationTests are about orders to revoke.
var revocationTests = []part{
	{"order revocation: issued", testOrderRevocation},
	{"order revocation: unconfirmed", testOrderUnconfirmed},
	{"order revocation: rejected before", testOrderRejected},
	{"order revocation: by request", testOrderByRequest},
	{"order revocation: races", testRaceOfOrders},
	{"order revocation: race with the time-out", testRaceOfOrderAndTimeOut},
}

func (e *env) order(c *gateway.Certificate) *gateway.RevocationOrder {
	return &gateway.RevocationOrder{Issuer: c.Issuer, Serial: c.Serial, Reason: 1, At: e.clock.Now(), Note: "stolen", Lease: lease,
		Audit: gateway.AuditEvent{Kind: "revocation-ordered", At: e.clock.Now(), Transaction: c.Transaction, Actor: "anna"}}
}

func (e *env) ordered(o *gateway.RevocationOrder) int64 {
	e.Helper()
	epoch, err := e.s.OrderRevocation(e.ctx(), o)
	e.must(err)
	return epoch
}

// wantRevoked checks what is known of a certificate's revocation.
func (e *env) wantRevoked(c *gateway.Certificate, at time.Time, reason int) {
	e.Helper()
	got, err := e.s.Certificate(e.ctx(), c.Issuer, c.Serial)
	e.must(err)
	if !got.RevokedAt.Equal(at) || got.Revocation != reason {
		e.Errorf("revoked at %v for %d, want %v and %d", got.RevokedAt, got.Revocation, at, reason)
	}
}

func (e *env) told(c *gateway.Certificate, w *gateway.Work) *gateway.Revocation {
	return &gateway.Revocation{Issuer: c.Issuer, Serial: c.Serial, Reason: 4, At: e.clock.Now(), Work: w,
		Audit: gateway.AuditEvent{Kind: "revoked", At: e.clock.Now(), Transaction: c.Transaction}}
}

func testOrderRevocation(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx, epoch := e.begun(claim)
	s := e.issued(tx, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	e.clock.Advance(time.Minute)
	o := e.order(s.Certificate)
	epoch = e.ordered(o)
	if epoch == 0 {
		e.Error("no epoch")
	}
	e.wantRevoked(s.Certificate, o.At, 1)
	e.wantAudited("revocation-ordered", tx.ID, true)
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	if got := e.get(tx.ID); got.State != gateway.StateIssued || got.Note != s.Note {
		e.Errorf("the transaction is %q: %s", got.State, got.Note)
	}
	e.wantClaim(claim, false)
	// Once more changes nothing.
	again := e.order(s.Certificate)
	again.Reason, again.Serial, again.Audit.Kind = 4, append([]byte{0}, again.Serial...), "ordered-again"
	if epoch := e.ordered(again); epoch != 0 {
		e.Errorf("epoch %d for what is revoked", epoch)
	}
	e.wantRevoked(s.Certificate, o.At, 1)
	e.wantAudited("ordered-again", tx.ID, false)
	// Its CA is told under our lease, later under the worker's.
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due within the lease: %+v", due)
	}
	e.clock.Advance(lease)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkRevoke || w.Transaction != tx.ID || w.Epoch != epoch+1 || w.Attempts != 0 {
		e.Errorf("work: %+v after epoch %d", w, epoch)
	}
	stale := w
	stale.Epoch = epoch
	e.wantErr(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &stale)), gateway.ErrStale)
	e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &w)))
	e.wantRevoked(s.Certificate, o.At, 1)
	e.wantNoWork()
	// Told, then ordered.
	if epoch := e.ordered(e.order(s.Certificate)); epoch != 0 {
		e.Errorf("epoch %d for what is revoked", epoch)
	}
	e.wantNoWork()
	// Under the lease of the order; and without a lease, as an answer that came late.
	for _, late := range []bool{false, true} {
		tx, epoch := e.begun()
		s := e.issued(tx, epoch)
		e.must(e.s.Settle(e.ctx(), s))
		w := &gateway.Work{Transaction: tx.ID, Kind: gateway.WorkRevoke, Epoch: e.ordered(e.order(s.Certificate))}
		if late {
			w = nil
		}
		e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, w)))
		e.wantNoWork()
	}
	// Nonsense.
	o.Serial = []byte("nobody's")
	_, err := e.s.OrderRevocation(e.ctx(), o)
	e.wantErr(err, gateway.ErrNotFound)
	tx, epoch = e.begun()
	s = e.issued(tx, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	for name, change := range map[string]func(*gateway.RevocationOrder){
		"no lease": func(o *gateway.RevocationOrder) { o.Lease = 0 },
		"no audit": func(o *gateway.RevocationOrder) { o.Audit = gateway.AuditEvent{} },
	} {
		o := e.order(s.Certificate)
		change(o)
		if _, err := e.s.OrderRevocation(e.ctx(), o); err == nil {
			e.Errorf("%s: no error", name)
		}
	}
	e.wantRevoked(s.Certificate, time.Time{}, 0)
	e.wantNoWork()
}

func testOrderUnconfirmed(e *env) {
	e.leasedOrNot(func(e *env, tx *gateway.Transaction, s *gateway.Settlement, claim gateway.Claim, w *gateway.Work) {
		o := e.order(s.Certificate)
		o.Note = "stolen\x00"
		epoch := e.ordered(o)
		got := e.get(tx.ID)
		if got.State != gateway.StateRejected || got.Note != "stolen\uFFFD" || !got.Updated.Equal(o.At) {
			e.Errorf("the transaction is %q: %s", got.State, got.Note)
		}
		e.wantRevoked(s.Certificate, o.At, 1)
		e.wantClaim(claim, true)
		e.wantClaim(claim, false)
		e.wantRepeat(tx.Repeat, "")
		e.wantRepeat(tx.Resume, "")
		e.wantErr(e.s.Conclude(e.ctx(), e.accepted(tx)), gateway.ErrStale)
		e.wantLost(tx, w)
		if w != nil && epoch <= w.Epoch {
			e.Errorf("epoch %d after %d", epoch, w.Epoch)
		}
		e.clock.Advance(lease)
		revoke := e.theOnly(e.s)
		if revoke.Kind != gateway.WorkRevoke || revoke.Epoch != epoch+1 || revoke.Attempts != 0 || revoke.Note != "" {
			e.Errorf("work: %+v after epoch %d", revoke, epoch)
		}
		e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &revoke)))
		e.wantRevoked(s.Certificate, o.At, 1)
		e.wantClaim(claim, false)
		e.wantNoWork()
	})
}

// testOrderRejected: a certificate whose revocation waits already is revoked at once, and told once.
func testOrderRejected(e *env) {
	tx, s := e.waitsToBeConfirmed(time.Hour)
	e.must(e.s.Conclude(e.ctx(), e.rejected(tx)))
	w := e.theOnly(e.s)
	e.must(e.s.Postpone(e.ctx(), w, time.Hour, "no answer"))
	o := e.order(s.Certificate)
	epoch := e.ordered(o)
	if epoch != w.Epoch+1 {
		e.Errorf("epoch %d after %d", epoch, w.Epoch)
	}
	e.wantRevoked(s.Certificate, o.At, 1)
	if got := e.get(tx.ID); got.State != gateway.StateRejected || got.Note != "not taken" {
		e.Errorf("the transaction is %q: %s", got.State, got.Note)
	}
	e.clock.Advance(lease)
	again := e.theOnly(e.s)
	e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &again)))
	e.wantNoWork()
}

// testRaceOfOrders: several orders, the requester's word and the CA's answer at once. One order counts at most.
func testRaceOfOrders(e *env) {
	stores := e.instances()
	for round := range rounds {
		claim := gateway.Claim{Key: fmt.Sprint("count ", round), Limit: 1}
		tx, s := e.waitsToBeConfirmed(time.Hour, claim)
		o, c, told := e.order(s.Certificate), e.accepted(tx), e.told(s.Certificate, nil)
		epochs := make([]int64, 8)
		errs := together(8, func(i int) (err error) {
			switch (i + round) % 8 {
			case 0:
				return stores[0].Conclude(e.ctx(), c)
			case 1:
				return stores[1].MarkRevoked(e.ctx(), told)
			}
			epochs[i], err = stores[i%2].OrderRevocation(e.ctx(), o)
			return err
		})
		counted := 0
		for i, err := range errs {
			if err != nil && ((i+round)%8 != 0 || !errors.Is(err, gateway.ErrStale)) {
				e.Errorf("racer %d: %v", i, err)
			}
			if epochs[i] != 0 {
				counted++
			}
		}
		got := e.get(tx.ID)
		if counted > 1 || got.Certificate.RevokedAt.IsZero() || got.State == gateway.StateUnconfirmed && counted > 0 {
			e.Fatalf("%d orders counted, %+v", counted, got)
		}
		e.clock.Advance(10 * time.Hour)
		for _, w := range e.due(e.s) {
			switch {
			case w.Kind == gateway.WorkRevoke:
				e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &w)))
			case got.State == gateway.StateUnconfirmed: // the CA's answer came first of all
				e.must(e.s.Conclude(e.ctx(), e.rejected(tx)))
				w := e.theOnly(e.s)
				e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &w)))
			default:
				e.Errorf("work: %+v", w)
			}
		}
		e.wantClaim(claim, e.get(tx.ID).State == gateway.StateRejected)
		e.wantClaim(claim, false)
		e.wantNoWork()
	}
}

// testOrderByRequest: who asked to revoke is committed with the order, with its key and claims, or nothing is.
func testOrderByRequest(e *env) {
	certified := func() *gateway.Certificate {
		tx, epoch := e.begun()
		s := e.issued(tx, epoch)
		e.must(e.s.Settle(e.ctx(), s))
		return s.Certificate
	}
	claim := gateway.Claim{Key: "revocations", Limit: 2}
	request := func(c *gateway.Certificate) *gateway.RevocationOrder {
		o := e.order(c)
		t := e.transaction(gateway.StateRevoked)
		t.Operation, t.Intent, t.Resume = gateway.Revoke, nil, ""
		o.Request, o.Claims, o.RepeatUntil, o.Audit.Transaction = t, []gateway.Claim{claim}, o.At.Add(time.Minute), t.ID
		return o
	}
	c := certified()
	o := request(c)
	if e.ordered(o) == 0 {
		e.Error("no epoch")
	}
	e.wantRevoked(c, o.At, 1)
	got := e.get(o.Request.ID)
	if got.State != gateway.StateRevoked || got.State.Open() || got.Operation != gateway.Revoke || got.Certificate != nil || got.Note != o.Request.Note {
		e.Errorf("%+v", got)
	}
	e.wantAudited("revocation-ordered", o.Request.ID, true)
	e.wantRepeat(o.Request.Repeat, o.Request.ID)
	found, err := e.s.ByWireID(e.ctx(), o.Request.Endpoint, o.Request.WireID)
	e.must(err)
	if found.ID != o.Request.ID {
		e.Errorf("by its wire ID: %s", found.ID)
	}
	// The second comes too late, and leaves nothing.
	late := request(c)
	if epoch := e.ordered(late); epoch != 0 {
		e.Errorf("epoch %d for what is revoked", epoch)
	}
	_, err = e.s.Transaction(e.ctx(), late.Request.ID)
	e.wantErr(err, gateway.ErrNotFound)
	e.wantRepeat(late.Request.Repeat, "")
	// Nor does one whose key is another's, or whose claim is used up.
	valid := certified()
	twin := request(valid)
	twin.Request.Repeat = o.Request.Repeat
	_, err = e.s.OrderRevocation(e.ctx(), twin)
	if t, ok := errors.AsType[*gateway.TwinError](err); !ok || t.Transaction != o.Request.ID {
		e.Errorf("a twin: %v", err)
	}
	e.wantClaim(claim, true)
	spent := request(valid)
	_, err = e.s.OrderRevocation(e.ctx(), spent)
	if lost, ok := errors.AsType[*gateway.ClaimLostError](err); !ok || lost.Claim.Key != claim.Key {
		e.Errorf("a claim that is used up: %v", err)
	}
	for _, o := range []*gateway.RevocationOrder{twin, spent} {
		_, err = e.s.Transaction(e.ctx(), o.Request.ID)
		e.wantErr(err, gateway.ErrNotFound)
	}
	e.wantRepeat(spent.Request.Repeat, "")
	// Nor nonsense.
	for name, change := range map[string]func(*gateway.RevocationOrder){
		"another state":            func(o *gateway.RevocationOrder) { o.Request.State = gateway.StateIssued },
		"an intent":                func(o *gateway.RevocationOrder) { o.Request.Intent = e.transaction(gateway.StateIssuing).Intent },
		"a resume key":             func(o *gateway.RevocationOrder) { o.Request.Resume = o.Request.Repeat },
		"claims without a request": func(o *gateway.RevocationOrder) { o.Request, o.RepeatUntil = nil, time.Time{} },
		"a time without a request": func(o *gateway.RevocationOrder) { o.Request, o.Claims = nil, nil },
		"a claim without a key":    func(o *gateway.RevocationOrder) { o.Claims = []gateway.Claim{{Limit: 1}} },
	} {
		o := request(valid)
		o.Claims[0].Key = "another"
		change(o)
		if _, err := e.s.OrderRevocation(e.ctx(), o); err == nil {
			e.Errorf("%s: no error", name)
		}
	}
	e.wantRevoked(valid, time.Time{}, 0)
	// Its key stands until its time is over.
	e.clock.Advance(time.Minute + time.Second)
	e.wantRepeat(o.Request.Repeat, "")
}
