package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

const (
	crlTTL     = time.Minute      // how old a CRL may be: what another replica revoked shows after that
	crlTimeout = 30 * time.Second // for a CA to give one
	crlPause   = 5 * time.Second  // after it could not, where there is none to serve
	crlLook    = 5 * time.Second  // between looks for a shard that the CA may have opened since it named its CRLs last
	crlAhead   = 5 * time.Minute  // by which a CA's clock may be ahead of ours

	maxCRLMemory = 256 << 20 // bytes of DER kept of one backend's CRLs
)

// CRLInfo is what a CRL says of itself.
type CRLInfo struct {
	Issuer     []byte            // DER Name
	Number     *big.Int          // nil when it has none
	ThisUpdate time.Time         // UTC
	NextUpdate time.Time         // UTC
	Planned    time.Time         // when the CA makes the next one unless something is revoked before: half of the validity later
	Signer     *x509.Certificate // of the key that signed it
	Tag        string            // SHA-256 of the DER, in hexadecimal
}

// publishedCRL is one that was checked. It is never changed.
type publishedCRL struct {
	der  []byte
	info CRLInfo
}

// crls keeps the CRLs of one backend.
type crls struct {
	backend   backend.Backend
	cas       *authorities
	published bool // the backend has CRLs
	now       func() time.Time

	mu     sync.Mutex
	kept   map[string]*keptCRL // by name: those that the backend's CAs name, and no others
	looked time.Time           // when a CRL was last asked for that may be a new shard's
}

type keptCRL struct {
	kept[publishedCRL]
	used time.Time
	size int
}

func newCRLs(b backend.Backend, cas *authorities, published bool, now func() time.Time) *crls {
	return &crls{backend: b, cas: cas, published: published, now: now, kept: map[string]*keptCRL{}}
}

// CRL returns a CRL of a backend, by one of the names that its CAs give (backend.CA.CRLs and Shards): not older than a minute, made
// after every revocation through this gateway, or, when the CA does not answer, the last one until it ends. The error
// wraps ErrNotFound when there is no such one, else it is an *Error.
func (g *Gateway) CRL(ctx context.Context, backend, name string) (der []byte, info CRLInfo, err error) {
	all := g.runtime.Load().crls[backend]
	if all == nil {
		return nil, CRLInfo{}, fmt.Errorf("%w: no backend %q", ErrNotFound, cut(backend, 64))
	}
	crl, err := all.get(ctx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, CRLInfo{}, err
	case err != nil:
		return nil, CRLInfo{}, unavailable("the CRL is not at hand", fmt.Errorf("backend %s, CRL %s: %w", backend, name, err))
	}
	return crl.der, crl.info, nil
}

// CurrentCRL is a CRL in DER, with what it says of itself.
type CurrentCRL struct {
	DER  []byte
	Info CRLInfo
}

