package serve

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Issue has a CSR certified for the gateway itself and returns the certificate, then its chain, the root last; DER.
type Issue func(ctx context.Context, csr []byte) (chain [][]byte, err error)

// Own keeps a certificate that the gateway has issued for itself, with its key, in one file of mode 0600. Each
// certificate has a new key.
type Own struct {
	path    string
	what    string
	clock   func() time.Time
	log     *slog.Logger
	current atomic.Pointer[owned]
}

// owned is a certificate with its key, in the forms in which it is asked for. It is never changed.
type owned struct {
	tls      *tls.Certificate
	identity *gateway.Identity
}

// NewOwn keeps what the log calls what ("TLS certificate") in a file, whose folder exists.
func NewOwn(path, what string, clock func() time.Time, log *slog.Logger) *Own {
	return &Own{path: path, what: what, clock: clock, log: log}
}

// Certificate is the current one with its chain, nil before the first Ensure.
func (o *Own) Certificate() *tls.Certificate {
	if c := o.current.Load(); c != nil {
		return c.tls
	}
	return nil
}

// Identity is the current certificate as protocols use it, nil before the first Ensure.
func (o *Own) Identity() *gateway.Identity {
	if c := o.current.Load(); c != nil {
		return c.identity
	}
	return nil
}

// Want is what a certificate of the gateway's own has to be.
type Want struct {
	Subject pkix.Name // its subject; an empty one: a common name is taken from Names
	Names   Names     // exactly these
	Usage   x509.KeyUsage
	RSA     bool // RSA-2048; else P-256
	// Crosses gives what TLS sends in a root's place: certificates that lead on from it to the roots of other generations,
	// of which alone a client may know (RFC 9810 section 5.3.13). nil, or none: the root itself is sent.
	Crosses func(root *x509.Certificate) []*x509.Certificate
	// KeepsPrevious has the certificates before the current one kept with their keys, until they end.
	KeepsPrevious bool
	// Fits says why a certificate does not do, given with its chain, the root last; "" when it does. It is asked of
	// every one that has the right names, key and usage.
	Fits func(chain []*x509.Certificate) (why string)
}

// Server is the want of a TLS certificate: for the names, and under one of the roots.
func Server(names Names, roots []*x509.Certificate) Want {
	return Want{Names: names, Usage: x509.KeyUsageDigitalSignature, Fits: func(chain []*x509.Certificate) string {
		if !slices.ContainsFunc(roots, chain[len(chain)-1].Equal) {
			return "the CA is another one"
		}
		return ""
	}}
}

// Name is the subject.
func (w *Want) Name() pkix.Name {
	if w.Subject.String() != "" {
		return w.Subject
	}
	// The names count; the common name is there for people, and has 64 characters at most (RFC 5280 appendix A.1).
	if i := slices.IndexFunc(w.Names.DNS, func(d string) bool { return d != "localhost" && len(d) <= 64 }); i >= 0 {
		return pkix.Name{CommonName: w.Names.DNS[i]}
	}
	return pkix.Name{CommonName: "localhost"}
}

// refuses says why a certificate is not what is wanted, "" when it is.
func (w *Want) refuses(chain []*x509.Certificate) string {
	leaf := chain[0]
	_, isRSA := leaf.PublicKey.(*rsa.PublicKey)
	switch {
	case !w.Names.Equal(leaf):
		return "its names changed"
	case leaf.Subject.String() != w.Name().String():
		return "its subject changed"
	case isRSA != w.RSA:
		return "its key is of another kind"
	case leaf.KeyUsage != w.Usage:
		return "its usage changed"
	}
	return w.Fits(chain)
}

// Ensure is Prepare, put into force at once.
func (o *Own) Ensure(ctx context.Context, want Want, issue Issue) error {
	use, err := o.Prepare(ctx, want, issue)
	if err == nil {
		use()
	}
	return err
}

