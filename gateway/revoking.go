package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// CRLReasons are the names of CRLReason by its number (RFC 5280 section 5.3.1); 7 is not used.
var CRLReasons = []string{
	"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
	"certificateHold", "7", "removeFromCRL", "privilegeWithdrawn", "aACompromise",
}

// The CRLReasons that revoke nothing for good: a hold could not be taken back through the gateway.
const (
	certificateHold = 6
	removeFromCRL   = 8
)

func crlReason(n int) string {
	if n >= 0 && n < len(CRLReasons) {
		return CRLReasons[n]
	}
	return strconv.Itoa(n)
}

// Revoke answers a request to revoke a certificate (Request.Target): the way for whoever is no operator. The error is always
// an *Error: NotAuthorized, UnknownCert and Revoked among others.
//
// It looks for an earlier, equal request; runs the endpoint's pipeline; commits the order with the request's own transaction
// (StateRevoked) and its audit event; tells the CA; and only then answers. The answer does not wait for the CA to say yes: for
// this gateway the certificate is revoked, and the worker goes on telling.
func (g *Gateway) Revoke(ctx context.Context, r *Request) (*Result, error) {
	return g.answer(ctx, r, g.revoke)
}

func (g *Gateway) revoke(ctx context.Context, r *Request, d *decision) (*Result, error) {
	rt := g.runtime.Load()
	e, err := d.at(rt)
	if err != nil {
		return nil, err
	}
	pipeline := e.pipeline(Revoke)
	switch {
	case r.Operation != Revoke:
		return nil, Errorf(Unsupported, "operation not supported", "%s is not a revocation", r.Operation)
	case pipeline == nil:
		return nil, Errorf(NotAuthorized, "this endpoint does not allow the operation", "endpoint %s has no pipeline for %s", e.Name, r.Operation)
	case r.Target == nil || r.Target.Serial == nil || r.Target.Serial.Sign() <= 0:
		return nil, Errorf(UnknownCert, "the request does not say which certificate it revokes", "the request names no certificate")
	}
	key := repeatKey(r)
	if res, err := g.revokedBefore(ctx, r, d, key); res != nil || err != nil {
		return res, err
	}
	if r.OnlyRepeat != nil {
		return nil, r.OnlyRepeat
	}
	r = g.asIssued(ctx, r)
	d.request = r
	out, refused := g.judge(ctx, d, e, e.Profile, pipeline)
	switch {
	case refused != nil:
		if out.Decision == Deny && out.Reason == Revoked { // by the same message, perhaps, a moment ago
			if res, err := g.revokedBefore(ctx, r, d, key); res != nil || err != nil {
				return res, err
			}
		}
		return nil, g.turnAway(ctx, d, &out, refused)
	case out.Decision == Hold:
		return nil, g.refuse(ctx, d, Errorf(NotAuthorized, "a revocation cannot wait for approval", "%s", out.Note))
	}
	d.stage = "revocation"
	if d.grant.Requester == "" {
		return nil, Errorf(NotAuthorized, "", "the stages allowed it without knowing who asks")
	}
	c, refusal := g.target(ctx, rt, d)
	if refusal != nil && d.grant.Forward != "" && errors.Is(refusal, ErrNotFound) && d.grant.Device == "" && d.grant.Revokes == nil {
		refusal = nil // an RA's, about a certificate that was issued elsewhere: for those behind to say
	}
	if refusal != nil {
		if refusal.Reason == Unavailable {
			return nil, refusal
		}
		return nil, g.refuseAfter(ctx, d, "revocation", refusal)
	}
	if d.grant.Forward != "" {
		return g.forward(ctx, rt, e, d, &out, keys{repeat: key})
	}
	return g.order(ctx, d, c, onceEach(out.Claims), key)
}

// revokedBefore answers a request that is another's repeat, nil when it is a new one. The certificate that proves who asks may
// be the one that was revoked, so the stages are not asked again: the key takes the same message, of which the adapter has
// verified anew whose it is.
func (g *Gateway) revokedBefore(ctx context.Context, r *Request, d *decision, key RepeatKey) (*Result, error) {
	if key == "" || !slices.ContainsFunc(r.Credentials, Credential.Proven) {
		return nil, nil
	}
	t, err := g.store.Repeat(ctx, key, g.now())
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	}
	d.stage, d.note = "", "the same request as "+t.ID
	if t.State == StateForwarded || repeatedAnswer(t, r, g.now()) != nil {
		return g.goOn(ctx, t, r, nil, false)
	}
	g.Heard(t.ID, "repeat", string(ResultRevoked), r.Source)
	return &Result{Kind: ResultRevoked, Transaction: t.ID, Repeated: true, Exchange: t.Exchange}, nil
}

