package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// authoritiesTTL is how old a backend's list of CA certificates may be: a rollover shows after that.
const authoritiesTTL = time.Minute

const (
	authoritiesTimeout  = 10 * time.Second // for a CA to tell its certificates
	authoritiesPatience = time.Second      // that those who ask have, where there is an older list
)

// authorities keeps a backend's CA certificates, so that anonymous requests for them (EST /cacerts, SCEP GetCACert)
// cost the CA nothing. The CA is asked by one call at a time, which belongs to nobody who asks. When the CA does not
// answer, the last list that it gave goes on being served.
type authorities struct {
	backend backend.Backend
	now     func() time.Time

	mu      sync.Mutex
	list    *caList       // the last one; nil before the first
	asked   time.Time     // when the last call ended, well or not
	failure error         // of the last call
	asking  chan struct{} // closed when the call under way ends; nil when there is none
	slow    bool          // somebody's patience with that call has run out
}

// caList is one answer of a backend. It is never changed.
type caList struct {
	byName map[string][]*x509.Certificate
	first  string // the default CA's name
}

func (a *authorities) certificates(ctx context.Context, issuer string) ([]*x509.Certificate, error) {
	list, err := a.current(ctx)
	if err != nil {
		return nil, err
	}
	if issuer == "" {
		issuer = list.first
	}
	certs, ok := list.byName[issuer]
	if !ok {
		return nil, fmt.Errorf("the backend has no CA named %q", issuer)
	}
	return certs, nil
}

// current returns a list not older than authoritiesTTL, or, when the CA does not answer, an older one.
func (a *authorities) current(ctx context.Context) (*caList, error) {
	a.mu.Lock()
	if a.asking == nil && (a.list == nil || a.now().Sub(a.asked) > authoritiesTTL) {
		a.asking = make(chan struct{})
		go a.ask(a.asking)
	}
	list, asking, slow := a.list, a.asking, a.slow
	a.mu.Unlock()
	if asking == nil || list != nil && slow {
		return list, nil
	}
	if list != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, authoritiesPatience)
		defer cancel()
	}
	select {
	case <-asking:
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.list != nil:
		a.slow = a.slow || a.asking == asking
		return a.list, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, a.failure
}

// forget has the next one who asks wait for a new list.
func (a *authorities) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked, a.slow = time.Time{}, false
}

// ask makes one call.
func (a *authorities) ask(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), authoritiesTimeout)
	defer cancel()
	list, err := a.fetch(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.list = list
	}
	a.asked, a.failure, a.asking, a.slow = a.now(), err, nil, false
	close(done)
}

func (a *authorities) fetch(ctx context.Context) (list *caList, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	cas, err := a.backend.CACertificates(ctx)
	if err != nil {
		return nil, err
	}
	if len(cas) == 0 {
		return nil, fmt.Errorf("the backend names no CA")
	}
	list = &caList{byName: map[string][]*x509.Certificate{}, first: cas[0].Name}
	for _, ca := range cas {
		var certs []*x509.Certificate
		for _, der := range append(append([][]byte(nil), ca.Chain...), ca.Rollover...) {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("CA %s: %w", ca.Name, err)
			}
			certs = append(certs, c)
		}
		if len(certs) == 0 {
			return nil, fmt.Errorf("CA %s has no certificate", ca.Name)
		}
		list.byName[ca.Name] = certs
	}
	return list, nil
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
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(der))))
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
