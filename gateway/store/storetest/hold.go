package storetest

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// holdTests are about holds.
var holdTests = []part{
	{"hold: approved", testHoldApproved},
	{"hold: claims that the last approval takes", testHoldClaims},
	{"hold: denied", testHoldDenied},
	{"hold: expired", testHoldExpires},
	{"hold: nonsense", testHoldNonsense},
	{"hold: race of approvers", testRaceOfApprovers},
	{"hold: race of its ends", testRaceOfHoldEnds},
	{"hold: crash", testCrashHeld},
}

// held begins a transaction that waits an hour for so many approvals.
func (e *env) held(approvers int, claims ...gateway.Claim) *gateway.Transaction {
	e.Helper()
	t := e.transaction(gateway.StateHeld)
	t.Hold = &gateway.HoldRecord{Stage: "approval", Approvers: approvers, Until: e.clock.Now().Add(time.Hour), Basis: gateway.Basis{Fixed: true}}
	t.Changes = []string{"the validity is 90d, not 3650d"}
	epoch, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Claims: claims, Audit: event("held", t)})
	e.must(err)
	if epoch != 0 {
		e.Errorf("epoch %d of what is held, want none", epoch)
	}
	return t
}

func (e *env) approval(t *gateway.Transaction, by string) *gateway.ApprovalOrder {
	intent := *t.Intent
	intent.Template.NotBefore = t.Intent.Template.NotBefore.Add(time.Minute)
	return &gateway.ApprovalOrder{Transaction: t.ID, Approval: gateway.Approval{By: by, At: e.clock.Now(), Reason: "known to " + by},
		Intent: &intent, Lease: lease, Audit: event("approved", t)}
}

func (e *env) denial(t *gateway.Transaction, by string) *gateway.DenialOrder {
	return &gateway.DenialOrder{Transaction: t.ID, Denied: gateway.Approval{By: by, At: e.clock.Now(), Reason: "unknown"}, Note: "denied",
		RepeatUntil: e.clock.Now().Add(10 * time.Minute), Audit: event("denied", t)}
}

func (e *env) approve(s Store, a *gateway.ApprovalOrder) int64 {
	e.Helper()
	epoch, err := s.Approve(e.ctx(), a)
	e.must(err)
	return epoch
}

// testHoldClaims: claims of the record are taken with the last approval, once, or the request stays held as it was.
func testHoldClaims(e *env) {
	claim := gateway.Claim{Key: "later", Limit: 1, Lost: "used up"}
	uses := func(want int64) {
		e.Helper()
		got, err := e.s.Uses(e.ctx(), []string{claim.Key})
		e.must(err)
		if got[claim.Key] != want {
			e.Errorf("%d uses, want %d", got[claim.Key], want)
		}
	}
	held := func(approvers int) (*gateway.Transaction, error) {
		t := e.transaction(gateway.StateHeld)
		t.Hold = &gateway.HoldRecord{Stage: "approval", Approvers: approvers, Until: e.clock.Now().Add(time.Hour), Claims: []gateway.Claim{claim}}
		_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Audit: event("held", t)})
		return t, err
	}
	mustHold := func(approvers int) *gateway.Transaction {
		e.Helper()
		t, err := held(approvers)
		e.must(err)
		return t
	}
	one, other, collected := mustHold(2), mustHold(1), mustHold(1)
	e.equal("held", e.get(one.ID), one)
	uses(0)
	// Who is the device takes it meanwhile, and gives it back.
	tx, epoch := e.begun(claim)
	lost := func(what string, err error) {
		e.Helper()
		if l, ok := errors.AsType[*gateway.ClaimLostError](err); !ok || l.Claim != claim {
			e.Errorf("%s: %v, want the claim lost", what, err)
		}
	}
	e.approve(e.s, e.approval(one, "anna"))
	before := e.get(one.ID)
	_, err := e.s.Approve(e.ctx(), e.approval(one, "otto"))
	lost("approved while none is left", err)
	e.equal("held as it was", e.get(one.ID), before)
	_, err = held(1)
	lost("held while none is left", err)
	waits := e.approval(collected, "anna")
	waits.Until = e.clock.Now().Add(time.Hour)
	_, err = e.s.Approve(e.ctx(), waits)
	lost("approved for its requester while none is left", err)
	e.must(e.s.Settle(e.ctx(), e.failed(tx, epoch)))
	uses(0)

	epoch = e.approve(e.s, e.approval(one, "otto"))
	uses(1)
	if got := e.get(one.ID); got.State != gateway.StateIssuing || got.Hold.Claims != nil || len(got.Hold.Approvals) != 2 {
		e.Errorf("%s, %+v", got.State, got.Hold)
	}
	_, err = e.s.Approve(e.ctx(), e.approval(other, "anna"))
	lost("the other's approval", err)
	e.must(e.s.Deny(e.ctx(), e.denial(other, "anna"))) // which has nothing to give back
	uses(1)
	e.must(e.s.Settle(e.ctx(), e.failed(one, epoch)))
	uses(0)
	e.approve(e.s, waits)
	uses(1)
	e.wantState(collected.ID, gateway.StateApproved)
	e.must(e.s.Deny(e.ctx(), e.denial(collected, "anna")))
	uses(0)

	claim.Until = e.clock.Now().Add(time.Hour)
	if _, err := held(1); err == nil {
		e.Error("a claim that lapses waits for an approval")
	}
}

