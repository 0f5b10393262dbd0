package main

import (
	"errors"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
)

// check3GPP refuses a pipeline that `cmp: {type: 3gpp}` rules out (3GPP TS 33.310 clause 9): secrets, SHA-1 in a vendor's chain, a
// vendor's certificate that is enough by itself, keys that the device has not made or does not sign with, and renewals by
// anything but the operator's certificate.
func (c *Config) check3GPP(path []string, op gateway.Operation, e *EndpointConfig, nodes []yaml.Node) error {
	if e.Protocol != gateway.CMP || section(e.CMP).Type != cmp.Type3GPP {
		return nil
	}
	list := pipelineNodes(nodes)
	var errs []error
	fail := func(n *yaml.Node, format string, args ...any) {
		errs = append(errs, c.faultAt(n, strings.Join(path, "."), "type: 3gpp: "+format, args...))
	}
	c.walk(list, false, func(name string, n, settings *yaml.Node, listed bool) {
		switch name {
		case "shared-secret":
			fail(n, "the stage shared-secret looks at MACs, and messages are signed there: nobody could pass it")
		case "vendor-ca":
			var vendor authz.VendorCAConfig
			if strictyaml.DecodeNode(c.file, settings, &vendor) != nil {
				return // said already
			}
			if vendor.AllowSHA1 {
				fail(n, "vendor-ca: allow-sha1: certificates signed with SHA-1 are forbidden there")
			}
			if op == gateway.Enroll && vendor.List == "" && !listed {
				fail(n, "a certificate of the vendor's is not enough: name its serial numbers in `list`, or put an `inventory` behind it")
			}
		case "keys":
			var keys authz.KeysConfig
			if strictyaml.DecodeNode(c.file, settings, &keys) == nil && (len(keys.Generate) > 0 || slices.Contains(keys.POP, string(gateway.POPConfirm))) {
				fail(n, "keys: generate, pop: pending-confirm: a base station makes its key, and signs with it")
			}
		}
	})
	if (op == gateway.Renew || op == gateway.Rekey) && !c.held(list) {
		errs = append(errs, c.fault(path, "type: 3gpp: a certificate is renewed by itself alone, and a vendor's is no proof of it: `own-certificate: {}` has to be on every way through these stages"))
	}
	return errors.Join(errs...)
}

// inventoried reports whether nothing passes the list but by an inventory.
func (c *Config) inventoried(list []*yaml.Node) bool {
	return c.everyWay(list, func(name string, _ *yaml.Node) bool { return name == "inventory" })
}
