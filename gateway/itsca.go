package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/gateway/pkix"
)

// ofItsCA holds the chain of a certificate, issuer first, against what its backend says its CAs are (backend.CACertificates): a chain
// that is sound in itself may be anybody's, and devices trust what the gateway gave them before. A CA may have changed since it was
// last asked, so one that does not fit is asked again.
//
// differs is what is wrong with the chain. err: the CA does not say what its certificates are, so that nobody knows.
func (g *Gateway) ofItsCA(ctx context.Context, a *ask, chain []*x509.Certificate) (differs, err error) {
	cas := g.runtime.Load().authorities[a.t.Backend]
	if cas == nil {
		return nil, fmt.Errorf("%w: %s", errNoBackend, a.t.Backend)
	}
	// A deadline that the CA used up must not lose its answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), authoritiesTimeout)
	defer cancel()
	for again := false; ; again = true {
		list, err := cas.current(ctx)
		if err != nil {
			return nil, fmt.Errorf("it answered with a certificate, and not with its own: %w", err)
		}
		if differs = list.foreign(a.request().Issuer, chain); differs == nil || again {
			return differs, nil
		}
		cas.forget()
	}
}

// foreign says why a chain, issuer first, is not that of the CA with the name: it holds none of that CA's certificates, or begins with
// another CA's. Certificates of one name and key count as one.
func (l *caList) foreign(issuer string, chain []*x509.Certificate) error {
	ca := l.named(issuer)
	if ca == nil {
		return fmt.Errorf("the CA names no %q any more", issuer)
	}
	own := slices.Concat(ca.Chain, ca.Rollover, ca.Next)
	if amongCAs(own, chain[0]) {
		return nil
	}
	for _, other := range l.cas {
		if amongCAs(other.Chain[:1], chain[0]) {
			return fmt.Errorf("it was issued by the CA %q instead of %q", other.Name, ca.Name)
		}
	}
	if !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return amongCAs(own, c) }) {
		return fmt.Errorf("it was issued by %s, and its chain leads to none of the certificates that the CA says it has", shownName(chain[0].RawSubject))
	}
	return nil
}

func amongCAs(list []*x509.Certificate, c *x509.Certificate) bool {
	return slices.ContainsFunc(list, func(x *x509.Certificate) bool {
		return bytes.Equal(x.Raw, c.Raw) || bytes.Equal(x.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) && pkix.SameName(x.RawSubject, c.RawSubject)
	})
}
