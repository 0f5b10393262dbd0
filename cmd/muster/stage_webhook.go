package main

import (
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/profile"
)

// checkAttributes refuses a pipeline whose profile makes names of attributes that no stage could say.
func (c *Config) checkAttributes(path []string, op gateway.Operation, e *EndpointConfig, nodes []yaml.Node) error {
	if !op.Certifies() || c.forwardsTo(e, op) != "" {
		return nil
	}
	said := false
	c.walk(pipelineNodes(nodes), false, func(name string, _, _ *yaml.Node, _ bool) { said = said || name == "webhook" })
	if said {
		return nil
	}
	for _, name := range e.offered() {
		p := c.Profiles[name]
		if op != gateway.Enroll && p.RenewNames != profile.RenewTemplate {
			continue
		}
		s, err := p.shaper()
		if err != nil || s == nil { // an error is said elsewhere
			continue
		}
		if reads := s.ReadsAttributes(); len(reads) > 0 {
			return c.fault(path, "profile %s makes names of {{attributes.%s}}, and no stage webhook stands here to say it: every request would be refused. Add one, or give the value a default or optional", name, reads[0])
		}
	}
	return nil
}

// hangUp has the stages give up their connections to services of the operator's.
func (rt *Runtime) hangUp() {
	for _, e := range rt.gateway.Endpoints {
		for _, p := range e.Pipelines {
			p.Stages(func(s gateway.Stage) {
				if s, ok := s.(interface{ Close() }); ok {
					s.Close()
				}
			})
		}
	}
}
