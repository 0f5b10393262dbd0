package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// stageDelivery is where the trail shows what this file decides.
const stageDelivery = "delivery"

// maxDeliveries is how many keys one enrollment may cost. What its stages counted it counts once, so that this alone bounds the
// certificates that somebody gets revoked who asks again and again, or whose CA always answers later.
const maxDeliveries = 10

// Delivery is the record of a key that the gateway makes for a device and that travels without protection of its own
// (WrapNone). It is made at delivery and given with one answer: no store, log or record has it. Who asks again has not got it,
// and gets another one, whose certificate takes the earlier one's place.
type Delivery struct {
	Kind    string `json:"kind"`            // of key, as pkix.KeyName has it
	Attempt int    `json:"attempt"`         // 1 for the first key of an enrollment
	After   string `json:"after,omitempty"` // the transaction whose key was asked for again
	Basis
}

// Deliveries is the part of the Store for keys that are not kept (Transaction.Delivery).
type Deliveries interface {
	// Supersede commits a new transaction (StateIssuing, under a lease of this instance) in the place of an issued one whose key
	// was asked for again: it takes over the repeat keys, which do not end while it is open, and the claims, which are not counted
	// again. The earlier certificate is revoked: for this gateway at once (Certificate.RevokedAt), and with WorkRevoke, due at
	// once, that tells its CA. ErrStale, and nothing is written, when the earlier transaction is not issued, its certificate
	// revoked or without a Delivery, or its repeat key free or another's, as when somebody else has superseded it.
	Supersede(ctx context.Context, s *Supersession) (epoch int64, err error)
	// Collect commits that the requester of an approved transaction (StateApproved) has come for its key: it becomes
	// StateIssuing with the intent given, under a lease as in Begin. ErrStale when it is not approved any more.
	Collect(ctx context.Context, c *Collection) (epoch int64, err error)
}

// Supersession is what Supersede commits.
type Supersession struct {
	Earlier     string       // the transaction whose certificate is superseded
	Note        string       // its line for the operator
	Reason      int          // CRLReason
	At          time.Time    // of the revocation
	Transaction *Transaction // with the same Repeat and Resume as the earlier
	Lease       time.Duration
	Audit       AuditEvent
}

// Collection is what Collect commits.
type Collection struct {
	Transaction string
	Intent      *backend.IssueRequest
	Delivery    *Delivery
	At          time.Time
	Lease       time.Duration
}

// deliveryOf is the record of a key that is delivered for the first time, or will be once somebody approves.
func deliveryOf(kind string, gr *Grant) *Delivery {
	return &Delivery{Kind: kind, Attempt: 1, Basis: basisOf(gr)}
}

func basisOf(gr *Grant) Basis {
	since := gr.NotBefore.Add(gr.profile.Backdate)
	b := Basis{Since: since, Fixed: !gr.until.IsZero() || !gr.NotAfter.Equal(since.Add(gr.profile.Validity-time.Second-gr.jitter)), Replaces: gr.Replaces}
	if gr.Inventory != nil {
		b.Entry = gr.Inventory.Name
		if r := gr.Registration; r != nil {
			b.Registered = &DeviceID{r.Type, r.Entered}
		}
	}
	return b
}

// basis is that of a transaction which was held, or whose key is not kept.
func (t *Transaction) basis() Basis {
	switch {
	case t.Queue != nil:
		return t.Queue.Basis
	case t.Delivery != nil:
		return t.Delivery.Basis
	case t.Hold != nil:
		return t.Hold.Basis
	}
	return Basis{}
}

// redated is what to ask of the CA later than was meant: the dates count from now on, unless they were asked for.
func redated(t *Transaction, now time.Time) *backend.IssueRequest {
	intent, b := *t.Intent, t.basis()
	if !b.Fixed {
		later := now.UTC().Truncate(time.Second).Sub(b.Since)
		intent.Template.NotBefore = intent.Template.NotBefore.Add(later)
		intent.Template.NotAfter = intent.Template.NotAfter.Add(later)
	}
	return &intent
}

// deliverAgain answers who asks again for a key that is not kept: t is the transaction as it was found, before anything was
// waited for. It returns nil, nil where nothing of it can be given, and the request is a new one.
//
// What was still open when this request came had no answer yet that could have been lost: whoever asked before gets that one,
// and this request is told to come back. So of two requests that are under way at once only one has a key, and a key that was
// handed out is superseded by a request that came after it.
func (g *Gateway) deliverAgain(ctx context.Context, d *decision, t *Transaction) (*Result, error) {
	switch {
	case t.State == StateApproved:
		return g.collect(ctx, d, t)
	case t.State.Open():
		t, err := g.settledOrNot(ctx, t.ID)
		if err != nil {
			return nil, err
		}
		return g.meanwhile(t)
	case t.State != StateIssued || t.Certificate == nil:
		return g.replay(t)
	case !t.Certificate.RevokedAt.IsZero() || g.now().After(t.Certificate.NotAfter):
		return nil, nil
	}
	return g.supersede(ctx, d, t)
}

