package main

import (
	"log/slog"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp"
	"github.com/muster-pki/muster/protocols/est"
	"github.com/muster-pki/muster/protocols/mdm"
	"github.com/muster-pki/muster/protocols/scep"
)

// protocol is what the wiring knows of an adapter.
type protocol struct {
	name      gateway.Protocol
	title     string
	identity  bool                                               // it answers with an RA certificate; one that generates does so where it makes keys at least
	carries   []gateway.CredentialKind                           // what its requests can authenticate by
	revokes   bool                                               // it has requests to revoke
	only      bool                                               // to queries, and has no others
	queries   bool                                               // it has requests that ask for what was issued
	generates bool                                               // it has requests for keys that the gateway makes
	without   func(gateway.Operation) string                     // why it has no revoke, or no query
	make      func(a adapterDeps, all []served) (handler, error) // the adapter, for some endpoints
}

// handler is an adapter with its endpoints.
type handler interface {
	Register(e *echo.Echo, serves func(endpoint string) bool)
}

// adapterDeps is what adapters are made with.
type adapterDeps struct {
	gateway  *gateway.Gateway
	identity func(endpoint string) *gateway.Identity
	secret   func(label string) []byte // 32 bytes of its own for each label, the same in replicas that share the sealing key
	answered *est.Answers              // to Digest challenges, of the process
	clock    func() time.Time
	log      *slog.Logger
}

// served is an endpoint of one listener.
type served struct {
	name   string
	config *EndpointConfig
}

// protocols are those that are spoken.
var protocols = []protocol{
	{
		name: gateway.CMP, title: "CMP", identity: true, make: makeCMP, revokes: true, generates: true,
		carries: []gateway.CredentialKind{gateway.CredentialMAC, gateway.CredentialSigner, gateway.CredentialNested},
		without: func(op gateway.Operation) string { return "requests to " + string(op) + " are not served over CMP yet" },
	},
	{
		name: gateway.EST, title: "EST", make: makeEST, queries: true, generates: true,
		carries: []gateway.CredentialKind{gateway.CredentialTLS, gateway.CredentialPassword},
		without: func(gateway.Operation) string { return "EST has no such request" },
	},
	{
		name: gateway.SCEP, title: "SCEP", identity: true, make: makeSCEP, queries: true,
		carries: []gateway.CredentialKind{gateway.CredentialChallenge, gateway.CredentialSigner},
		without: func(gateway.Operation) string { return "SCEP has no such request" },
	},
	{
		name: gateway.MDM, title: "MDM", identity: true, make: makeMDM, queries: true, only: true,
		carries: []gateway.CredentialKind{gateway.CredentialDevice, gateway.CredentialSigner, gateway.CredentialTLS},
		without: func(gateway.Operation) string {
			return "the profile service certifies nothing: who gets profiles, query says, and who gets certificates, the SCEP endpoint"
		},
	},
}

// serves reports whether the protocol has requests for the operation.
func (p protocol) serves(op gateway.Operation) bool {
	switch op {
	case gateway.Revoke:
		return p.revokes
	case gateway.Query:
		return p.queries
	}
	return !p.only
}

// proofs are the credentials that count for an operation: CMP's rr is signed, as SCEP's GetCert and GetCRL are.
func (p protocol) proofs(op gateway.Operation) []gateway.CredentialKind {
	if op == gateway.Revoke {
		return slices.DeleteFunc(slices.Clone(p.carries), func(k gateway.CredentialKind) bool { return k == gateway.CredentialMAC })
	}
	if op == gateway.Query { // a challenge is in a PKCS#10 request, and SCEP's queries hold none
		return slices.DeleteFunc(slices.Clone(p.carries), func(k gateway.CredentialKind) bool { return k == gateway.CredentialChallenge })
	}
	return p.carries
}

func spoken(name gateway.Protocol) (protocol, bool) {
	i := slices.IndexFunc(protocols, func(p protocol) bool { return p.name == name })
	if i < 0 {
		return protocol{}, false
	}
	return protocols[i], true
}

// check has the adapter judge one endpoint, and its identity unless that is nil.
func (p protocol) check(name string, e *EndpointConfig, id *gateway.Identity) error {
	_, err := p.make(adapterDeps{
		identity: func(string) *gateway.Identity { return id }, secret: func(string) []byte { return make([]byte, 32) }, clock: time.Now, log: slog.New(slog.DiscardHandler),
	}, []served{{name, e}})
	return err
}

func makeCMP(d adapterDeps, all []served) (handler, error) {
	o := cmp.Options{Gateway: d.gateway, Identity: d.identity, Clock: d.clock, Log: d.log}
	for _, s := range all {
		o.Endpoints = append(o.Endpoints, cmp.Endpoint{
			Name: s.name, Default: s.config.Default, Config: section(s.config.CMP), Renews: s.config.Renew != nil || s.config.Rekey != nil,
		})
	}
	return cmp.New(o)
}

func makeEST(d adapterDeps, all []served) (handler, error) {
	o := est.Options{Gateway: d.gateway, Identity: d.identity, Secret: d.secret("est"), Answered: d.answered, Clock: d.clock, Log: d.log}
	for _, s := range all {
		o.Endpoints = append(o.Endpoints, est.Endpoint{Name: s.name, Default: s.config.Default, Config: section(s.config.EST)})
	}
	return est.New(o)
}

func makeSCEP(d adapterDeps, all []served) (handler, error) {
	o := scep.Options{Gateway: d.gateway, Identity: d.identity, Clock: d.clock, Log: d.log}
	for _, s := range all {
		o.Endpoints = append(o.Endpoints, scep.Endpoint{Name: s.name, Default: s.config.Default, Config: section(s.config.SCEP)})
	}
	return scep.New(o)
}

func makeMDM(d adapterDeps, all []served) (handler, error) {
	o := mdm.Options{Gateway: d.gateway, Identity: d.identity, Secret: d.secret("mdm"), Clock: d.clock, Log: d.log}
	for _, s := range all {
		o.Endpoints = append(o.Endpoints, mdm.Endpoint{Name: s.name, Default: s.config.Default, Config: section(s.config.MDM)})
	}
	return mdm.New(o)
}

// section is a protocol's own settings; those of one that is left out work as well.
func section[C any](c *C) C {
	if c == nil {
		return *new(C)
	}
	return *c
}
