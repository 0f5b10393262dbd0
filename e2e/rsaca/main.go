// Command rsaca is a third party's CA plugin for the end-to-end tests of SCEP: RSA throughout, and it certifies PKCS#10 requests
// alone, whose key it takes from there. Its CA and what it issued are files of a folder, so that replicas have one.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func main() { backend.Serve(&ca{}) }

type ca struct {
	backend.Unimplemented
	dir  string
	key  *rsa.PrivateKey
	cert *x509.Certificate
	mu   sync.Mutex
}

type config struct {
	Dir string `yaml:"dir"` // absolute; it exists
}

func (*ca) Validate(_ context.Context, text []byte) error {
	var c config
	if err := strictyaml.Decode("config", text, &c); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

func (c *ca) Configure(_ context.Context, text []byte) error {
	var given config
	if err := strictyaml.Decode("config", text, &given); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	c.dir = given.Dir
	der, err := once(filepath.Join(c.dir, "key"), func() ([]byte, error) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKCS1PrivateKey(key), nil
	})
	if err == nil {
		c.key, err = x509.ParsePKCS1PrivateKey(der)
	}
	if err == nil {
		der, err = once(filepath.Join(c.dir, "root.crt"), func() ([]byte, error) {
			now := time.Now().UTC().Truncate(time.Second)
			root := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "RSA CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
				IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			}
			return x509.CreateCertificate(rand.Reader, root, root, c.key.Public(), c.key)
		})
	}
	if err == nil {
		c.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	return nil
}

func (*ca) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name: "rsaca", Version: "1", Forms: []backend.Form{backend.FormPKCS10}, Idempotency: backend.IdempotencyNative,
		Overrides: []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage},
	}, nil
}

func (c *ca) CACertificates(context.Context) ([]backend.CA, error) {
	return []backend.CA{{Name: "rsa", Chain: [][]byte{c.cert.Raw}}}, nil
}

func (c *ca) issued(der []byte) *backend.Issuance {
	return &backend.Issuance{Certificate: der, Chain: [][]byte{c.cert.Raw}}
}

// file is that of what an ID led to.
func (c *ca) file(id string) string {
	return filepath.Join(c.dir, fmt.Sprintf("%x.issued", sha256.Sum256([]byte(id))))
}

func (c *ca) Issue(_ context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "no PKCS#10 request: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	der, err := once(c.file(r.ID), func() ([]byte, error) {
		t := &r.Template
		cert := &x509.Certificate{
			RawSubject: t.Subject, NotBefore: t.NotBefore, NotAfter: t.NotAfter, KeyUsage: t.KeyUsage, UnknownExtKeyUsage: t.ExtKeyUsage, ExtraExtensions: t.Extensions,
		}
		if t.SubjectAltName != nil {
			cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: t.SubjectAltName})
		}
		return x509.CreateCertificate(rand.Reader, cert, c.cert, csr.PublicKey, c.key)
	})
	if err != nil {
		return nil, err
	}
	return c.issued(der), nil
}

func (c *ca) Lookup(_ context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	der, err := os.ReadFile(c.file(r.ID))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	case err != nil:
		return nil, err
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: c.issued(der)}, nil
}

// once returns what stands in a file, and makes it when there is none: of two processes one makes it.
func once(path string, make func() ([]byte, error)) ([]byte, error) {
	if der, err := os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		return der, err
	}
	der, err := make()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover harms nobody
	if _, err := f.Write(der); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}