func testHoldApproved(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx := e.held(2, claim)
	e.equal("held", e.get(tx.ID), tx)
	e.wantAudited("held", tx.ID, true)
	e.wantRepeat(tx.Repeat, tx.ID)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due before its time: %+v", due)
	}
	// Work waits for it: nobody settles it but by a lease.
	e.wantErr(e.s.Settle(e.ctx(), e.failed(tx, 0)), gateway.ErrStale)

	e.clock.Advance(time.Minute)
	first := e.approval(tx, "anna")
	if epoch := e.approve(e.s, first); epoch != 0 {
		e.Errorf("epoch %d after the first of two, want none", epoch)
	}
	want := *tx
	hold := *tx.Hold
	hold.Approvals = []gateway.Approval{first.Approval}
	want.Hold, want.Updated = &hold, first.Approval.At
	e.equal("approved once", e.get(tx.ID), &want)
	e.wantAudited("approved", tx.ID, true)
	_, err := e.s.Approve(e.ctx(), e.approval(tx, "anna"))
	e.wantErr(err, gateway.ErrApproved)
	e.equal("approved by the same person again", e.get(tx.ID), &want)

	e.clock.Advance(time.Minute)
	unaware := e.approval(tx, "Bert Müller")
	unaware.NotLast = true
	_, err = e.s.Approve(e.ctx(), unaware)
	e.wantErr(err, gateway.ErrLast)
	e.equal("approved last by who did not know", e.get(tx.ID), &want)
	second := e.approval(tx, "Bert Müller")
	epoch := e.approve(e.s, second)
	if epoch == 0 {
		e.Error("no epoch after the last approval")
	}
	hold.Approvals = append(hold.Approvals, second.Approval)
	want.State, want.Intent, want.Updated = gateway.StateIssuing, second.Intent, second.Approval.At
	e.equal("approved", e.get(tx.ID), &want)
	e.wantClaim(claim, false)
	e.wantRepeat(tx.Repeat, tx.ID)
	// It is over.
	for _, by := range []string{"anna", "carl"} {
		_, err := e.s.Approve(e.ctx(), e.approval(tx, by))
		e.wantErr(err, gateway.ErrStale)
	}
	e.wantErr(e.s.Deny(e.ctx(), e.denial(tx, "carl")), gateway.ErrStale)
	e.equal("approved, then denied", e.get(tx.ID), &want)
	e.wantAudited("denied", tx.ID, false)
	// The lease is as in Begin: settled under it, and somebody else's when it is over.
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due within the lease: %+v", due)
	}
	e.clock.Advance(lease)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkSettle || w.Transaction != tx.ID || w.Epoch != epoch+1 || w.Attempts != 0 {
		e.Errorf("work: %+v after epoch %d", w, epoch)
	}
	e.wantErr(e.s.Settle(e.ctx(), e.issued(tx, epoch)), gateway.ErrStale)
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
	if got := e.get(tx.ID); got.State != gateway.StateIssued || len(got.Hold.Approvals) != 2 || len(got.Changes) != 1 {
		e.Errorf("issued: %+v", got)
	}
	e.wantNoWork()

	// Under the lease of its approval.
	tx = e.held(0)
	e.must(e.s.Settle(e.ctx(), e.issued(tx, e.approve(e.s, e.approval(tx, "anna")))))
	e.wantNoWork()
	// Held by a release that kept no record.
	old := e.transaction(gateway.StateHeld)
	_, err = e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: old})
	e.must(err)
	e.must(e.s.Settle(e.ctx(), e.issued(old, e.approve(e.s, e.approval(old, "anna")))))
	e.wantNoWork()
}

