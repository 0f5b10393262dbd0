package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// ask is one recorded intent, under a lease of this instance, and the CA to ask.
type ask struct {
	t       *Transaction
	epoch   int64
	backend backend.Backend
	desc    *backend.Description
	actor   string // the operator who found out what the CA did; "" for the CA itself
	note    string // his
	given   []byte // a key that was made for the device, to be given with the answer to this request and kept nowhere

	call     *calling // of Issue, that the breaker has not had the end of; nil for none
	queued   bool     // it stands in its CA's queue
	passed   bool     // it stood there, and has let the others pass
	silent   bool     // when its turn came the CA was asked, and gave no answer, or one that it has no time
	returned bool     // its lease was given back, with what became of that
	refused  *Error   // why the CA is not asked when its turn comes; nil: it is
	left     []string // backends that have nothing of it, and were left for another one
}

// decides are the fields that the CA sets by its own rules.
func (a *ask) decides() []backend.Field {
	if a.desc == nil {
		return nil
	}
	return a.desc.Decides
}

// key is what goes with the answer, nil where the device has its own, or its key is gone.
func (a *ask) key() []byte {
	if a.t.SealedKey != nil {
		return a.t.SealedKey
	}
	return a.given
}

// intentOf is the whole of what the CA will be asked. It is recorded before, so that whoever settles the transaction
// asks for exactly the same: dates too.
//
// csr is the one that stands for the request at a CA that takes nothing else.
func intentOf(r *Request, csr []byte, gr *Grant, d *backend.Description) *backend.IssueRequest {
	q := &backend.IssueRequest{
		ID: r.ID, Issuer: gr.Issuer, Device: gr.Device, Template: *templateOf(gr), CSR: csr,
	}
	if takesCSR(d) {
		inItsOwnWords(q, d)
	}
	return q
}

// issue asks the CA and settles the transaction. The CA is asked however long the client waits, until a deadline that
// lies within the lease. After the intent nothing but the CA's definite refusal is a failure: all else is pending for
// the client until somebody knows.
func (g *Gateway) issue(ctx context.Context, a *ask, deadline time.Time) (out *Result, failed error) {
	defer func() {
		if out == nil || out.Key == nil {
			clear(a.given) // no answer has it, nor will one have
		}
	}()
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	defer func() { a.call.drop() }()
	issuance, err := g.askCA(ctx, a)
	g.opt.Crash(CrashAfterIssue)
	res, refusal, err := g.settle(ctx, a, issuance, err)
	switch {
	case err != nil:
		// No record, no answer: the intent stands, and whoever holds the lease next finds the outcome.
		return &Result{Kind: ResultPending, Transaction: a.t.ID, RetryAfter: pendingRetry, Exchange: a.t.Exchange}, nil
	case refusal != nil:
		return nil, refusal
	}
	return res, nil
}

// askCA calls Issue, at the first of the profile's CAs that can be asked and has room. A CA that may be asked twice under the same ID is
// asked again when the first call broke off: a plugin that died and came back costs the client nothing.
func (g *Gateway) askCA(ctx context.Context, a *ask) (*backend.Issuance, error) {
	if why := g.cannot(g.runtime.Load(), a.t.Backend); why != nil && g.reroute(ctx, a, why) { // since it was chosen
		return g.askCA(ctx, a)
	}
	if err := ctx.Err(); err != nil { // we stood still: the lease may be another's, who has asked
		return nil, err
	}
	begins := g.begins
	if len(a.left) > 0 { // the turn that it had was the other CA's
		begins = g.beginsAgain
	}
	if err := begins(ctx, a.t); err != nil {
		return nil, backend.Exhausted(retryUnavailable, "not asked: "+err.Error())
	}
	issuance, err := g.callIssue(ctx, a)
	if notNow(err) && g.reroute(ctx, a, err) {
		return g.askCA(ctx, a)
	}
	if backend.IsNotAsked(err) && a.desc.Idempotency == backend.IdempotencyNone {
		// Nobody could ever find out what did not happen: the client asks again.
		return nil, backend.Exhausted(retryUnavailable, "not asked: "+err.Error())
	}
	if err == nil || backend.Definite(err) || ctx.Err() != nil || a.desc.Idempotency != backend.IdempotencyNative {
		return issuance, err
	}
	if c := status.Code(err); c != codes.Unavailable {
		return nil, err
	}
	if late := g.beginsAgain(ctx, a.t); late != nil {
		return nil, fmt.Errorf("%w (not asked again yet: %v)", err, late)
	}
	g.log.Warn("the CA's answer was lost; asking again under the same ID", "id", a.t.ID, "backend", a.t.Backend, "err", err)
	issuance, again := g.callIssue(ctx, a)
	if backend.Definite(again) {
		// It refuses what it may have issued a moment ago: that is for Lookup to tell.
		return nil, fmt.Errorf("%w (asked again: %v)", err, again)
	}
	return issuance, again
}

