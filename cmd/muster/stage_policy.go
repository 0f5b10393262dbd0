package main

import (
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// decodePolicy makes a stage `policy`. What is wrong with its rules stands where the rules do, which may be another file.
func decodePolicy(file string, settings *yaml.Node, deps stageDeps) (gateway.Stage, error) {
	c, err := policySettings(file, settings)
	if err != nil {
		return nil, err
	}
	s, err := authz.NewPolicy(c, deps.Dir, deps.Clock)
	if err != nil {
		return nil, strictyaml.Under(file, "policy", settings, err)
	}
	return s, nil
}

func policySettings(file string, settings *yaml.Node) (c authz.PolicyConfig, err error) {
	err = strictyaml.DecodeNodeAt(file, "policy", settings, &c)
	return c.In(file), err
}

// policyHolds reports whether a rule of the settings may hold a request. What does not load is said where the stage is made.
func (c *Config) policyHolds(settings *yaml.Node) bool {
	s, err := policySettings(c.file, settings)
	if err != nil {
		return false
	}
	rules, err := s.Policy(c.dir)
	return err == nil && rules.Holds()
}

// checkPolicies refuses rules that choose a profile which the endpoint does not offer, or choose one where nothing is certified.
func (c *Config) checkPolicies(path []string, op gateway.Operation, e *EndpointConfig, p gateway.Pipeline) error {
	offered := e.offered()
	if op == gateway.Revoke || op == gateway.Query {
		offered = nil
	}
	var errs []error
	p.Stages(func(s gateway.Stage) {
		if rules, ok := s.(*authz.Policy); ok {
			if err := rules.Rules().CheckProfiles(offered); err != nil {
				errs = append(errs, strictyaml.Under(c.file, strings.Join(path, ".")+".policy", nil, err))
			}
		}
	})
	return errors.Join(errs...)
}

// policiesIn makes the policies that stand in a list of stages and what these are composed of, and nothing else.
func (c *Config) policiesIn(list []*yaml.Node, where string) (all []placedPolicy, err error) {
	for i, n := range list {
		name, settings, err := stageNode(c.file, n)
		if err != nil {
			return nil, err
		}
		at := fmt.Sprintf("%s[%d].%s", where, i, name)
		switch name {
		case "policy":
			s, err := policySettings(c.file, settings)
			if err != nil {
				return nil, err
			}
			rules, err := s.Policy(c.dir)
			if err != nil {
				return nil, strictyaml.Under(c.file, at, settings, err)
			}
			all = append(all, placedPolicy{at, rules})
		case "anyOf", "allOf", "not":
			branches := [][]*yaml.Node{branch(settings)}
			if name == "anyOf" {
				branches = nil
				for _, b := range settings.Content {
					branches = append(branches, branch(b))
				}
			}
			for _, b := range branches {
				inner, err := c.policiesIn(b, at)
				if err != nil {
					return nil, err
				}
				all = append(all, inner...)
			}
		}
	}
	return all, nil
}
