package main

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
)

// oidCMKGA is id-kp-cmKGA (RFC 9810 section 4.5): its certificate's holder makes keys for devices, in the CA's name.
var oidCMKGA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 32}

// keyMaker is a stage that may have the gateway make keys for devices.
type keyMaker interface {
	Generates() []string
	Wraps() bool
	Shares() bool
}

// kindsMade lists the kinds of keys that a pipeline has the gateway make.
func kindsMade(p gateway.Pipeline) []string {
	var kinds []string
	p.Stages(func(s gateway.Stage) {
		if m, ok := s.(keyMaker); ok {
			kinds = append(kinds, m.Generates()...)
		}
	})
	return kinds
}

// makesKeys reports whether the gateway makes keys at an endpoint.
func makesKeys(e *gateway.Endpoint) bool {
	if e == nil {
		return false
	}
	for _, p := range e.Pipelines {
		if len(kindsMade(p)) > 0 {
			return true
		}
	}
	return false
}

// givesBare reports whether a pipeline may give a device its key under TLS alone.
func givesBare(p gateway.Pipeline) bool {
	return len(kindsMade(p)) > 0 && !slices.ContainsFunc(p, func(s gateway.Stage) bool {
		m, ok := s.(keyMaker)
		return ok && len(m.Generates()) > 0 && m.Wraps()
	})
}

// encrypts reports whether EST clients that pass a pipeline may have something to encrypt a key with.
func encrypts(p gateway.Pipeline) (can bool) {
	p.Stages(func(s gateway.Stage) {
		if m, ok := s.(keyMaker); ok && m.Shares() {
			can = true
		}
		r, ok := s.(interface {
			Credentials() []gateway.CredentialKind
		})
		if ok && slices.Contains(r.Credentials(), gateway.CredentialTLS) {
			can = true
		}
	})
	return can
}

// supersedes reports why keys that travel under TLS alone cannot be given with a backend: who asks for one again gets another, in the
// place of a certificate that is revoked.
func (rt *Runtime) supersedes(name string, d *backend.Description) error {
	e := rt.gateway.Endpoints[name]
	if e == nil || e.Protocol != gateway.EST || slices.Contains(d.Capabilities, backend.CapRevoke) {
		return nil
	}
	for _, op := range gateway.Certifying {
		if givesBare(e.Pipelines[op]) {
			return rt.cfg.fault(at("endpoints", name, string(op)), "backend %s cannot revoke, and a key that is given under TLS alone is kept nowhere: who asks for it again gets another one, "+
				"and the certificate of the first is revoked. Say `wrapping: {required: true}` beside `generate`, so that keys are only given encrypted, or name a backend that revokes", d.Name)
		}
	}
	return nil
}

// checkGenerate refuses a pipeline on which keys would be made that nobody could ask for, or that no profile certifies.
func (c *Config) checkGenerate(path []string, e *EndpointConfig, p gateway.Pipeline) error {
	kinds := kindsMade(p)
	speaks, ok := spoken(e.Protocol)
	if len(kinds) == 0 || !ok {
		return nil
	}
	if !speaks.generates {
		return c.fault(path, "the stage keys has the gateway make keys (generate), and %s has no request for one that is served: leave it out, or have the devices make their own", speaks.title)
	}
	if s := section(e.CMP); e.Protocol == gateway.CMP && !s.Takes(cmp.BodyIR) && !s.Takes(cmp.BodyCR) && !s.Takes(cmp.BodyKUR) {
		return c.fault(path, "the stage keys has the gateway make keys (generate), and a p10cr, which is all that the endpoint takes (cmp: bodies), asks for none: leave it out, or take ir, cr or kur")
	}
	var errs []error
	if e.Protocol == gateway.EST && !givesBare(p) && !encrypts(p) {
		errs = append(errs, c.fault(path, "the stage keys has keys given encrypted alone (wrapping: {required: true}), and there is nothing to encrypt them with: "+
			"give it shared keys (wrapping: keys or devices), or have a stage look at TLS client certificates, for which keys can be encrypted"))
	}
	for _, name := range e.offered() {
		profile := c.Profiles[name]
		if profile == nil {
			continue // told at its own place
		}
		s, err := authz.NewProfileKeys(profile.Keys, true)
		if err != nil {
			continue // likewise
		}
		if !slices.ContainsFunc(kinds, s.Permits) {
			errs = append(errs, c.fault(path, "the stage keys has the gateway make %s (generate), and profile %s certifies none of these, but %s: name one of those, or add to the profile's keys",
				strings.Join(kinds, ", "), name, strings.Join(profile.Keys, ", ")))
		}
	}
	return errors.Join(errs...)
}

// checkDecrypts refuses proofs by decrypting the certificate where a certificate stays that nobody confirmed: they would prove nothing.
func (c *Config) checkDecrypts(path []string, e *EndpointConfig, nodes []yaml.Node) error {
	if e.Protocol != gateway.CMP || section(e.CMP).Unconfirmed != cmp.UnconfirmedKeep {
		return nil
	}
	list := pipelineNodes(nodes)
	var errs []error
	c.walk(list, false, func(name string, n, settings *yaml.Node, _ bool) {
		var keys authz.KeysConfig
		if name == "keys" && strictyaml.DecodeNode(c.file, settings, &keys) == nil && slices.Contains(keys.POP, string(gateway.POPConfirm)) {
			errs = append(errs, c.faultAt(n, strings.Join(path, "."), "keys: pop: pending-confirm: with `unconfirmed: keep` a certificate "+
				"stays that nobody has confirmed, so that decrypting it proves nothing: leave one of the two out"))
		}
	})
	return errors.Join(errs...)
}

// vouchesForKeys refuses an operator's RA certificate at an endpoint where the gateway makes keys.
func vouchesForKeys(ra *x509.Certificate) error {
	if slices.ContainsFunc(ra.UnknownExtKeyUsage, oidCMKGA.Equal) {
		return nil
	}
	return errors.New("cert: a stage keys has the gateway make keys (generate), and this certificate is not one of a key generation authority, so that devices would not take keys that it signed: " +
		"have it certified for the extended key usage 1.3.6.1.5.5.7.3.32 (id-kp-cmKGA, RFC 9810 section 4.5), in CMP beside cmcRA, leave `ra` out (the gateway gets a certificate of its own), or leave `generate` out")
}
