package cmp

import (
	"bytes"
	"crypto/x509"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// rootUpdate says what follows a root (RFC 9810 section 5.3.19.15): the current root, or, for a client that is several changes
// behind, the next one on the way there, so that it can follow by newWithOld. It is absent when there is nothing newer, and
// when no CA of the endpoint has that root.
func (g *general) rootUpdate(q *question) ([]byte, *refusal) {
	if q.Value == nil {
		ca, ref := g.authority(q.profile)
		if ref != nil {
			return nil, ref
		}
		return marshalUpdate(g.latestUpdate(ca))
	}
	asked, err := x509.ParseCertificate(q.Value)
	if err != nil {
		return nil, unparsed(q, err)
	}
	// The client names the root, so any CA of the endpoint may be the one that it means.
	for _, p := range g.profiles {
		ca, ref := g.authority(p)
		if ref != nil {
			return nil, ref
		}
		if old := rootLike(ca, asked); old != nil {
			return marshalUpdate(g.updateOf(ca, old, asked))
		}
	}
	return nil, nil
}

func marshalUpdate(u *cmpmsg.CAKeyUpdate) ([]byte, *refusal) {
	if u == nil {
		return nil, nil
	}
	return made(u.MarshalRootUpdate())
}

// rootLike is the CA's own copy of a root that somebody names, or the root of the same name and key; nil when it has none. No
// key that a stranger sends computes anything here.
func rootLike(ca *gateway.Authority, asked *x509.Certificate) *x509.Certificate {
	root := rootOf(ca.Chain)
	switch {
	case root == nil:
		return nil
	case sameRoot(root, asked):
		return root
	}
	return selfSigned(ca, asked)
}

// selfSigned is the root of the CA with the name and key of c, among those of earlier generations; nil for none.
func selfSigned(ca *gateway.Authority, c *x509.Certificate) *x509.Certificate {
	for _, old := range ca.Rollover {
		if sameRoot(old, c) && pkix.SameName(old.RawSubject, old.RawIssuer) && signedBy(old, old) {
			return old
		}
	}
	return nil
}

// updateOf leads from one root, of which the client has the certificate asked, towards the current one; nil when it has that.
// A root that was renewed with its key needs no link: it verifies with the old certificate's key.
func (g *general) updateOf(ca *gateway.Authority, old, asked *x509.Certificate) *cmpmsg.CAKeyUpdate {
	current := rootOf(ca.Chain)
	if sameKey(current, old) {
		if current.Equal(asked) || asked.NotAfter.After(current.NotAfter) {
			return nil
		}
		return &cmpmsg.CAKeyUpdate{NewWithNew: current.Raw}
	}
	next, newWithOld := current, link(ca, current, old)
	if newWithOld == nil {
		for _, c := range g.crosses(ca) {
			if signedBy(c, old) && pkix.SameName(c.RawIssuer, old.RawSubject) {
				if root := selfSigned(ca, c); root != nil {
					next, newWithOld = root, c
				}
				break
			}
		}
	}
	if newWithOld == nil {
		// The CA has made no link: the protection of the answer is all that vouches for the new root.
		return &cmpmsg.CAKeyUpdate{NewWithNew: current.Raw}
	}
	u := &cmpmsg.CAKeyUpdate{NewWithNew: next.Raw, NewWithOld: newWithOld.Raw}
	if back := link(ca, old, next); back != nil {
		u.OldWithNew = back.Raw
	}
	return u
}

// latestUpdate is the last change of the root's key, for a client that does not say which root it has; nil when there was none.
func (g *general) latestUpdate(ca *gateway.Authority) *cmpmsg.CAKeyUpdate {
	crosses := g.crosses(ca)
	if len(crosses) == 0 {
		return nil
	}
	for _, old := range ca.Rollover {
		if pkix.SameName(old.RawSubject, crosses[0].RawIssuer) && pkix.SameName(old.RawSubject, old.RawIssuer) && signedBy(crosses[0], old) && signedBy(old, old) {
			return g.updateOf(ca, old, old)
		}
	}
	return nil
}

// crosses are the links from the CA's root back to earlier ones, in order.
func (g *general) crosses(ca *gateway.Authority) []*x509.Certificate {
	root := rootOf(ca.Chain)
	if root == nil {
		return nil
	}
	list, found := g.links[ca]
	if !found {
		list = pkix.Crosses(root, ca.Rollover)
		g.links[ca] = list
	}
	return list
}

// link is the certificate for the key of one root that the key of another has signed (RFC 9810 section 4.4), nil for none.
func link(ca *gateway.Authority, subject, by *x509.Certificate) *x509.Certificate {
	for _, c := range ca.Rollover {
		if sameRoot(c, subject) && pkix.SameName(c.RawIssuer, by.RawSubject) && signedBy(c, by) {
			return c
		}
	}
	return nil
}

func sameRoot(a, b *x509.Certificate) bool {
	return sameKey(a, b) && pkix.SameName(a.RawSubject, b.RawSubject)
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

func signedBy(c, by *x509.Certificate) bool {
	return by.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