// Prepare loads the certificate, and has another one issued when there is none that can be read, when it is not what is
// wanted, or when less than a third of its life is left. It is in force once use is called; the file has it before: where
// use never is, the next Prepare finds what does not fit, and replaces it. While a certificate that is wanted and still
// valid is at hand, a failure to replace it is logged and is no error. Calls do not overlap.
func (o *Own) Prepare(ctx context.Context, want Want, issue Issue) (use func(), err error) {
	found, why := o.load(&want)
	if why == "" {
		o.complete(found, &want)
		return func() { o.current.Store(found) }, nil
	}
	if want.KeepsPrevious {
		if err := o.setAside(); err != nil {
			o.log.Error("the key of the certificate that is replaced cannot be kept", "what", o.what, "err", err)
		}
	}
	fresh, err := o.renew(ctx, &want, issue)
	if err != nil {
		err = fmt.Errorf("the gateway's own %s (%s): %w", o.what, why, err)
		if found == nil {
			return nil, err
		}
		o.log.Error("renewing failed, the old one goes on being used", "err", err)
		o.complete(found, &want)
		return func() { o.current.Store(found) }, nil
	}
	o.complete(fresh, &want)
	leaf := fresh.identity.Certificate
	o.log.Info(o.what+" for the gateway itself", "why", why, "serial", fmt.Sprintf("%x", leaf.SerialNumber),
		"not-after", leaf.NotAfter.UTC().Format(time.RFC3339), "subject", leaf.Subject.String(), "names", want.Names.String())
	return func() { o.current.Store(fresh) }, nil
}

// load returns the certificate on disk if it can be used, and why it should be replaced, "" when it should not.
func (o *Own) load(want *Want) (*owned, string) {
	data, err := os.ReadFile(o.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, "there is none yet"
	}
	if err != nil {
		return nil, err.Error()
	}
	found, chain, err := parseOwned(data)
	if err != nil {
		return nil, o.path + " cannot be read: " + err.Error()
	}
	if why := want.refuses(chain); why != "" {
		return nil, why
	}
	now, leaf := o.clock(), chain[0]
	switch {
	case now.After(leaf.NotAfter) || now.Before(leaf.NotBefore):
		return nil, "it is not valid now"
	case now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)):
		return found, "less than a third of its life is left"
	}
	return found, ""
}

// parseOwned reads the content of a file.
func parseOwned(data []byte) (*owned, []*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("a key of type %T", pair.PrivateKey)
	}
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		chain = append(chain, c)
	}
	return &owned{&pair, &gateway.Identity{Key: key, Certificate: chain[0], Chain: chain[1:]}}, chain, nil
}

// complete adds to a certificate what does not stand in its file.
func (o *Own) complete(c *owned, want *Want) {
	if n := len(c.identity.Chain); want.Crosses != nil && n > 0 {
		if crosses := want.Crosses(c.identity.Chain[n-1]); len(crosses) > 0 {
			sent := *c.tls
			sent.Certificate = slices.Clone(sent.Certificate[:n])
			for _, cross := range crosses {
				sent.Certificate = append(sent.Certificate, cross.Raw)
			}
			c.tls = &sent
		}
	}
	if want.KeepsPrevious {
		c.identity.Previous = o.previous(c.identity.Certificate, want)
	}
}

func (o *Own) renew(ctx context.Context, want *Want, issue Issue) (*owned, error) {
	key, err := want.key()
	if err != nil {
		return nil, err
	}
	csr, err := want.csr(key)
	if err != nil {
		return nil, err
	}
	issued, err := issue(ctx, csr)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	blocks := []*pem.Block{{Type: "PRIVATE KEY", Bytes: pkcs8}}
	for _, der := range issued {
		blocks = append(blocks, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	for _, b := range blocks {
		if err := pem.Encode(&buf, b); err != nil {
			return nil, err
		}
	}
	fresh, chain, err := parseOwned(buf.Bytes())
	if err != nil {
		return nil, fmt.Errorf("the certificate that was issued is not for the key: %w", err)
	}
	if why := want.refuses(chain); why != "" {
		return nil, errors.New("the certificate that was issued is not what was asked for: " + why)
	}
	return fresh, WriteFile(o.path, buf.Bytes(), 0o600)
}

func (w *Want) key() (crypto.Signer, error) {
	if w.RSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func (w *Want) csr(key crypto.Signer) ([]byte, error) {
	t := &x509.CertificateRequest{Subject: w.Name(), DNSNames: w.Names.DNS}
	for _, a := range w.Names.IP {
		t.IPAddresses = append(t.IPAddresses, a.AsSlice())
	}
	return x509.CreateCertificateRequest(rand.Reader, t, key)
}
