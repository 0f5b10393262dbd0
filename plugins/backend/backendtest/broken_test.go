package backendtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
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
	rollover func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error)
	sign     func(ctx context.Context, issuer string, content []byte) ([]byte, error)
	ocsp     func(ctx context.Context, issuer string, request []byte) ([]byte, error)
}

func (b *broken) OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error) {
	if b.ocsp != nil {
		return b.ocsp(ctx, issuer, request)
	}
	return b.Backend.(backend.OCSPResponder).OCSP(ctx, issuer, request)
}

func (b *broken) SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error) {
	if b.sign != nil {
		return b.sign(ctx, issuer, content)
	}
	return b.Backend.(backend.CMSSigner).SignCMS(ctx, issuer, content)
}

func (b *broken) Rollover(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
	if b.rollover != nil {
		return b.rollover(ctx, r)
	}
	return b.Backend.(backend.Roller).Rollover(ctx, r)
}

func (b *broken) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if b.issue != nil {
		return b.issue(ctx, r)
	}
	return b.Backend.Issue(ctx, r)
}

func (b *broken) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if b.lookup != nil {
		return b.lookup(ctx, r.ID)
	}
	return b.Backend.Lookup(ctx, r)
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

func (b *broken) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	if b.poll != nil {
		return nil, b.poll
	}
	return b.Backend.Poll(ctx, r, ticket)
}

func (b *broken) Describe(ctx context.Context) (*backend.Description, error) {
	d, err := b.Backend.Describe(ctx)
	if b.describe != nil {
		b.describe(d)
	}
	return d, err
}

// forgetful names no certificate of earlier generations.
type forgetful struct{ *broken }

func (b *forgetful) CACertificates(ctx context.Context) ([]backend.CA, error) {
	cas, err := b.Backend.CACertificates(ctx)
	for i := range cas {
		cas[i].Rollover = nil
	}
	return cas, err
}

func (b *forgetful) Rollover(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
	ca, err := b.broken.Rollover(ctx, r)
	if ca != nil {
		ca.Rollover = nil
	}
	return ca, err
}

