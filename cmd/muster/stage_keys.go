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
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
)

// oidCMKGA is id-kp-cmKGA (RFC 9810 section 4.5): its certificate's holder makes keys for devices, in the CA's name.
var oidCMKGA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 32}

// keyMaker is a stage that may have the gateway make keys for devices.
type keyMaker interface{ Generates() []string }

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
	var errs []error
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
