package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	maxQueried  = 16  // certificates in the answer to a query
	queriedPage = 100 // records that the store is asked for at once
	queryPages  = 4   // and how often, where most are none to tell
)

// Query answers a requester who asks for its own certificates (RFC 8295 section 3): those that are valid, the newest first, 16
// at most, in Result.Certificates. The endpoint's query pipeline decides, and nothing is stored of an answer. The error is always an
// *Error; UnknownCert when there is none to tell.
//
// Whose they are the pipeline has found: the device's, as far as they were issued at the endpoint (or at those that a stage names
// in Grant.Owned); where no stage knows the device, the one certificate that the requester has shown, and no other: several
// devices may have enrolled as one requester.
func (g *Gateway) Query(ctx context.Context, r *Request) (*Result, error) {
	return g.answer(ctx, r, g.query)
}

func (g *Gateway) query(ctx context.Context, r *Request, d *decision) (*Result, error) {
	out, err := g.permit(ctx, r, d)
	if err != nil {
		return nil, err
	}
	certs, err := g.queried(ctx, d.grant, out, r)
	if err != nil {
		refusal := AsError(err)
		if refusal.Reason == Unavailable {
			return nil, refusal
		}
		return nil, g.refuseAfter(ctx, d, "query", refusal)
	}
	d.note = fmt.Sprintf("told of %d certificates", len(certs))
	return &Result{Kind: ResultAnswer, Transaction: r.ID, Certificates: certs}, nil
}

// permit has the endpoint's query pipeline judge a request. What it does not let pass is turned away.
func (g *Gateway) permit(ctx context.Context, r *Request, d *decision) (*ruling, error) {
	rt := g.runtime.Load()
	e, err := d.at(rt)
	if err != nil {
		return nil, err
	}
	pipeline := e.pipeline(Query)
	switch {
	case r.Operation != Query:
		return nil, Errorf(Unsupported, "operation not supported", "%s is not a query", r.Operation)
	case pipeline == nil:
		return nil, Errorf(NotAuthorized, "this endpoint does not allow the operation", "endpoint %s has no pipeline for %s", e.Name, r.Operation)
	}
	out, refused := g.judge(ctx, d, e, e.Profile, pipeline)
	switch {
	case refused != nil:
		return nil, g.turnAway(ctx, d, &out, refused)
	case out.Decision == Hold:
		return nil, g.refuse(ctx, d, Errorf(NotAuthorized, "a query cannot wait for approval", "%s", out.Note))
	}
	return &out, nil
}

// known refuses what no stage refuses of a query: an answer is for one who asks for itself, and nothing is stored of it.
func known(grant *Grant, out *ruling) error {
	switch {
	case grant.Requester == "":
		return Errorf(NotAuthorized, "", "the stages allowed it without knowing who asks")
	case len(out.Claims) > 0: // a use is committed with a transaction, and here is none
		return Errorf(NotAuthorized, "", "the stage %s counts uses, and a query is not counted: take it out of the query pipeline", out.Claims[0].stage)
	case grant.Forward != "":
		return Errorf(Unsupported, "operation not supported", "a query is not passed on")
	case grant.Vouched():
		return Errorf(NotAuthorized, "only a device is told of its certificates", "an RA asks")
	}
	return nil
}

// queried finds the certificates to tell of, and refuses what no stage does.
func (g *Gateway) queried(ctx context.Context, grant *Grant, out *ruling, r *Request) ([]*x509.Certificate, error) {
	if err := known(grant, out); err != nil {
		return nil, err
	}
	list, err := g.owned(ctx, grant, r)
	if err != nil {
		return nil, unavailable("the store cannot be read", err)
	}
	var certs []*x509.Certificate
	for _, c := range list {
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil, Errorf(Internal, "", "certificate %x: %w", c.Serial, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, Errorf(UnknownCert, "there are no valid certificates of this client", "of device %q, requester %s, none is to be told", grant.Device, grant.Requester)
	}
	return certs, nil
}

// owned reads the records of the certificates that are the requester's.
func (g *Gateway) owned(ctx context.Context, grant *Grant, r *Request) ([]*Certificate, error) {
	endpoints, now := []string{r.Endpoint}, g.now()
	if grant.Owned != nil {
		endpoints = grant.Owned.Endpoints
	}
	if grant.Device == "" {
		if grant.Owned == nil {
			return nil, nil
		}
		c, err := g.store.Certificate(ctx, grant.Owned.Issuer, grant.Owned.Serial)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil, nil
		case err != nil:
			return nil, err
		case !tellable(c, "", endpoints, now):
			return nil, nil
		}
		return []*Certificate{c}, nil
	}
	var list []*Certificate
	before := ""
	for range queryPages {
		page, err := g.store.Certificates(ctx, CertificateFilter{Device: grant.Device, ValidAt: now, Before: before, Limit: queriedPage})
		if err != nil {
			return nil, err
		}
		for _, c := range page {
			if before = c.Transaction; !tellable(c, grant.Device, endpoints, now) {
				continue
			}
			if list = append(list, c); len(list) == maxQueried {
				return list, nil
			}
		}
		if len(page) < queriedPage {
			break
		}
	}
	return list, nil
}

// tellable reports whether a certificate is one to tell a device of: its own, in force, and published. One that waits to be
// confirmed is not (RFC 9810 section 5.2.8.3.2: who has not shown the key does not get it).
func tellable(c *Certificate, device string, endpoints []string, now time.Time) bool {
	return c.Device == device && c.inForce(now) && slices.Contains(endpoints, c.Endpoint)
}

// inForce reports whether the certificate counts: it was issued for good, not revoked, and has not ended.
func (c *Certificate) inForce(now time.Time) bool {
	return c.State == StateIssued && c.RevokedAt.IsZero() && !now.After(c.NotAfter)
}
