package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
)

// Renewable returns the certificate with the authority key identifier (RFC 5280 section 4.2.1.1) and the serial number that was
// issued at the endpoint and counts: not revoked, confirmed where it had to be. nil when there is none. The error is an *Error.
func (g *Gateway) Renewable(ctx context.Context, endpoint string, authority []byte, serial *big.Int) (*x509.Certificate, error) {
	rt := g.runtime.Load()
	e := rt.Endpoints[endpoint]
	if e == nil || len(authority) == 0 || serial.Sign() <= 0 {
		return nil, nil
	}
	var asked [][]byte // names of CAs: the generations of one have the same
	for _, name := range e.backendsOf() {
		if rt.authorities[name] == nil {
			continue
		}
		list, err := rt.authorities[name].current(ctx)
		if err != nil {
			return nil, unavailable("the CA cannot be reached", err)
		}
		for _, ca := range list.certificates() {
			if slices.ContainsFunc(asked, func(n []byte) bool { return bytes.Equal(n, ca.RawSubject) }) {
				continue
			}
			asked = append(asked, ca.RawSubject)
			c, err := g.store.Certificate(ctx, ca.RawSubject, serial.Bytes())
			switch {
			case errors.Is(err, ErrNotFound):
				continue
			case err != nil:
				return nil, unavailable("the store cannot be read", err)
			case c.Endpoint != endpoint || c.State != StateIssued || !c.RevokedAt.IsZero():
				continue
			}
			leaf, err := x509.ParseCertificate(c.DER)
			if err != nil {
				return nil, Errorf(Internal, "", "the certificate %x in the store: %w", serial, err)
			}
			if bytes.Equal(leaf.AuthorityKeyId, authority) {
				return leaf, nil
			}
		}
	}
	return nil, nil
}