func testHoldDenied(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx := e.held(2, claim)
	e.approve(e.s, e.approval(tx, "anna"))
	d := e.denial(tx, "bert")
	d.Note = "not\x00 ours"
	e.must(e.s.Deny(e.ctx(), d))
	got := e.get(tx.ID)
	if got.State != gateway.StateDenied || got.Note != "not\uFFFD ours" || !got.Updated.Equal(d.Denied.At) || got.State.Open() {
		e.Errorf("denied: %+v", got)
	}
	e.equal("who denied it", got.Hold.Denied, &d.Denied)
	if len(got.Hold.Approvals) != 1 {
		e.Errorf("approvals: %+v", got.Hold.Approvals)
	}
	e.wantAudited("denied", tx.ID, true)
	e.wantClaim(claim, true)
	e.wantClaim(claim, false)
	e.wantErr(e.s.Deny(e.ctx(), e.denial(tx, "carl")), gateway.ErrStale)
	_, err := e.s.Approve(e.ctx(), e.approval(tx, "carl"))
	e.wantErr(err, gateway.ErrStale)
	e.equal("denied, then approved", e.get(tx.ID), got)
	e.wantClaim(claim, false) // and not given back again
	// Who asks again is told, for a while; then he may ask anew.
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantTwin(e.keyed(tx.Repeat, ""), tx.ID)
	e.wantRepeat(tx.Resume, "") // the wish, in another exchange, is nobody's repeat
	byWire, err := e.s.ByWireID(e.ctx(), tx.Endpoint, tx.WireID)
	e.must(err)
	e.equal("by wire ID", byWire, got)
	e.clock.Advance(d.RepeatUntil.Sub(e.clock.Now()))
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	e.mustBegin(e.s, e.keyed(tx.Repeat, tx.Resume))
	e.clock.Advance(2 * time.Hour)
	for _, w := range e.due(e.s) {
		if w.Transaction == tx.ID {
			e.Errorf("work of what was denied: %+v", w)
		}
	}
	// A denial of what is closed settles nothing, nor does a settlement deny.
	for _, epoch := range []int64{0, 1, 2} {
		s := e.failed(tx, epoch)
		if err := e.s.Settle(e.ctx(), s); !errors.Is(err, gateway.ErrStale) {
			e.Errorf("settled under epoch %d: %v", epoch, err)
		}
	}
	issuing, epoch := e.begun()
	s := e.failed(issuing, epoch)
	s.State = gateway.StateDenied
	if err := e.s.Settle(e.ctx(), s); err == nil || errors.Is(err, gateway.ErrStale) {
		e.Errorf("a settlement denied: %v", err)
	}
	e.wantState(issuing.ID, gateway.StateIssuing)
	e.wantErr(e.s.Deny(e.ctx(), e.denial(issuing, "bert")), gateway.ErrStale)
	e.must(e.s.Settle(e.ctx(), e.failed(issuing, epoch))) // its work is untouched

	// Without a time to repeat in the keys are free at once; and it is found by its state.
	tx = e.held(1)
	d = e.denial(tx, "bert")
	d.RepeatUntil = time.Time{}
	e.must(e.s.Deny(e.ctx(), d))
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	list, err := e.s.Transactions(e.ctx(), gateway.TransactionFilter{States: []gateway.State{gateway.StateDenied}})
	e.must(err)
	if len(list) != 2 || list[0].ID != tx.ID || list[0].Hold == nil || list[0].Hold.Denied == nil || list[0].Changes == nil {
		e.Errorf("%d are denied", len(list))
	}
}

