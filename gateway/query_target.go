package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"

	"github.com/muster-pki/muster/gateway/pkix"
)

// QueryCertificate answers a requester who asks for one certificate, by r.Target (SCEP GetCert, RFC 8894 section 4.5): in
// Result.Certificates. It may be any that Query would tell of. The endpoint's query pipeline decides, and nothing is stored of an answer. UnknownCert
// when there is none under that issuer and serial number, when it is not the requester's, and when r.Target is nil: one refusal for
// all, judged after the pipeline has let the request pass. The error is always an *Error.
func (g *Gateway) QueryCertificate(ctx context.Context, r *Request) (*Result, error) {
	return g.answer(ctx, r, func(ctx context.Context, r *Request, d *decision) (*Result, error) {
		return g.queryTarget(ctx, r, d, g.ownTarget)
	})
}

// QueryCRL is QueryCertificate for a CRL, in Result.Answer, DER (SCEP GetCRL, RFC 8894 section 4.6): the most recent one of the CA
// of the endpoint that r.Target names as its issuer, of the shard that the certificate with that serial number is in, else the complete one by the key that signed it, or, where none
// was issued here under it, by the current key. It is public; that somebody may ask here is the pipeline's to say. UnknownCert when r.Target is nil,
// or names another CA, or one without a CRL.
func (g *Gateway) QueryCRL(ctx context.Context, r *Request) (*Result, error) {
	return g.answer(ctx, r, func(ctx context.Context, r *Request, d *decision) (*Result, error) {
		return g.queryTarget(ctx, r, d, g.crlOfTarget)
	})
}

// nobodys stands in for a target that cannot be read, so that it is looked for as any other is: while the store or the CA does not
// answer, that is the answer to both, and tells nobody whether what somebody encrypted is a name (RFC 8894 section 7).
var nobodys = CertID{Issuer: []byte{0x30, 0}, Serial: big.NewInt(1)}

// queryTarget has the pipeline judge, and then finds what was asked for. nil without an error is none.
func (g *Gateway) queryTarget(ctx context.Context, r *Request, d *decision, find func(context.Context, *Request, *CertID, *Grant) (*Result, error)) (*Result, error) {
	out, err := g.permit(ctx, r, d)
	if err != nil {
		return nil, err
	}
	refused := known(d.grant, out)
	var res *Result
	if refused == nil {
		wanted := r.Target
		if wanted == nil || wanted.Serial == nil || wanted.Serial.Sign() <= 0 {
			wanted = &nobodys
		}
		res, refused = find(ctx, r, wanted, d.grant)
	}
	if refused == nil && res == nil {
		refused = Errorf(UnknownCert, "there is no such certificate of this client", "of device %q, requester %s, no such one is to be told", d.grant.Device, d.grant.Requester)
	}
	if refused != nil {
		refusal := AsError(refused)
		if refusal.Reason == Unavailable {
			return nil, refusal
		}
		return nil, g.refuseAfter(ctx, d, "query", refusal)
	}
	res.Kind, res.Transaction = ResultAnswer, r.ID
	return res, nil
}

// ownTarget finds the certificate, if it is the requester's.
func (g *Gateway) ownTarget(ctx context.Context, r *Request, wanted *CertID, grant *Grant) (*Result, error) {
	c, err := g.issuedUnder(ctx, wanted.Issuer, wanted.Serial)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	}
	endpoints := []string{r.Endpoint}
	if grant.Owned != nil {
		endpoints = grant.Owned.Endpoints
	}
	if grant.Device == "" && (grant.Owned == nil || !bytes.Equal(c.Issuer, grant.Owned.Issuer) || !bytes.Equal(c.Serial, grant.Owned.Serial)) {
		return nil, nil // no stage knows the device: the certificate that was shown, and no other
	}
	if !tellable(c, grant.Device, endpoints, g.now()) {
		return nil, nil
	}
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, Errorf(Internal, "", "certificate %x: %w", c.Serial, err)
	}
	return &Result{Certificates: []*x509.Certificate{cert}}, nil
}

// crlOfTarget finds the CRL.
func (g *Gateway) crlOfTarget(ctx context.Context, r *Request, wanted *CertID, _ *Grant) (*Result, error) {
	var cert *x509.Certificate
	c, err := g.issuedUnder(ctx, wanted.Issuer, wanted.Serial)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	default:
		if cert, err = x509.ParseCertificate(c.DER); err != nil {
			return nil, Errorf(Internal, "", "certificate %x: %w", c.Serial, err)
		}
		one, err := g.shardCRL(ctx, r.Endpoint, cert)
		if err != nil {
			return nil, err
		}
		if one != nil {
			return &Result{Answer: one.DER}, nil
		}
	}
	list, err := g.CRLs(ctx, r.Endpoint)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(c CurrentCRL) bool {
		return !bytes.Equal(c.Info.Issuer, wanted.Issuer) && !pkix.SameName(c.Info.Issuer, wanted.Issuer)
	})
	if len(list) == 0 {
		return nil, nil
	}
	if cert != nil {
		for _, one := range list {
			if cert.CheckSignatureFrom(one.Info.Signer) == nil {
				return &Result{Answer: one.DER}, nil
			}
		}
	}
	return &Result{Answer: list[0].DER}, nil
}
