package mdm

import (
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

const profileType = "application/x-apple-aspen-config"

// resource is what stands behind an endpoint's name in the path.
type resource struct {
	name    string
	methods []string
	serve   func(*exchange) *wire.Refusal
}

var (
	get       = []string{http.MethodGet, http.MethodHead}
	resources = []resource{
		{"", []string{http.MethodPost}, (*exchange).answer},
		{"profile", get, (*exchange).begin},
		{"trust", get, (*exchange).trust},
		// A proxy asks with the method of its client's request, or with GET.
		{"check", []string{http.MethodPost, http.MethodPut, http.MethodGet, http.MethodHead}, (*exchange).check},
	}
)

// exchange is one HTTP request and its answer.
type exchange struct {
	wire.Exchange
	h        *Handler
	endpoint *endpoint // nil until the path is resolved
	checks   bool      // a proxy asks
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	x := &exchange{h: h, Exchange: wire.New(w, r, gateway.MDM, h.now(), h.log)}
	x.Request.Operation = gateway.Query
	defer x.Contain(x.refuse)
	if ref := x.dispatch(serves); ref != nil {
		x.refuse(ref)
	}
}

// dispatch finds endpoint and resource and serves it.
func (x *exchange) dispatch(serves func(string) bool) *wire.Refusal {
	unknown := wire.RefusedAs(http.StatusNotFound, gateway.NotAuthorized, "nothing is served at this path: it is "+root+"/NAME, with /profile, /trust or /check behind it")
	path := strings.Trim(strings.TrimPrefix(x.R.URL.Path, root), "/")
	name, rest, _ := strings.Cut(path, "/")
	e := x.h.endpoints[name]
	if e == nil && x.h.fallback != nil && isResource(path) {
		e, rest = x.h.fallback, path
	}
	if e == nil || !serves(e.Name) {
		return unknown
	}
	x.endpoint, x.Request.Endpoint, x.Limits = e, e.Name, e.Config.Limits
	i := slices.IndexFunc(resources, func(r resource) bool { return r.name == rest })
	if i < 0 {
		return unknown
	}
	found := resources[i]
	x.checks = found.name == "check"
	if !slices.Contains(found.methods, x.R.Method) {
		return wire.NotAllowed("this takes "+strings.Join(found.methods, ", "), found.methods...)
	}
	return found.serve(x)
}

func isResource(path string) bool {
	return slices.ContainsFunc(resources, func(r resource) bool { return r.name == path })
}

// identity is what the endpoint signs with.
func (x *exchange) identity() (*gateway.Identity, *wire.Refusal) {
	id := x.h.identity(x.endpoint.Name)
	if id == nil {
		return nil, wire.Refused(gateway.Unavailable, "the gateway has no certificate to sign with yet", errors.New("no identity for this endpoint"))
	}
	if err := checkIdentity(id); err != nil {
		return nil, wire.Refused(gateway.Internal, "", err)
	}
	return id, nil
}

// writeProfile answers with a profile, signed where the configuration has it so.
func (x *exchange) writeProfile(profile []byte, err error) *wire.Refusal {
	if err == nil && *x.endpoint.Config.Sign {
		id, ref := x.identity()
		if ref != nil {
			return ref
		}
		profile, err = sign(profile, id)
	}
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	x.Write(http.StatusOK, profileType, profile)
	return nil
}

// begin is phase 1. Anybody may have it: nothing but where to answer, and a token, stands in it.
func (x *exchange) begin() *wire.Refusal {
	token := ""
	if x.endpoint.Config.Challenge == ChallengeRequired {
		token = x.h.token(x.endpoint.Name)
	}
	return x.writeProfile(x.endpoint.serviceProfile(token))
}

// trust answers with the CA certificates that a device needs to trust what it meets: those of the SCEP endpoint's CA, those above
// the gateway's own certificate, and the operator's.
func (x *exchange) trust() *wire.Refusal {
	var certs []*x509.Certificate
	add := func(some ...*x509.Certificate) {
		for _, c := range some {
			if !slices.ContainsFunc(certs, c.Equal) {
				certs = append(certs, c)
			}
		}
	}
	for _, name := range []string{x.endpoint.Config.SCEP.Endpoint, x.endpoint.Name} {
		ca, err := x.h.gateway.Authority(x.R.Context(), name)
		if err != nil {
			return &wire.Refusal{Err: gateway.AsError(err)}
		}
		add(ca.Chain...)
		add(ca.Rollover...)
	}
	id, ref := x.identity()
	if ref != nil {
		return ref
	}
	add(id.Chain...)
	add(x.endpoint.trust...)
	// Roots first: a device installs payloads in their order.
	slices.SortStableFunc(certs, func(a, b *x509.Certificate) int { return above(a) - above(b) })
	return x.writeProfile(x.endpoint.trustProfile(certs))
}

func above(c *x509.Certificate) int {
	if string(c.RawSubject) == string(c.RawIssuer) {
		return 0
	}
	return 1
}
