package storetest

import (
	"errors"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func testSettleIssued(e *env) {
	tx, epoch := e.begun()
	e.clock.Advance(time.Second)
	s := e.issued(tx, epoch)
	s.Note = "by the CA"
	e.must(e.s.Settle(e.ctx(), s))
	want := *tx
	want.State, want.Note, want.Updated, want.Certificate = gateway.StateIssued, s.Note, s.Now, s.Certificate
	e.equal("transaction", e.get(tx.ID), &want)
	got, err := e.s.Certificate(e.ctx(), s.Certificate.Issuer, s.Certificate.Serial)
	e.must(err)
	s.Certificate.State = gateway.StateIssued
	e.equal("certificate", got, s.Certificate)
	got, err = e.s.Certificate(e.ctx(), s.Certificate.Issuer, append([]byte{0, 0}, s.Certificate.Serial...))
	e.must(err)
	e.equal("by a serial with leading zeros", got, s.Certificate)
	for _, k := range [][2][]byte{{nil, nil}, {s.Certificate.Issuer, nil}, {s.Certificate.Issuer, {1}}, {[]byte("x"), s.Certificate.Serial}} {
		_, err = e.s.Certificate(e.ctx(), k[0], k[1])
		e.wantErr(err, gateway.ErrNotFound)
	}
	e.clock.Advance(1000 * time.Hour)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("work is left: %+v", due)
	}

	// Optional parts: no chain, nothing replaced, serial with leading zeros, no time to repeat in.
	tx, epoch = e.begun()
	s = e.issued(tx, epoch)
	s.RepeatUntil, s.Audit = time.Time{}, gateway.AuditEvent{}
	s.Certificate.Chain, s.Certificate.Replaces, s.Certificate.Serial = nil, nil, []byte{0, 0xfe, 1}
	e.must(e.s.Settle(e.ctx(), s))
	got, err = e.s.Certificate(e.ctx(), s.Certificate.Issuer, []byte{0xfe, 1})
	e.must(err)
	s.Certificate.Serial, s.Certificate.State = []byte{0xfe, 1}, gateway.StateIssued
	e.equal("certificate", got, s.Certificate)
	e.wantRepeat(tx.Repeat, "")
}

func testSettleFailed(e *env) {
	tx, epoch := e.begun()
	s := e.failed(tx, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	want := *tx
	want.State, want.Reason, want.Note, want.Updated = gateway.StateFailed, s.Reason, s.Note, s.Now
	e.equal("transaction", e.get(tx.ID), &want)
	e.wantRepeat(tx.Repeat, "")
	e.clock.Advance(1000 * time.Hour)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("work is left: %+v", due)
	}
}

func testSettleWithWork(e *env) {
	tx, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	e.wantState(tx.ID, gateway.StateUnknown)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due before its delay: %+v", due)
	}
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkSettle || w.Epoch <= epoch || w.Note != "connection reset" || w.Attempts != 0 {
		e.Errorf("work: %+v", w)
	}
	// Still unknown: the attempts go on counting.
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, w.Epoch)))
	e.clock.Advance(time.Second)
	w = e.theOnly(e.s)
	if w.Attempts != 1 {
		e.Errorf("attempts: %d, want 1", w.Attempts)
	}
	// A ticket: another kind of work, counted anew.
	e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: gateway.StateWaiting,
		Ticket: "ticket-1", Next: gateway.WorkPoll, Delay: time.Minute, Now: e.clock.Now()}))
	if got := e.get(tx.ID); got.State != gateway.StateWaiting || got.Ticket != "ticket-1" {
		e.Errorf("transaction: %+v", got)
	}
	e.clock.Advance(time.Minute)
	w = e.theOnly(e.s)
	if w.Kind != gateway.WorkPoll || w.Attempts != 0 {
		e.Errorf("work: %+v", w)
	}
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
	e.wantState(tx.ID, gateway.StateIssued)
	e.clock.Advance(1000 * time.Hour)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("work is left: %+v", due)
	}
}

// testSettleMismatch: a certificate that is not what was granted is kept until it is revoked.
func testSettleMismatch(e *env) {
	tx, epoch := e.begun()
	s := e.failed(tx, epoch)
	s.Certificate, s.Next, s.Release = e.certificate(tx), gateway.WorkRevoke, false
	e.must(e.s.Settle(e.ctx(), s))
	got := e.get(tx.ID)
	e.equal("certificate", got.Certificate, s.Certificate)
	if got.State != gateway.StateFailed {
		e.Errorf("transaction is %q", got.State)
	}
	e.wantRepeat(tx.Repeat, "")
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkRevoke {
		e.Errorf("work: %+v", w)
	}
	at := e.clock.Now()
	e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: s.Certificate.Issuer, Serial: s.Certificate.Serial, Reason: 4,
		At: at, Work: &w, Audit: event("revoked", tx)}))
	if c := e.get(tx.ID).Certificate; !c.RevokedAt.Equal(at) || c.Revocation != 4 {
		e.Errorf("revoked at %v for %d", c.RevokedAt, c.Revocation)
	}
	e.clock.Advance(1000 * time.Hour)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("work is left: %+v", due)
	}
}