// CRLs returns the complete CRLs of the CA that certifies for an endpoint, each as CRL does, one by each key: the current one's, then those of earlier
// ones. None where the CA publishes none. When one of them cannot be had there is no answer at all: half of it would pass for the
// whole. The error is an *Error.
func (g *Gateway) CRLs(ctx context.Context, endpoint string) ([]CurrentCRL, error) {
	ctx, cancel := context.WithTimeout(ctx, authoritiesTimeout)
	defer cancel()
	ca, err := g.Authority(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	rt := g.runtime.Load()
	var names []crlOf
	for i, r := range rt.Endpoints[endpoint].Profile.Routes() {
		if i > 0 {
			if ca, err = rt.authorities[r.Backend].authority(ctx, r.Issuer); err != nil {
				return nil, unavailable("the CA cannot be reached", err)
			}
		}
		for _, name := range ca.CRLs {
			names = append(names, crlOf{r.Backend, name})
		}
	}
	var list []CurrentCRL
	for _, one := range names {
		der, info, err := g.CRL(ctx, one.backend, one.name)
		switch {
		case errors.Is(err, ErrNotFound): // the CA has none, or names it no more
		case err != nil:
			return nil, err
		case !slices.ContainsFunc(list, func(c CurrentCRL) bool {
			return bytes.Equal(c.Info.Signer.RawSubjectPublicKeyInfo, info.Signer.RawSubjectPublicKeyInfo)
		}): // the current key's goes by two names
			list = append(list, CurrentCRL{der, info})
		}
	}
	return list, nil
}

// shardCRL returns the CRL of the shard that a certificate is in, as CRL does: by the URIs that both name. nil when it is in none of
// the CAs that certify for the endpoint: then those of CRLs are of it. The error is an *Error.
func (g *Gateway) shardCRL(ctx context.Context, endpoint string, cert *x509.Certificate) (*CurrentCRL, error) {
	rt := g.runtime.Load()
	e := rt.Endpoints[endpoint]
	if e == nil || len(cert.CRLDistributionPoints) == 0 {
		return nil, nil
	}
	for _, r := range e.Profile.Routes() {
		list, err := rt.authorities[r.Backend].current(ctx)
		if err != nil {
			return nil, unavailable("the CA cannot be reached", err)
		}
		for _, ca := range list.cas {
			for n := range ca.Shards {
				if !slices.ContainsFunc(ca.Shards[n].URIs, func(uri string) bool { return slices.Contains(cert.CRLDistributionPoints, uri) }) {
					continue
				}
				der, info, err := g.CRL(ctx, r.Backend, ca.Shards[n].Name)
				switch {
				case err != nil:
					return nil, unavailable("the CRL is not at hand", err)
				case cert.CheckSignatureFrom(info.Signer) == nil:
					return &CurrentCRL{der, info}, nil
				}
			}
		}
	}
	return nil, nil
}

// crlOf names a CRL.
type crlOf struct{ backend, name string }

// Issuers returns the certificate that a name means, then the others of the same CA's name and the links between its
// roots: with a CA's name, its current issuing certificate, then the earlier ones; with the name of an earlier key's CRL, that
// key's certificate first. The error is as CRL's.
func (g *Gateway) Issuers(ctx context.Context, backend, name string) ([]*x509.Certificate, error) {
	all := g.runtime.Load().crls[backend]
	if all == nil {
		return nil, fmt.Errorf("%w: no backend %q", ErrNotFound, cut(backend, 64))
	}
	list, err := all.cas.current(ctx)
	if err != nil {
		return nil, unavailable("the CA cannot be reached", fmt.Errorf("backend %s: %w", backend, err))
	}
	for _, ca := range list.cas {
		if ca.Name != name && !slices.Contains(ca.CRLs, name) {
			continue
		}
		first := ca.Chain[0]
		if ca.Name != name {
			_, info, err := g.CRL(ctx, backend, name)
			if err != nil {
				return nil, err
			}
			first = info.Signer
		}
		certs := []*x509.Certificate{first}
		for _, c := range ca.Certificates() {
			if (bytes.Equal(c.RawSubject, first.RawSubject) || links(c)) && !slices.ContainsFunc(certs, c.Equal) {
				certs = append(certs, c)
			}
		}
		return certs, nil
	}
	return nil, fmt.Errorf("%w: backend %s has no CA %q", ErrNotFound, backend, cut(name, 64))
}

// links reports whether a certificate leads from one key of a CA to another (RFC 9810 section 4.4: OldWithNew, NewWithOld):
// issued to itself, and not signed by its own key.
func links(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil
}

// crlsChanged has a backend's CRLs asked for anew: something was revoked.
func (g *Gateway) crlsChanged(backend string) {
	for _, rt := range g.runtimes() {
		if all := rt.crls[backend]; all != nil {
			all.forget()
		}
	}
}

func (c *crls) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.kept {
		k.forget()
	}
}

// get returns the CRL with a name. A name that no CA gives costs the CA nothing.
func (c *crls) get(ctx context.Context, name string) (*publishedCRL, error) {
	if !c.published {
		return nil, fmt.Errorf("%w: the backend has no CRLs", ErrNotFound)
	}
	list, err := c.cas.current(ctx)
	if err != nil {
		return nil, err
	}
	if !list.publishes(name) && c.mayBeNew(list, name) {
		c.cas.forget()
		if list, err = c.cas.current(ctx); err != nil {
			return nil, err
		}
	}
	if !list.publishes(name) {
		return nil, fmt.Errorf("%w: no CA has a CRL %q", ErrNotFound, cut(name, 64))
	}
	crl, err := c.keep(name, list).current(ctx)
	if err != nil {
		return nil, err
	}
	c.room(name, len(crl.der))
	return crl, nil
}

// publishes reports whether a CRL has the name: a CA's own, or one that it gives.
func (l *caList) publishes(name string) bool {
	_, ok := l.crls[name]
	return ok
}

// mayBeNew reports whether a CRL that no CA names may be that of a shard which was opened since, and is in certificates already: it
// is named after one that there is. The CA is asked so once in crlLook at most, however many ask.
func (c *crls) mayBeNew(list *caList, name string) bool {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || !list.publishes(name[:dot]) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if since := now.Sub(c.looked); since >= 0 && since < crlLook {
		return false
	}
	c.looked = now
	return true
}

