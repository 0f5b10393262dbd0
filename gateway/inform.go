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

// prover is implemented by stages that say which proofs of possession suffice.
type prover interface{ Proofs() []POP }

// RequiresLinking reports whether an endpoint certifies only what is linked to the TLS connection that it comes by (POPLinked,
// RFC 7030 section 3.5), for one operation at least. What a registration authority vouches for is left out of account.
func (g *Gateway) RequiresLinking(endpoint string) bool {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return false
	}
	for _, op := range Certifying {
		if e.Pipelines[op].requiresLinking() {
			return true
		}
	}
	return false
}

// ofRAs reports whether nobody but a registration authority gets through the pipeline: what it passes on is linked to another
// connection (RFC 7030 section 3.7).
func (p Pipeline) ofRAs() bool {
	return slices.ContainsFunc(p, func(s Stage) bool { _, ok := s.(RegistrationAuthorities); return ok })
}

// requiresLinking reports whether no request gets through the pipeline that is not linked: a stage sees to that, or one in each
// branch of a composed stage but those of registration authorities.
func (p Pipeline) requiresLinking() bool {
	return slices.ContainsFunc(p, func(s Stage) bool {
		switch s := s.(type) {
		case not:
			return false
		case composite:
			branches := slices.DeleteFunc(slices.Clone(s.branches()), Pipeline.ofRAs)
			return len(branches) > 0 && !slices.ContainsFunc(branches, func(b Pipeline) bool { return !b.requiresLinking() })
		case prover:
			proofs := s.Proofs()
			return slices.Contains(proofs, POPLinked) && !slices.Contains(proofs, POPSignature)
		}
		return false
	})
}
