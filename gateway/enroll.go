package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway/trace"
	"github.com/muster-pki/muster/plugins/backend"
)

// Enroll answers one request: the one way from any protocol to any CA. The error is always an *Error.
//
// It looks for an earlier, equal request; runs the endpoint's pipeline; commits the intent; asks the CA; compares
// the certificate with the grant; commits the outcome with its audit event; and only then answers.
func (g *Gateway) Enroll(ctx context.Context, r *Request) (*Result, error) {
	return g.answer(ctx, r, g.enroll)
}

// answer has one of the bounded number of requests under way answered, within its time, and concludes it.
func (g *Gateway) answer(ctx context.Context, r *Request, by func(context.Context, *Request, *decision) (*Result, error)) (*Result, error) {
	start := g.now()
	ctx, cancel := context.WithTimeout(ctx, g.opt.CheckTimeout)
	defer cancel()
	ctx, span := trace.Start(ctx, "request")
	defer span.End()
	d := &decision{request: r, endpoint: r.Endpoint, span: span, trace: trace.ID(ctx)}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
		d.result, d.err = by(ctx, r, d)
		if d.err == nil && !d.result.fresh() {
			if err := g.store.Audited(ctx); err != nil {
				d.result, d.err = nil, unavailable("the audit trail cannot be written", err)
			}
		}
	default:
		d.err = &Error{Reason: Busy, Detail: "too many requests at once", RetryAfter: time.Second}
	}
	return g.conclude(ctx, d, start)
}

// decision gathers what the one log line of a request says.
type decision struct {
	request  *Request
	endpoint string // configured, or "unknown": it becomes a metric's label
	grant    *Grant
	judged   time.Time // when the stages began
	trail    []Judged
	stage    string // that decided
	note     string
	recorded bool // the store has the transaction
	result   *Result
	err      error
	shown    string // subject's answer
	key      []byte // generated, as KeyGen.Seal made it, to be kept; nil for none
	given    []byte // likewise, and given with this answer alone: kept nowhere
	csr      []byte // the request's, or one for the generated key
	made     string // kind of the generated key, "" for none

	span  trace.Span // of the request
	trace string     // ID of its trace, "" for none
}

// unlike says what is uncommon about the key, for the log: that it was not the device that made it, or not a signature that proves it.
func (d *decision) unlike() string {
	switch {
	case d.made != "":
		return d.made + ", made here"
	case d.request.KeyGen != nil:
		return "asked to be made here"
	case d.request.POP == POPConfirm:
		return "possession by decrypting the certificate"
	}
	return ""
}

// subject is what the request asks for as logs and lists show it, "" for none.
func (d *decision) subject() string {
	if d.shown == "" && d.request.Subject != nil {
		d.shown = nameOf(d.request.Subject)
	}
	return d.shown
}

// at is the endpoint that the request came to.
func (d *decision) at(rt *Runtime) (*Endpoint, error) {
	r := d.request
	e := rt.Endpoints[r.Endpoint]
	if e == nil || e.Protocol != r.Protocol {
		d.endpoint = "unknown"
		return nil, Errorf(NotAuthorized, "no such endpoint", "endpoint %q is not configured for %s", r.Endpoint, r.Protocol)
	}
	return e, nil
}