func testSettleStale(e *env) {
	tx, epoch := e.begun()
	stale := func(epoch int64) {
		e.Helper()
		before := e.get(tx.ID)
		for _, s := range []*gateway.Settlement{e.issued(tx, epoch), e.failed(tx, epoch), e.unknown(tx, epoch)} {
			s.Now = s.Now.Add(time.Hour)
			e.wantErr(e.s.Settle(e.ctx(), s), gateway.ErrStale)
			if c := s.Certificate; c != nil {
				_, err := e.s.Certificate(e.ctx(), c.Issuer, c.Serial)
				e.wantErr(err, gateway.ErrNotFound)
			}
		}
		e.equal("transaction", e.get(tx.ID), before)
	}
	stale(epoch + 1)
	// A lease that ended, and that nobody took, is not lost.
	e.clock.Advance(2 * lease)
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	stale(epoch) // it was given back
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	stale(epoch)
	e.clock.Advance(2 * lease)
	w2 := e.theOnly(e.s) // the same instance took it again
	stale(w.Epoch)
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w2.Epoch)))
	stale(w2.Epoch)
	stale(0)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantErr(e.s.Settle(e.ctx(), e.failed(e.transaction(gateway.StateIssuing), 1)), gateway.ErrStale)
}

// testSettleWithoutLease: what no work waits for is settled under epoch 0.
func testSettleWithoutLease(e *env) {
	held := func() *gateway.Transaction {
		tx := e.transaction(gateway.StateHeld)
		_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Claims: []gateway.Claim{{Key: "held", Limit: 1}}})
		e.must(err)
		return tx
	}
	tx := held()
	e.must(e.s.Settle(e.ctx(), e.failed(tx, 0)))
	e.wantState(tx.ID, gateway.StateFailed)
	e.wantErr(e.s.Settle(e.ctx(), e.failed(tx, 0)), gateway.ErrStale)
	tx = held() // the claim was released
	s := e.unknown(tx, 0)
	e.must(e.s.Settle(e.ctx(), s))
	e.wantErr(e.s.Settle(e.ctx(), e.failed(tx, 0)), gateway.ErrStale) // work waits for it now
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	e.must(e.s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: gateway.StateStuck, Note: "ask the CA",
		Now: e.clock.Now(), Audit: event("stuck", tx)}))
	e.wantRepeat(tx.Repeat, tx.ID) // stuck is open
	e.must(e.s.Settle(e.ctx(), e.issued(tx, 0)))
	e.wantState(tx.ID, gateway.StateIssued)
	// One that is being issued is not.
	tx, _ = e.begun()
	e.wantErr(e.s.Settle(e.ctx(), e.failed(tx, 0)), gateway.ErrStale)
}

func testSettleNonsense(e *env) {
	tx, epoch := e.begun()
	for name, change := range map[string]func(*gateway.Settlement){
		"no state":                     func(s *gateway.Settlement) { s.State = "" },
		"issued without certificate":   func(s *gateway.Settlement) { s.Certificate = nil },
		"unknown with certificate":     func(s *gateway.Settlement) { s.State = gateway.StateUnknown },
		"another's certificate":        func(s *gateway.Settlement) { s.Certificate.Transaction = "somebody" },
		"certificate without a holder": func(s *gateway.Settlement) { s.Certificate.Transaction = "" },
	} {
		s := e.issued(tx, epoch)
		change(s)
		if err := e.s.Settle(e.ctx(), s); err == nil {
			e.Errorf("%s: no error", name)
		}
	}
	e.equal("transaction", e.get(tx.ID), tx)
	// What is closed stays what it is, even for the one who holds the lease on work that follows.
	s := e.failed(tx, epoch)
	s.Certificate, s.Next = e.certificate(tx), gateway.WorkRevoke
	e.must(e.s.Settle(e.ctx(), s))
	w := e.theOnly(e.s)
	if err := e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)); err == nil || errors.Is(err, gateway.ErrStale) {
		e.Errorf("a failed transaction was settled as issued: %v", err)
	}
	if err := e.s.Settle(e.ctx(), e.unknown(tx, w.Epoch)); err == nil || errors.Is(err, gateway.ErrStale) {
		e.Errorf("a failed transaction was opened again: %v", err)
	}
	e.wantState(tx.ID, gateway.StateFailed)
	again := e.failed(tx, w.Epoch)
	e.must(e.s.Settle(e.ctx(), again)) // the same state ends the work
	e.clock.Advance(2 * lease)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("work is left: %+v", due)
	}
}

