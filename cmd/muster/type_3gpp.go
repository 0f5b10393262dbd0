package main

import (
	"errors"
	"fmt"
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
	list := make([]*yaml.Node, len(nodes))
	for i := range nodes {
		list[i] = &nodes[i]
	}
	var errs []error
	fail := func(n *yaml.Node, format string, args ...any) {
		errs = append(errs, &strictyaml.Error{File: c.file, Line: n.Line, Path: strings.Join(path, "."), Message: "type: 3gpp: " + fmt.Sprintf(format, args...)})
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

// walk calls f for each stage that can let a request pass. listed: an inventory has its say behind it.
func (c *Config) walk(list []*yaml.Node, listed bool, f func(name string, n, settings *yaml.Node, listed bool)) {
	for i, n := range list {
		name, settings, err := stageNode(c.file, n)
		if err != nil { // said already
			continue
		}
		behind := listed || c.inventoried(list[i+1:])
		switch name {
		case "anyOf":
			for _, b := range settings.Content {
				c.walk(branch(b), behind, f)
			}
		case "allOf":
			c.walk(branch(settings), behind, f)
		case "not":
		default:
			f(name, n, settings, behind)
		}
	}
}

// inventoried reports whether nothing passes the list but by an inventory.
func (c *Config) inventoried(list []*yaml.Node) bool {
	return slices.ContainsFunc(list, func(n *yaml.Node) bool {
		name, settings, err := stageNode(c.file, n)
		switch {
		case err != nil:
		case name == "anyOf":
			return !slices.ContainsFunc(settings.Content, func(b *yaml.Node) bool { return !c.inventoried(branch(b)) })
		case name == "allOf":
			return c.inventoried(branch(settings))
		}
		return name == "inventory"
	})
}
