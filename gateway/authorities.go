package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// authoritiesTTL is how old a backend's list of CA certificates may be: a rollover shows after that.
const authoritiesTTL = time.Minute

const authoritiesTimeout = 10 * time.Second // for a CA to tell its certificates

// authorities keeps a backend's list of CAs. When the CA does not answer, the last list goes on being served.
type authorities struct{ kept[caList] }

func newAuthorities(b backend.Backend, now func() time.Time) *authorities {
	a := &authorities{}
	a.kept = kept[caList]{
		now: now, timeout: authoritiesTimeout,
		fetch: func(ctx context.Context) (*caList, error) { return listCAs(ctx, b) },
		due:   func(_ *caList, asked time.Time) bool { return now().Sub(asked) > authoritiesTTL },
	}
	return a
}

// certificates returns the chain of the CA with the name, the issuing certificate first.
func (a *authorities) certificates(ctx context.Context, issuer string) ([]*x509.Certificate, error) {
	ca, err := a.authority(ctx, issuer)
	if err != nil {
		return nil, err
	}
	return ca.Chain, nil
}

func (a *authorities) authority(ctx context.Context, issuer string) (*Authority, error) {
	list, err := a.current(ctx)
	if err != nil {
		return nil, err
	}
	ca := list.named(issuer)
	if ca == nil {
		return nil, fmt.Errorf("the backend has no CA named %q", issuer)
	}
	return ca, nil
}

// caList is one answer of a backend. It is never changed.
type caList struct {
	cas  []*Authority         // the default one first
	crls map[string]*crlShard // by the names of all CRLs
}

// crlShard is a shard of a CA; nil stands for a CRL that lists all that the CA has revoked.
type crlShard = backend.CRLShard

// Authority is one issuing CA of a backend. It is never changed.
type Authority struct {
	Name     string
	Chain    []*x509.Certificate // the issuing certificate first, the root last
	Rollover []*x509.Certificate // backend.CA.Rollover
	CRLs     []string            // the names of its CRLs, the current key's first
	Shards   []backend.CRLShard  // its CRLs of some of its certificates each, beside those
	Next     []*x509.Certificate // announced, to follow Chain (backend.CA.Next); nil while nothing is
	Standby  []*x509.Certificate // of an endpoint's CA: those of the profile's standbys that are not among Chain and Rollover
}

// Certificates are the chain, then what a rollover adds to it, then those of standbys.
func (a *Authority) Certificates() []*x509.Certificate {
	return slices.Concat(a.Chain, a.Rollover, a.Standby)
}

// named returns the CA with the name, the default one for "", nil when there is none.
func (l *caList) named(issuer string) *Authority {
	for _, ca := range l.cas {
		if issuer == "" || ca.Name == issuer {
			return ca
		}
	}
	return nil
}

// certificates are all that the backend has.
func (l *caList) certificates() []*x509.Certificate {
	var all []*x509.Certificate
	for _, ca := range l.cas {
		all = append(all, ca.Certificates()...)
	}
	return all
}

// listCAs asks a backend for its CAs.
func listCAs(ctx context.Context, b backend.Backend) (*caList, error) {
	cas, err := b.CACertificates(ctx)
	if err != nil {
		return nil, err
	}
	return parseCAs(cas)
}

func parseCAs(cas []backend.CA) (list *caList, err error) {
	if len(cas) == 0 {
		return nil, errors.New("the backend names no CA")
	}
	list = &caList{crls: map[string]*crlShard{}}
	for _, ca := range cas {
		made := &Authority{Name: ca.Name, CRLs: ca.CRLs, Shards: ca.Shards}
		if made.Chain, err = parseAll(ca.Chain); err == nil {
			made.Rollover, err = parseAll(ca.Rollover)
		}
		if err == nil {
			made.Next, err = parseAll(ca.Next)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("CA %s: %w", ca.Name, err)
		case len(made.Chain) == 0:
			return nil, fmt.Errorf("CA %s has no certificate", ca.Name)
		case len(made.CRLs) == 0:
			made.CRLs = []string{ca.Name}
		}
		list.cas = append(list.cas, made)
		for _, name := range append([]string{made.Name}, made.CRLs...) {
			list.crls[name] = nil
		}
	}
	for _, ca := range list.cas {
		for n := range ca.Shards {
			name := ca.Shards[n].Name
			if _, taken := list.crls[name]; taken {
				return nil, fmt.Errorf("CA %s: two CRLs are named %s", ca.Name, name)
			}
			list.crls[name] = &ca.Shards[n]
		}
	}
	return list, nil
}

func parseAll(ders [][]byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// Authority returns the CA that certifies for an endpoint. The error is an *Error.
func (g *Gateway) Authority(ctx context.Context, endpoint string) (*Authority, error) {
	rt := g.runtime.Load()
	e := rt.Endpoints[endpoint]
	if e == nil {
		return nil, Errorf(NotAuthorized, "no such endpoint", "endpoint %q is not configured", endpoint)
	}
	ca, err := rt.authorities[e.Profile.Backend].authority(ctx, e.Profile.Issuer)
	if err != nil {
		return nil, unavailable("the CA cannot be reached", err)
	}
	return rt.withStandbys(ctx, ca, e.Profile), nil
}

// withStandbys adds the certificates of a profile's standbys to those of its first CA. A standby that does not tell them now is left out.
func (rt *Runtime) withStandbys(ctx context.Context, ca *Authority, p *Profile) *Authority {
	if len(p.Standby) == 0 {
		return ca
	}
	with := *ca
	for _, r := range p.Standby {
		cas := rt.authorities[r.Backend]
		if cas == nil {
			continue
		}
		other, err := cas.authority(ctx, r.Issuer)
		if err != nil {
			continue
		}
		for _, c := range other.Certificates() {
			if !slices.ContainsFunc(with.Certificates(), c.Equal) {
				with.Standby = append(with.Standby, c)
			}
		}
	}
	return &with
}

// CACertificates returns what an endpoint hands out as its CA certificates: the issuing certificate first, the root
// last, then those of a rollover (RFC 7030 section 4.1.3). The error is an *Error.
func (g *Gateway) CACertificates(ctx context.Context, endpoint string) ([]*x509.Certificate, error) {
	ca, err := g.Authority(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	return ca.Certificates(), nil
}

// CrossCertificates returns those that lead from the root of a chain to the roots of other generations (NewWithOld,
// OldWithNew: RFC 9810 section 5.3.13), for a device that trusts one of these alone. None while no CA changes over, and
// none when the CA does not answer: the chain is good without them.
func (g *Gateway) CrossCertificates(ctx context.Context, endpoint string, chain []*x509.Certificate) []*x509.Certificate {
	rt := g.runtime.Load()
	e := rt.Endpoints[endpoint]
	if e == nil || len(chain) == 0 {
		return nil
	}
	for _, name := range e.backendsOf() {
		if rt.authorities[name] == nil {
			continue
		}
		list, err := rt.authorities[name].current(ctx)
		if err != nil {
			continue
		}
		for _, ca := range list.cas {
			if crosses := pkix.Crosses(chain[len(chain)-1], ca.Rollover); len(crosses) > 0 {
				return crosses
			}
		}
	}
	return nil
}

// authoritiesChanged has a backend's CAs asked for anew: by the next one who wants them, and at once by the process, whose
// own certificates and listeners depend on them.
func (g *Gateway) authoritiesChanged(backend string) {
	if cas := g.runtime.Load().authorities[backend]; cas != nil {
		cas.forget()
	}
	g.crlsChanged(backend)
	if g.opt.CAChanged != nil {
		g.opt.CAChanged(backend)
	}
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
