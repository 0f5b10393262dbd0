package acme

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// name of the one CA.
const name = "acme"

// authorities are the CA's certificates, from the configured file.
type authorities struct {
	chain  []*x509.Certificate // the first issuing certificate, to its root
	others []*x509.Certificate // that issue too, or lead to roots
}

const maxFile = 1 << 20 // bytes

func readAuthorities(path string) (*authorities, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("chain: %s is larger than %d bytes", path, maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	var all []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; {
		b, after := pem.Decode(rest)
		if b == nil || b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("chain: %s has something else than certificates in PEM", path)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("chain: %s: %w", path, err)
		}
		if all, rest = append(all, c), bytes.TrimSpace(after); len(all) > backend.MaxRollover {
			return nil, fmt.Errorf("chain: %s has more than %d certificates", path, backend.MaxRollover)
		}
	}
	a := &authorities{}
	for i, c := range all {
		switch n := len(a.chain); {
		case !c.IsCA:
			return nil, fmt.Errorf("chain: %s: %s is no CA's certificate", path, c.Subject)
		case i == 0, n > 0 && !selfSigned(a.chain[n-1]) && a.chain[n-1].CheckSignatureFrom(c) == nil:
			a.chain = append(a.chain, c)
		default:
			a.others = append(a.others, c)
		}
	}
	if n := len(a.chain); n == 0 || n > backend.MaxChain || !selfSigned(a.chain[n-1]) {
		return nil, fmt.Errorf("chain: %s has to begin with the issuing certificate and lead to its root, which is self-signed", path)
	}
	return a, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

// CACertificates is backend.Backend.CACertificates.
func (ca *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	c, err := ca.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	a, err := readAuthorities(c.config.Chain)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%v", err)
	}
	return []backend.CA{{Name: name, Chain: raw(a.chain), Rollover: raw(a.others)}}, nil
}

func raw(certs []*x509.Certificate) (ders [][]byte) {
	for _, c := range certs {
		ders = append(ders, c.Raw)
	}
	return ders
}

// issuance is a certificate with the chain to a root of the configured file. Of one that leads nowhere the chain is the file's, which
// did not issue it: the gateway sees that, revokes the certificate, and raises the alarm.
func (c *running) issuance(answer [][]byte) (*backend.Issuance, error) {
	a, err := readAuthorities(c.config.Chain)
	if err != nil { // the order keeps its certificate
		return nil, backend.Refuse(codes.Unavailable, "%v", err)
	}
	chain, err := a.path(answer, c)
	if err != nil {
		c.o.Log.Error("the CA's certificate does not lead to a root of `chain`", "chain", c.config.Chain, "err", err)
		chain = a.chain
	}
	return &backend.Issuance{Certificate: answer[0], Chain: raw(chain)}, nil
}

// path leads from a certificate, the first, to a configured root by configured certificates, and by those that the CA sent.
func (a *authorities) path(answer [][]byte, c *running) ([]*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(answer[0])
	if err != nil {
		return nil, err
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: c.o.Clock(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, known := range append(a.chain[:len(a.chain):len(a.chain)], a.others...) {
		if selfSigned(known) {
			o.Roots.AddCert(known)
		} else {
			o.Intermediates.AddCert(known)
		}
	}
	if o.CurrentTime.Before(leaf.NotBefore) { // by the CA's clock
		o.CurrentTime = leaf.NotBefore
	}
	for _, der := range answer[1:] {
		if sent, err := x509.ParseCertificate(der); err == nil {
			o.Intermediates.AddCert(sent)
		}
	}
	paths, err := leaf.Verify(o)
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if len(p) <= backend.MaxChain {
			return p[1:], nil
		}
	}
	return nil, errors.New("the chain is too long")
}
