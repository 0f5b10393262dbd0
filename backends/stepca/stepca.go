// Package stepca has Smallstep's step-ca certify, by its HTTP API (`/1.0/sign`, `/1.0/revoke`, `/1.0/crl`) with the tokens of a JWK or
// X5C provisioner. It keeps nothing: any number of replicas use one step-ca.
//
// What is said of step-ca here is from the source of github.com/smallstep/certificates v0.30.2, in folders of it where a comment names
// one. Everything for operators is in docs/backends/stepca.md.
package stepca

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/frame"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// caName is the one issuing CA's: a step-ca has one.
const caName = "ca"

// Options of New. The zero value works.
type Options = frame.Options

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o    Options
	open frame.Once[running]
}

// running is what Configure makes.
type running struct {
	config   *Config
	client   *upstream.Client
	signer   *signer
	host     string // of the audience
	roots    []*x509.Certificate
	view     atomic.Pointer[view]
	describe backend.Description
	foreign  atomic.Bool // the provisioner has not Muster's template: a certificate came with a serial number of the CA's own
}

// view is what the CA's certificates were when it was last asked.
type view struct {
	chain []*x509.Certificate // the issuing one first, the root last
	all   []*x509.Certificate // every intermediate certificate it has
}

// New makes a CA that waits for Configure.
func New(o Options) *CA {
	return &CA{o: o.Filled()}
}

// Validate checks the configuration without touching a file. It fails with INVALID_ARGUMENT.
func (c *CA) Validate(_ context.Context, config []byte) error {
	_, err := frame.Parsed(parseConfig(config))
	return err
}

// Configure reads the files and asks the CA for its certificates: what Describe says depends on them. A CA that does not answer is
// UNAVAILABLE, and files that will not do are FAILED_PRECONDITION.
func (c *CA) Configure(ctx context.Context, config []byte) error {
	cfg, err := frame.Parsed(parseConfig(config))
	if err != nil {
		return err
	}
	r := &running{config: cfg}
	if r.signer, err = newSigner(cfg); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "url: %v", err)
	}
	r.host = u.Host
	if err := r.trust(ctx); err != nil {
		return err
	}
	v, err := r.look(ctx)
	if err != nil {
		return reached(err)
	}
	capabilities := []backend.Capability{backend.CapRevoke}
	switch has, err := r.hasCRL(ctx); {
	case err != nil:
		return reached(err)
	case has:
		capabilities = append(capabilities, backend.CapCRL)
	}
	r.describe = backend.Description{
		Name: "stepca", Version: c.o.Version, Forms: []backend.Form{backend.FormPKCS10}, Idempotency: backend.IdempotencyNone, Capabilities: capabilities,
		Overrides: []backend.Field{backend.FieldValidity}, Decides: []backend.Field{backend.FieldKeyUsage, backend.FieldExtKeyUsage},
	}
	if cfg.Template == templateMuster {
		r.describe.Decides = nil
		r.describe.Overrides = []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
		if v.repeats() {
			r.describe.Idempotency = backend.IdempotencyLookup
		}
	}
	if r.describe.Idempotency == backend.IdempotencyNone {
		if err := r.connect(true); err != nil {
			return err
		}
	}
	return c.open.Set(r)
}

// reached is an error of Configure: what Exhausted says of an Issue is of no meaning there.
func reached(err error) error {
	return backend.Refuse(codes.Unavailable, "step-ca: %v", err)
}

// Describe says `lookup` when the CA's signature algorithm is deterministic and the provisioner has Muster's template.
func (c *CA) Describe(ctx context.Context) (*backend.Description, error) {
	r, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	d := r.describe
	return &d, nil
}

// CACertificates asks the CA.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	r, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	v, err := r.look(ctx)
	if err != nil {
		return nil, reached(err)
	}
	return []backend.CA{{Name: caName, Chain: raw(v.chain)}}, nil
}

// CRL passes the CA's CRL on.
func (c *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	r, err := c.open.Get(ctx)
	switch {
	case err != nil:
		return err
	case !slices.Contains(r.describe.Capabilities, backend.CapCRL):
		return backend.Refuse(codes.Unimplemented, "step-ca had no CRL when the gateway started: `crl: {enabled: true}` in its ca.json")
	case issuer != "" && issuer != caName:
		return backend.Refuse(codes.NotFound, "there is no CA %q", issuer)
	}
	a, err := r.get(ctx, "/1.0/crl", backend.MaxCRL)
	if err != nil {
		return reached(err)
	}
	if a.Status != http.StatusOK {
		return backend.Refuse(codes.Unavailable, "step-ca: the CRL: HTTP %d", a.Status)
	}
	if _, err := x509.ParseRevocationList(a.Body); err != nil {
		return backend.Refuse(codes.Unavailable, "step-ca: the CRL: %v", err)
	}
	_, err = w.Write(a.Body)
	return err
}

// hasCRL reports whether the CA makes CRLs: 404 while they are not enabled, 501 without a database
// (authority.GetCertificateRevocationList).
func (r *running) hasCRL(ctx context.Context) (bool, error) {
	a, err := r.get(ctx, "/1.0/crl", backend.MaxCRL)
	switch {
	case err != nil:
		return false, err
	case a.Status == http.StatusOK:
		return true, nil
	case a.Status == http.StatusNotFound || a.Status == http.StatusNotImplemented:
		return false, nil
	}
	return false, a.Refused("the CRL")
}

// repeats reports whether the issuing key makes the same signature for the same certificate: RSA by PKCS #1 v1.5, and Ed25519. ECDSA
// and RSA-PSS are randomized. step-ca signs with RSA as its own certificate was signed (cas/softcas, createCertificate).
func (v *view) repeats() bool {
	switch v.chain[0].PublicKey.(type) {
	case *rsa.PublicKey:
		return !slices.Contains([]x509.SignatureAlgorithm{x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS}, v.chain[0].SignatureAlgorithm)
	case ed25519.PublicKey:
		return true
	}
	return false
}

func raw(certs []*x509.Certificate) (out [][]byte) {
	for _, c := range certs {
		out = append(out, c.Raw)
	}
	return out
}

// look asks for the CA's certificates and keeps them.
func (r *running) look(ctx context.Context) (*view, error) {
	all, err := r.certificates(ctx, "/1.0/intermediates")
	if err != nil {
		return nil, err
	}
	v := &view{all: all}
	if v.chain, err = chainOf(all[0], all[1:], r.roots); err != nil {
		return nil, err
	}
	r.view.Store(v)
	return v, nil
}

// maxChain bounds the certificates between issuer and root.
const maxChain = 8

// chainOf leads from an issuing certificate to one of the roots.
func chainOf(issuing *x509.Certificate, others, roots []*x509.Certificate) ([]*x509.Certificate, error) {
	chain := []*x509.Certificate{issuing}
	for len(chain) < maxChain {
		last := chain[len(chain)-1]
		if slices.ContainsFunc(roots, last.Equal) {
			return chain, nil
		}
		signed := func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		}
		if i := slices.IndexFunc(roots, signed); i >= 0 {
			return append(chain, roots[i]), nil
		}
		i := slices.IndexFunc(others, signed)
		if i < 0 {
			break
		}
		chain = append(chain, others[i])
	}
	return nil, errors.New("its issuing certificate does not lead to the root that is configured")
}
