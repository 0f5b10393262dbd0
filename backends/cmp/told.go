package cmp

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// maxTold bounds the CA certificates that are held against each other.
const maxTold = 64

// told is what a CA tells of its certificates, in an order that means little: while it changes over, those of several generations and
// the links between them.
type told struct {
	certs []*x509.Certificate // CA certificates that count now
	roots roots
	trust []*x509.Certificate // the roots that the configuration names
	ways  map[*x509.Certificate]upstream.Bag
}

// newTold begins with caCerts and the certificates in trust. Where trust has no root, the one root that is told is taken: who the CA is
// follows from the protection of its answer alone.
func newTold(certs, trust []*x509.Certificate, now time.Time) (*told, error) {
	t := &told{roots: roots{now: now}}
	for _, c := range trust {
		if certifies(c) && selfSigned(c) {
			t.trust = append(t.trust, c)
		}
	}
	t.roots.list = slices.Clone(t.trust)
	if len(certs) > maxTold {
		return nil, fmt.Errorf("%d CA certificates, at most %d", len(certs), maxTold)
	}
	t.add(certs...)
	if len(t.trust) > 0 {
		return t, nil
	}
	for _, c := range t.certs {
		if !t.roots.isRoot(c) {
			continue
		}
		if len(t.roots.list) > 0 && !sameKey(c, t.roots.list[0]) {
			return nil, errors.New("it has several roots, and trust has none: put that of the CA into trust")
		}
		t.roots.list = append(t.roots.list, c)
	}
	t.find()
	return t, nil
}

// add takes further certificates of the CA.
func (t *told) add(certs ...*x509.Certificate) {
	for _, c := range certs {
		if certifies(c) && t.roots.current(c) && !slices.ContainsFunc(t.certs, c.Equal) {
			t.certs = append(t.certs, c)
		}
	}
	t.roots.follow(t.certs)
	t.find()
}

// find looks for the way from each certificate to a root. A self-signed certificate that is not believed in is on none.
func (t *told) find() {
	pool := slices.Clone(t.roots.list)
	for _, c := range t.certs {
		if !selfSigned(c) {
			pool = append(pool, c)
		}
	}
	// Of two certificates of one key, the one that lasts longer.
	slices.SortStableFunc(pool, func(a, b *x509.Certificate) int { return b.NotAfter.Compare(a.NotAfter) })
	t.ways = map[*x509.Certificate]upstream.Bag{}
	for i, way := range upstream.Bag(pool).AboveEach(t.certs) {
		if c := t.certs[i]; way != nil && (len(way) > 0 || t.roots.has(c)) {
			t.ways[c] = way
		}
	}
}

// unexplained reports whether a certificate that has the root for its issuer's name leads to no root.
func (t *told) unexplained(root *x509.Certificate) bool {
	return slices.ContainsFunc(t.certs, func(c *x509.Certificate) bool {
		return t.ways[c] == nil && pkix.SameName(c.RawIssuer, root.RawSubject)
	})
}

// root is the one that a certificate leads to.
func (t *told) root(c *x509.Certificate) *x509.Certificate {
	if way := t.ways[c]; len(way) > 0 {
		return way[len(way)-1]
	}
	return c
}

// authority is the CA that issues.
func (t *told) authority(issued *latest) (*authority, error) {
	issuing, err := t.issuing(issued)
	if err != nil {
		return nil, err
	}
	chain := append(upstream.Bag{issuing}, t.ways[issuing]...)
	if len(chain) > backend.MaxChain {
		return nil, fmt.Errorf("a chain of %d certificates, at most %d", len(chain), backend.MaxChain)
	}
	a := &authority{chain: chain.DER()}
	add := func(c *x509.Certificate) {
		if !slices.ContainsFunc(chain, c.Equal) && len(a.rollover) < backend.MaxRollover {
			a.rollover, chain = append(a.rollover, c.Raw), append(chain, c)
		}
	}
	for _, c := range t.certs {
		if t.ways[c] != nil {
			add(c)
		}
	}
	// The root that was there before, which the CA may have left out. Others in trust are of those who sign answers.
	for _, c := range t.trust {
		if t.roots.current(c) && pkix.SameName(c.RawSubject, t.root(issuing).RawSubject) {
			add(c)
		}
	}
	return a, nil
}

