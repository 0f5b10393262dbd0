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
)

// secretStages are those that compare a secret, or a MAC made with one.
var secretStages = []string{"password", "challenge", "device-password", "shared-secret"}

// checkOrder refuses stages that need a secret behind one that waits for people: what is waited for would be refused, or
// granted, by a secret that is compared before they have looked.
func (c *Config) checkOrder(path []string, nodes []yaml.Node) error {
	var errs []error
	waits := false
	for i := range nodes {
		where := fmt.Sprintf("%s[%d]", strings.Join(path, "."), i)
		waits = c.waits(where, &nodes[i], waits, &errs)
	}
	return errors.Join(errs...)
}

// waits reports whether somebody's approval may be waited for behind a stage, when it is before it or not.
func (c *Config) waits(where string, n *yaml.Node, before bool, errs *[]error) bool {
	if n.Kind == yaml.SequenceNode { // a branch
		for _, s := range n.Content {
			before = c.waits(where, s, before, errs)
		}
		return before
	}
	name, settings, err := stageNode(c.file, n)
	if err != nil {
		return before // said already
	}
	switch {
	case c.mayHold(name, settings):
		return true
	case name == "anyOf":
		after := before
		for _, branch := range settings.Content {
			after = c.waits(where, branch, before, errs) || after
		}
		return after
	case name == "allOf":
		return c.waits(where, settings, before, errs)
	case name == "not": // what is held there is denied, so that nothing waits behind it
		c.walk(branch(settings), false, func(name string, n, _ *yaml.Node, _ bool) {
			if name == "approval" {
				*errs = append(*errs, c.faultAt(n, where, "the stage approval stands within not, which denies what is held: nobody would ever be asked. Put it beside the not, or leave it out"))
			}
		})
		c.waits(where, settings, before, errs)
	case before && slices.Contains(secretStages, name):
		*errs = append(*errs, c.faultAt(n, where, "the stage %s needs a secret, and stands behind an approval: people would be asked about requests that nobody has authenticated. Put it before", name))
	}
	return before
}

// mayHold reports whether a stage, with these settings, may have requests wait for people.
func (c *Config) mayHold(name string, settings *yaml.Node) bool {
	switch name {
	case "approval":
		return true
	case "policy":
		return c.policyHolds(settings)
	case "webhook":
		var w authz.WebhookConfig
		return strictyaml.DecodeNode(c.file, settings, &w) == nil && w.Hold
	}
	return false
}

// holding is the name of the first stage in the list that may have requests wait, "" for none.
func (c *Config) holding(list []*yaml.Node) (found string) {
	c.walk(list, false, func(name string, _, settings *yaml.Node, _ bool) {
		if found == "" && c.mayHold(name, settings) {
			found = name
		}
	})
	return found
}

// authenticators are the stages that only somebody passes who has shown who he is, or whom a person has let in.
var authenticators = append([]string{"client-certificate", "vendor-ca", "device-certificate", "own-certificate", "approval"}, secretStages...)

// checkVouched refuses a pipeline with a way through it on which nobody is authenticated: whoever reaches the endpoint could
// have a certificate. It says so in other words where a device is known by nothing but what the request says of itself.
func (c *Config) checkVouched(path []string, op gateway.Operation, nodes []yaml.Node) error {
	list := pipelineNodes(nodes)
	if c.claims(list, false) {
		return c.fault(path, "the stage inventory goes by what the request says of itself, and not on every way to it does a stage authenticate who asks: whoever can spell "+
			"a device's identifier could have its certificate, or learn that there is such a device. Put a stage before it that does (vendor-ca, challenge, device-password, ..., or approval)")
	}
	if op == gateway.Revoke && !c.held(list) && c.anonymous(list) {
		return c.fault(path, "the stage vendor-ca does not say which device asks: each of the vendor's devices could revoke the others' certificates. "+
			"Say by `serial` what names the device, or put `own-certificate: {}` in its place")
	}
	if op == gateway.Revoke && !c.vouched(list) {
		return c.fault(path, "there is a way through these stages on which nobody is authenticated: whoever reaches the endpoint could revoke its certificates. "+
			"Add a stage that says who asks (own-certificate, or client-certificate for an RA), in each branch of anyOf")
	}
	if (op == gateway.Renew || op == gateway.Rekey) && !c.vouched(list) {
		return c.fault(path, "there is a way through these stages on which nobody is authenticated: whoever reaches the endpoint could have a certificate, by one that anybody has signed. "+
			"Put `own-certificate: {}` into each branch of anyOf, or another stage that says who asks")
	}
	if op == gateway.Enroll && !c.vouched(list) {
		return c.fault(path, "there is a way through these stages on which nobody is authenticated: whoever reaches the endpoint could have a certificate. "+
			"Add a stage that says who asks (vendor-ca, challenge, device-password, ..., or approval), in each branch of anyOf")
	}
	return nil
}

// claims reports whether an inventory in the list goes by the request's own word where nobody before it vouches: then anybody
// could have a device's certificate, or, where somebody vouches behind it, learn from the refusals which devices there are.
func (c *Config) claims(list []*yaml.Node, before bool) bool {
	for i, n := range list {
		name, settings, err := stageNode(c.file, n)
		before := before || c.vouched(list[:i])
		switch {
		case err != nil: // said already
		case name == "inventory" && !before && c.claimed(settings):
			return true
		case name == "anyOf" && slices.ContainsFunc(settings.Content, func(b *yaml.Node) bool { return c.claims(branch(b), before) }):
			return true
		case name == "allOf" && c.claims(branch(settings), before):
			return true
		case name == "not" && c.claims(branch(settings), before): // its refusal tells as much as the stage's own
			return true
		}
	}
	return false
}

// vouched reports whether nobody passes the list unauthenticated. What goes by what others have found lets nobody in by itself.
func (c *Config) vouched(list []*yaml.Node) bool {
	return c.everyWay(list, func(name string, settings *yaml.Node) bool {
		switch name {
		case "inventory":
			return !c.claimed(settings)
		case "ra": // one that has passed the request on says nothing of who asks
			return c.speaks(settings)
		case "names": // of the device that an earlier stage found
			var names authz.NamesConfig
			return strictyaml.DecodeNode(c.file, settings, &names) == nil && len(names.Device) > 0
		}
		return slices.Contains(authenticators, name)
	})
}

func (c *Config) claimed(inventory *yaml.Node) bool {
	var config authz.InventoryConfig
	return strictyaml.DecodeNode(c.file, inventory, &config) == nil && config.Claimed()
}

// anonymous reports whether a vendor-ca in the list leaves open which of the vendor's devices it is.
func (c *Config) anonymous(list []*yaml.Node) bool {
	return slices.ContainsFunc(list, func(n *yaml.Node) bool {
		name, settings, err := stageNode(c.file, n)
		switch {
		case err != nil:
		case name == "vendor-ca":
			var vendor authz.VendorCAConfig
			return strictyaml.DecodeNode(c.file, settings, &vendor) != nil || vendor.Serial == ""
		case name == "anyOf":
			return slices.ContainsFunc(settings.Content, func(b *yaml.Node) bool { return !c.held(branch(b)) && c.anonymous(branch(b)) })
		case name == "allOf":
			return c.anonymous(branch(settings))
		}
		return false
	})
}
