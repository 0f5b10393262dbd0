package gateway

import (
	"bytes"
	"context"
	"errors"
	"math/big"
	"slices"

	"github.com/muster-pki/muster/gateway/pkix"
)

// issuedUnder finds a certificate by an issuer and serial number as somebody else has written them down. The store knows an
// issuer by the bytes that stand in the certificate, and a client may have encoded the name anew, in other string types: then
// it is one of our CAs' that pkix.SameName says it is. ErrNotFound when there is none.
func (g *Gateway) issuedUnder(ctx context.Context, issuer []byte, serial *big.Int) (*Certificate, error) {
	c, err := g.store.Certificate(ctx, issuer, serial.Bytes())
	if !errors.Is(err, ErrNotFound) {
		return c, err
	}
	for _, name := range g.spellings(ctx, issuer) {
		if c, err = g.store.Certificate(ctx, name, serial.Bytes()); !errors.Is(err, ErrNotFound) {
			return c, err
		}
	}
	return nil, ErrNotFound
}

// spellings are the names of the configured CAs, those of a rollover too, that are the same as the one given in other bytes,
// each once. A CA that does not answer, and has never answered, adds none.
func (g *Gateway) spellings(ctx context.Context, issuer []byte) [][]byte {
	rt := g.runtime.Load()
	var names [][]byte
	for _, cas := range rt.authorities {
		list, err := cas.current(ctx)
		if err != nil {
			continue
		}
		for _, c := range list.certificates() {
			known := slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, c.RawSubject) })
			if !known && !bytes.Equal(c.RawSubject, issuer) && pkix.SameName(c.RawSubject, issuer) {
				names = append(names, c.RawSubject)
			}
		}
	}
	return names
}

// asIssued returns a request to revoke with the issuer in the encoding that the certificate was issued under, so that stages
// and the store find it; the request itself when there is nothing to put right.
func (g *Gateway) asIssued(ctx context.Context, r *Request) *Request {
	if r.Target == nil || r.Target.Serial == nil || r.Target.Serial.Sign() <= 0 || len(g.spellings(ctx, r.Target.Issuer)) == 0 {
		return r
	}
	c, err := g.issuedUnder(ctx, r.Target.Issuer, r.Target.Serial)
	if err != nil || c == nil || bytes.Equal(c.Issuer, r.Target.Issuer) {
		return r // whatever is wrong, the pipeline says so
	}
	changed, target := *r, *r.Target
	target.Issuer = c.Issuer
	changed.Target = &target
	return &changed
}
