// Command faultyca is a third party's CA plugin for the end-to-end tests that goes wrong on command: what fault a request meets stands at
// the beginning of its common name ("die-est-7"). Its ledger tells every certificate that it ever signed.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func main() { backend.Serve(&ca{underway: map[string]int{}}) }

type ca struct {
	backend.Unimplemented
	config
	key      *rsa.PrivateKey
	cert     *x509.Certificate
	mu       sync.Mutex
	ledger   *ledger
	underway map[string]int // calls of Issue that have not signed yet, by ID
	dying    sync.Once
}

type config struct {
	Dir         string `yaml:"dir"`         // absolute; it exists. While there is a file "hold" in it, no Lookup is answered that met a fault, and faults stay
	Idempotency string `yaml:"idempotency"` // native, lookup or none
	Late        int    `yaml:"late"`        // ms after which an answer comes too late
	Name        string `yaml:"name"`        // of the CA
}

func (*ca) Validate(_ context.Context, text []byte) error {
	var c config
	if err := strictyaml.Decode("config", text, &c); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

func (c *ca) Configure(_ context.Context, text []byte) error {
	err := strictyaml.Decode("config", text, &c.config)
	if err == nil {
		err = c.identity()
	}
	if err == nil {
		c.ledger, err = openLedger(filepath.Join(c.Dir, "ledger"))
	}
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	return nil
}

// identity reads the CA's key and certificate, and makes them the first time. RSA: SCEP's clients need it.
func (c *ca) identity() error {
	file := filepath.Join(c.Dir, "identity")
	der, err := os.ReadFile(file)
	if err == nil {
		if c.key, err = x509.ParsePKCS1PrivateKey(der); err != nil {
			return err
		}
		if der, err = os.ReadFile(filepath.Join(c.Dir, "root.crt")); err == nil {
			c.cert, err = x509.ParseCertificate(der)
		}
		return err
	}
	if !os.IsNotExist(err) {
		return err
	}
	if c.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cmp.Or(c.Name, "Faulty CA")}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if der, err = x509.CreateCertificate(rand.Reader, root, root, c.key.Public(), c.key); err != nil {
		return err
	}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "root.crt"), der, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file, x509.MarshalPKCS1PrivateKey(c.key), 0o600)
}

func (c *ca) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name: "faultyca", Version: "1", Forms: []backend.Form{backend.FormTemplate}, Idempotency: backend.Idempotency(c.Idempotency),
	}, nil
}

func (c *ca) CACertificates(ctx context.Context) ([]backend.CA, error) {
	if err := c.down(ctx, false); err != nil {
		return nil, err
	}
	return []backend.CA{{Name: "faulty", Chain: [][]byte{c.cert.Raw}}}, nil
}

func (c *ca) issuance(der []byte) *backend.Issuance {
	return &backend.Issuance{Certificate: der, Chain: [][]byte{c.cert.Raw}}
}

// Issue signs, has the ledger, and then goes wrong. Where it is not described as native it signs whenever it is asked: who asks twice
// stands in the ledger twice.
func (c *ca) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if err := c.down(ctx, true); err != nil {
		return nil, err
	}
	name, err := commonName(r.Template.Subject)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	c.mu.Lock()
	c.underway[r.ID]++
	_, before := c.ledger.by[r.ID]
	c.mu.Unlock()
	if faultOf(name) == "slow" && !before {
		time.Sleep(c.late())
	}
	c.mu.Lock()
	der, err := c.certify(r, name)
	if c.underway[r.ID]--; c.underway[r.ID] == 0 {
		delete(c.underway, r.ID)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := c.fault(name, before); err != nil {
		return nil, err
	}
	if c.mood() == "drop" {
		return nil, backend.Refuse(codes.Unavailable, "the answer was lost")
	}
	return c.issuance(der), nil
}

// certify needs the lock.
func (c *ca) certify(r *backend.IssueRequest, name string) ([]byte, error) {
	t := &r.Template
	if e, ok := c.ledger.by[r.ID]; ok && c.Idempotency == string(backend.IdempotencyNative) {
		had, err := x509.ParseCertificate(e.der)
		if err != nil || string(had.RawSubjectPublicKeyInfo) != string(t.PublicKey) || string(had.RawSubject) != string(t.Subject) {
			return nil, backend.Refuse(codes.AlreadyExists, "ID %s stands for another request (%v)", r.ID, err)
		}
		return e.der, nil
	}
	key, err := x509.ParsePKIXPublicKey(t.PublicKey)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "public key: %v", err)
	}
	cert := &x509.Certificate{
		RawSubject: t.Subject, NotBefore: t.NotBefore, NotAfter: t.NotAfter, KeyUsage: t.KeyUsage, UnknownExtKeyUsage: t.ExtKeyUsage, ExtraExtensions: t.Extensions,
	}
	if t.SubjectAltName != nil {
		cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: t.SubjectAltName})
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, c.cert, key, c.key)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return der, c.ledger.add(r.ID, name, der)
}

// Lookup is Backend.Lookup.
func (c *ca) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if err := c.down(ctx, false); err != nil {
		return nil, err
	}
	if c.Idempotency == string(backend.IdempotencyNone) {
		return nil, backend.Refuse(codes.Unimplemented, "it keeps no record by ID")
	}
	held := c.holds()
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.ledger.by[r.ID]
	switch {
	case ok && held && faultOf(e.name) != "ok":
		return nil, backend.Refuse(codes.Unavailable, "held back")
	case ok:
		return &backend.Outcome{State: backend.OutcomeIssued, Issuance: c.issuance(e.der)}, nil
	case c.underway[r.ID] > 0:
		return &backend.Outcome{State: backend.OutcomeUnknown}, nil
	}
	return &backend.Outcome{State: backend.OutcomeNever}, nil
}
