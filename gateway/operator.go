package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// RevokeCertificate revokes a certificate that was issued through the gateway: here at once, and at its CA, as
// far as heard says. Revoking again changes nothing. The error is an *Error:
// UnknownCert, wrapping ErrNotFound, when the certificate is not ours.
func (g *Gateway) RevokeCertificate(ctx context.Context, issuer, serial []byte, reason int, actor, note string) (c *Certificate, heard Told, err error) {
	c, err = g.store.Certificate(ctx, issuer, serial)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, ToldLater, &Error{Reason: UnknownCert, Detail: "no such certificate was issued here", Err: err}
	case err != nil:
		return nil, ToldLater, unavailable("the store cannot be read", err)
	}
	t, err := g.store.Transaction(ctx, c.Transaction)
	if err != nil {
		return nil, ToldLater, unavailable("the store cannot be read", err)
	}
	now := g.now()
	t.Updated, t.Note = now, note
	audit := afterwardsAudit(t, "revocation-ordered", c)
	audit.Actor = actor
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.lease())
	defer cancel()
	_, heard, err = g.carryOut(ctx, t.ID, &RevocationOrder{Issuer: issuer, Serial: serial, Reason: reason, At: now, Note: note, Audit: audit}, deadline)
	if err != nil {
		return nil, ToldLater, unavailable("the revocation cannot be recorded", err)
	}
	c, err = g.certificate(ctx, issuer, serial)
	return c, heard, err
}

func (g *Gateway) certificate(ctx context.Context, issuer, serial []byte) (*Certificate, error) {
	c, err := g.store.Certificate(ctx, issuer, serial)
	if err != nil {
		return nil, unavailable("the revocation is recorded; the store cannot be read", err)
	}
	return c, nil
}

// Rollover changes a CA over to a new certificate or key, which its backend does under an ID: asked again, it makes nothing
// twice. The error is an *Error: Unsupported when the backend cannot, or UnknownCert when it is not configured.
func (g *Gateway) Rollover(ctx context.Context, name string, r *backend.RolloverRequest, actor string) (*backend.CA, error) {
	rt := g.runtime.Load()
	b, desc := rt.Backends[name], rt.descriptions[name]
	if b == nil || desc == nil {
		return nil, Errorf(UnknownCert, "no such backend", "there is no backend %q", name)
	}
	roller, ok := b.(backend.Roller)
	if !ok || !slices.Contains(desc.Capabilities, backend.CapRollover) {
		return nil, Errorf(Unsupported, "this CA is not changed over through the gateway", "backend %s has no rollover", name)
	}
	if r.Announce && !slices.Contains(desc.Capabilities, backend.CapAnnounce) {
		// One that has never heard of it would change over at once.
		return nil, Errorf(Unsupported, "this CA does not announce its next certificate", "backend %s has no announcements", name)
	}
	what := "the issuing CA"
	if r.Root {
		what = "the root and the issuing CA below it"
	}
	if r.Announce {
		what += ", announced"
	}
	event := AuditEvent{Kind: "ca-rollover", At: g.now(), Actor: actor, Note: fmt.Sprintf("backend %s, CA %q: %s %s (%s)", name, r.Issuer, r.Kind, what, r.ID)}
	err := g.store.Audited(ctx)
	if err == nil {
		err = g.store.Record(ctx, event)
	}
	if err != nil {
		return nil, unavailable("the audit trail cannot be written", err)
	}
	g.opt.Crash(CrashRolloverOrdered)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rolloverTimeout)
	defer cancel()
	ca, err := shielded(g, func() (*backend.CA, error) { return roller.Rollover(ctx, r) })
	defer g.caChanged(name)
	if err != nil {
		return nil, rolloverFailed(err)
	}
	g.opt.Crash(CrashRolloverDone)
	event.Kind, event.At = "ca-rolled-over", g.now()
	made := ca.Chain
	if r.Announce {
		event.Kind, made = "ca-announced", ca.Next
	}
	if len(made) > 0 {
		sum := sha256.Sum256(made[0])
		event.Fingerprint = hex.EncodeToString(sum[:])
	}
	if err := g.store.Record(ctx, event); err != nil {
		return nil, unavailable("the CA has changed over, and the audit trail cannot be written; asking again makes nothing twice", err)
	}
	g.opt.Crash(CrashRolloverRecorded)
	g.log.Info("CA rolled over", "backend", name, "ca", ca.Name, "kind", string(r.Kind), "root", r.Root, "announced", r.Announce, "actor", actor)
	return ca, nil
}

// rolloverTimeout is for how long a CA may make keys: RSA-4096 takes seconds, and with bad luck tens of them.
const rolloverTimeout = 5 * time.Minute

// rolloverFailed tells the operator what the CA said: he is the one who can mend it.
func rolloverFailed(err error) *Error {
	e := &Error{Reason: Unavailable, Detail: "the CA did not answer; asking again makes nothing twice", Err: err}
	if backend.Definite(err) {
		e.Reason, e.Detail = NotAuthorized, "the CA refused: "+status.Convert(err).Message()
	}
	return e
}

// caChanged has what is remembered of a CA asked for anew.
func (g *Gateway) caChanged(name string) {
	g.authoritiesChanged(name)
}
