package cmp

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// roots are the roots that are believed in. It begins with those that the configuration names, and gets more by links alone: a
// certificate for the next root's key that the key of one before it has signed (newWithOld, RFC 9810 section 4.4). What a CA calls its root
// is none by that.
type roots struct {
	now  time.Time
	list []*x509.Certificate
}

// skew is how far a CA's clock may be ahead: what it has certified a moment ago counts.
const skew = 5 * time.Minute

func (r *roots) current(c *x509.Certificate) bool {
	return !r.now.Add(skew).Before(c.NotBefore) && !r.now.After(c.NotAfter)
}

func (r *roots) has(c *x509.Certificate) bool { return slices.ContainsFunc(r.list, c.Equal) }

// follow adds those of the pool that links lead to, over any number of generations.
func (r *roots) follow(pool []*x509.Certificate) {
	var next []*x509.Certificate
	for _, c := range pool {
		if r.isRoot(c) && !r.has(c) {
			next = append(next, c)
		}
	}
	for at := 0; at < len(r.list); at++ { // the list grows by what is in next, each once: circles end
		next = slices.DeleteFunc(next, func(c *x509.Certificate) bool {
			leads := r.leads(r.list[at], c, pool)
			if leads {
				r.list = append(r.list, c)
			}
			return leads
		})
	}
}

// isRoot reports whether a certificate may be a root at all.
func (r *roots) isRoot(c *x509.Certificate) bool {
	return certifies(c) && r.current(c) && selfSigned(c)
}

// leads reports whether a root vouches for the next one: they have one key, or there is a link. They have one name: else any CA below the
// root could have its own certificate made a root by what it signs itself, past what the root allows it.
func (r *roots) leads(from, to *x509.Certificate, pool []*x509.Certificate) bool {
	if !pkix.SameName(from.RawSubject, to.RawSubject) || r.now.After(from.NotAfter) {
		return false
	}
	return sameKey(from, to) || slices.ContainsFunc(pool, func(link *x509.Certificate) bool {
		return sameKey(link, to) && pkix.SameName(link.RawSubject, to.RawSubject) && pkix.SameName(link.RawIssuer, from.RawSubject) &&
			certifies(link) && r.current(link) && link.CheckSignatureFrom(from) == nil
	})
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// certifies reports whether a certificate's key may sign certificates (RFC 5280 sections 4.2.1.3 and 4.2.1.9).
func certifies(c *x509.Certificate) bool {
	return c.IsCA && c.BasicConstraintsValid && (c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageCertSign != 0)
}

// selfIssued reports whether a certificate is a root, or a link between two generations of one.
func selfIssued(c *x509.Certificate) bool { return pkix.SameName(c.RawSubject, c.RawIssuer) }
