package main

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkMEFWays refuses in the pipeline of an M2M Enrolment Function, of whichever type, the stages by which a certificate would name
// another than the client that authenticates: "The MEF shall validate the identity attribute against the authenticated identity"
// (oneM2M TS-0003 clauses 8.3.6.2.2 and 8.3.6.3.2).
func (c *Config) checkMEFWays(path []string, op gateway.Operation, e *EndpointConfig, list []*yaml.Node) (errs []error) {
	fail := func(n *yaml.Node, format string, args ...any) {
		errs = append(errs, c.faultAt(n, strings.Join(path, "."), "type: "+mefType(e)+": "+format, args...))
	}
	c.walk(list, false, func(name string, n, settings *yaml.Node, _ bool) {
		switch name {
		case "ra":
			fail(n, "ra: the identifier is that of the client itself (oneM2M TS-0003 clauses 8.3.6.2.2 and 8.3.6.3.2), so that none asks in another's place")
		case "names":
			var names authz.NamesConfig
			if strictyaml.DecodeNode(c.file, settings, &names) == nil && names.Wildcards {
				fail(n, "names: wildcards: its certificates have none (oneM2M TS-0003 clauses 10.1.1.5, 10.1.1.7 and 10.1.1.8)")
			}
		case "inventory":
			// A stage before it vouches for somebody, not for the name that he gives: each of a vendor's devices could be any other.
			if op == gateway.Enroll && c.claimed(settings) {
				fail(n, "inventory: by: it goes by what the request says of itself, and the identifier of whichever device it names would be certified. Leave `by` out, and have the device "+
					"named by what authenticates it: the serial of vendor-ca, the device of client-certificate, certificate.subject.CN")
			}
		case "own-certificate":
			var own authz.OwnCertificateConfig
			if strictyaml.DecodeNode(c.file, settings, &own) != nil {
				return
			}
			for _, name := range own.Endpoints {
				if other := c.Endpoints[name]; other != nil && !c.registers(other) {
					fail(n, "own-certificate: endpoints: %s has no stage registration on every way through its enroll: a certificate that is renewed here has been issued by an MEF (oneM2M TS-0003 clause "+
						"8.3.6.2.3), for the identifier that is registered", name)
				}
			}
		}
	})
	return errs
}

// registers reports whether an endpoint's first certificates name what is registered, and nothing else.
func (c *Config) registers(e *EndpointConfig) bool {
	nodes, _ := e.stages(gateway.Enroll)
	return c.everyWay(pipelineNodes(nodes), func(name string, _ *yaml.Node) bool { return name == "registration" })
}

// names reports whether a stage says which device asks, by what it has authenticated with.
func (c *Config) names(stage string, settings *yaml.Node) bool {
	switch stage {
	case "vendor-ca":
		var vendor authz.VendorCAConfig
		return strictyaml.DecodeNode(c.file, settings, &vendor) == nil && vendor.Serial != ""
	case "client-certificate":
		var client authz.ClientCertificateConfig
		return strictyaml.DecodeNode(c.file, settings, &client) == nil && client.Device != ""
	case "inventory":
		var inventory authz.InventoryConfig
		return strictyaml.DecodeNode(c.file, settings, &inventory) == nil && !inventory.Claimed() &&
			slices.ContainsFunc(inventory.By, func(by string) bool { return strings.HasPrefix(by, "certificate.") })
	}
	return stage == "own-certificate"
}
