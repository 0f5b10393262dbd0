package backendtest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// broken is a backend that fails one demand of the contract.
type broken struct {
	backend.Backend
	issue    func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error)
	lookup   func(ctx context.Context, id string) (*backend.Outcome, error)
	revoke   func(ctx context.Context, r *backend.RevokeRequest) error
	crl      func(ctx context.Context, issuer string, w io.Writer) error
	describe func(d *backend.Description)
	poll     error
}

func (b *broken) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if b.issue != nil {
		return b.issue(ctx, r)
	}
	return b.Backend.Issue(ctx, r)
}

func (b *broken) Lookup(ctx context.Context, id string) (*backend.Outcome, error) {
	if b.lookup != nil {
		return b.lookup(ctx, id)
	}
	return b.Backend.Lookup(ctx, id)
}

func (b *broken) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	if b.revoke != nil {
		return b.revoke(ctx, r)
	}
	return b.Backend.Revoke(ctx, r)
}

func (b *broken) CRL(ctx context.Context, issuer string, w io.Writer) error {
	if b.crl != nil {
		return b.crl(ctx, issuer, w)
	}
	return b.Backend.CRL(ctx, issuer, w)
}

func (b *broken) Poll(ctx context.Context, ticket string) (*backend.Issuance, error) {
	if b.poll != nil {
		return nil, b.poll
	}
	return b.Backend.Poll(ctx, ticket)
}

func (b *broken) Describe(ctx context.Context) (*backend.Description, error) {
	d, err := b.Backend.Describe(ctx)
	if b.describe != nil {
		b.describe(d)
	}
	return d, err
}

// TestSuiteFinds: each demand is seen to be broken by a backend that breaks it, and by the check that makes it.
func TestSuiteFinds(t *testing.T) {
	inner := NewMemory(MemoryOptions{Seed: "broken"})
	forget := func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
		fresh := *r
		fresh.ID += rand.Text()
		return inner.Issue(ctx, &fresh)
	}
	changed := func(change func(t *backend.Template)) *broken {
		return &broken{Backend: inner, issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
			c := *r
			change(&c.Template)
			return inner.Issue(ctx, &c)
		}}
	}
	for name, c := range map[string]struct {
		b     *broken
		check func(context.Context, *trial) error
	}{
		"another subject":     {changed(func(t *backend.Template) { t.Subject = otherSubject() }), checkIssue},
		"another key":         {changed(func(t *backend.Template) { t.PublicKey = otherKey() }), checkIssue},
		"another name":        {changed(func(t *backend.Template) { t.SubjectAltName = nil }), checkIssue},
		"other dates":         {changed(func(t *backend.Template) { t.NotAfter = t.NotAfter.Add(-time.Second) }), checkIssue},
		"other usage":         {changed(func(t *backend.Template) { t.KeyUsage = 1 }), checkIssue},
		"no extended usage":   {changed(func(t *backend.Template) { t.ExtKeyUsage = nil }), checkIssue},
		"usage filled in":     {changed(func(t *backend.Template) { t.KeyUsage = 1 }), checkSparse},
		"clamped validity":    {changed(func(t *backend.Template) { t.NotAfter = inner.issuing.NotAfter }), checkBadTemplates},
		"forgets IDs":         {&broken{Backend: inner, issue: forget}, checkSameID},
		"takes other content": {&broken{Backend: inner, issue: forget}, checkOtherContent},
		"races":               {&broken{Backend: inner, issue: forget}, checkConcurrent},
		"any CA": {&broken{Backend: inner, issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
			c := *r
			c.Issuer = ""
			return inner.Issue(ctx, &c)
		}}, checkEveryCA},
		"never knows": {&broken{Backend: inner, lookup: func(context.Context, string) (*backend.Outcome, error) {
			return &backend.Outcome{State: backend.OutcomeNever}, nil
		}}, checkLookup},
		"refuses when cancelled": {&broken{Backend: inner, issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
			if ctx.Err() != nil {
				return nil, backend.Refuse(codes.InvalidArgument, "too late")
			}
			return inner.Issue(ctx, r)
		}}, checkContexts},
		"revokes nothing":  {&broken{Backend: inner, revoke: func(context.Context, *backend.RevokeRequest) error { return nil }}, checkRevoke},
		"an empty CRL":     {&broken{Backend: inner, crl: func(context.Context, string, io.Writer) error { return nil }}, checkRevoke},
		"claims to poll":   {&broken{Backend: inner, describe: func(d *backend.Description) { d.Capabilities = append(d.Capabilities, backend.CapPoll) }}, checkUnimplemented},
		"polls in secret":  {&broken{Backend: inner, poll: errors.New("not yet")}, checkUnimplemented},
		"claims to sign":   {&broken{Backend: inner, describe: func(d *backend.Description) { d.Capabilities = append(d.Capabilities, backend.CapSignCMS) }}, checkUnimplemented},
		"no idempotency":   {&broken{Backend: inner, describe: func(d *backend.Description) { d.Idempotency = "" }}, checkDescribe},
		"hides its lookup": {&broken{Backend: inner, describe: func(d *backend.Description) { d.Idempotency = backend.IdempotencyNone }}, checkLookup},
	} {
		t.Run(name, func(t *testing.T) {
			x := &trial{b: c.b, subject: &Subject{Now: time.Now, Timeout: 10 * time.Second}}
			if err := x.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.serial = 1000 * len(name) // IDs apart from the other cases'
			if err := c.check(t.Context(), x); err == nil {
				t.Error("the suite found nothing wrong")
			} else {
				t.Log(err)
			}
		})
	}
}
