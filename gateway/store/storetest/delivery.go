package storetest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// deliveryTests are about keys that the gateway makes for devices and does not keep.
var deliveryTests = []part{
	{"delivery: superseded", testSuperseded},
	{"delivery: superseded in vain", testSupersededInVain},
	{"delivery: nonsense", testDeliveryNonsense},
	{"delivery: approved and collected", testCollected},
	{"delivery: approved and not collected", testNotCollected},
	{"delivery: race of supersessions", testRaceOfSupersessions},
	{"delivery: race of supersession and order", testRaceOfSupersessionAndOrder},
	{"delivery: race of collection and end", testRaceOfCollection},
	{"delivery: crash", testCrashSuperseded},
}

func (e *env) delivery() *gateway.Delivery {
	return &gateway.Delivery{Kind: "P-256", Attempt: 1, Basis: gateway.Basis{Since: e.clock.Now().Truncate(time.Second), Fixed: true, Entry: "device",
		Replaces: &gateway.Replaced{Issuer: []byte("issuer"), Serial: []byte{1}}}}
}

// delivered is an issued transaction whose key was not kept.
func (e *env) delivered(claims ...gateway.Claim) (*gateway.Transaction, *gateway.Certificate) {
	e.Helper()
	t := e.transaction(gateway.StateIssuing)
	t.Delivery = e.delivery()
	s := e.issued(t, e.mustBegin(e.s, t, claims...))
	e.must(e.s.Settle(e.ctx(), s))
	return t, s.Certificate
}

// supersession has a new transaction take another's place.
func (e *env) supersession(t *gateway.Transaction) *gateway.Supersession {
	next := e.transaction(gateway.StateIssuing)
	next.Repeat, next.Resume, next.Delivery = t.Repeat, t.Resume, e.delivery()
	next.Delivery.Attempt, next.Delivery.After = 2, t.ID
	return &gateway.Supersession{Earlier: t.ID, Note: "superseded by\x00 " + next.ID, Reason: 4, At: e.clock.Now(), Transaction: next, Lease: lease,
		Audit: event("superseded", t)}
}

func (e *env) supersede(p *gateway.Supersession) int64 {
	e.Helper()
	epoch, err := e.s.Supersede(e.ctx(), p)
	e.must(err)
	return epoch
}

func testSuperseded(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx, cert := e.delivered(claim)
	e.clock.Advance(time.Minute)
	p := e.supersession(tx)
	epoch := e.supersede(p)
	next := p.Transaction
	e.equal("the new one", e.get(next.ID), next)
	got := e.get(tx.ID)
	if got.State != gateway.StateIssued || got.Note != "superseded by\uFFFD "+next.ID || got.Delivery == nil || got.Delivery.After != "" {
		e.Errorf("the earlier one: %+v", got)
	}
	e.wantRevoked(cert, p.At, 4)
	e.wantAudited("superseded", tx.ID, true)
	// It holds the keys for as long as it is open, and the claims, which are not counted again.
	e.clock.Advance(10 * time.Minute)
	e.wantRepeat(tx.Repeat, next.ID)
	e.wantRepeat(tx.Resume, next.ID)
	e.wantTwin(e.keyed(tx.Repeat, ""), next.ID)
	e.wantClaim(claim, false)
	e.wantUsed("count", 1)
	// Its CA is told of the one, and asked for the other should nobody settle it.
	works := map[string]gateway.Work{}
	for _, w := range e.due(e.s) {
		works[w.Transaction] = w
	}
	if w := works[tx.ID]; len(works) != 2 || w.Kind != gateway.WorkRevoke || works[next.ID].Kind != gateway.WorkSettle || works[next.ID].Epoch != epoch+1 {
		e.Fatalf("work: %+v", works)
	}
	told := works[tx.ID]
	e.must(e.s.MarkRevoked(e.ctx(), e.told(cert, &told)))
	e.wantRevoked(cert, p.At, 4)
	e.wantRepeat(tx.Repeat, next.ID) // the earlier one's, no more
	e.wantErr(e.s.Settle(e.ctx(), e.issued(next, epoch)), gateway.ErrStale)
	s := e.issued(next, works[next.ID].Epoch)
	e.must(e.s.Settle(e.ctx(), s))
	e.wantRepeat(tx.Repeat, next.ID)
	if due := e.due(e.s); len(due) > 0 {
		e.Errorf("work is left: %+v", due)
	}
	// Once more: it fails, and gives back what the first was counted for, once.
	again := e.supersession(next)
	epoch = e.supersede(again)
	e.wantRevoked(s.Certificate, again.At, 4)
	e.must(e.s.Settle(e.ctx(), e.failed(again.Transaction, epoch)))
	e.wantRepeat(tx.Repeat, "")
	e.wantRepeat(tx.Resume, "")
	e.wantUsed("count", 0)
	e.wantClaim(claim, true)
	e.wantClaim(claim, false)
}