func (g *Gateway) enroll(ctx context.Context, r *Request, d *decision) (*Result, error) {
	rt := g.runtime.Load()
	e, err := d.at(rt)
	if err != nil {
		return nil, err
	}
	pipeline := e.pipeline(r.Operation)
	if pipeline == nil {
		return nil, Errorf(NotAuthorized, "this endpoint does not allow the operation", "endpoint %s has no pipeline for %s", e.Name, r.Operation)
	}
	if !r.Operation.Certifies() {
		return nil, Errorf(Unsupported, "operation not supported", "%s is not an enrollment", r.Operation)
	}

	k := keysOf(r)
	if res, err := g.repeated(ctx, d, e, k); err != nil {
		return nil, notGivenAgain(err)
	} else if res != nil && res.Transaction == r.ID {
		return res, nil // in an earlier one's place
	} else if res != nil {
		d.note = "the same request as " + res.Transaction
		g.Heard(res.Transaction, "repeat", string(res.Kind), r.Source)
		return res, nil
	}
	if r.OnlyRepeat != nil {
		return nil, r.OnlyRepeat
	}
	profile := e.offers(r.Profile)
	if profile == nil {
		return nil, Errorf(BadTemplate, "no such profile here", "the profile %q was asked for, endpoint %s has %s", cut(r.Profile, 64), e.Name, e.offered())
	}

	out, refused := g.judge(ctx, d, e, profile, pipeline)
	if refused != nil {
		return nil, g.turnAway(ctx, d, &out, refused)
	}
	if d.grant.Forward != "" {
		return g.forward(ctx, rt, e, d, &out, k)
	}
	if out.Decision != Hold { // an approval may be days away
		g.routed(ctx, rt, d)
	}
	if d.request.KeyGen != nil && out.Decision != Hold {
		if busy := g.crowded(rt, d); busy != nil {
			return nil, busy
		}
	}
	key, refused := g.keyFor(ctx, rt, e, d, out.Decision == Hold)
	if refused != nil {
		return nil, refused
	}
	if err := g.shape(ctx, rt, d); err != nil {
		d.stage = "profile"
		if err.Reason == Unavailable {
			return nil, err
		}
		d.note = cause(err, "")
		return nil, g.refuse(ctx, d, err)
	}
	if err := g.sealed(ctx, rt, d, key); err != nil {
		return nil, err
	}
	return g.commit(ctx, rt, e, d, &out, k)
}

// judge runs a pipeline on a new grant of the profile. What the stages refuse, or cannot answer, is for the caller to turn away.
func (g *Gateway) judge(ctx context.Context, d *decision, e *Endpoint, p *Profile, pipeline Pipeline) (ruling, *Error) {
	d.judged = g.now()
	d.grant = newGrant(d.request, e, p, d.judged)
	ctx, span := trace.Start(ctx, "pipeline")
	defer span.End()
	out := pipeline.run(ctx, d.request, d.grant, g.now)
	span.Set("muster.decision", string(out.Decision))
	d.trail, d.stage, d.note = out.trail, out.stage, out.Note
	g.meter.verdicts(out.trail)
	switch out.Decision {
	case Allow, Hold:
		return out, nil
	case CannotAnswer:
		return out, unavailable("the request cannot be checked now", errors.New(out.Note))
	}
	return out, &Error{Reason: out.Reason, Detail: out.Detail, RetryAfter: out.RetryAfter, Err: errors.New(out.Note)}
}

// turnAway ends a request that judge did not let pass: a refusal is kept, what could not be answered is not.
func (g *Gateway) turnAway(ctx context.Context, d *decision, out *ruling, e *Error) *Error {
	if out.Decision == CannotAnswer {
		return e
	}
	return g.refuse(ctx, d, e)
}

// notGivenAgain is what a look for an earlier outcome ends with that gives none: a refusal that is given again, or the store's
// failure.
func notGivenAgain(err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	return unavailable("the store cannot be read", err)
}

