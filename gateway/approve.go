package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Approve records that actor, as the admin API established it, approves a held request. With the last approval that it
// takes, the CA is asked at once, for what was held and dated from now on; the transaction is returned as it stands then.
// The error is an *Error. It wraps ErrNotFound, ErrStale when the request is no longer held, ErrApproved when the same
// person has approved it before, *ClaimLostError when the last approval takes a claim of which nothing is left: the request is
// held as before.
//
// Where the gateway makes the key, and must not keep it, the CA is asked when the requester comes for it: the transaction is
// StateApproved until then, for as long as there was to approve it, and for the endpoint's repeat time at least.
func (g *Gateway) Approve(ctx context.Context, id, actor, reason string) (*Transaction, error) {
	t, err := g.held(ctx, id, StateHeld)
	if err != nil {
		return nil, err
	}
	rt := g.runtime.Load()
	b, desc := rt.Backends[t.Backend], rt.descriptions[t.Backend]
	last := len(t.Hold.Approvals)+1 >= t.Hold.Approvers // that it takes, unless another comes at once
	if t.Delivery == nil && last {
		if busy := g.takeTurn(ctx, rt, &decision{}, t.Backend, keys{}); busy != nil {
			return nil, busy
		}
	}
	now := g.now()
	intent := redated(t, now)
	if err := g.stands(ctx, rt, t, intent, now); err != nil {
		return nil, err
	}
	t.Updated, t.Note = now, reason
	audit := auditOf(t, "approved", t.Hold.Stage)
	audit.Actor = actor

	g.opt.Crash(CrashBeforeIntent)
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.lease())
	defer cancel()
	order := &ApprovalOrder{
		Transaction: t.ID, Approval: Approval{By: actor, At: now, Reason: reason}, Intent: intent, Lease: g.lease(), Audit: audit,
	}
	order.NotLast = t.Delivery == nil && !last
	if t.Delivery != nil {
		order.Until = later(t.Hold.Until, now.Add(g.repeatFor(t.Endpoint)))
	}
	epoch, err := g.store.Approve(ctx, order)
	if errors.Is(err, ErrLast) {
		return g.Approve(ctx, id, actor, reason) // which sees the other one's now
	}
	if err != nil {
		return nil, notDecided(err)
	}
	g.decided(ctx, t, "approved", actor, reason)
	if epoch != 0 {
		land := g.takeOff(t.ID)
		defer land()
		g.opt.Crash(CrashAfterIntent)
		t.State, t.Intent = StateIssuing, intent
		// What the CA says of it stands in the transaction, whether it issued or refused.
		_, _ = g.issue(ctx, &ask{t: t, epoch: epoch, backend: b, desc: desc}, deadline)
	}
	t, err = g.store.Transaction(ctx, id)
	if err != nil {
		return nil, unavailable("the approval is recorded; the store cannot be read", err)
	}
	return t, nil
}

// Deny ends a held request, or one that was approved and whose key nobody has come for: nothing is issued, and whoever asks again within the endpoint's repeat time is told so. The
// error is as Approve's.
func (g *Gateway) Deny(ctx context.Context, id, actor, reason string) (*Transaction, error) {
	t, err := g.held(ctx, id, StateHeld, StateApproved)
	if err != nil {
		return nil, err
	}
	note := "denied by " + actor
	if reason != "" {
		note += ": " + reason
	}
	order := g.denial(t, note)
	order.Denied = Approval{By: actor, At: order.Denied.At, Reason: reason}
	order.Audit.Actor = actor
	if err := g.store.Deny(ctx, order); err != nil {
		return nil, notDecided(err)
	}
	g.decided(ctx, t, "denied", actor, reason)
	t, err = g.store.Transaction(ctx, id)
	if err != nil {
		return nil, unavailable("the denial is recorded; the store cannot be read", err)
	}
	return t, nil
}

// held returns a transaction that waits for approval, or for what else the states say.
func (g *Gateway) held(ctx context.Context, id string, in ...State) (*Transaction, error) {
	t, err := g.store.Transaction(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, &Error{Reason: UnknownCert, Detail: "no such transaction", Err: err}
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	case !slices.Contains(in, t.State) || t.Hold == nil || t.Intent == nil:
		return nil, &Error{Reason: NotAuthorized, Detail: "the request is not held: it is " + string(t.State), Err: ErrStale}
	}
	return t, nil
}

// notDecided is the error of a decision that was not committed.
func notDecided(err error) *Error {
	lost, taken := errors.AsType[*ClaimLostError](err)
	switch {
	case taken:
		return &Error{Reason: NotAuthorized, Detail: "meanwhile nothing is left of what the request counts for: " + orDefault(lost.Claim.Lost, lost.Claim.Key) +
			"; it stays held: deny it, or reset the device and approve it again", Err: err}
	case errors.Is(err, ErrApproved):
		return &Error{Reason: NotAuthorized, Detail: ErrApproved.Error(), Err: err}
	case errors.Is(err, ErrStale):
		return &Error{Reason: NotAuthorized, Detail: "the request is no longer held, or its time is over", Err: err}
	}
	return unavailable("the decision cannot be recorded", err)
}

// denial is what Deny commits, with nobody's name in it.
func (g *Gateway) denial(t *Transaction, note string) *DenialOrder {
	now := g.now()
	t.State, t.Note, t.Updated = StateDenied, note, now
	return &DenialOrder{
		Transaction: t.ID, Denied: Approval{At: now}, Note: note, RepeatUntil: now.Add(g.repeatFor(t.Endpoint)),
		Audit: auditOf(t, "denied", t.Hold.Stage),
	}
}

// expireHold is the work of a request that nobody approved in time.
func (g *Gateway) expireHold(ctx context.Context, t *Transaction, w Work) error {
	if t.State != StateHeld && t.State != StateApproved || t.Hold == nil {
		return fmt.Errorf("the end of a hold is due in state %q", t.State)
	}
	order := g.denial(t, "nobody approved it by "+t.Hold.Until.UTC().Format(time.RFC3339))
	if t.Hold.approved() {
		order = g.denial(t, "approved, and nobody came for the key by "+t.Hold.Until.UTC().Format(time.RFC3339))
	}
	order.Work = &w
	if err := g.store.Deny(ctx, order); err != nil {
		return err
	}
	g.decided(ctx, t, "expired", "", order.Note)
	return nil
}

// decided writes the one line that a decision about a held request leaves in the log.
func (g *Gateway) decided(ctx context.Context, t *Transaction, decision, actor, reason string) {
	attrs := told([]slog.Attr{
		slog.String("id", t.ID), slog.String("protocol", string(t.Protocol)), slog.String("endpoint", t.Endpoint), slog.String("decision", decision),
	}, "actor", actor, "device", t.Device, "requester", t.Requester, "subject", t.Subject, "reason", cut(reason, maxNote))
	g.log.LogAttrs(ctx, slog.LevelInfo, "approval", attrs...)
}

// denied is what the requester of a denied transaction is told. Why, is the operator's.
func denied(t *Transaction) *Error {
	return &Error{Reason: NotAuthorized, Detail: "the request was denied", Transaction: t.ID, Err: fmt.Errorf("transaction %s: %s", t.ID, t.Note)}
}
