// Package vault is a backend.Backend whose CA is the PKI secrets engine of HashiCorp Vault or OpenBao, asked over its HTTP API. It
// certifies PKCS#10 requests, by sign-verbatim or as a role decides, and keeps nothing: what a request whose answer was lost led to, it
// finds among the certificates that the engine has stored. Everything else about it is in docs/backends/vault.md.
//
// What it knows of the engine is from the sources of Vault 1.21.4 (builtin/logical/pki) and OpenBao 2.6.2 (internal/builtin/logical/pki).
package vault

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/frame"
)

// Options of New. The zero value works.
type Options = frame.Options

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o    Options
	open frame.Once[engine]
}

// engine is what Configure opens: one PKI secrets engine, and a session at its server.
type engine struct {
	cfg       *Config
	o         Options
	api       *api
	above     []*x509.Certificate // of Config.Chain
	chains    atomic.Pointer[map[string][]*x509.Certificate]
	role      atomic.Pointer[role] // as it last was; nil without one, or when it is not known
	inventory *inventory
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

// Configure reads the files, and asks the server for the role, if it answers: one under which a request could not be found again is
// FAILED_PRECONDITION. That the server is away, or sealed, is no error here.
func (c *CA) Configure(ctx context.Context, config []byte) error {
	cfg, err := frame.Parsed(parseConfig(config))
	if err != nil {
		return err
	}
	cfg.Once = cfg.Lookup == lookupNone
	e := &engine{cfg: cfg, o: c.o, inventory: newInventory()}
	if e.api, err = newAPI(cfg, c.o); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	if cfg.Chain != "" {
		if e.above, err = readCertificates(cfg.Chain); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "chain: %v", err)
		}
	}
	if cfg.Lookup == lookupScan {
		switch why, err := e.unfindable(ctx); {
		case err != nil:
			c.o.Log.Warn("whether requests can be found again is not known yet", "err", err)
		case why != "":
			return backend.Refuse(codes.FailedPrecondition, "%s: say `lookup: none`, or change the role", why)
		}
	}
	return c.open.Set(e)
}

// Describe says what the engine can do under the configuration; before there is one, what it can do by default.
//
// sign-verbatim certifies a request's subject in string types of its own choice, and dates certificates by its clock: it decides both. Usages
// that the request does not name are set as granted; so it overrides them.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	d := &backend.Description{
		Name: "vault", Version: c.o.Version,
		Forms:        []backend.Form{backend.FormPKCS10},
		Overrides:    []backend.Field{backend.FieldKeyUsage, backend.FieldExtKeyUsage},
		Decides:      []backend.Field{backend.FieldSubject, backend.FieldValidity},
		Idempotency:  backend.IdempotencyLookup,
		Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL},
	}
	if e := c.open.Load(); e != nil {
		if e.cfg.Sign == signRole {
			d.Overrides = nil
			d.Decides = []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
		}
		if e.cfg.Lookup == lookupNone {
			d.Idempotency = backend.IdempotencyNone
		}
	}
	return d, nil
}

// CACertificates asks for each issuer, and sees to it that the session does not end for want of use: the gateway asks once a minute.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	e, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.api.session.keep(ctx); err != nil {
		c.o.Log.Warn("no session at the CA's server", "err", err)
	}
	chains := map[string][]*x509.Certificate{}
	var cas []backend.CA
	for _, name := range e.cfg.Issuers {
		chain, err := e.issuer(ctx, name)
		if err != nil {
			return nil, err
		}
		chains[name] = chain
		cas = append(cas, backend.CA{Name: name, Chain: raw(chain)})
	}
	e.chains.Store(&chains)
	return cas, nil
}

// maxAnswer bounds the answers that are about one certificate and its chain, in bytes.
const maxAnswer = 1 << 20

// issuer asks for the chain of an issuer, its own certificate first.
func (e *engine) issuer(ctx context.Context, name string) ([]*x509.Certificate, error) {
	var got struct {
		Certificate string   `json:"certificate"`
		Chain       []string `json:"ca_chain"`
	}
	if err := e.api.ask(ctx, http.MethodGet, e.path("issuer", name, "json"), nil, maxAnswer, &got); err != nil {
		return nil, named(err, "issuer "+name)
	}
	pool, err := parsePEM(append([]string{got.Certificate}, got.Chain...)...)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "issuer %s: %v", name, err)
	}
	chain, whole := e.chainOf(pool[0], pool)
	if !whole {
		return nil, backend.Refuse(codes.FailedPrecondition, "issuer %s: the engine has no certificate of %q, which is above it: name a PEM file with it as chain", name, chain[len(chain)-1].Issuer)
	}
	return chain, nil
}

// chainOf goes up from a CA certificate to its root by what is in the pool and in the configuration's file.
func (e *engine) chainOf(c *x509.Certificate, pool []*x509.Certificate) (chain []*x509.Certificate, whole bool) {
	const maxChain = 10 // of the contract
	pool = slices.Concat(pool, e.above)
	for chain = []*x509.Certificate{c}; len(chain) < maxChain; {
		last := chain[len(chain)-1]
		if last.CheckSignatureFrom(last) == nil {
			return chain, true
		}
		i := slices.IndexFunc(pool, func(p *x509.Certificate) bool { return last.CheckSignatureFrom(p) == nil })
		if i < 0 || slices.ContainsFunc(chain, pool[i].Equal) {
			return chain, false
		}
		chain = append(chain, pool[i])
	}
	return chain, false
}

// maxCRL is what the contract allows.
const maxCRL = 64 << 20

// CRL writes the issuer's complete CRL as the engine has it.
func (c *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	e, err := c.open.Get(ctx)
	if err != nil {
		return err
	}
	name, ok := e.issuerNamed(issuer)
	if !ok {
		return backend.Refuse(codes.NotFound, "there is no CA %q", issuer)
	}
	a, err := e.api.call(ctx, http.MethodGet, e.path("issuer", name, "crl", "der"), nil, maxCRL)
	switch {
	case err != nil:
		return err
	case a.Status == http.StatusNoContent || a.Status == http.StatusNotFound || a.Status == http.StatusOK && len(a.Body) == 0:
		return backend.Refuse(codes.NotFound, "issuer %s has no CRL", name)
	case a.Status != http.StatusOK:
		return refused(a)
	}
	_, err = w.Write(a.Body)
	return err
}

// path is a path of the engine's, escaped. Its parts have been checked; they hold no slash but the mount.
func (e *engine) path(parts ...string) string {
	return pathOf(append([]string{e.cfg.Mount}, parts...)...)
}

// issuerNamed is the issuer of that name, the default one for "".
func (e *engine) issuerNamed(name string) (string, bool) {
	if name == "" {
		return e.cfg.Issuers[0], true
	}
	return name, slices.Contains(e.cfg.Issuers, name)
}

func raw(chain []*x509.Certificate) (out [][]byte) {
	for _, c := range chain {
		out = append(out, c.Raw)
	}
	return out
}

// parsePEM reads the certificates of PEM texts, at least one.
func parsePEM(texts ...string) (out []*x509.Certificate, err error) {
	const most = 64
	for _, text := range texts {
		rest := []byte(text)
		for len(out) < most {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no PEM certificate")
	}
	return out, nil
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out, err := parsePEM(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}