// unchanged runs what must fail as stale, and leave everything as it was.
func (e *env) unchanged(what string, tx *gateway.Transaction, p *gateway.Supersession) {
	e.Helper()
	var cert string
	if c := e.get(tx.ID).Certificate; c != nil {
		cert = fmt.Sprintf("%+v", *c)
	}
	if _, err := e.s.Supersede(e.ctx(), p); !errors.Is(err, gateway.ErrStale) {
		e.Errorf("%s: %v, want stale", what, err)
	}
	got := e.get(tx.ID)
	if c := got.Certificate; c != nil && fmt.Sprintf("%+v", *c) != cert {
		e.Errorf("%s: the certificate is %+v, was %s", what, c, cert)
	}
	if strings.HasPrefix(got.Note, "superseded") {
		e.Errorf("%s: noted %s", what, got.Note)
	}
	_, err := e.s.Transaction(e.ctx(), p.Transaction.ID)
	e.wantErr(err, gateway.ErrNotFound)
	e.wantAudited("superseded", tx.ID, false)
	if due := e.due(e.s); len(due) > 0 {
		e.Errorf("%s: work: %+v", what, due)
	}
}

func testSupersededInVain(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 100}
	// Revoked meanwhile.
	tx, cert := e.delivered(claim)
	w := &gateway.Work{Transaction: tx.ID, Epoch: e.ordered(e.order(cert))}
	e.must(e.s.MarkRevoked(e.ctx(), e.told(cert, w)))
	e.unchanged("revoked", tx, e.supersession(tx))
	// Revoked, with a key that stands as it did.
	tx, _ = e.delivered(claim)
	e.db.Exec(e, fmt.Sprintf(`UPDATE certificates SET revoked_at = 1 WHERE tx = '%s'`, tx.ID))
	e.unchanged("revoked behind", tx, e.supersession(tx))
	e.wantRepeat(tx.Repeat, tx.ID)
	// Too late.
	tx, cert = e.delivered(claim)
	e.clock.Advance(10 * time.Minute)
	e.unchanged("too late", tx, e.supersession(tx))
	e.wantRevoked(cert, time.Time{}, 0)
	// Another's key by now.
	other := e.keyed(tx.Repeat, tx.Resume)
	e.must(e.s.Settle(e.ctx(), e.issued(other, e.mustBegin(e.s, other))))
	e.unchanged("another has the key", tx, e.supersession(tx))
	e.wantRevoked(cert, time.Time{}, 0)
	// Not its key.
	tx, cert = e.delivered(claim)
	for _, change := range []func(t *gateway.Transaction){
		func(t *gateway.Transaction) { t.Repeat = keyOf("another", t.ID) },
		func(t *gateway.Transaction) { t.Resume = keyOf("another", t.ID) },
	} {
		p := e.supersession(tx)
		change(p.Transaction)
		e.unchanged("with another key", tx, p)
	}
	e.wantRevoked(cert, time.Time{}, 0)
	// A key that is kept, or the device's.
	kept, epoch := e.begun()
	s := e.issued(kept, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	e.unchanged("kept", kept, e.supersession(kept))
	e.wantRevoked(s.Certificate, time.Time{}, 0)
	// What failed.
	failed := e.transaction(gateway.StateIssuing)
	failed.Delivery = e.delivery()
	e.must(e.s.Settle(e.ctx(), e.failed(failed, e.mustBegin(e.s, failed))))
	e.unchanged("failed", failed, e.supersession(failed))
	// What is still issued, whose work is its own.
	open := e.transaction(gateway.StateIssuing)
	open.Delivery = e.delivery()
	epoch = e.mustBegin(e.s, open)
	e.unchanged("open", open, e.supersession(open))
	e.must(e.s.Settle(e.ctx(), e.issued(open, epoch)))
	// The same, twice.
	p := e.supersession(open)
	e.supersede(p)
	if _, err := e.s.Supersede(e.ctx(), e.supersession(open)); !errors.Is(err, gateway.ErrStale) {
		e.Errorf("superseded twice: %v", err)
	}
	e.wantRepeat(open.Repeat, p.Transaction.ID)
}

