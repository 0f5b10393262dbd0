package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// Confirmation is what a requester says of a certificate that waits for it.
type Confirmation struct {
	Transaction string
	// Seen is the transaction as ByWireID gave it, nil where it was not looked up: it is then. What has changed since is found
	// when the confirmation is recorded.
	Seen     *Transaction
	Request  *Request // who says so: ID, WireID, Protocol, Endpoint, Credentials, Source, Received; for log and audit
	Accepted bool
	Note     string // the operator's: what the requester said, and why
	Exchange []byte // takes the place of the transaction's record
}

// defaultConfirmWait is for how long a certificate waits for its confirmation where the endpoint does not say.
const defaultConfirmWait = 5 * time.Minute

// confirmUntil is when an unconfirmed certificate's time ends. While it is unconfirmed, Updated is when it was there.
func (t *Transaction) confirmUntil() time.Time { return t.Updated.Add(t.ConfirmWait) }

// Confirm ends an unconfirmed transaction: accepted, it is issued for good; else its certificate is revoked and its
// claims are given back. The adapter has checked that it is the transaction's own requester who says so. It returns the
// transaction as it stands afterwards. The error is an *Error; it wraps ErrStale when the transaction was no longer
// unconfirmed: look at it again then (ByWireID).
func (g *Gateway) Confirm(ctx context.Context, c *Confirmation) (*Transaction, error) {
	ctx, cancel := context.WithTimeout(ctx, g.opt.CheckTimeout)
	defer cancel()
	t, err := g.confirmable(ctx, c)
	if err != nil {
		return nil, unavailable("the store cannot be read", err)
	}
	if t.State != StateUnconfirmed || t.Certificate == nil || c.Request != nil && c.Request.WireID != t.WireID {
		return nil, over(t)
	}
	now := g.now()
	end := &Conclusion{
		Transaction: t.ID, State: StateIssued, Note: c.Note, WireID: t.WireID, Exchange: c.Exchange, Now: now,
		RepeatUntil: earlier(now.Add(g.repeatFor(t.Endpoint)), t.Certificate.NotAfter),
	}
	kind := "confirmed"
	if !c.Accepted {
		end.State, end.RepeatUntil, kind = StateRejected, time.Time{}, "rejected"
	}
	t.State, t.Note, t.Exchange, t.Updated = end.State, end.Note, end.Exchange, now
	end.Audit = afterwardsAudit(t, kind, t.Certificate)
	if r := c.Request; r != nil {
		end.Audit.requestedBy(r)
	}
	// The certificate is out: whether it counts does not depend on the client's patience.
	commit, done := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer done()
	switch err := g.store.Conclude(commit, end); {
	case errors.Is(err, ErrStale):
		return nil, over(t)
	case err != nil:
		return nil, unavailable("the confirmation cannot be recorded", err)
	}
	g.opt.Crash(CrashAfterConclude)
	if r := c.Request; r != nil {
		g.Heard(t.ID, kind, c.Note, r.Source)
	}
	g.confirmed(ctx, slog.LevelInfo, t, kind)
	if end.State == StateRejected {
		g.nudge()
	}
	return t, nil
}

// confirmable is a copy of the transaction that was seen, or the one that stands in the store.
func (g *Gateway) confirmable(ctx context.Context, c *Confirmation) (*Transaction, error) {
	if c.Seen != nil && c.Seen.ID == c.Transaction {
		t := *c.Seen
		return &t, nil
	}
	return g.store.Transaction(ctx, c.Transaction)
}

func over(t *Transaction) *Error {
	return Errorf(NotAuthorized, "the transaction is over", "transaction %s is %s: %w", t.ID, t.State, ErrStale)
}