func testCertificateExists(e *env) {
	a, epochA := e.begun()
	s := e.issued(a, epochA)
	e.must(e.s.Settle(e.ctx(), s))
	b, epochB := e.begun(gateway.Claim{Key: "b", Limit: 1})
	same := e.issued(b, epochB)
	same.Certificate.Serial = append([]byte{0}, s.Certificate.Serial...)
	e.wantErr(e.s.Settle(e.ctx(), same), gateway.ErrCertificateExists)
	e.equal("the second transaction", e.get(b.ID), b)
	e.equal("the first one's certificate", e.get(a.ID).Certificate, s.Certificate)
	// Nothing was written: the lease still is ours.
	e.must(e.s.Settle(e.ctx(), e.failed(b, epochB)))
	// The same serial of another issuer is another certificate.
	c, epochC := e.begun()
	other := e.issued(c, epochC)
	other.Certificate.Issuer, other.Certificate.Serial = []byte("another issuer"), s.Certificate.Serial
	e.must(e.s.Settle(e.ctx(), other))
}

func testMarkRevoked(e *env) {
	tx, epoch := e.begun()
	s := e.issued(tx, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	c := s.Certificate
	at := e.clock.Now()
	revocation := func(at time.Time, reason int, w *gateway.Work) *gateway.Revocation {
		return &gateway.Revocation{Issuer: c.Issuer, Serial: c.Serial, Reason: reason, At: at, Work: w, Audit: event("revoked", tx)}
	}
	wantRevoked := func() {
		e.Helper()
		got, err := e.s.Certificate(e.ctx(), c.Issuer, c.Serial)
		e.must(err)
		if !got.RevokedAt.Equal(at) || got.Revocation != 1 {
			e.Errorf("revoked at %v for %d, want %v for 1", got.RevokedAt, got.Revocation, at)
		}
	}
	e.wantRepeat(tx.Repeat, tx.ID)
	e.must(e.s.MarkRevoked(e.ctx(), revocation(at, 1, nil)))
	wantRevoked()
	e.wantRepeat(tx.Repeat, "")
	e.must(e.s.MarkRevoked(e.ctx(), revocation(at.Add(time.Hour), 5, nil)))
	wantRevoked()
	e.wantErr(e.s.MarkRevoked(e.ctx(), revocation(at, 1, &gateway.Work{Transaction: tx.ID, Epoch: 1, Owner: "one"})), gateway.ErrStale)
	quiet := revocation(at, 1, nil)
	quiet.Audit = gateway.AuditEvent{}
	if e.s.MarkRevoked(e.ctx(), quiet) == nil {
		e.Error("revoked without an audit event")
	}
	unknown := revocation(at, 1, nil)
	unknown.Serial = []byte{1, 2, 3}
	e.wantErr(e.s.MarkRevoked(e.ctx(), unknown), gateway.ErrNotFound)

	// Whoever revokes by hand ends the work that would.
	tx, epoch = e.begun()
	f := e.failed(tx, epoch)
	f.Certificate, f.Next = e.certificate(tx), gateway.WorkRevoke
	e.must(e.s.Settle(e.ctx(), f))
	c = f.Certificate
	w := e.theOnly(e.s)
	stale := w
	stale.Epoch--
	e.wantErr(e.s.MarkRevoked(e.ctx(), revocation(at, 1, &stale)), gateway.ErrStale)
	if got := e.get(tx.ID).Certificate; !got.RevokedAt.IsZero() {
		e.Error("a stale revocation was written")
	}
	e.must(e.s.MarkRevoked(e.ctx(), revocation(at, 1, nil)))
	wantRevoked()
	e.wantErr(e.s.MarkRevoked(e.ctx(), revocation(at, 1, &w)), gateway.ErrStale)
	// Work of another kind stays.
	tx, epoch = e.begun()
	f = e.failed(tx, epoch)
	f.Certificate, f.Next = e.certificate(tx), gateway.WorkForward
	e.must(e.s.Settle(e.ctx(), f))
	c = f.Certificate
	e.must(e.s.MarkRevoked(e.ctx(), revocation(at, 1, nil)))
	if w := e.theOnly(e.s); w.Kind != gateway.WorkForward {
		e.Errorf("work: %+v", w)
	}
}