func testDeliveryNonsense(e *env) {
	tx, cert := e.delivered()
	for name, change := range map[string]func(*gateway.Supersession){
		"no lease":       func(p *gateway.Supersession) { p.Lease = 0 },
		"no audit":       func(p *gateway.Supersession) { p.Audit = gateway.AuditEvent{} },
		"held":           func(p *gateway.Supersession) { p.Transaction.State = gateway.StateHeld },
		"no intent":      func(p *gateway.Supersession) { p.Transaction.Intent = nil },
		"a key kept":     func(p *gateway.Supersession) { p.Transaction.SealedKey = []byte("key") },
		"no delivery":    func(p *gateway.Supersession) { p.Transaction.Delivery = nil },
		"another's":      func(p *gateway.Supersession) { p.Transaction.Delivery.After = "another" },
		"no repeat key":  func(p *gateway.Supersession) { p.Transaction.Repeat = "" },
		"itself":         func(p *gateway.Supersession) { p.Transaction.ID, p.Transaction.Delivery.After = tx.ID, tx.ID },
		"nobody's place": func(p *gateway.Supersession) { p.Earlier, p.Transaction.Delivery.After = "nobody", "nobody" },
		"with a hold":    func(p *gateway.Supersession) { p.Transaction.Hold = &gateway.HoldRecord{} },
	} {
		p := e.supersession(tx)
		change(p)
		if _, err := e.s.Supersede(e.ctx(), p); err == nil {
			e.Errorf("%s: no error", name)
		}
	}
	e.wantRevoked(cert, time.Time{}, 0)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantNoWork()
	// Nothing sealed is kept of a key that is not kept, whatever begins with it.
	t := e.transaction(gateway.StateIssuing)
	t.Delivery, t.SealedKey = e.delivery(), []byte("key")
	if _, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Lease: lease}); err == nil {
		e.Error("begun with a key that is kept and is not")
	}
	held := e.heldForKey()
	e.approveForKey(held, time.Hour)
	for name, c := range map[string]*gateway.Collection{
		"no intent":   {Transaction: held.ID, Delivery: e.delivery(), Lease: lease},
		"no delivery": {Transaction: held.ID, Intent: held.Intent, Lease: lease},
		"no lease":    {Transaction: held.ID, Intent: held.Intent, Delivery: e.delivery()},
		"nobody's":    {Transaction: "nobody", Intent: held.Intent, Delivery: e.delivery(), Lease: lease},
	} {
		if _, err := e.s.Collect(e.ctx(), c); err == nil {
			e.Errorf("collected: %s: no error", name)
		}
	}
	e.wantState(held.ID, gateway.StateApproved)
}

// heldForKey is held for an hour, by one approver, and gets its key when it is approved.
func (e *env) heldForKey(claims ...gateway.Claim) *gateway.Transaction {
	e.Helper()
	t := e.transaction(gateway.StateHeld)
	t.Delivery = e.delivery()
	t.Hold = &gateway.HoldRecord{Stage: "approval", Approvers: 1, Until: e.clock.Now().Add(time.Hour)}
	_, err := e.s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Claims: claims, Audit: event("held", t)})
	e.must(err)
	return t
}

// approveForKey approves it, and leaves its requester some time.
func (e *env) approveForKey(t *gateway.Transaction, time time.Duration) *gateway.ApprovalOrder {
	e.Helper()
	a := e.approval(t, "anna")
	a.Until = a.Approval.At.Add(time)
	if epoch := e.approve(e.s, a); epoch != 0 {
		e.Errorf("epoch %d of what waits for its requester", epoch)
	}
	return a
}

func (e *env) collection(t *gateway.Transaction) *gateway.Collection {
	intent := *t.Intent
	intent.Template.PublicKey = []byte("another key")
	d := e.delivery()
	d.Since = d.Since.Add(time.Minute)
	return &gateway.Collection{Transaction: t.ID, Intent: &intent, Delivery: d, At: e.clock.Now(), Lease: lease}
}

