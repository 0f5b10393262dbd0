package main

import (
	"errors"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkDevices refuses `limits` where nothing is certified, or within `not`, and stages that go by the device where none before
// them says which it is.
func (c *Config) checkDevices(path []string, op gateway.Operation, nodes []yaml.Node) error {
	var errs []error
	where := strings.Join(path, ".")
	fail := func(n *yaml.Node, format string, args ...any) {
		errs = append(errs, c.faultAt(n, where, format, args...))
	}
	c.devices(pipelineNodes(nodes), spot{}, func(name string, n, settings *yaml.Node, at spot) {
		switch name {
		case "limits":
			var l authz.LimitsConfig
			if strictyaml.DecodeNode(c.file, settings, &l) != nil {
				return // said already
			}
			switch {
			case !op.Certifies():
				fail(n, "the stage limits counts certificates, and %s makes none: leave it out", op)
			case at.within:
				fail(n, "the stage limits stands within not, where nothing is counted: it allows everybody there, so that not would refuse everybody. Put it beside the not")
			case l.PerDevice() && !at.named:
				fail(n, "the stage limits counts per device, and no stage before it says which device asks: every request would be refused. "+
					"Put one before it that does (inventory, own-certificate, vendor-ca with serial, ...), or limit endpoint and source")
			}
		case "names", "inventory", "registration":
			if !at.named && c.wantsDevice(name, settings) {
				fail(n, "the stage %s goes by the device, and no stage before it says which device asks: every request would be refused. Put one before it that does "+
					"(own-certificate, vendor-ca with serial, challenge with issued, ...)", name)
			}
		case "own-certificate":
			if op == gateway.Enroll && !at.within {
				fail(n, "the stage own-certificate judges renew, rekey, revoke and query: nobody could pass it in enroll. Leave it out, and say in enroll who may have a first certificate")
			}
		}
	})
	return errors.Join(errs...)
}

// spot is where a stage stands.
type spot struct {
	named  bool // behind one that may have named the device
	within bool // in a not
}

// devices calls f for each stage of a list and of what it is composed of, and reports whether one in the list may name the device.
func (c *Config) devices(list []*yaml.Node, at spot, f func(name string, n, settings *yaml.Node, at spot)) bool {
	for _, n := range list {
		name, settings, err := stageNode(c.file, n)
		switch {
		case err != nil: // said already
		case name == "anyOf":
			one := false
			for _, b := range settings.Content {
				one = c.devices(branch(b), at, f) || one
			}
			at.named = at.named || one
		case name == "allOf":
			at.named = c.devices(branch(settings), at, f) || at.named
		case name == "not":
			c.devices(branch(settings), spot{at.named, true}, f)
		default:
			f(name, n, settings, at)
			at.named = at.named || c.namesDevice(name, settings)
		}
	}
	return at.named
}

// wantsDevice reports whether a stage, with these settings, lets nobody pass whose device no stage before it has named.
func (c *Config) wantsDevice(name string, settings *yaml.Node) bool {
	switch name {
	case "registration":
		return true
	case "names":
		var s authz.NamesConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && len(s.Device) > 0
	case "inventory":
		var s authz.InventoryConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && !slices.ContainsFunc(s.By, func(by string) bool { return by != "device" })
	}
	return false
}

// namesDevice reports whether a stage, with these settings, may say which device asks.
func (c *Config) namesDevice(name string, settings *yaml.Node) bool {
	switch name {
	case "inventory", "registration", "device-password", "own-certificate", "ra", "webhook":
		return true
	case "password":
		var s authz.PasswordConfig
		return strictyaml.DecodeNode(c.file, settings, &s) == nil && s.Device != ""
	case "client-certificate", "vendor-ca":
		return c.names(name, settings)
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