// meanwhile answers with a transaction that somebody else is at, or was a moment ago.
func (g *Gateway) meanwhile(t *Transaction) (*Result, error) {
	if !t.State.Open() && t.State != StateIssued {
		return g.replay(t)
	}
	return &Result{Kind: ResultPending, Transaction: t.ID, RetryAfter: t.checkAfter(), Repeated: true, Exchange: t.Exchange}, nil
}

// collect makes the key of an approved request, and has it certified.
func (g *Gateway) collect(ctx context.Context, d *decision, t *Transaction) (*Result, error) {
	rt, now := g.runtime.Load(), g.now()
	if t.Hold == nil || !now.Before(t.Hold.Until) {
		return g.meanwhile(t) // the worker is about to end it
	}
	land, alone := g.takeOffAlone(t.ID)
	if !alone {
		return g.meanwhile(t)
	}
	defer land()
	g.knows(d, t)
	if busy := g.takeTurn(ctx, rt, d, t.Backend, keys{}); busy != nil {
		return nil, busy
	}
	now = g.now()
	c := &Collection{Transaction: t.ID, At: now, Lease: g.lease()}
	var given []byte
	var err error
	if c.Intent, c.Delivery, given, err = g.keyAgain(ctx, rt, d, t, now); err != nil {
		return nil, err
	}
	g.opt.Crash(CrashBeforeIntent)
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	epoch, err := g.store.Collect(ctx, c)
	switch {
	case errors.Is(err, ErrStale):
		if t, err = g.store.Transaction(ctx, t.ID); err != nil {
			return nil, err
		}
		return g.meanwhile(t)
	case err != nil:
		return nil, unavailable("the request cannot be recorded", err)
	}
	t.State, t.Intent, t.Delivery = StateIssuing, c.Intent, c.Delivery
	return g.issueGiven(ctx, rt, d, t, epoch, given, deadline)
}

// supersede makes another key in the place of one that somebody asks for again, and has it certified; the earlier certificate
// is revoked. The stages are not asked again, and nothing is counted again: it is what they allowed that is issued.
func (g *Gateway) supersede(ctx context.Context, d *decision, earlier *Transaction) (*Result, error) {
	r, rt := d.request, g.runtime.Load()
	g.knows(d, earlier)
	switch {
	case earlier.Delivery.Attempt >= maxDeliveries:
		return nil, g.refuseAfter(ctx, d, stageDelivery, Errorf(NotAuthorized, "the key was asked for too often",
			"transaction %s: %d keys were made for one enrollment, and each was asked for again", earlier.ID, earlier.Delivery.Attempt))
	case !rt.canRevoke(earlier.Backend):
		return nil, g.refuseAfter(ctx, d, stageDelivery, Errorf(DuplicateCert, "the key was given already",
			"the certificate of transaction %s cannot be superseded: the backend %s is not configured, or revokes nothing", earlier.ID, earlier.Backend))
	}
	to := g.successorAt(ctx, rt, earlier)
	if busy := g.takeTurn(ctx, rt, d, to.Backend, keys{repeat: earlier.Repeat}); busy != nil {
		return nil, busy
	}
	now := g.now()
	intent, delivery, given, err := g.keyAgain(ctx, rt, d, earlier, now)
	if err != nil {
		return nil, err
	}
	t := successor(d, earlier, intent, delivery, now)
	if to.Backend != earlier.Backend { // by whose rules it stands as it is, else
		if q, err := g.intentAt(ctx, rt, rt.profileOf(t), t, intent, to); err == nil {
			t.Intent, t.Backend = q, to.Backend
		}
	}
	was := *earlier
	was.Note = "superseded: its key was asked for again, by transaction " + t.ID
	s := &Supersession{
		Earlier: earlier.ID, Note: was.Note, Reason: superseded, At: now, Transaction: t, Lease: g.lease(),
		Audit: afterwardsAudit(&was, "revocation-ordered", earlier.Certificate),
	}
	s.Audit.At, s.Audit.Source = now, r.from()

	land := g.takeOff(t.ID)
	defer land()
	g.opt.Crash(CrashBeforeIntent)
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	epoch, err := g.store.Supersede(ctx, s)
	switch {
	case errors.Is(err, ErrStale):
		return g.overtaken(ctx, d, earlier)
	case err != nil:
		return nil, unavailable("the request cannot be recorded", err)
	}
	d.recorded, d.stage, d.note = true, "", "the key of "+earlier.ID+" was asked for again"
	g.Heard(earlier.ID, "repeat", "another key, in "+t.ID, r.Source)
	g.log.LogAttrs(ctx, slog.LevelInfo, "revocation", told([]slog.Attr{slog.String("id", earlier.ID), slog.String("serial", s.Audit.Serial)},
		"device", earlier.Device, "subject", earlier.Subject, "note", s.Note)...)
	g.nudge() // to tell its CA
	return g.issueGiven(ctx, rt, d, t, epoch, given, deadline)
}

