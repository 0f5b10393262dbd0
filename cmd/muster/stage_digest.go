package main

import (
	"slices"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/est"
)

// checkHTTPAuth refuses an EST endpoint that offers HTTP Digest where nobody could log in by it, or Digest alone where a stage
// needs the password itself.
func (c *Config) checkHTTPAuth(name string, e *EndpointConfig, made *gateway.Endpoint) error {
	offers := section(e.EST)
	if e.Protocol != gateway.EST || !offers.Offers(est.HTTPAuthDigest) {
		return nil
	}
	var compares, has bool
	var itself string // a stage that needs the password itself
	for _, op := range gateway.Operations {
		made.Pipelines[op].Stages(func(s gateway.Stage) {
			if d, ok := s.(interface{ Digests(realm string) bool }); ok {
				compares, has = true, has || d.Digests(name)
			} else if needsPassword(s) {
				itself = s.Name()
			}
		})
	}
	path := at("endpoints", name, "est", "http-auth")
	switch {
	case !compares:
		return c.fault(path, "digest is offered, and no pipeline of the endpoint has the stage `password`, which alone can take it")
	case !has:
		return c.fault(path, "digest is offered, and no user of a stage `password` has a digest form for the realm %q, which is the endpoint's name: add what `muster password --user NAME --digest %s` prints", name, name)
	case itself != "" && !offers.Offers(est.HTTPAuthBasic):
		return c.fault(path, "`%s` needs the password itself, which digest does not send: offer basic as well", itself)
	}
	return nil
}

// needsPassword reports whether a stage compares a password by other forms than Digest's.
func needsPassword(s gateway.Stage) bool {
	r, ok := s.(interface {
		Credentials() []gateway.CredentialKind
	})
	return ok && (s.Name() == "device-password" || s.Name() == "challenge") && slices.Contains(r.Credentials(), gateway.CredentialPassword)
}
