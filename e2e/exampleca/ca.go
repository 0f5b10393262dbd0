package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"path/filepath"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// name selects the one CA that there is, in a profile's `issuer`.
const name = "root"

// ca is the backend. Embedding Unimplemented answers every optional call that it has not.
type ca struct {
	backend.Unimplemented
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	mu   sync.Mutex // one call at a time: Lookup says "never" only when no Issue is under way
}

// config is what stands under `config:` in muster.yaml.
type config struct {
	Dir string `yaml:"dir"` // absolute, and there already
}

func parse(text []byte) (c config, err error) {
	if err := strictyaml.Decode("config", text, &c); err != nil {
		return c, backend.Refuse(backend.InvalidArgument, "%v", err)
	}
	if !filepath.IsAbs(c.Dir) {
		return c, backend.Refuse(backend.InvalidArgument, "dir: %q is not an absolute path", c.Dir)
	}
	return c, nil
}

// Validate is called by `muster config check`, too: it touches nothing.
func (*ca) Validate(_ context.Context, text []byte) error {
	_, err := parse(text)
	return err
}

// Configure comes once in the life of a process. It finds the CA in the folder, or makes one.
func (a *ca) Configure(_ context.Context, text []byte) error {
	c, err := parse(text)
	if err != nil {
		return err
	}
	a.dir = c.Dir
	if err := a.identity(); err != nil {
		return backend.Refuse(backend.FailedPrecondition, "%v", err)
	}
	return nil
}

// identity reads the CA's key and certificate, which are made the first time.
func (a *ca) identity() error {
	key, err := once(filepath.Join(a.dir, "key"), func() ([]byte, error) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return k.Bytes()
	})
	if err != nil {
		return err
	}
	if a.key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), key); err != nil {
		return err
	}
	der, err := once(filepath.Join(a.dir, "root.crt"), func() ([]byte, error) {
		now := time.Now().UTC().Truncate(time.Second)
		root := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"},
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), // for clocks that are slow
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		return x509.CreateCertificate(rand.Reader, root, root, a.key.Public(), a.key)
	})
	if err != nil {
		return err
	}
	a.cert, err = x509.ParseCertificate(der)
	return err
}

// Describe promises what the rest of this program keeps.
func (*ca) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name: "example", Version: "1",
		Forms:        []backend.Form{backend.FormTemplate},
		Idempotency:  backend.IdempotencyNative,
		Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL},
	}, nil
}

// CACertificates is asked once a minute.
func (a *ca) CACertificates(context.Context) ([]backend.CA, error) {
	return []backend.CA{{Name: name, Chain: [][]byte{a.cert.Raw}}}, nil
}

// known refuses the name of a CA that there is not.
func known(issuer string) error {
	if issuer != "" && issuer != name {
		return backend.Refuse(backend.InvalidArgument, "no CA is named %q", issuer)
	}
	return nil
}
