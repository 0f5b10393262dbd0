//go:build cgo

package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/cmd/muster-pkcs11/token"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// plugin is the local CA with its keys in a token, and holder of keys of the gateway's own. With a configuration of `pkcs11` alone
// it is only the latter.
type plugin struct {
	*local.CA
	log    *slog.Logger
	token  *token.Token
	labels []string // of keys that the gateway may use
	keys   sync.Map // label -> *token.Key, of those that were found
	noCA   bool
}

// alone is a configuration without a CA.
type alone struct {
	// PKCS11 is the token, and what the gateway may use of it.
	PKCS11 *local.PKCS11 `yaml:"pkcs11,required"`
}

func newPlugin(log *slog.Logger) *plugin {
	p := &plugin{log: log}
	p.CA = local.New(local.Options{Log: log, Version: version(), OpenToken: func(c local.PKCS11) (local.Token, error) {
		t, err := openToken(c, log)
		if err != nil {
			return nil, err
		}
		p.token, p.labels = t, c.Keys
		return held{t}, nil
	}})
	return p
}

// held is a token as the local CA takes it.
type held struct{ *token.Token }

func (h held) Generate(kind, label string) (crypto.Signer, error) {
	return h.Token.Generate(kind, label)
}
func (h held) Key(label string) (crypto.Signer, error) { return h.Token.Key(label) }

// settings reads what decides which of the two a configuration is: without a directory it has no CA.
func settings(config []byte) (*local.PKCS11, error) {
	var keys map[string]yaml.Node
	if yaml.Unmarshal(config, &keys) == nil {
		if _, ok := keys["pkcs11"]; !ok {
			return nil, errors.New("pkcs11: required: {module: FILE, token: LABEL, pin: FILE}; for keys in files say `plugin: local`")
		}
		if _, ok := keys["dir"]; ok {
			return nil, nil
		}
	}
	var c alone
	if err := strictyaml.Decode("config", config, &c); err != nil {
		return nil, err
	}
	if err := c.PKCS11.Check(); err != nil {
		return nil, err
	}
	if len(c.PKCS11.Keys) == 0 {
		return nil, errors.New("pkcs11.keys: the labels of the keys that the gateway may use; or give the CA a `dir`, and its keys are in the token")
	}
	return c.PKCS11, nil
}

// Validate is backend.Backend's.
func (p *plugin) Validate(ctx context.Context, config []byte) error {
	c, err := settings(config)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if c != nil {
		return nil
	}
	return p.CA.Validate(ctx, config)
}

// Configure is backend.Backend's.
func (p *plugin) Configure(ctx context.Context, config []byte) error {
	c, err := settings(config)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if c == nil {
		return p.CA.Configure(ctx, config)
	}
	if p.token, err = openToken(*c, p.log); err != nil {
		return backend.Refuse(codes.Unavailable, "pkcs11: %v", err)
	}
	p.labels, p.noCA = c.Keys, true
	return nil
}

// Close ends the CA and the token.
func (p *plugin) Close() error {
	err := p.CA.Close()
	if p.noCA {
		err = errors.Join(err, p.token.Close())
	}
	return err
}

// Describe is backend.Backend's.
func (p *plugin) Describe(ctx context.Context) (*backend.Description, error) {
	d := &backend.Description{Version: version(), Idempotency: backend.IdempotencyNone}
	if !p.noCA {
		var err error
		if d, err = p.CA.Describe(ctx); err != nil {
			return nil, err
		}
	}
	d.Name = "pkcs11"
	if len(p.labels) > 0 {
		d.Capabilities = append(d.Capabilities, backend.CapKeys)
	}
	return d, nil
}

// key finds a key that the gateway may use.
func (p *plugin) key(label string) (*token.Key, error) {
	if len(p.labels) == 0 {
		return nil, backend.Refuse(codes.Unimplemented, "pkcs11.keys names no key that the gateway may use")
	}
	if !slices.Contains(p.labels, label) {
		return nil, backend.Refuse(codes.NotFound, "the gateway may use no key %q: pkcs11.keys names those", label)
	}
	if k, ok := p.keys.Load(label); ok {
		return k.(*token.Key), nil
	}
	k, err := p.token.Key(label)
	if err != nil {
		return nil, failed(err)
	}
	p.keys.Store(label, k)
	return k, nil
}

