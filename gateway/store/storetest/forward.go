package storetest

import (
	"math/big"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// forwardTests are of transactions whose messages are passed on.
var forwardTests = []part{
	{"forward: begin, lease, settle", testForward},
	{"forward: closed in time", testForwardDue},
	{"forward: certificate in another's place", testForwardInstead},
	{"forward: revocation", testForwardRevocation},
	{"forward: order to revoke", testForwardOrder},
	{"forward: nonsense", testForwardNonsense},
	{"forward: race for the lease", testForwardRace},
}

const forwardWait = 30 * 24 * time.Hour

// passed is a new transaction that is passed on.
func (e *env) passed(claims ...gateway.Claim) (*gateway.Transaction, int64) {
	e.Helper()
	t := e.transaction(gateway.StateForwarded)
	t.Intent = nil
	epoch, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Claims: claims, Lease: lease, Wait: forwardWait})
	e.must(err)
	return t, epoch
}

// goesOn is the settlement of an answer that does not end it.
func (e *env) goesOn(t *gateway.Transaction, epoch int64) *gateway.Settlement {
	return &gateway.Settlement{
		Transaction: t.ID, Epoch: epoch, State: gateway.StateForwarded, Note: "waits", Exchange: []byte("record of an answer"),
		Next: gateway.WorkForward, Delay: time.Hour, Now: e.clock.Now(), Audit: event("forwarded", t),
	}
}

func (e *env) leased(t *gateway.Transaction) int64 {
	e.Helper()
	epoch, err := e.s.LeaseForward(e.ctx(), t.ID, lease)
	e.must(err)
	return epoch
}

