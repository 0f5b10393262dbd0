package gateway

import (
	"context"
	"net/netip"
)

// Poll answers a protocol's question after an earlier request (SCEP CertPoll), found by r.WireID and endpoint: its
// certificate, pending, or the refusal that it ended with. Only its own requester is answered: a credential of r that is
// proven has to be one of the transaction's. Anyone else is told what somebody is told who asks after nothing: UnknownCert.
func (g *Gateway) Poll(ctx context.Context, r *Request) (*Result, error) {
	panic("todo")
}

// Heard takes note of a later message of a transaction's requester, for `muster explain`. It never waits.
func (g *Gateway) Heard(transaction, kind, note string, source netip.Addr) {
}

// DerivesSubject reports whether the endpoint's profile (the one with the name, or its own) gives a subject whatever is
// asked for, so that a request needs none.
func (g *Gateway) DerivesSubject(endpoint, profile string) bool {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return false
	}
	p := e.offers(profile)
	return p != nil && p.Shaper != nil && p.Shaper.DerivesSubject()
}
