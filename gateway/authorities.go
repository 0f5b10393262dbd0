package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// authoritiesTTL is how old a backend's list of CA certificates may be: a rollover shows after that.
const authoritiesTTL = time.Minute

// authorities keeps a backend's CA certificates, so that anonymous requests for them (EST /cacerts, SCEP GetCACert)
// cost the CA nothing. When the CA does not answer, the last list it gave goes on being served.
type authorities struct {
	backend backend.Backend
	now     func() time.Time

	mu      sync.Mutex
	byName  map[string][]*x509.Certificate
	names   []string
	fetched time.Time
}

func (a *authorities) certificates(ctx context.Context, issuer string) ([]*x509.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName == nil || a.now().Sub(a.fetched) > authoritiesTTL {
		if err := a.fetch(ctx); err != nil && a.byName == nil {
			return nil, err
		}
	}
	if issuer == "" && len(a.names) > 0 {
		issuer = a.names[0]
	}
	certs, ok := a.byName[issuer]
	if !ok {
		return nil, fmt.Errorf("the backend has no CA named %q", issuer)
	}
	return certs, nil
}

func (a *authorities) fetch(ctx context.Context) error {
	cas, err := a.backend.CACertificates(ctx)
	if err != nil {
		return err
	}
	if len(cas) == 0 {
		return fmt.Errorf("the backend names no CA")
	}
	byName, names := map[string][]*x509.Certificate{}, []string(nil)
	for _, ca := range cas {
		var certs []*x509.Certificate
		for _, der := range append(append([][]byte(nil), ca.Chain...), ca.Rollover...) {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("CA %s: %w", ca.Name, err)
			}
			certs = append(certs, c)
		}
		if len(certs) == 0 {
			return fmt.Errorf("CA %s has no certificate", ca.Name)
		}
		byName[ca.Name], names = certs, append(names, ca.Name)
	}
	a.byName, a.names, a.fetched = byName, names, a.now()
	return nil
}

// chainCache remembers CA chains whose links were verified: a CA's chain is the same for each of its certificates.
type chainCache struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte][]*x509.Certificate
}

const chainCacheSize = 32

// verified parses a chain (issuer first, root last), checks each link's signature, and returns it.
func (c *chainCache) verified(chain [][]byte) ([]*x509.Certificate, error) {
	h := sha256.New()
	for _, der := range chain {
		h.Write(der)
	}
	key := [sha256.Size]byte(h.Sum(nil))
	c.mu.Lock()
	certs, ok := c.seen[key]
	c.mu.Unlock()
	if ok {
		return certs, nil
	}
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("chain certificate %d: %w", i+1, err)
		}
		if i > 0 {
			if err := certs[i-1].CheckSignatureFrom(cert); err != nil {
				return nil, fmt.Errorf("chain certificate %d did not issue the one before it: %w", i+1, err)
			}
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no chain")
	}
	c.mu.Lock()
	if c.seen == nil || len(c.seen) >= chainCacheSize {
		c.seen = map[[sha256.Size]byte][]*x509.Certificate{}
	}
	c.seen[key] = certs
	c.mu.Unlock()
	return certs, nil
}