// successorAt is the CA that certifies another key: the profile's that can be asked now, whichever certified the earlier one.
func (g *Gateway) successorAt(ctx context.Context, rt *Runtime, earlier *Transaction) Route {
	if p := rt.profileOf(earlier); p != nil {
		to, _ := g.chosen(ctx, rt, p)
		return to
	}
	return Route{Backend: earlier.Backend}
}

// overtaken answers who has lost the race for a transaction's place: to another copy of its own request, or to an order to revoke.
func (g *Gateway) overtaken(ctx context.Context, d *decision, earlier *Transaction) (*Result, error) {
	d.made, d.grant, d.trail, d.stage, d.note = "", nil, nil, "", ""
	t, err := g.store.Repeat(ctx, earlier.Repeat, g.now())
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return g.meanwhile(t)
}

// issueGiven asks the CA for the certificate of a transaction whose intent is committed. given is the key that goes with this
// answer alone, nil for none.
func (g *Gateway) issueGiven(ctx context.Context, rt *Runtime, d *decision, t *Transaction, epoch int64, given []byte, deadline time.Time) (*Result, error) {
	g.opt.Crash(CrashAfterIntent)
	a := &ask{t: t, epoch: epoch, backend: rt.Backends[t.Backend], desc: rt.descriptions[t.Backend], given: given}
	res, err := g.issue(ctx, a, deadline)
	if err != nil {
		d.stage, d.note = "ca", cause(AsError(err), "")
	}
	return res, err
}

// keyAgain makes another key for what a transaction's stages allowed, if that stands as things are now. The intent has the key
// and dates from now on; given is the key as the adapter's Seal makes it.
func (g *Gateway) keyAgain(ctx context.Context, rt *Runtime, d *decision, t *Transaction, now time.Time) (intent *backend.IssueRequest, next *Delivery, given []byte, err error) {
	g.knows(d, t)
	refused := func(e *Error) error {
		if e.Reason == Unavailable || e.Reason == Busy {
			d.stage, d.note = stageDelivery, cause(e, "")
			return e
		}
		return g.refuseAfter(ctx, d, stageDelivery, e)
	}
	intent = redated(t, now)
	if e := g.stands(ctx, rt, t, intent, now); e != nil {
		if e.Reason != Unavailable {
			e = &Error{Reason: NotAuthorized, Detail: "what was allowed is not issued any more", Err: fmt.Errorf("transaction %s: %w", t.ID, e.Err)}
		}
		return nil, nil, nil, refused(e)
	}
	start := g.now()
	key, spki, e := g.makeKey(ctx, t.Delivery.Kind)
	if e != nil {
		return nil, nil, nil, refused(e)
	}
	intent.Template.PublicKey, intent.CSR = spki, nil
	given, err = g.seal(d.request.KeyGen, key)
	if err == nil && rt.wantsCSR(rt.profileOf(t)) {
		intent.CSR, err = requestOf(&intent.Template, key)
	}
	if err != nil {
		return nil, nil, nil, refused(AsError(err))
	}
	d.made = t.Delivery.Kind
	d.trail = append(d.trail, Judged{Stage: stageKey, Decision: Allow, Note: madeNote(d.made, true), Took: g.now().Sub(start)})
	again := *t.Delivery
	again.Since = now.UTC().Truncate(time.Second)
	return intent, &again, given, nil
}

// knows has log and refusal say who asks, as the stages found out when they allowed it.
func (g *Gateway) knows(d *decision, t *Transaction) {
	if d.grant == nil {
		d.grant = &Grant{Requester: t.Requester, Device: t.Device, Profile: t.Profile, Backend: t.Backend, Subject: t.Intent.Template.Subject}
	}
}

// successor is the record of the transaction that takes an earlier one's place. What the stages said of that one is shown with it.
func successor(d *decision, earlier *Transaction, intent *backend.IssueRequest, delivery *Delivery, now time.Time) *Transaction {
	r, t := d.request, *earlier
	t.ID, t.WireID, t.State, t.Source, t.Received, t.Updated, t.Exchange = r.ID, r.WireID, StateIssuing, r.from(), r.Received, now, r.Exchange
	t.Credentials = nil
	for _, c := range r.Credentials {
		t.Credentials = append(t.Credentials, c.String())
	}
	t.Hold, t.Certificate, t.Reason, t.Note, t.Ticket = nil, nil, "", "", ""
	t.Intent, t.Delivery = intent, delivery
	t.Intent.ID, t.Delivery.Attempt, t.Delivery.After = r.ID, earlier.Delivery.Attempt+1, earlier.ID
	own := func(j Judged) bool { return j.Stage == stageKey || j.Stage == stageDelivery }
	t.Verdicts = slices.DeleteFunc(slices.Clone(earlier.Verdicts), own)
	t.Verdicts = append(t.Verdicts, Judged{Stage: stageDelivery, Decision: Allow, Note: fmt.Sprintf("key %d of one enrollment: that of transaction %s was asked for again, "+
		"so its certificate is revoked (superseded); the stages above allowed it then, and were not asked again", t.Delivery.Attempt, earlier.ID)})
	for _, j := range d.trail {
		if j.Stage == stageKey {
			t.Verdicts = append(t.Verdicts, j)
		}
	}
	return &t
}
