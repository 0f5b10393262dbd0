package gateway

import (
	"context"
	"encoding/asn1"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// This file is what endpoints tell of themselves to who prepares a request. It is the same for everybody, and nothing is
// decided by it.

// NamesWanted is what a request has to give for a certificate to get its names: where a profile makes them of nothing else.
type NamesWanted struct {
	Subject []asn1.ObjectIdentifier // types of attributes of the subject, in its order
	SAN     []uint8                 // tags of GeneralName (RFC 5280 section 4.2.1.6): 1, 2, 6 or 7
}

// NameAsker is a Shaper that can say beforehand which names it wants of a request.
type NameAsker interface{ NamesWanted() NamesWanted }

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// NamesWanted is what a first request under the profile has to give. Without a word of the profile's, subject and
// subjectAltName are as asked for: a common name will do.
func (p *Profile) NamesWanted() NamesWanted {
	if asker, ok := p.Shaper.(NameAsker); ok {
		return asker.NamesWanted()
	}
	if p.Shaper != nil && p.Shaper.DerivesSubject() {
		return NamesWanted{}
	}
	return NamesWanted{Subject: []asn1.ObjectIdentifier{oidCommonName}}
}

// ProfilesOf returns the profiles that an endpoint offers, its own first, nil when there is no such endpoint. Nobody changes
// them.
func (g *Gateway) ProfilesOf(endpoint string) []*Profile {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return nil
	}
	list := []*Profile{e.Profile}
	for _, name := range slices.Sorted(maps.Keys(e.Profiles)) {
		if name != e.Profile.Name {
			list = append(list, e.Profiles[name])
		}
	}
	return list
}

// AuthorityOf returns the CA that certifies for a profile. The error is an *Error.
func (g *Gateway) AuthorityOf(ctx context.Context, p *Profile) (*Authority, error) {
	cas := g.runtime.Load().authorities[p.Backend]
	if cas == nil {
		return nil, unavailable("the CA cannot be reached", fmt.Errorf("the backend %q is not configured", p.Backend))
	}
	ca, err := cas.authority(ctx, p.Issuer)
	if status.Code(err) == codes.Unimplemented { // a backend that only passes messages on
		return nil, Errorf(Unsupported, "requests are passed on from here, and the CA's certificates are not known", "backend %s: %w", p.Backend, err)
	}
	if err != nil {
		return nil, unavailable("the CA cannot be reached", err)
	}
	return ca, nil
}
