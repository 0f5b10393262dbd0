package main

import (
	"errors"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkLimits refuses `limits` where nothing is certified, and limits per device where no stage before says which device it is.
func (c *Config) checkLimits(path []string, op gateway.Operation, nodes []yaml.Node) error {
	var errs []error
	where := strings.Join(path, ".")
	certifies := op == gateway.Enroll || op == gateway.Renew || op == gateway.Rekey
	c.limits(pipelineNodes(nodes), false, func(n *yaml.Node, l authz.LimitsConfig, named bool) {
		switch {
		case !certifies:
			errs = append(errs, c.faultAt(n, where, "the stage limits counts certificates, and %s makes none: leave it out", op))
		case l.PerDevice() && !named:
			errs = append(errs, c.faultAt(n, where, "the stage limits counts per device, and no stage before it says which device asks: every request would be refused. "+
				"Put one before it that does (inventory, own-certificate, vendor-ca with serial, ...), or limit endpoint and source"))
		}
	})
	return errors.Join(errs...)
}

// limits calls f for each stage `limits` of a list, with whether a stage before it may have named the device, and reports whether
// one in the list may.
func (c *Config) limits(list []*yaml.Node, named bool, f func(n *yaml.Node, l authz.LimitsConfig, named bool)) bool {
	for _, n := range list {
		name, settings, err := stageNode(c.file, n)
		switch {
		case err != nil: // said already
		case name == "limits":
			var l authz.LimitsConfig
			if strictyaml.DecodeNode(c.file, settings, &l) == nil {
				f(n, l, named)
			}
		case name == "anyOf":
			one := false
			for _, b := range settings.Content {
				one = c.limits(branch(b), named, f) || one
			}
			named = named || one
		case name == "allOf":
			named = c.limits(branch(settings), named, f) || named
		case name == "not":
			c.limits(branch(settings), named, f)
		default:
			named = named || c.namesDevice(name, settings)
		}
	}
	return named
}

// namesDevice reports whether a stage, with these settings, may say which device asks.
func (c *Config) namesDevice(name string, settings *yaml.Node) bool {
	switch name {
	case "inventory", "registration", "device-password", "own-certificate", "ra", "webhook":
		return true
	case "password":
		var s authz.PasswordConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && s.Device != ""
	case "client-certificate":
		var s authz.ClientCertificateConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && s.Device != ""
	case "vendor-ca":
		var s authz.VendorCAConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && s.Serial != ""
	case "challenge":
		var s authz.ChallengeConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && (s.Issued || s.Webhook != nil)
	case "shared-secret":
		var s authz.SharedSecretConfig
		if strictyaml.DecodeNode(c.file, settings, &s) != nil {
			return false
		}
		for _, one := range s.Secrets {
			if one.Device != "" {
				return true
			}
		}
		return s.Devices || s.Inventory
	}
	return false
}
