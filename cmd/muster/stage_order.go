package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

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
	case name == "approval":
		return true
	case name == "anyOf":
		after := before
		for _, branch := range settings.Content {
			after = c.waits(where, branch, before, errs) || after
		}
		return after
	case name == "allOf", name == "not":
		return c.waits(where, settings, before, errs)
	case before && slices.Contains(secretStages, name):
		*errs = append(*errs, &strictyaml.Error{File: c.file, Line: n.Line, Path: where, Message: fmt.Sprintf(
			"the stage %s needs a secret, and stands behind an approval: people would be asked about requests that nobody has authenticated. Put it before", name)})
	}
	return before
}

// checkClaims refuses a pipeline in which a device is known by nothing but what the request says of itself: whoever can
// spell a serial number could have that device's certificate.
func (c *Config) checkClaims(path []string, p gateway.Pipeline) error {
	claims, vouched := false, false
	p.Stages(func(s gateway.Stage) {
		if i, ok := s.(interface{ Claimed() bool }); ok && i.Claimed() {
			claims = true
		}
		r, ok := s.(interface {
			Credentials() []gateway.CredentialKind
		})
		vouched = vouched || ok && len(r.Credentials()) > 0 || s.Name() == "approval"
	})
	if claims && !vouched {
		return c.fault(path, "the stage inventory goes by what the request says of itself, and no stage authenticates who asks: whoever can spell "+
			"a device's identifier could have its certificate. Add a stage that does (vendor-ca, challenge, device-password, ..., or approval)")
	}
	return nil
}
