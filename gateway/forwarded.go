package gateway

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// spell has the certificate that was revoked named as it was issued here: the adapter has the name as it stood in the request.
func (g *Gateway) spell(ctx context.Context, back *Forwarded) error {
	if back == nil || back.Revokes == nil {
		return nil
	}
	c, err := g.issuedUnder(ctx, back.Revokes.Issuer, back.Revokes.Serial)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil {
		back.Revokes.Issuer = c.Issuer
	}
	return err
}

// outcome is what to commit of an answer, or of the want of one.
func (g *Gateway) outcome(t *Transaction, epoch int64, back *Forwarded, failure error) *Settlement {
	now := g.now()
	s := &Settlement{Transaction: t.ID, Epoch: epoch, Now: now, State: StateForwarded}
	revokes := g.runtime.Load().canRevoke(t.Backend)
	has := t.Certificate != nil
	switch {
	case failure != nil && back != nil && back.Certificate != nil:
		g.meter.mismatches.WithLabelValues(t.Backend).Inc()
		g.log.Error("ALARM: the certificate in an answer is not what was asked for", "id", t.ID, "backend", t.Backend, "err", failure)
		s.State, s.Reason, s.Note = StateFailed, Internal, "what "+t.Backend+" answered is not what was asked for: "+failure.Error()
		if !has {
			s.Certificate = forwardedRecord(t, back)
		}
		if revokes {
			s.Next = WorkRevoke
		}
	case failure != nil:
		s.Note = "nothing to give back from " + t.Backend + ": " + failure.Error()
	default:
		s.State, s.Reason, s.Note, s.Exchange = back.State, back.Reason, back.Note, back.Exchange
		if c := back.Certificate; c != nil && !(has && bytes.Equal(t.Certificate.DER, c.Raw)) {
			s.Certificate, s.Instead = forwardedRecord(t, back), has
			has = true
		}
		if s.State == StateIssued && !has || s.State == StateRejected && !has {
			s.State, s.Reason = StateFailed, DuplicateCert // it had one that is another transaction's
		}
		switch s.State {
		case StateFailed:
			s.Reason, s.Release = orDefault(s.Reason, NotAuthorized), true
			if has && revokes {
				s.Next = WorkRevoke
			}
		case StateRejected:
			s.Release = true
			if revokes {
				s.Next = WorkRevoke
			}
		case StateIssued:
			s.RepeatUntil, s.Confirmed = now.Add(g.repeatFor(t.Endpoint)), back.Certificate == nil
		case StateRevoked:
			s.Revokes, s.RepeatUntil = back.Revokes, now.Add(g.repeatFor(t.Endpoint))
		}
	}
	if s.State == StateForwarded {
		until := t.Received.Add(forwardWait)
		if has {
			until = earlier(until, now.Add(t.ConfirmWait))
		}
		s.Next, s.Delay = WorkForward, max(until.Sub(now), 0)
	}
	s.Audit = forwardAudit(t, s)
	if r := s.Revokes; r != nil {
		s.Audit.Issuer, s.Audit.Serial = nameOf(r.Issuer), hex.EncodeToString(r.Serial.Bytes())
	}
	return s
}

// anothers takes the certificate that is another transaction's out of a settlement. Where it was given to the same requester, and
// certConf is to follow, the transaction stays open for that; else it ends, and with it the certificate of its own, if it has one.
func (g *Gateway) anothers(t *Transaction, s *Settlement, given bool) {
	s.Note = fmt.Sprintf("certificate %x was issued in another transaction", s.Certificate.Serial)
	s.Certificate, s.Instead, s.RepeatUntil = nil, false, time.Time{}
	if !given || s.State != StateForwarded {
		s.State, s.Reason, s.Next, s.Delay, s.Release = StateFailed, DuplicateCert, "", 0, true
		if t.Certificate != nil && g.runtime.Load().canRevoke(t.Backend) {
			s.Next = WorkRevoke
		}
	}
	s.Audit, t.Note = forwardAudit(t, s), s.Note
}

// canRevoke reports whether a backend is there and revokes.
func (rt *Runtime) canRevoke(name string) bool {
	desc := rt.descriptions[name]
	return desc != nil && slices.Contains(desc.Capabilities, backend.CapRevoke)
}

// givenBefore reports whether a certificate is one that the same requester was given before, here, and that still counts: an
// authority may answer the same wish with the same certificate.
func (g *Gateway) givenBefore(ctx context.Context, t *Transaction, c *Certificate) bool {
	was, err := g.store.Certificate(ctx, c.Issuer, c.Serial)
	return err == nil && bytes.Equal(was.DER, c.DER) && was.State == StateIssued && was.RevokedAt.IsZero() &&
		was.Endpoint == t.Endpoint && was.Requester == t.Requester && was.Backend == t.Backend
}

// forwardedRecord is the row of a certificate that came in an answer.
func forwardedRecord(t *Transaction, back *Forwarded) *Certificate {
	issuance := &backend.Issuance{}
	for _, c := range back.Chain {
		issuance.Chain = append(issuance.Chain, c.Raw)
	}
	return record(t, back.Certificate, issuance)
}

// forwardAudit is the event of an answer that changed something: a message that gets no answer is no event.
func forwardAudit(t *Transaction, s *Settlement) AuditEvent {
	kind, cert := string(s.State), s.Certificate
	switch {
	case s.State == StateForwarded && cert != nil: // what becomes of it is an event of its own
		kind = string(StateIssued)
	case s.State == StateForwarded && s.Exchange == nil:
		return AuditEvent{}
	case s.State == StateIssued && cert == nil:
		kind = "confirmed"
	}
	if cert == nil && s.State != StateForwarded {
		cert = t.Certificate
	}
	e := certificateAudit(t, kind, cert)
	e.At, e.Reason, e.Note = s.Now, s.Reason, s.Note
	return e
}

// expireForward closes a transaction that has not ended in time. Whether something was issued in it that never came back is not
// known, so that its claims stay used; a certificate that nobody has confirmed gives them back, as any.
func (g *Gateway) expireForward(ctx context.Context, a *ask) error {
	t := a.t
	if t.State != StateForwarded {
		return fmt.Errorf("the end of what is forwarded is due in state %q", t.State)
	}
	s := &Settlement{Transaction: t.ID, Epoch: a.epoch, Now: g.now(), State: StateFailed, Reason: Unavailable,
		Note: "what was passed on to " + t.Backend + " has not ended in time: " + t.Note}
	if t.Certificate != nil {
		s.State, s.Reason, s.Release = StateRejected, "", true
		s.Note = fmt.Sprintf("not confirmed within %s, as far as it is known here", t.ConfirmWait)
		if g.runtime.Load().canRevoke(t.Backend) {
			s.Next = WorkRevoke
		}
	}
	if e := g.runtime.Load().Endpoints[t.Endpoint]; t.Certificate != nil && e != nil && e.KeepUnconfirmed {
		s.State, s.Release, s.Next = StateIssued, false, ""
		s.Note += ", and kept, as configured"
	}
	t.Updated = s.Now
	s.Audit = forwardAudit(t, s)
	return g.store.Settle(ctx, s)
}