// confirmed writes the one line that the end of an unconfirmed transaction leaves in the log.
func (g *Gateway) confirmed(ctx context.Context, level slog.Level, t *Transaction, outcome string) {
	g.meter.confirmations.WithLabelValues(string(t.Protocol), t.Endpoint, outcome).Inc()
	attrs := told([]slog.Attr{
		slog.String("id", t.ID), slog.String("protocol", string(t.Protocol)), slog.String("endpoint", t.Endpoint), slog.String("decision", outcome),
	}, "device", t.Device, "requester", t.Requester, "subject", t.Subject, "note", cut(t.Note, maxNote))
	g.log.LogAttrs(ctx, level, "confirmation", attrs...)
}

// expire is the work of a certificate that nobody confirmed in time: it is revoked and its claims are given back, or
// it is kept where the endpoint says so: one that was to be proven by confirming it began before the endpoint did, and is not.
func (g *Gateway) expire(ctx context.Context, a *ask) error {
	t := a.t
	if t.State != StateUnconfirmed {
		return fmt.Errorf("a confirmation is due in state %q", t.State)
	}
	s := &Settlement{
		Transaction: t.ID, Epoch: a.epoch, State: StateRejected, Now: g.now(), Release: true, Next: WorkRevoke,
		Note: fmt.Sprintf("not confirmed within %s: to be revoked", t.ConfirmWait),
	}
	kind := "unconfirmed"
	if e := g.runtime.Load().Endpoints[t.Endpoint]; e != nil && e.KeepUnconfirmed && !t.unproven() {
		s.State, s.Release, s.Next, kind = StateIssued, false, "", "kept"
		s.Note = fmt.Sprintf("not confirmed within %s, and kept, as configured", t.ConfirmWait)
	}
	t.State, t.Note, t.Updated = s.State, s.Note, s.Now
	s.Audit = afterwardsAudit(t, kind, t.Certificate)
	if err := g.store.Settle(ctx, s); err != nil {
		return err
	}
	g.confirmed(ctx, slog.LevelWarn, t, kind)
	if s.Next != "" {
		g.nudge()
	}
	return nil
}

// certificateAudit is an event about a transaction and its certificate, nil for none.
func certificateAudit(t *Transaction, kind string, c *Certificate) AuditEvent {
	e := auditOf(t, kind, "")
	e.names(c)
	if c != nil && e.Granted != nil {
		e.Granted.NotBefore, e.Granted.NotAfter, e.Granted.KeySHA256 = c.NotBefore.UTC(), c.NotAfter.UTC(), hex.EncodeToString(c.KeyHash)
	}
	return e
}

// afterwardsAudit is an event about what became of a certificate: what was asked and decided stands in that of its issuing.
func afterwardsAudit(t *Transaction, kind string, c *Certificate) AuditEvent {
	e := aboutOf(t, kind)
	e.names(c)
	return e
}

// requestedBy says which message an event follows, and who sent it.
func (e *AuditEvent) requestedBy(r *Request) {
	e.Source, e.RequestSHA256 = r.from(), requestHash(r)
	var shown []string
	for _, c := range r.Credentials {
		shown = append(shown, c.String())
	}
	e.Credentials = listed(shown)
}

// names says which certificate an event is about, nil for none.
func (e *AuditEvent) names(c *Certificate) {
	if c != nil {
		e.Serial = hex.EncodeToString(c.Serial)
		e.Issuer = pkix.FormatName(c.Issuer)
		e.Fingerprint = hex.EncodeToString(keyHash(c.DER))
	}
}

// ByWireID returns the transaction of the endpoint with the protocol's transaction ID, the newest that is open, else the
// newest that was not refused; nil when there is none. The error is an *Error.
func (g *Gateway) ByWireID(ctx context.Context, endpoint, wireID string) (*Transaction, error) {
	t, err := g.store.ByWireID(ctx, endpoint, wireID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	}
	if t.State != StateHeld && t.Certificate != nil {
		if err := g.store.Audited(ctx); err != nil {
			return nil, unavailable("the audit trail cannot be written", err)
		}
	}
	return t, nil
}