// target finds the certificate that a request is to revoke, and judges what no stage does: whose it is, and whether there is
// anything to revoke. Where no stage has judged the certificate itself (Grant.Revokes), whoever they let in revokes what was
// issued to the device that they named, or, when they named none, at their endpoint: that is an RA.
func (g *Gateway) target(ctx context.Context, rt *Runtime, d *decision) (*Certificate, *Error) {
	r := d.request
	id := fmt.Sprintf("certificate %x of %s", r.Target.Serial.Bytes(), nameOf(r.Target.Issuer))
	if n := r.Target.Reason; n == certificateHold || n == removeFromCRL {
		return nil, Errorf(NotAuthorized, "a certificate is revoked for good here: it is neither put on hold nor taken off the CRL",
			"%s, for the reason %s", id, crlReason(n))
	}
	unknown := func(err error) *Error {
		return &Error{Reason: UnknownCert, Detail: "no such certificate was issued here", Err: err}
	}
	c, err := g.store.Certificate(ctx, r.Target.Issuer, r.Target.Serial.Bytes())
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, unknown(fmt.Errorf("%s is not among those issued here: %w", id, err))
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	}
	named, judged := d.grant.Device, d.grant.Revokes
	switch {
	case judged != nil && bytes.Equal(judged.Issuer, c.Issuer) && bytes.Equal(judged.Serial, c.Serial):
	case named != "" && c.Device != named:
		return nil, Errorf(NotAuthorized, "the certificate is another device's", "%s is of device %q, the request is device %q's", id, c.Device, named)
	case named == "" && c.Endpoint != r.Endpoint:
		return nil, unknown(fmt.Errorf("%s was issued at endpoint %q", id, c.Endpoint))
	}
	switch {
	case !c.RevokedAt.IsZero():
		return nil, Errorf(Revoked, "the certificate is revoked already", "%s was revoked at %s", id, c.RevokedAt.UTC().Format(time.RFC3339))
	case c.State == StateRejected || c.State == StateFailed:
		return nil, Errorf(Revoked, "the certificate is revoked already", "%s is to be revoked: its transaction %s is %s", id, c.Transaction, c.State)
	}
	if to := d.grant.Forward; to != "" && c.Backend != to {
		return nil, Errorf(Unsupported, "the certificate is not one of the authority that revocations are passed on to", "%s is of backend %s, the request would go to %s", id, c.Backend, to)
	}
	if d.grant.Forward == "" && !rt.canRevoke(c.Backend) {
		return nil, Errorf(Unsupported, "the CA of this certificate cannot revoke", "%s: backend %s is not configured, or revokes nothing", id, c.Backend)
	}
	return c, nil
}

// order commits what was allowed, and tells the CA.
func (g *Gateway) order(ctx context.Context, d *decision, c *Certificate, claims []Claim, key RepeatKey) (*Result, error) {
	r, now := d.request, g.now()
	reason := crlReason(r.Target.Reason)
	d.stage, d.note = "", fmt.Sprintf("certificate %x of %s, of transaction %s: %s", c.Serial, nameOf(c.Issuer), c.Transaction, reason)
	t := transactionOf(d, StateRevoked)
	t.Subject, t.Backend, t.Profile = c.Subject, c.Backend, c.Profile
	t.Repeat, t.Exchange, t.Updated, t.Note = key, r.Exchange, now, d.note
	o := &RevocationOrder{
		Issuer: c.Issuer, Serial: c.Serial, Reason: r.Target.Reason, At: now, Request: t, Claims: claims,
		Note:        fmt.Sprintf("revoked at the request of %s (%s): %s", t.Requester, t.ID, reason),
		RepeatUntil: now.Add(g.repeatFor(r.Endpoint)), Audit: certificateAudit(t, "revocation-ordered", c),
	}
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.lease())
	defer cancel()
	ordered, _, err := g.carryOut(within, c.Transaction, o, deadline)
	var lost *ClaimLostError
	var twin *TwinError
	switch {
	case errors.As(err, &lost):
		return nil, g.claimLost(ctx, d, lost)
	case errors.As(err, &twin), err == nil && !ordered: // somebody was faster, perhaps with the same message
		if res, err := g.revokedBefore(ctx, r, d, key); res != nil || err != nil {
			return res, err
		}
		d.stage = "revocation"
		return nil, g.refuse(ctx, d, Errorf(Revoked, "the certificate is revoked already", "%s: revoked a moment ago", d.note))
	case err != nil:
		return nil, unavailable("the revocation cannot be recorded", err)
	}
	d.recorded = true
	g.Heard(c.Transaction, "revocation", "by request "+t.ID, r.Source)
	return &Result{Kind: ResultRevoked, Transaction: t.ID, Exchange: t.Exchange}, nil
}