// rolling breaks a CA of its own.
func rolling(how func(m *Memory, b *broken)) *broken {
	m := NewMemory(MemoryOptions{Seed: "rolling"})
	b := &broken{Backend: m}
	how(m, b)
	return b
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
		b     backend.Backend
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
		"revokes nothing": {&broken{Backend: inner, revoke: func(context.Context, *backend.RevokeRequest) error { return nil }}, checkRevoke},
		"an empty CRL":    {&broken{Backend: inner, crl: func(context.Context, string, io.Writer) error { return nil }}, checkRevoke},
		"claims to poll":  {&broken{Backend: inner, describe: func(d *backend.Description) { d.Capabilities = append(d.Capabilities, backend.CapPoll) }}, checkUnimplemented},
		"polls in secret": {&broken{Backend: inner, poll: errors.New("not yet")}, checkUnimplemented},
		"signs in secret": {&broken{Backend: inner, describe: func(d *backend.Description) {
			d.Capabilities = slices.DeleteFunc(d.Capabilities, func(c backend.Capability) bool { return c == backend.CapSignCMS })
		}}, checkUnimplemented},
		"answers for any CA": {&broken{Backend: inner, ocsp: func(ctx context.Context, _ string, request []byte) ([]byte, error) {
			return inner.OCSP(ctx, "", request)
		}}, checkOCSP},
		"answers no request": {&broken{Backend: inner, ocsp: func(ctx context.Context, issuer string, request []byte) ([]byte, error) {
			der, err := inner.OCSP(ctx, issuer, request)
			if err == nil && bytes.Equal(der, ocsp.MalformedRequestErrorResponse) {
				der = ocsp.UnauthorizedErrorResponse
			}
			return der, err
		}}, checkOCSP},
		"signs about strangers": {&broken{Backend: inner, ocsp: func(ctx context.Context, issuer string, request []byte) ([]byte, error) {
			der, err := inner.OCSP(ctx, issuer, request)
			if err != nil || !bytes.Equal(der, ocsp.UnauthorizedErrorResponse) {
				return der, err
			}
			q, err := ocsp.ParseRequest(request)
			if err != nil {
				return nil, err
			}
			return ocsp.CreateResponse(inner.issuing, inner.issuing, ocsp.Response{Status: ocsp.Unknown, SerialNumber: q.SerialNumber, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), IssuerHash: crypto.SHA1}, inner.key)
		}}, checkOCSP},
		"says good for ever": {&broken{Backend: inner, revoke: func(context.Context, *backend.RevokeRequest) error { return nil }}, checkOCSP},
		"knows nobody": {&broken{Backend: inner, ocsp: func(ctx context.Context, issuer string, request []byte) ([]byte, error) {
			der, err := inner.OCSP(ctx, issuer, request)
			if err == nil && len(der) > 5 {
				der = ocsp.UnauthorizedErrorResponse
			}
			return der, err
		}}, checkOCSP},
		"answers in secret": {&broken{Backend: inner, describe: func(d *backend.Description) {
			d.Capabilities = slices.DeleteFunc(d.Capabilities, func(c backend.Capability) bool { return c == backend.CapOCSP })
		}}, checkUnimplemented},
		"signs whatever comes": {rolling(func(_ *Memory, b *broken) {
			b.sign = func(_ context.Context, _ string, content []byte) ([]byte, error) {
				return append([]byte{0x30, 0x80}, content...), nil
			}
		}), checkAnnounce},
		"returns the content as signed": {rolling(func(m *Memory, b *broken) {
			b.sign = func(ctx context.Context, issuer string, content []byte) ([]byte, error) {
				if _, err := m.SignCMS(ctx, issuer, content); err != nil {
					return nil, err
				}
				return content, nil
			}
		}), checkAnnounce},
		"announces and changes over at once": {rolling(func(m *Memory, b *broken) {
			b.rollover = func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
				other := *r
				other.Announce = false
				return m.Rollover(ctx, &other)
			}
		}), checkAnnounce},
		"puts another in force than it announced": {rolling(func(m *Memory, b *broken) {
			b.rollover = func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
				if r.Announce || r.Issuer != "" {
					return m.Rollover(ctx, r)
				}
				m.mu.Lock()
				m.announced = nil
				m.mu.Unlock()
				fresh := *r
				fresh.Kind = backend.RolloverRenew
				return m.Rollover(ctx, &fresh)
			}
		}), checkAnnounce},
		"no new generation": {rolling(func(m *Memory, b *broken) {
			b.rollover = func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
				if r.Issuer != "" {
					return m.Rollover(ctx, r)
				}
				cas, err := m.CACertificates(ctx)
				return &cas[0], err
			}
		}), checkRollover},
		"a generation for each call": {rolling(func(m *Memory, b *broken) {
			b.rollover = func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
				fresh := *r
				fresh.ID += rand.Text()
				return m.Rollover(ctx, &fresh)
			}
		}), checkRollover},
		"rekeys for a renewal": {rolling(func(m *Memory, b *broken) {
			b.rollover = func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
				other := *r
				other.Kind = backend.RolloverRekey
				return m.Rollover(ctx, &other)
			}
		}), checkRollover},
		"rolls the root over too": {rolling(func(m *Memory, b *broken) {
			b.rollover = func(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
				other := *r
				other.Root = true
				return m.Rollover(ctx, &other)
			}
		}), checkRollover},
		"forgets the rest": {&forgetful{rolling(func(*Memory, *broken) {})}, checkRollover},
		"revokes by the new key only": {rolling(func(m *Memory, b *broken) {
			b.crl = func(ctx context.Context, _ string, w io.Writer) error { return m.CRL(ctx, "", w) }
		}), checkRollover},
		"refuses to roll": {rolling(func(_ *Memory, b *broken) {
			b.rollover = func(context.Context, *backend.RolloverRequest) (*backend.CA, error) {
				return nil, backend.Refuse(codes.FailedPrecondition, "not today")
			}
		}), checkRollover},
		"rolls in secret": {&broken{Backend: inner, describe: func(d *backend.Description) {
			d.Capabilities = slices.DeleteFunc(d.Capabilities, func(c backend.Capability) bool { return c == backend.CapRollover })
		}}, checkUnimplemented},
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
