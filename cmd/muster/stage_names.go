package main

import (
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/profile"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkNames refuses a certifying pipeline with a way through it on which nobody judges the names that are asked for. Those in what is
// passed on are judged where it is certified.
func (c *Config) checkNames(path []string, op gateway.Operation, e *EndpointConfig, nodes []yaml.Node) error {
	list := pipelineNodes(nodes)
	if c.forwardsTo(e, op) != "" || c.judgesNames(op, list) {
		return nil
	}
	switch op {
	case gateway.Enroll:
		if p := c.unjudged(e); p != "" {
			return c.unjudgedNames(path, e, p, c.somewhere(list, "names"))
		}
	case gateway.Renew, gateway.Rekey:
		for _, name := range e.offered() {
			if !c.Profiles[name].makesRenewedNames() {
				return c.fault(path, "there is a way through these stages on which nobody judges the names asked for, so that whoever may renew could renew as anybody: "+
					"put `own-certificate: {}` on each, which takes its own names alone, or, with change-names or without an own-certificate, say by `names` what may be asked for")
			}
		}
	}
	return nil
}

// judgesNames reports whether nothing passes the list but with names that a stage has judged.
func (c *Config) judgesNames(op gateway.Operation, list []*yaml.Node) bool {
	renewed := op != gateway.Enroll && c.held(list)
	return c.everyWay(list, func(name string, settings *yaml.Node) bool {
		switch name {
		case "names":
			return true
		case "own-certificate": // a renewal has the names of what it renews
			var own authz.OwnCertificateConfig
			return op != gateway.Enroll && strictyaml.DecodeNode(c.file, settings, &own) == nil && !own.ChangeNames
		case "registration": // it judges the subjectAltName, and has no subject changed
			return renewed
		}
		return false
	})
}

// somewhere reports whether a stage stands in the list where it can let a request pass.
func (c *Config) somewhere(list []*yaml.Node, stage string) (found bool) {
	c.walk(list, false, func(name string, _, _ *yaml.Node, _ bool) { found = found || name == stage })
	return found
}

// makesRenewedNames reports whether nothing that is asked for comes into the names of a renewal.
func (p *ProfileConfig) makesRenewedNames() bool {
	s, err := p.shaper()
	return err == nil && s != nil && p.RenewNames == profile.RenewTemplate && p.Subject != nil && !s.NamesFromRequest()
}