func testCollected(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	tx := e.heldForKey(claim)
	_, err := e.s.Collect(e.ctx(), e.collection(tx))
	e.wantErr(err, gateway.ErrStale)
	e.equal("collected before it is approved", e.get(tx.ID), tx)
	e.clock.Advance(50 * time.Minute)
	a := e.approveForKey(tx, 20*time.Minute)
	want := *tx
	hold := *tx.Hold
	hold.Approvals, hold.Until = []gateway.Approval{a.Approval}, a.Until
	want.Hold, want.State, want.Updated = &hold, gateway.StateApproved, a.Approval.At
	e.equal("approved", e.get(tx.ID), &want)
	e.wantAudited("approved", tx.ID, true)
	e.wantRepeat(tx.Repeat, tx.ID)
	e.wantClaim(claim, false)
	_, err = e.s.Approve(e.ctx(), e.approval(tx, "bert"))
	e.wantErr(err, gateway.ErrStale)
	// It has that time, and not what was left to approve it.
	e.clock.Advance(20*time.Minute - time.Second)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due before its time: %+v", due)
	}
	c := e.collection(tx)
	epoch, err := e.s.Collect(e.ctx(), c)
	e.must(err)
	want.State, want.Intent, want.Delivery, want.Updated = gateway.StateIssuing, c.Intent, c.Delivery, c.At
	e.equal("collected", e.get(tx.ID), &want)
	_, err = e.s.Collect(e.ctx(), e.collection(tx))
	e.wantErr(err, gateway.ErrStale)
	e.wantErr(e.s.Deny(e.ctx(), e.denial(tx, "carl")), gateway.ErrStale)
	e.equal("collected and denied", e.get(tx.ID), &want)
	e.clock.Advance(lease)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkSettle || w.Epoch != epoch+1 || w.Attempts != 0 {
		e.Errorf("work: %+v after epoch %d", w, epoch)
	}
	e.wantErr(e.s.Settle(e.ctx(), e.issued(tx, epoch)), gateway.ErrStale)
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
	// Then as what was not held.
	p := e.supersession(tx)
	e.supersede(p)
	e.wantRepeat(tx.Repeat, p.Transaction.ID)
}

func testNotCollected(e *env) {
	claim := gateway.Claim{Key: "count", Limit: 1}
	// Nobody comes.
	tx := e.heldForKey(claim)
	e.approveForKey(tx, time.Hour)
	e.clock.Advance(time.Hour)
	w := e.theOnly(e.s)
	if w.Kind != gateway.WorkHold || w.Transaction != tx.ID || w.Attempts != 0 {
		e.Fatalf("work: %+v", w)
	}
	d := e.denial(tx, "")
	d.Work = &gateway.Work{Transaction: tx.ID, Epoch: w.Epoch - 1}
	e.wantErr(e.s.Deny(e.ctx(), d), gateway.ErrStale)
	d.Work = &w
	e.must(e.s.Deny(e.ctx(), d))
	e.wantState(tx.ID, gateway.StateDenied)
	e.wantClaim(claim, true)
	e.wantNoWork()
	_, err := e.s.Collect(e.ctx(), e.collection(tx))
	e.wantErr(err, gateway.ErrStale)
	e.freed("count")
	// Somebody thinks better of it.
	tx = e.heldForKey(claim)
	e.approveForKey(tx, time.Hour)
	e.must(e.s.Deny(e.ctx(), e.denial(tx, "bert")))
	if got := e.get(tx.ID); got.State != gateway.StateDenied || got.Hold.Denied == nil || len(got.Hold.Approvals) != 1 {
		e.Errorf("denied: %+v", got)
	}
	e.wantClaim(claim, true)
	e.wantNoWork()
	// The worker that was about to end it when it was approved has lost it.
	tx = e.heldForKey()
	a := e.approval(tx, "anna")
	e.clock.Advance(time.Hour)
	w = e.theOnly(e.s)
	a.Until = e.clock.Now().Add(time.Hour)
	e.approve(e.s, a)
	late := e.denial(tx, "")
	late.Work = &w
	e.wantErr(e.s.Deny(e.ctx(), late), gateway.ErrStale)
	e.wantState(tx.ID, gateway.StateApproved)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due before its time: %+v", due)
	}
}

// wantUsed checks the count of a claim.
func (e *env) wantUsed(key string, n int64) {
	e.Helper()
	uses, err := e.s.Uses(e.ctx(), []string{key})
	e.must(err)
	if uses[key] != n {
		e.Errorf("%s is used %d times, want %d", key, uses[key], n)
	}
}
