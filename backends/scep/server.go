package scep

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cms"
)

const (
	maxCaps   = 16 << 10
	maxCerts  = 1 << 20
	maxAnswer = 1 << 20
)

// server is what a SCEP server says of itself, checked against the roots.
type server struct {
	bag       upstream.Bag // certificates of the CA, and the RA's
	chain     upstream.Bag
	recipient *x509.Certificate // whom messages are encrypted to
	caps      []string          // lower case
}

// can reports whether GetCACaps names one of the capabilities (RFC 8894 section 3.5.2).
func (s *server) can(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(s.caps, n) })
}

// current is the server as it was last seen, where that is enough.
func (r *running) current(ctx context.Context, fresh bool) (*server, error) {
	if s := r.server.Load(); s != nil && !fresh {
		return s, nil
	}
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	r.server.Store(s)
	return s, nil
}

// look asks for GetCACaps and GetCACert (RFC 8894 sections 3.5 and 4.2). No error of it refuses.
func (r *running) look(ctx context.Context) (*server, error) {
	caps, err := r.get(ctx, "GetCACaps", r.config.Identifier, maxCaps)
	if err != nil {
		return nil, err
	}
	s := &server{}
	if caps.Status >= 500 || caps.Status == http.StatusTooManyRequests { // which says nothing of what it can do
		return nil, backend.Refuse(codes.Unavailable, "GetCACaps: HTTP %d", caps.Status)
	}
	if caps.Status == http.StatusOK { // RFC 8894 section 3.5.1: a CA without it has none
		for lines := bufio.NewScanner(bytes.NewReader(caps.Body)); lines.Scan() && len(s.caps) < 64; {
			s.caps = append(s.caps, strings.ToLower(strings.TrimSpace(lines.Text())))
		}
	}
	got, err := r.get(ctx, "GetCACert", r.config.Identifier, maxCerts)
	switch {
	case err != nil:
		return nil, err
	case got.Status != http.StatusOK:
		return nil, backend.Refuse(codes.Unavailable, "GetCACert: HTTP %d", got.Status)
	}
	ders := [][]byte{got.Body} // application/x-x509-ca-cert; servers mix the types up
	if _, err := x509.ParseCertificate(got.Body); err != nil {
		if ders, err = cms.ParseCertsOnly(got.Body, cms.Limits{Size: maxCerts}); err != nil {
			return nil, backend.Refuse(codes.Unavailable, "GetCACert: neither a certificate nor a list of them")
		}
	}
	bag, err := upstream.ParseBag(ders)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "GetCACert: %v", err)
	}
	if s.bag, err = r.anchored(bag); err != nil {
		return nil, err
	}
	if s.chain, err = s.bag.Chain(); err != nil {
		return nil, backend.Refuse(codes.Unavailable, "GetCACert: %v: name the root by `roots`", err)
	}
	s.recipient = recipient(bag, s)
	if s.recipient == nil {
		return nil, backend.Refuse(codes.Unavailable, "GetCACert: no certificate there has an RSA key that messages can be encrypted to")
	}
	return s, nil
}

// anchored leaves of a bag what leads to one of the roots, and adds these.
func (r *running) anchored(bag upstream.Bag) (upstream.Bag, error) {
	if r.config.Roots == "" {
		return bag, nil
	}
	roots, err := upstream.ReadBag(r.config.Roots)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "roots: %v", err)
	}
	trusted := func(c *x509.Certificate) bool { return slices.ContainsFunc(roots, c.Equal) }
	var known upstream.Bag
	pool := slices.Clone(roots) // no other self-signed certificate ends a chain
	for _, c := range bag {
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			pool = append(pool, c)
		}
	}
	for i, up := range pool.AboveEach(bag) {
		c := bag[i]
		if len(up) > 0 && trusted(up[len(up)-1]) || trusted(c) {
			known = append(known, c)
		}
	}
	if len(known) == 0 {
		return nil, backend.Refuse(codes.Unavailable, "GetCACert: nothing there leads to one of `roots`: this is another CA, or somebody in between")
	}
	for _, c := range roots {
		if !slices.ContainsFunc(known, c.Equal) {
			known = append(known, c)
		}
	}
	return known, nil
}

// recipient is whom to encrypt to: an RA that the CA certified, or the CA itself (RFC 8894 section 2.1.2).
func recipient(sent upstream.Bag, s *server) *x509.Certificate {
	encrypts := func(c *x509.Certificate) bool {
		_, ok := c.PublicKey.(*rsa.PublicKey)
		return ok && (c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageKeyEncipherment != 0)
	}
	for _, c := range sent {
		if !c.IsCA && slices.ContainsFunc(s.bag, c.Equal) && encrypts(c) {
			return c
		}
	}
	if _, ok := s.chain[0].PublicKey.(*rsa.PublicKey); ok {
		return s.chain[0]
	}
	return nil
}

// get asks for an operation by GET. Its errors refuse nothing.
func (r *running) get(ctx context.Context, operation, message string, limit int64) (*upstream.Answer, error) {
	query := url.Values{"operation": {operation}}
	if message != "" {
		query.Set("message", message)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.client.URL("?"+query.Encode()), nil)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "url: it makes no request")
	}
	got, err := r.client.Do(ctx, q, limit)
	if err != nil {
		return nil, unsure(err)
	}
	return got, nil
}

// unsure makes an error that refuses nothing. A delay stays.
func unsure(err error) error {
	if status.Code(err) == codes.ResourceExhausted || !backend.Definite(err) {
		return err
	}
	return backend.Refuse(codes.Unavailable, "%s", status.Convert(err).Message())
}