// failed makes an error of the token's that of a call.
func failed(err error) error {
	if errors.Is(err, token.ErrNoKey) {
		return backend.Refuse(codes.NotFound, "%v", err)
	}
	return backend.Refuse(codes.Unavailable, "%v", err)
}

// PublicKey is backend.KeyHolder's.
func (p *plugin) PublicKey(_ context.Context, label string) ([]byte, error) {
	k, err := p.key(label)
	if err != nil {
		return nil, err
	}
	return k.SPKI()
}

// Sign is backend.KeyHolder's.
func (p *plugin) Sign(_ context.Context, r *backend.SignRequest) ([]byte, error) {
	k, err := p.key(r.Label)
	if err != nil {
		return nil, err
	}
	opts := crypto.SignerOpts(r.Hash)
	if r.PSS {
		opts = &rsa.PSSOptions{Hash: r.Hash, SaltLength: rsa.PSSSaltLengthEqualsHash}
	}
	signature, err := k.Sign(nil, r.Digest, opts)
	if err != nil {
		return nil, failed(err)
	}
	return signature, nil
}

// Decrypt is backend.KeyHolder's.
func (p *plugin) Decrypt(_ context.Context, r *backend.DecryptRequest) ([]byte, error) {
	k, err := p.key(r.Label)
	if err != nil {
		return nil, err
	}
	var plain []byte
	if r.OAEP == nil {
		plain, err = k.SessionKey(r.Ciphertext, r.StandIn)
	} else if plain, err = k.OAEP(r.Ciphertext, r.OAEP); errors.Is(err, rsa.ErrDecryption) {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if err != nil {
		return nil, failed(err)
	}
	return plain, nil
}

// unless refuses what only a CA answers.
func unless(noCA bool, call string) error {
	if noCA {
		return backend.Refuse(codes.Unimplemented, "%s: this plugin holds keys, and is no CA: it has no `dir`", call)
	}
	return nil
}

// CACertificates is backend.Backend's, as are those that follow.
func (p *plugin) CACertificates(ctx context.Context) ([]backend.CA, error) {
	if err := unless(p.noCA, "CACertificates"); err != nil {
		return nil, err
	}
	return p.CA.CACertificates(ctx)
}

func (p *plugin) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if err := unless(p.noCA, "Issue"); err != nil {
		return nil, err
	}
	return p.CA.Issue(ctx, r)
}

func (p *plugin) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if err := unless(p.noCA, "Lookup"); err != nil {
		return nil, err
	}
	return p.CA.Lookup(ctx, r)
}

func (p *plugin) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	if err := unless(p.noCA, "Revoke"); err != nil {
		return err
	}
	return p.CA.Revoke(ctx, r)
}

func (p *plugin) CRL(ctx context.Context, issuer string, w io.Writer) error {
	if err := unless(p.noCA, "CRL"); err != nil {
		return err
	}
	return p.CA.CRL(ctx, issuer, w)
}

func (p *plugin) OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error) {
	if err := unless(p.noCA, "OCSP"); err != nil {
		return nil, err
	}
	return p.CA.OCSP(ctx, issuer, request)
}

func (p *plugin) SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error) {
	if err := unless(p.noCA, "SignCMS"); err != nil {
		return nil, err
	}
	return p.CA.SignCMS(ctx, issuer, content)
}

func (p *plugin) Rollover(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
	if err := unless(p.noCA, "Rollover"); err != nil {
		return nil, err
	}
	return p.CA.Rollover(ctx, r)
}

var (
	_ backend.Backend       = (*plugin)(nil)
	_ backend.CMSSigner     = (*plugin)(nil)
	_ backend.OCSPResponder = (*plugin)(nil)
	_ backend.Roller        = (*plugin)(nil)
	_ backend.KeyHolder     = (*plugin)(nil)
)
