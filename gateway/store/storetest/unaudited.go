package storetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// testUnaudited: where the audit trail cannot be written, nothing is decided, revoked or entered; and it can be, once it can.
func testUnaudited(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	denied, approved := e.held(1, claim), e.held(1)
	tx, epoch := e.begun()
	s := e.issued(tx, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	waits, unconfirmed := e.waitsToBeConfirmed(time.Hour, gateway.Claim{Key: "other", Limit: 1})
	sum := sha256.Sum256([]byte("secret"))
	challenge := &gateway.IssuedChallenge{ID: hex.EncodeToString(sum[:8]), Hash: sum[:], Endpoint: "ran", Uses: 1,
		Created: e.clock.Now(), NotAfter: e.clock.Now().Add(time.Hour), By: "anna"}
	device := &gateway.Device{Name: "unaudited"}
	audit := gateway.AuditEvent{Kind: "operator", At: e.clock.Now()}
	fresh := e.transaction(gateway.StateHeld)
	fresh.Hold = &gateway.HoldRecord{Approvers: 1, Until: e.clock.Now().Add(time.Hour)}
	lost, _ := e.delivered(gateway.Claim{Key: "fourth", Limit: 1})
	open, _ := e.begun()
	adopted := &gateway.Adoption{Transaction: open.ID, WireID: "another", Repeat: keyOf("another", open.ID), At: e.clock.Now(), Audit: event("resumed", open)}
	superseding, waiting := e.supersession(lost), e.approval(e.held(1), "anna")
	waiting.Until = e.clock.Now().Add(time.Hour)
	calls := []struct {
		name string
		call func() error
	}{
		{"hold", func() error {
			_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: fresh, Claims: []gateway.Claim{{Key: "third", Limit: 1}}, Audit: event("held", fresh)})
			return err
		}},
		{"approve", func() error { _, err := e.s.Approve(e.ctx(), e.approval(approved, "anna")); return err }},
		{"supersede", func() error { _, err := e.s.Supersede(e.ctx(), superseding); return err }},
		{"approve, for who comes", func() error { _, err := e.s.Approve(e.ctx(), waiting); return err }},
		{"adopt", func() error { return e.s.Adopt(e.ctx(), adopted) }},
		{"deny", func() error { return e.s.Deny(e.ctx(), e.denial(denied, "anna")) }},
		{"order a revocation", func() error { _, err := e.s.OrderRevocation(e.ctx(), e.order(s.Certificate)); return err }},
		{"order one of what is unconfirmed", func() error { _, err := e.s.OrderRevocation(e.ctx(), e.order(unconfirmed.Certificate)); return err }},
		{"free a claim", func() error { return e.s.FreeClaims(e.ctx(), []string{"count"}, audit) }},
		{"put a challenge", func() error { return e.s.PutChallenge(e.ctx(), challenge, audit) }},
		{"import a device", func() error {
			_, _, err := e.s.ImportDevices(e.ctx(), []*gateway.Device{device}, false, audit, nil)
			return err
		}},
	}
	state := func() string {
		_, noDevice := e.s.Device(e.ctx(), "name", "unaudited")
		_, noChallenge := e.s.Challenge(e.ctx(), sum[:])
		_, notHeld := e.s.Transaction(e.ctx(), fresh.ID)
		uses, err := e.s.Uses(e.ctx(), []string{"count", "other", "third"})
		e.must(err)
		_, notSuperseding := e.s.Transaction(e.ctx(), superseding.Transaction.ID)
		text := fmt.Sprint(noDevice, noChallenge, notHeld, notSuperseding, uses)
		for _, t := range []*gateway.Transaction{denied, approved, tx, waits, lost, open, e.get(waiting.Transaction)} {
			now := e.get(t.ID)
			text += " " + string(now.State) + " " + now.WireID
			if now.Hold != nil {
				text += fmt.Sprint(len(now.Hold.Approvals), now.Hold.Denied)
			}
			if now.Certificate != nil {
				text += now.Certificate.RevokedAt.String()
			}
		}
		return text
	}
	before := state()
	e.db.Exec(e, `ALTER TABLE audit RENAME TO audit_away`)
	for _, c := range calls {
		if c.call() == nil {
			e.Errorf("%s: done without an audit event", c.name)
		}
	}
	if now := state(); now != before {
		e.Errorf("without an audit trail:\n%s\nnow\n%s", before, now)
	}
	e.db.Exec(e, `ALTER TABLE audit_away RENAME TO audit`)
	for _, c := range calls {
		if err := c.call(); err != nil {
			e.Errorf("%s, with the audit trail again: %v", c.name, err)
		}
	}
	e.wantState(denied.ID, gateway.StateDenied)
	e.wantState(approved.ID, gateway.StateIssuing)
	e.wantState(waits.ID, gateway.StateRejected)
}

// testRaceOfOrderAndTimeOut: an operator revokes what nobody has confirmed at the moment at which the worker gives up waiting, or
// keeps it, and the requester confirms it. It is revoked in any case, once, and its claims are given back once, or not.
func testRaceOfOrderAndTimeOut(e *env) {
	stores := e.instances()
	for round := range rounds {
		claim := gateway.Claim{Key: fmt.Sprint("count ", round), Limit: 2}
		e.wantClaim(claim, true) // somebody else's use, which stays
		tx, s := e.waitsToBeConfirmed(time.Hour, claim)
		e.clock.Advance(time.Hour)
		w := e.theOnly(stores[1])
		o, c := e.order(s.Certificate), e.accepted(tx)
		timeOut := &gateway.Settlement{Transaction: tx.ID, Epoch: w.Epoch, State: gateway.StateRejected, Release: true,
			Next: gateway.WorkRevoke, Now: e.clock.Now(), Audit: event("rejected", tx)}
		if round%2 == 1 {
			timeOut.State, timeOut.Release, timeOut.Next = gateway.StateIssued, false, ""
		}
		var ordered, ended, concluded error
		var epoch int64
		calls := []func(){
			func() { epoch, ordered = stores[0].OrderRevocation(e.ctx(), o) },
			func() { ended = stores[1].Settle(e.ctx(), timeOut) },
			func() { concluded = stores[0].Conclude(e.ctx(), c) },
		}
		together(3, func(i int) error { calls[(i+round)%3](); return nil })
		e.must(ordered)
		for _, err := range []error{ended, concluded} {
			if err != nil {
				e.wantErr(err, gateway.ErrStale)
			}
		}
		got := e.get(tx.ID)
		if epoch == 0 || ended == nil && concluded == nil || got.Certificate.RevokedAt.IsZero() {
			e.Fatalf("epoch %d, %v, %v, %+v", epoch, ended, concluded, got)
		}
		rejected := concluded != nil && (ended != nil || round%2 == 0)
		if (got.State == gateway.StateRejected) != rejected {
			e.Fatalf("it is %s after %v, %v", got.State, ended, concluded)
		}
		e.wantClaim(claim, rejected)
		e.wantClaim(claim, false)
		e.clock.Advance(lease)
		revoke := e.theOnly(e.s)
		if revoke.Kind != gateway.WorkRevoke || revoke.Transaction != tx.ID {
			e.Fatalf("work: %+v", revoke)
		}
		e.must(e.s.MarkRevoked(e.ctx(), e.told(s.Certificate, &revoke)))
		e.wantRevoked(s.Certificate, o.At, 1)
	}
}