func testHoldExpires(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx := e.held(1, claim)
	e.clock.Advance(time.Hour - time.Microsecond)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due before its time: %+v", due)
	}
	e.clock.Advance(time.Microsecond)
	_, err := e.s.Approve(e.ctx(), e.approval(tx, "anna"))
	e.wantErr(err, gateway.ErrStale)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkHold || w.Transaction != tx.ID || w.Attempts != 0 {
		e.Errorf("work: %+v", w)
	}
	d := e.denial(tx, "")
	d.Work = &w
	stale := w
	stale.Epoch--
	d.Work = &stale
	e.wantErr(e.s.Deny(e.ctx(), d), gateway.ErrStale)
	e.wantState(tx.ID, gateway.StateHeld)
	e.wantClaim(claim, false)
	d.Work = &w
	e.must(e.s.Deny(e.ctx(), d))
	if got := e.get(tx.ID); got.State != gateway.StateDenied || got.Hold.Denied == nil || got.Hold.Denied.By != "" {
		e.Errorf("expired: %+v", got)
	}
	e.wantClaim(claim, true)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantNoWork()

	// A person who denies takes it from the worker. One approval in time does not keep it.
	tx = e.held(2)
	e.approve(e.s, e.approval(tx, "anna"))
	e.clock.Advance(time.Hour)
	w = e.theOnly(e.s)
	e.must(e.s.Deny(e.ctx(), e.denial(tx, "bert")))
	d = e.denial(tx, "")
	d.Work = &w
	e.wantErr(e.s.Deny(e.ctx(), d), gateway.ErrStale)
	e.wantErr(e.s.Postpone(e.ctx(), w, 0, "later"), gateway.ErrStale)
	// One that was over when it began is due at once.
	past := e.transaction(gateway.StateHeld)
	past.Hold = &gateway.HoldRecord{Until: e.clock.Now().Add(-time.Hour)}
	_, err = e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: past})
	e.must(err)
	if w := e.theOnly(e.s); w.Transaction != past.ID || w.Kind != gateway.WorkHold {
		e.Errorf("work: %+v", w)
	}
}

func testHoldNonsense(e *env) {
	for name, change := range map[string]func(*gateway.Transaction){
		"issuing with a hold": func(t *gateway.Transaction) { t.State = gateway.StateIssuing },
		"held for ever":       func(t *gateway.Transaction) { t.Hold.Until = time.Time{} },
	} {
		t := e.transaction(gateway.StateHeld)
		t.Hold = &gateway.HoldRecord{Approvers: 1, Until: e.clock.Now().Add(time.Hour)}
		change(t)
		if _, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Lease: lease}); err == nil {
			e.Errorf("%s: no error", name)
		}
	}
	tx := e.held(1)
	for name, change := range map[string]func(*gateway.ApprovalOrder){
		"nobody":          func(a *gateway.ApprovalOrder) { a.Approval.By = "" },
		"no name":         func(a *gateway.ApprovalOrder) { a.Approval.By = "\xff" },
		"no intent":       func(a *gateway.ApprovalOrder) { a.Intent = nil },
		"no lease":        func(a *gateway.ApprovalOrder) { a.Lease = 0 },
		"no audit":        func(a *gateway.ApprovalOrder) { a.Audit = gateway.AuditEvent{} },
		"of somebody":     func(a *gateway.ApprovalOrder) { a.Transaction = "nobody" },
		"of a longer one": func(a *gateway.ApprovalOrder) { a.Transaction += "x" },
	} {
		a := e.approval(tx, "anna")
		change(a)
		if epoch, err := e.s.Approve(e.ctx(), a); err == nil || epoch != 0 || errors.Is(err, gateway.ErrStale) != (a.Transaction != tx.ID) {
			e.Errorf("approved by %s: %d, %v", name, epoch, err)
		}
	}
	d := e.denial(tx, "bert")
	d.Audit = gateway.AuditEvent{}
	if err := e.s.Deny(e.ctx(), d); err == nil {
		e.Error("denied without an audit event")
	}
	d = e.denial(tx, "bert")
	d.Work = &gateway.Work{Transaction: "another"}
	if err := e.s.Deny(e.ctx(), d); err == nil || errors.Is(err, gateway.ErrStale) {
		e.Errorf("denied under another's lease: %v", err)
	}
	e.equal("after all that", e.get(tx.ID), tx)
	var before, after backend.IssueRequest // approval's reason is stored as it can be
	a := e.approval(tx, "anna")
	a.Approval.Reason = "a\x00b\xff"
	e.approve(e.s, a)
	if got := e.get(tx.ID).Hold.Approvals[0].Reason; got != "a\uFFFDb\uFFFD" {
		e.Errorf("reason: %q", got)
	}
	b, err := json.Marshal(a.Intent)
	e.must(err)
	e.must(json.Unmarshal(b, &before))
	b, err = json.Marshal(e.get(tx.ID).Intent)
	e.must(err)
	e.must(json.Unmarshal(b, &after))
	e.equal("intent", after, before)
}