// callIssue calls Issue once. The breaker has the word of a CA that gave no certificate; a certificate is settle's to judge.
func (g *Gateway) callIssue(ctx context.Context, a *ask) (*backend.Issuance, error) {
	a.call.drop()
	a.call = g.calls(a.t.Backend)
	issuance, err := shielded(g, func() (*backend.Issuance, error) { return a.backend.Issue(ctx, a.request()) })
	if err != nil {
		a.call.end(standsFor(err))
	}
	return issuance, err
}

// shielded runs a CA's code, or ours on what a CA gave. A panic in it is an answer that is not known, and ends no process.
func shielded[T any](g *Gateway, fn func() (T, error)) (out T, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "panic: %v", p)
		}
	}()
	return fn()
}

// made is a certificate that a CA answered with.
type made struct {
	leaf    *x509.Certificate
	chain   []*x509.Certificate
	record  *Certificate // nil when it did not parse
	differs error        // from what was granted
}

// settle commits what a CA's answer means, and says what that is for the client: a result or a refusal. Its error says
// that nothing was committed.
func (g *Gateway) settle(ctx context.Context, a *ask, issuance *backend.Issuance, failure error) (res *Result, refusal *Error, err error) {
	now := g.now()
	s := &Settlement{Transaction: a.t.ID, Epoch: a.epoch, Now: now}
	a.t.Updated = now
	var cert *made
	if failure == nil && issuance != nil && issuance.Certificate != nil {
		cert, failure = shielded(g, func() (*made, error) {
			leaf, chain, err := g.compare(a.request(), a.decides(), issuance)
			if err == nil {
				var unknown error
				if err, unknown = g.ofItsCA(ctx, a, chain); unknown != nil {
					return nil, unknown
				}
			}
			if err == nil {
				err = g.lintAfter(a.t, leaf)
			}
			return &made{leaf, chain, record(a.t, leaf, issuance), err}, nil
		})
	}
	switch {
	case cert != nil:
		a.call.end(cert.differs)
	case failure == nil && issuance != nil && issuance.Ticket != "":
		a.call.end(nil)
	case failure == nil:
		a.call.end(errNeither)
	}
	switch {
	case cert != nil && cert.differs != nil:
		s.State, s.Reason, s.Note = StateFailed, Internal, "the CA's certificate is not what was granted: "+cert.differs.Error()
		if s.Certificate = cert.record; s.Certificate != nil {
			s.Next = WorkRevoke
		}
		g.meter.mismatches.WithLabelValues(a.t.Backend).Inc()
		g.log.Error("ALARM: the CA's certificate is not what was granted", "id", a.t.ID, "backend", a.t.Backend, "err", cert.differs)
		refusal = &Error{Reason: Internal, Err: cert.differs}
	case cert != nil:
		s.State, s.Certificate = StateIssued, cert.record
		switch {
		case a.t.SealedKey != nil:
			s.Note = "with a key that the gateway made"
		case a.given != nil:
			s.Note = "with a key that the gateway made, and did not keep"
		case a.t.Delivery != nil:
			s.Note = "with a key that is gone: who asks again gets another"
		}
		if cert.leaf.NotAfter.After(a.t.Intent.Template.NotAfter) { // the CA decides that
			s.Ends = cert.leaf.NotAfter
		}
		if set := setByCA(cert.leaf, &a.t.Intent.Template, a.decides()); set != "" {
			s.Note = strings.TrimPrefix(s.Note+"; "+set, "; ")
		}
		if a.t.ConfirmWait > 0 {
			s.State, s.Next, s.Delay = StateUnconfirmed, WorkConfirm, a.t.ConfirmWait
			s.Note = strings.TrimPrefix(s.Note+"; waits for the requester's confirmation", "; ")
		} else {
			s.RepeatUntil = earlier(now.Add(g.repeatFor(a.t.Endpoint)), cert.leaf.NotAfter)
			if a.t.SealedKey != nil && s.RepeatUntil.After(now) {
				s.Next, s.Delay = WorkWipe, s.RepeatUntil.Sub(now)
			}
		}
		res = &Result{
			Kind: ResultIssued, Transaction: a.t.ID, Certificate: cert.leaf, Chain: cert.chain, Unconfirmed: s.State == StateUnconfirmed,
			Key: a.key(),
		}
		if res.Unconfirmed {
			res.ConfirmUntil = now.Add(a.t.ConfirmWait)
		}
	case failure == nil && issuance != nil && issuance.Ticket != "":
		s.State, s.Ticket, s.Next, s.Delay = StateWaiting, issuance.Ticket, WorkPoll, orDefault(issuance.RetryAfter, defaultPoll)
		s.Note = "the CA gave a ticket"
		res = &Result{Kind: ResultPending, Transaction: a.t.ID, RetryAfter: s.Delay}
	case failure != nil && notNow(failure) && g.queues(a):
		s.State, s.Note, s.Next, s.Delay, s.Queue = StateQueued, "the CA cannot be asked: "+failure.Error(), WorkQueue, neverDue, queueRecord(a.t)
		res = &Result{Kind: ResultPending, Transaction: a.t.ID, RetryAfter: pendingRetry}
		if !a.queued {
			g.log.Info("kept until the CA can be asked", "id", a.t.ID, "backend", a.t.Backend, "err", failure)
		}
	case failure != nil && a.refused != nil:
		refusal = a.refused
		s.State, s.Reason, s.Note, s.Release = StateFailed, refusal.Reason, refusal.Err.Error(), true
	case failure != nil && backend.Definite(failure):
		refusal = fromBackend(failure)
		s.State, s.Reason, s.Note, s.Release = StateFailed, refusal.Reason, failure.Error(), true
	default:
		if failure == nil {
			failure = errNeither
		}
		s.State, s.Note, s.Next, s.Delay = StateUnknown, failure.Error(), WorkSettle, firstSettle
		if a.desc != nil && a.desc.Idempotency == backend.IdempotencyNone {
			s.State, s.Next = StateStuck, ""
		} else if g.queues(a) {
			s.Next, s.Delay, s.Queue = WorkQueue, neverDue, queueRecord(a.t)
		}
		g.log.Warn("what the CA did is not known", "id", a.t.ID, "backend", a.t.Backend, "state", s.State, "err", failure)
		res = &Result{Kind: ResultPending, Transaction: a.t.ID, RetryAfter: pendingRetry}
	}
	if a.actor != "" && cert != nil {
		s.Note = strings.TrimPrefix(s.Note+"; "+byHand("found at the CA", a), "; ")
	}
	s.Audit = settlementAudit(a.t, s)
	s.Audit.Actor = a.actor
	// A deadline that the CA used up must not lose its answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	err = g.keep(ctx, s)
	if errors.Is(err, ErrCertificateExists) && a.actor == "" {
		// The CA gave one certificate to two transactions. It is the other's; this one has none, and nothing to revoke.
		g.log.Error("ALARM: the CA gave the same certificate or serial number twice", "id", a.t.ID, "backend", a.t.Backend)
		s.State, s.Reason, s.Note, s.Certificate, s.Next = StateFailed, Internal, err.Error(), nil, ""
		s.Audit = settlementAudit(a.t, s)
		res, refusal = nil, &Error{Reason: Internal, Err: err}
		err = g.keep(ctx, s)
	}
	if errors.Is(err, ErrUnaudited) {
		g.log.Warn("an outcome is recorded, and told to nobody before the audit trail has reached its sinks", "id", a.t.ID, "state", s.State, "err", err)
		if s.Next != "" && s.Next != WorkConfirm && s.Next != WorkWipe {
			g.nudge()
		}
		return nil, nil, err
	}
	if err != nil {
		g.log.Error("an outcome could not be recorded", "id", a.t.ID, "state", s.State, "serial", s.Audit.Serial, "issuer", s.Audit.Issuer, "err", err)
		return nil, nil, fmt.Errorf("the outcome (%s) could not be recorded: %w", s.State, err)
	}
	g.opt.Crash(CrashAfterSettle)
	if s.Next != "" && s.Next != WorkConfirm && s.Next != WorkWipe {
		g.nudge()
	}
	if res != nil {
		res.Exchange = a.t.Exchange
	}
	return res, refusal, nil
}