// refuse keeps a refusal for `muster explain`: in the store when the requester is known, else in memory only, since
// strangers buy no disk writes. So it does with what a requester is told again and again.
func (g *Gateway) refuse(ctx context.Context, d *decision, e *Error) *Error {
	if !d.known() {
		return e
	}
	t := transactionOf(d, StateRefused)
	t.Reason, t.Note = e.Reason, d.stage+": "+d.note
	t.Updated = g.now()
	switch n := g.looping.note(alike{t.Requester, t.Endpoint, t.Operation, d.stage, t.Reason}, t.Updated); {
	case n > keptAlike:
		return e
	case n == keptAlike:
		t.Note += fmt.Sprintf(" (the %dth such refusal within a minute: further ones are counted, and kept in memory only)", n)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := g.store.Refuse(ctx, t, auditOf(t, "refused", d.stage)); err != nil {
		g.log.Error("a refusal could not be recorded", "id", t.ID, "err", err)
		if errors.Is(err, ErrUnaudited) {
			d.note = err.Error()
			return unavailable("the audit trail cannot be written", err)
		}
		return e
	}
	d.recorded = true
	return e
}

// known reports whether it was found who asks, and that is nobody whom no inventory knows.
func (d *decision) known() bool {
	return d.grant != nil && d.grant.Requester != "" && !d.anyMakersDevice()
}

// anyMakersDevice reports whether all that is known of the requester is that its maker certified a key: millions have such a
// certificate, and a requester whom no inventory knows is a stranger all the same.
func (d *decision) anyMakersDevice() bool {
	maker, by := d.request.Credential(CredentialDevice)
	return by && d.grant.Inventory == nil && d.grant.Requester == maker.String()
}

// commit records what the pipeline decided, claims included, and goes on to the CA unless it is held.
func (g *Gateway) commit(ctx context.Context, rt *Runtime, e *Endpoint, d *decision, out *ruling, k keys) (*Result, error) {
	backendName := d.grant.Backend
	b, desc := rt.Backends[backendName], rt.descriptions[backendName]
	if b == nil || desc == nil {
		return nil, Errorf(Internal, "", "the grant names the backend %q, which is not configured", backendName)
	}
	var csr []byte
	if rt.wantsCSR(d.grant.profile) {
		csr = d.csr
	}
	intent := intentOf(d.request, csr, d.grant, desc)
	if refused := asItStands(intent, desc, backendName, d.request.KeyGen != nil && d.csr == nil); refused != nil {
		if backendName != d.grant.profile.Backend {
			return nil, unavailable("the CA cannot be reached", fmt.Errorf("nor does the standby certify this: %w", refused))
		}
		return nil, g.refuseAfter(ctx, d, stageBackend, refused)
	}
	claims := onceEach(out.Claims)
	if d.request.Message != nil {
		claims = append(claims, messageClaim(d.request))
	}
	var later []Claim
	if out.Decision == Hold && d.grant.Requester == "" {
		claims, later = takenLater(claims)
	}
	behind := ""
	if out.Decision != Hold {
		var full *Error
		if behind, full = g.standsBehind(ctx, rt, d, backendName); full != nil {
			return nil, full
		}
	}
	if out.Decision != Hold && behind == "" && !g.hopeless(ctx, rt, d, backendName, claims) {
		if busy := g.takeTurn(ctx, rt, d, backendName, k); busy != nil {
			return nil, busy
		}
	}
	t := transactionOf(d, StateIssuing)
	t.Repeat, t.Resume, t.Backend, t.Profile = k.repeat, k.resume, backendName, d.grant.Profile
	t.Exchange = d.request.Exchange
	if d.request.Confirm {
		t.ConfirmWait = orDefault(d.request.ConfirmWait, orDefault(e.ConfirmWait, defaultConfirmWait))
	}
	if d.grant.Replaces != nil {
		t.Replaces = d.grant.Replaces.Serial
	}
	if rt.keepsOne(d.grant.profile) && out.Decision != Hold && !d.request.KeyGen.bare() {
		t.Queue = &QueueRecord{Basis: basisOf(d.grant)}
	}
	t.Intent = intent
	t.SealedKey = d.key
	if d.request.KeyGen.bare() {
		t.Delivery = deliveryOf(d.made, d.grant)
	}
	t.Changes = changesOf(d.request, d.grant)
	t.Updated = g.now()
	begin := &Beginning{Transaction: t, Claims: claims, Lease: g.lease()}
	if out.Decision == Hold {
		t.State, t.Note = StateHeld, out.stage+": "+out.Note
		t.Hold = holdOf(out, d.grant, t.Updated)
		t.Hold.Claims = later
		if t.ConfirmWait > 0 {
			t.ConfirmWait = max(t.ConfirmWait, heldConfirmWait)
		}
		begin.Lease, begin.Audit = 0, auditOf(t, "held", out.stage)
	}

	ends := t.endsLatest(d.grant, g.repeatFor(t.Endpoint))
	if slices.Contains(desc.Decides, backend.FieldValidity) {
		ends = ends.Add(overrun(&intent.Template))
	}
	begin.countActive(d.grant, ends)

	land := g.takeOff(t.ID)
	defer land()
	g.opt.Crash(CrashBeforeIntent)
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	epoch, res, err := g.begin(ctx, d, begin, k)
	if res != nil || err != nil {
		return res, err
	}
	d.note = out.Note
	if out.Decision == Hold {
		return &Result{Kind: ResultPending, Transaction: t.ID, RetryAfter: t.checkAfter(), Exchange: t.Exchange}, nil
	}
	if behind != "" {
		return g.putOff(ctx, &ask{t: t, epoch: epoch, backend: b, desc: desc}, behind), nil
	}
	return g.issueGiven(ctx, rt, d, t, epoch, d.given, deadline)
}

// begin commits a request's transaction. Where it turns out to be the same as another one, that one's answer is the result.
func (g *Gateway) begin(ctx context.Context, d *decision, b *Beginning, k keys) (epoch int64, res *Result, err error) {
	t := b.Transaction
	epoch, err = g.store.Begin(ctx, b)
	var lost *ClaimLostError
	var twin *TwinError
	if errors.As(err, &twin) {
		d.note = "the same request as " + twin.Transaction
		if res, err := g.joinTwin(ctx, d, k, twin.Transaction); err != nil {
			return 0, nil, notGivenAgain(err)
		} else if res != nil {
			return 0, res, nil
		}
		if t.Resume != "" {
			// The same wish, of which nothing can be given again: this is a new one, which nothing resumes.
			t.Resume = ""
			epoch, err = g.store.Begin(ctx, b)
		}
	}
	switch {
	case errors.As(err, &lost):
		return 0, nil, g.claimLost(ctx, d, lost)
	case errors.As(err, &twin):
		// Its twin failed while we waited. The client's next try is a request of its own.
		return 0, nil, unavailable("the same request has just failed", twin)
	case err != nil:
		return 0, nil, unavailable("the request cannot be recorded", err)
	}
	d.recorded = true
	return epoch, nil, nil
}

// claimLost refuses a request that its stages allowed, and of whose claims one had no use left.
func (g *Gateway) claimLost(ctx context.Context, d *decision, lost *ClaimLostError) *Error {
	c := lost.Claim
	d.stage, d.note = orDefault(c.stage, "claim"), orDefault(c.Lost, "nothing is left of "+c.Key)+lost.counts()
	reason := orDefault(c.Reason, NotAuthorized)
	// The stage allowed what was left when it looked; meanwhile, or before, it was used up.
	d.trail = append(d.trail, Judged{Stage: d.stage, Decision: Deny, Reason: reason, Note: d.note})
	e := Errorf(reason, orDefault(c.Detail, "already used"), "%w", lost)
	if reason == Busy {
		e.RetryAfter = lost.freed(d.request.ID, g.now())
		e.Detail += fmt.Sprintf(", try again in %v", e.RetryAfter)
	}
	return g.refuse(ctx, d, e)
}

// MessageClaims is how the claims begin of messages that have had a certificate. Such a claim stays when the certificate does not.
const MessageClaims = "message:"

// messageClaim is what keeps a message that somebody has recorded from having another certificate made: after the time for repeats,
// at another endpoint, or where its exchange goes by another message. Its sender makes a new one.
func messageClaim(r *Request) Claim {
	return Claim{
		Key: MessageClaims + string(r.Protocol) + ":" + hex.EncodeToString(r.Message), Limit: 1, Reason: DuplicateCert, stage: "message",
		Detail: "this very message has had a certificate before: make a new one",
		Lost: "the message has had a certificate before, here or at another endpoint: it was recorded and sent again, or the device makes the same bytes each time, nonces included; " +
			"such a one gets a certificate with a new key, another challenge (SCEP) or another reference of its secret (CMP)",
	}
}

// onceEach is the claims that a request makes: of two stages that count the same thing it is one use, by the stricter's limit.
func onceEach(claims []Claim) []Claim {
	var once []Claim
	for _, c := range claims {
		i := slices.IndexFunc(once, func(o Claim) bool { return o.Key == c.Key })
		switch {
		case i < 0:
			once = append(once, c)
		case c.Limit < once[i].Limit:
			once[i] = c
		}
	}
	return once
}

// leaseMargin lies between the end of the last commit and when another worker may take the transaction.
const leaseMargin = 5 * time.Second

// lease is how long a transaction is ours: until the CA's deadline has passed and its answer is committed.
func (g *Gateway) lease() time.Duration { return g.opt.IssueTimeout + settleTimeout + leaseMargin }

func unavailable(detail string, err error) *Error {
	return &Error{Reason: Unavailable, Detail: detail, RetryAfter: retryUnavailable, Err: err}
}