// keep is where the CRL with the name is kept. Those that no CA names any more are dropped.
func (c *crls) keep(name string, list *caList) *keptCRL {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kept[name]
	if k == nil {
		for old := range c.kept {
			if !list.publishes(old) {
				delete(c.kept, old)
			}
		}
		k = &keptCRL{}
		k.kept = kept[publishedCRL]{
			now: c.now, timeout: crlTimeout, pause: crlPause,
			fetch:  func(ctx context.Context) (*publishedCRL, error) { return c.fetch(ctx, k, name) },
			usable: func(p *publishedCRL) bool { return c.now().Before(p.info.NextUpdate) },
			due: func(p *publishedCRL, asked time.Time) bool {
				now := c.now()
				return now.Sub(asked) > crlTTL || asked.Before(p.info.Planned) && !now.Before(p.info.Planned)
			},
		}
		c.kept[name] = k
	}
	k.used = c.now()
	return k
}

// room notes a CRL's size, and drops others, the least lately asked for first, when they are too large together.
func (c *crls) room(name string, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kept[name]; k != nil {
		k.size = size
	}
	for {
		total, oldest := 0, ""
		for n, k := range c.kept {
			total += k.size
			if n != name && k.size > 0 && (oldest == "" || k.used.Before(c.kept[oldest].used)) {
				oldest = n
			}
		}
		if total <= maxCRLMemory || oldest == "" {
			return
		}
		delete(c.kept, oldest)
	}
}

// fetch asks the CA for a CRL and checks it. One that is older than what there is does not take its place: a CA may have
// several nodes.
func (c *crls) fetch(ctx context.Context, k *keptCRL, name string) (*publishedCRL, error) {
	list, err := c.cas.current(ctx)
	if err != nil {
		return nil, err
	}
	var der bounded
	if err := c.backend.CRL(ctx, name, &der); err != nil {
		return nil, err
	}
	fresh, err := checkCRL(der.data, list.certificates(), c.now(), list.crls[name])
	if err != nil {
		return nil, fmt.Errorf("what the CA gave: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if was := k.value; was != nil && bytes.Equal(was.info.Signer.RawSubjectPublicKeyInfo, fresh.info.Signer.RawSubjectPublicKeyInfo) && fresh.info.ThisUpdate.Before(was.info.ThisUpdate) {
		return nil, fmt.Errorf("what the CA gave is of %s, older than that of %s before", fresh.info.ThisUpdate.Format(time.RFC3339), was.info.ThisUpdate.Format(time.RFC3339))
	}
	return fresh, nil
}

// bounded is an io.Writer into memory, up to backend.MaxCRL bytes.
type bounded struct{ data []byte }

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > backend.MaxCRL {
		return 0, fmt.Errorf("larger than %d bytes", backend.MaxCRL)
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// checkCRL judges a CRL before it is handed out: it is whole, signed by one of the CA certificates, and current. That of a shard says
// that it is the shard's, and of nothing less: another one would hide what is revoked.
func checkCRL(der []byte, cas []*x509.Certificate, now time.Time, shard *crlShard) (*publishedCRL, error) {
	head, err := pkix.ParseCRL(der)
	if err != nil {
		return nil, err
	}
	var signer *x509.Certificate
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, head.Issuer) && head.CheckSignature(ca) == nil {
			signer = ca
			break
		}
	}
	switch {
	case signer == nil:
		return nil, fmt.Errorf("it is issued by %s, and signed by none of the CA certificates with this name", pkix.FormatName(head.Issuer))
	case head.ThisUpdate.After(now.Add(crlAhead)):
		return nil, fmt.Errorf("its thisUpdate, %s, is in the future", head.ThisUpdate.Format(time.RFC3339))
	case !now.Before(head.NextUpdate):
		return nil, fmt.Errorf("it ended on %s", head.NextUpdate.Format(time.RFC3339))
	}
	if shard != nil {
		switch p := head.Point; {
		case p == nil || !p.Critical:
			return nil, errors.New("it is to be that of a shard, and has no issuingDistributionPoint that is critical")
		case p.Narrower || slices.ContainsFunc(shard.URIs, func(uri string) bool { return !slices.Contains(p.URIs, uri) }):
			return nil, fmt.Errorf("it is not of all certificates of the shard %s: its issuingDistributionPoint has %q", shard.Name, p.URIs)
		}
	}
	sum := sha256.Sum256(der)
	return &publishedCRL{der: der, info: CRLInfo{
		Issuer: head.Issuer, Number: head.Number, ThisUpdate: head.ThisUpdate, NextUpdate: head.NextUpdate,
		Planned: head.ThisUpdate.Add(head.NextUpdate.Sub(head.ThisUpdate) / 2), Signer: signer, Tag: hex.EncodeToString(sum[:]),
	}}, nil
}