// issuing is the issuing CA's certificate. One CA, by its name, may have several, of different keys: then its last certificate says which is in
// use, and before there is one, or when there are newer ones than that, the dates.
func (t *told) issuing(issued *latest) (*x509.Certificate, error) {
	all := t.candidates()
	if len(all) == 0 {
		if len(t.trust) > 0 {
			return nil, fmt.Errorf("none of its %d certificates leads to a root in trust, nor does a link", len(t.certs))
		}
		return nil, fmt.Errorf("its %d certificates lead to no root", len(t.certs))
	}
	if by := issued.by(all, t.roots.now); len(by) > 0 {
		all = by
	}
	for _, c := range all[1:] {
		if !pkix.SameName(c.RawSubject, all[0].RawSubject) {
			return nil, fmt.Errorf("which of its %d certificates is the issuing CA's is not clear", len(t.certs))
		}
	}
	newer := func(a, b *x509.Certificate) int {
		return cmp.Or(b.NotBefore.Compare(a.NotBefore), b.NotAfter.Compare(a.NotAfter))
	}
	return slices.MinFunc(all, func(a, b *x509.Certificate) int { // the first of equals
		return cmp.Or(newer(t.root(a), t.root(b)), newer(a, b))
	}), nil
}

// candidates are the certificates that lead to a root and have certified no other CA. A root is one where there is no CA below a root of its name.
func (t *told) candidates() (all []*x509.Certificate) {
	var own []*x509.Certificate // roots
	for _, c := range t.certs {
		switch {
		case t.ways[c] == nil || t.certifiedCA(c):
		case !selfIssued(c):
			all = append(all, c)
		case t.roots.has(c):
			own = append(own, c)
		}
	}
	for _, root := range own {
		if !slices.ContainsFunc(all, func(c *x509.Certificate) bool {
			return pkix.SameName(t.root(c).RawSubject, root.RawSubject) && !t.roots.has(c)
		}) {
			all = append(all, root)
		}
	}
	return all
}

// certifiedCA reports whether a CA of another name is below c.
func (t *told) certifiedCA(c *x509.Certificate) bool {
	return slices.ContainsFunc(t.certs, func(below *x509.Certificate) bool {
		return !pkix.SameName(below.RawSubject, c.RawSubject) && pkix.SameName(below.RawIssuer, c.RawSubject) && below.CheckSignatureFrom(c) == nil
	})
}

// latest is the last certificate that the CA has issued: the key that signed it is in use.
type latest struct {
	mu   sync.Mutex
	leaf *x509.Certificate
	at   time.Time
	seen map[[sha256.Size]byte]time.Time // since when a CA certificate is known here
}

func (l *latest) note(leaf *x509.Certificate, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaf, l.at = leaf, at
}

// by are those of the CA certificates by which the last certificate was issued. None where another is known since then only: the CA may have
// changed over to that.
func (l *latest) by(all []*x509.Certificate, now time.Time) (by []*x509.Certificate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[[sha256.Size]byte]time.Time{}
	newer := false
	for _, c := range all {
		key := sha256.Sum256(c.Raw)
		since, known := l.seen[key]
		if !known {
			since = now
		}
		seen[key] = since
		if l.leaf == nil {
			continue
		}
		if pkix.SameName(l.leaf.RawIssuer, c.RawSubject) && l.leaf.CheckSignatureFrom(c) == nil {
			by = append(by, c)
		} else if since.After(l.at) {
			newer = true
		}
	}
	l.seen = seen
	if newer {
		return nil
	}
	return by
}