func testForward(e *env) {
	claim := gateway.Claim{Key: "once", Limit: 1}
	tx, epoch := e.passed(claim)
	e.equal("as it begins", e.get(tx.ID), tx)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantRepeat(tx.Resume, tx.ID)

	s := e.goesOn(tx, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	tx.Note, tx.Exchange, tx.Updated = s.Note, s.Exchange, s.Now
	e.equal("with an answer", e.get(tx.ID), tx)
	e.wantAudited("forwarded", tx.ID, true)
	e.wantErr(e.s.Settle(e.ctx(), e.goesOn(tx, epoch)), gateway.ErrStale) // the lease was given back

	epoch = e.leased(tx)
	s = e.goesOn(tx, epoch)
	s.Certificate, s.Exchange, s.Audit = e.certificate(tx), nil, event("certified", tx)
	e.must(e.s.Settle(e.ctx(), s))
	tx.Certificate, tx.Updated = s.Certificate, s.Now
	e.equal("with its certificate", e.get(tx.ID), tx)
	if c, err := e.s.Certificate(e.ctx(), s.Certificate.Issuer, s.Certificate.Serial); err != nil || c.State != gateway.StateForwarded {
		e.Errorf("%+v, %v", c, err)
	}

	// A lease that this instance has passes on; what was done under the one before is stale.
	first, second := e.leased(tx), e.leased(tx)
	if second <= first {
		e.Errorf("epochs %d, %d", first, second)
	}
	e.wantErr(e.s.Settle(e.ctx(), e.goesOn(tx, first)), gateway.ErrStale)
	done := e.issued(tx, second)
	done.Certificate, done.Exchange, done.Confirmed = nil, []byte("the last"), true
	e.must(e.s.Settle(e.ctx(), done))
	got := e.get(tx.ID)
	if got.State != gateway.StateIssued || string(got.Exchange) != "the last" || got.Certificate == nil {
		e.Errorf("%+v", got)
	}
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantRepeat(tx.Resume, "") // what is asked for next is another certificate
	_, err := e.s.LeaseForward(e.ctx(), tx.ID, lease)
	e.wantErr(err, gateway.ErrStale)
	_, err = e.s.LeaseForward(e.ctx(), "nobody", lease)
	e.wantErr(err, gateway.ErrStale)

	// Refused, its claims are there again.
	again, epoch := e.passed(gateway.Claim{Key: "twice", Limit: 1})
	e.must(e.s.Settle(e.ctx(), e.failed(again, epoch)))
	e.passed(gateway.Claim{Key: "twice", Limit: 1})
	if len(e.due(e.s)) != 0 {
		e.Error("work is left of what is over, or due before its time")
	}
}

func testForwardDue(e *env) {
	tx, epoch := e.passed()
	e.must(e.s.Settle(e.ctx(), e.goesOn(tx, epoch)))
	silent, _ := e.passed()
	e.clock.Advance(time.Hour)
	w := e.theOnly(e.s)
	if w.Transaction != tx.ID || w.Kind != gateway.WorkForward {
		e.Fatalf("%+v", w)
	}
	s := e.failed(tx, w.Epoch)
	s.Release = false
	e.must(e.s.Settle(e.ctx(), s))
	e.clock.Advance(forwardWait)
	if w := e.theOnly(e.s); w.Transaction != silent.ID || w.Kind != gateway.WorkForward {
		e.Fatalf("%+v", w)
	}
}

func testForwardInstead(e *env) {
	tx, epoch := e.passed()
	s := e.goesOn(tx, epoch)
	s.Certificate = e.certificate(tx)
	e.must(e.s.Settle(e.ctx(), s))
	was := s.Certificate
	epoch = e.leased(tx)
	second := e.goesOn(tx, epoch)
	second.Certificate = e.certificate(tx)
	e.wantErr(e.s.Settle(e.ctx(), second), gateway.ErrCertificateExists) // it has one
	e.equal("nothing changed", e.get(tx.ID).Certificate.Serial, was.Serial)
	second.Instead = true
	e.must(e.s.Settle(e.ctx(), second))
	e.equal("the other's place", e.get(tx.ID).Certificate.Serial, second.Certificate.Serial)
	_, err := e.s.Certificate(e.ctx(), was.Issuer, was.Serial)
	e.wantErr(err, gateway.ErrNotFound)

	// That of another transaction stays where it is.
	other, epoch := e.passed()
	theft := e.goesOn(other, epoch)
	theft.Certificate = e.certificate(other)
	theft.Certificate.Issuer, theft.Certificate.Serial = second.Certificate.Issuer, second.Certificate.Serial
	e.wantErr(e.s.Settle(e.ctx(), theft), gateway.ErrCertificateExists)
}

func testForwardRevocation(e *env) {
	tx, epoch := e.begun()
	issued := e.issued(tx, epoch)
	e.must(e.s.Settle(e.ctx(), issued))
	for i, c := range []*gateway.Certificate{issued.Certificate, {Issuer: []byte("elsewhere"), Serial: []byte{7}}, issued.Certificate} {
		rr, epoch := e.passed()
		e.must(e.s.Settle(e.ctx(), &gateway.Settlement{
			Transaction: rr.ID, Epoch: epoch, State: gateway.StateRevoked, Now: e.clock.Now(), RepeatUntil: e.clock.Now().Add(time.Minute), Exchange: []byte("rp"),
			Revokes: &gateway.CertID{Issuer: c.Issuer, Serial: new(big.Int).SetBytes(c.Serial), Reason: 1 + i}, Audit: event("revoked", rr),
		}))
		e.wantState(rr.ID, gateway.StateRevoked)
		e.wantRepeat(rr.Repeat, rr.ID)
		e.wantAudited("revoked", rr.ID, true)
		got := e.get(tx.ID)
		if got.Certificate.RevokedAt.IsZero() || got.Certificate.Revocation != 1 {
			e.Errorf("%d: %+v", i, got.Certificate)
		}
		e.wantRepeat(tx.Repeat, "")
	}
}

// An operator's order ends what waits for certConf elsewhere.
func testForwardOrder(e *env) {
	claim := gateway.Claim{Key: "once", Limit: 1}
	tx, epoch := e.passed(claim)
	s := e.goesOn(tx, epoch)
	s.Certificate = e.certificate(tx)
	e.must(e.s.Settle(e.ctx(), s))
	order := &gateway.RevocationOrder{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial, Reason: 1, At: e.clock.Now(), Lease: lease, Audit: event("ordered", tx)}
	if epoch, err := e.s.OrderRevocation(e.ctx(), order); err != nil || epoch == 0 {
		e.Fatal(epoch, err)
	}
	e.wantState(tx.ID, gateway.StateRejected)
	_, err := e.s.LeaseForward(e.ctx(), tx.ID, lease)
	e.wantErr(err, gateway.ErrStale)
	e.passed(claim)
}

func testForwardNonsense(e *env) {
	for name, change := range map[string]func(*gateway.Beginning){
		"no lease":                      func(b *gateway.Beginning) { b.Lease = 0 },
		"never closed":                  func(b *gateway.Beginning) { b.Wait = 0 },
		"closed, though issued here":    func(b *gateway.Beginning) { b.Transaction.State = gateway.StateIssuing },
		"closed, though held":           func(b *gateway.Beginning) { b.Transaction.State = gateway.StateHeld },
		"as nothing that a request is":  func(b *gateway.Beginning) { b.Transaction.State = gateway.StateRevoked },
		"in an exchange that is over":   func(b *gateway.Beginning) { b.Transaction.State = gateway.StateIssued },
		"in the state of a certificate": func(b *gateway.Beginning) { b.Transaction.State = gateway.StateUnconfirmed },
	} {
		b := &gateway.Beginning{Transaction: e.transaction(gateway.StateForwarded), Lease: lease, Wait: time.Hour}
		change(b)
		if _, err := e.s.Begin(e.ctx(), b); err == nil {
			e.Errorf("%s: taken", name)
		}
	}
	tx, epoch := e.passed()
	for name, change := range map[string]func(*gateway.Settlement){
		"nothing closes it":              func(s *gateway.Settlement) { s.Next = "" },
		"another kind of work":           func(s *gateway.Settlement) { s.Next = gateway.WorkSettle },
		"without a lease":                func(s *gateway.Settlement) { s.Epoch = 0 },
		"claims given back":              func(s *gateway.Settlement) { s.Release = true },
		"issued without a certificate":   func(s *gateway.Settlement) { s.State, s.Next = gateway.StateIssued, "" },
		"rejected without a certificate": func(s *gateway.Settlement) { s.State, s.Next = gateway.StateRejected, "" },
		"confirmed, and goes on":         func(s *gateway.Settlement) { s.Confirmed = true },
		"confirmed as it comes": func(s *gateway.Settlement) {
			s.State, s.Next, s.Confirmed, s.Certificate = gateway.StateIssued, "", true, e.certificate(tx)
		},
		"in the place of none":             func(s *gateway.Settlement) { s.Instead = true },
		"revokes though it is not revoked": func(s *gateway.Settlement) { s.Revokes = &gateway.CertID{Serial: big.NewInt(1)} },
		"revokes nothing":                  func(s *gateway.Settlement) { s.State, s.Next, s.Revokes = gateway.StateRevoked, "", &gateway.CertID{} },
	} {
		s := e.goesOn(tx, epoch)
		change(s)
		if err := e.s.Settle(e.ctx(), s); err == nil {
			e.Errorf("%s: taken", name)
		}
	}
	e.wantState(tx.ID, gateway.StateForwarded)
	if _, err := e.s.LeaseForward(e.ctx(), tx.ID, 0); err == nil {
		e.Error("a lease of no time")
	}
	// Nothing becomes forwarded that did not begin so.
	issuing, epoch := e.begun()
	if err := e.s.Settle(e.ctx(), e.goesOn(issuing, epoch)); err == nil {
		e.Error("what is issued here is passed on")
	}
	e.wantState(issuing.ID, gateway.StateIssuing)
	_, err := e.s.LeaseForward(e.ctx(), issuing.ID, lease)
	e.wantErr(err, gateway.ErrStale)
}

// Of two instances one passes a message on; the other's turn comes when the lease is over.
func testForwardRace(e *env) {
	if !e.db.Shared() {
		e.crashedForward()
		return
	}
	two := e.db.Open(e.T, "two", e.clock.Now)
	tx, epoch := e.passed()
	_, err := two.LeaseForward(e.ctx(), tx.ID, lease)
	e.wantErr(err, gateway.ErrStale)
	e.clock.Advance(lease)
	if _, err = two.LeaseForward(e.ctx(), tx.ID, lease); err != nil {
		e.Fatal(err)
	}
	e.wantErr(e.s.Settle(e.ctx(), e.goesOn(tx, epoch)), gateway.ErrStale)
	errs := together(2, func(i int) error {
		_, err := []Store{e.s, two}[i].LeaseForward(e.ctx(), tx.ID, lease)
		return err
	})
	e.wantErr(errs[0], gateway.ErrStale)
	e.must(errs[1])
	e.crashedForward()
}

// crashedForward: what an instance had leased when it was killed it goes on with at once.
func (e *env) crashedForward() {
	tx, _ := e.passed()
	e.db.Crash(testing.TB(e.T), e.s)
	e.s = e.db.Open(e.T, "one", e.clock.Now)
	e.must(e.s.Settle(e.ctx(), e.goesOn(tx, e.leased(tx))))
}