var errNeither = errors.New("the CA answered neither a certificate nor a ticket")

// keep commits a settlement. When the store fails it is asked again, a little later: with a CA that keeps no record by
// ID, nobody else will ever know this outcome.
func (g *Gateway) keep(ctx context.Context, s *Settlement) error {
	err := g.store.Settle(ctx, s)
	for _, pause := range settlePauses {
		if err == nil || errors.Is(err, ErrUnaudited) || errors.Is(err, ErrStale) || errors.Is(err, ErrCertificateExists) {
			return err
		}
		g.log.Warn("an outcome could not be recorded; trying again", "id", s.Transaction, "state", s.State, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		err = g.store.Settle(ctx, s)
	}
	return err
}

// settlePauses are the pauses before another try to commit an outcome.
var settlePauses = []time.Duration{50 * time.Millisecond, 250 * time.Millisecond}

const (
	settleTimeout = 10 * time.Second
	firstSettle   = 200 * time.Millisecond // the CA may be restarting
	defaultPoll   = 30 * time.Second
)

func (g *Gateway) repeatFor(endpoint string) time.Duration {
	if e := g.runtime.Load().Endpoints[endpoint]; e != nil && e.Repeat != 0 {
		return e.Repeat
	}
	return 10 * time.Minute
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// record is the certificate's row, nil when it did not parse.
func record(t *Transaction, leaf *x509.Certificate, issuance *backend.Issuance) *Certificate {
	if leaf == nil {
		return nil
	}
	return &Certificate{
		Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Transaction: t.ID, Backend: t.Backend, Endpoint: t.Endpoint,
		Device: t.Device, Requester: t.Requester, Subject: pkix.FormatName(leaf.RawSubject), SubjectRaw: leaf.RawSubject,
		KeyHash: keyHash(leaf.RawSubjectPublicKeyInfo), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		DER: leaf.Raw, Chain: issuance.Chain, Replaces: t.Replaces, Profile: t.Profile,
	}
}

// settlementAudit is the event of an outcome; an outcome that is not known yet has none.
func settlementAudit(t *Transaction, s *Settlement) AuditEvent {
	kind := string(s.State)
	switch s.State {
	case StateUnconfirmed: // what becomes of it is an event of its own
		kind = string(StateIssued)
	case StateIssued, StateFailed, StateStuck:
	default:
		return AuditEvent{}
	}
	e := certificateAudit(t, kind, s.Certificate)
	e.Reason, e.Note = s.Reason, s.Note
	return e
}

// fromBackend maps a CA's definite refusal. Its message is the operator's; the client gets none of it.
func fromBackend(err error) *Error {
	e := &Error{Reason: Internal, Err: fmt.Errorf("the CA refused: %w", err)}
	switch status.Code(err) {
	case codes.InvalidArgument:
		e.Reason, e.Detail = BadTemplate, "the CA does not certify this"
	case codes.PermissionDenied:
		e.Reason, e.Detail = NotAuthorized, "the CA refused"
	case codes.Unimplemented:
		e.Reason, e.Detail = Unsupported, "the CA does not support this"
	case codes.ResourceExhausted:
		e.Reason, e.Detail = Busy, "the CA is busy"
		e.RetryAfter, _ = backend.RetryAfter(err)
	}
	return e
}
