package main

import (
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkByPassword refuses an own-certificate that renews by a password which no stage before it compares, and a way around
// it: by a password alone the request's own word is all that says whose certificate it is.
func (c *Config) checkByPassword(path []string, op gateway.Operation, nodes []yaml.Node) error {
	list := pipelineNodes(nodes)
	switch takes, uncompared := c.byPassword(list, false); {
	case uncompared:
		return c.fault(path, "own-certificate renews by a password, and on a way to it no stage compares that, so that nobody could: put `password` or `device-password` before it")
	case takes && !c.held(list):
		return c.fault(path, "own-certificate renews by a password, and there is a way to %s around it, on which a user could have anybody's names: put an own-certificate into each branch of anyOf", op)
	}
	return nil
}

// byPassword reports whether an own-certificate in the list takes a password, and whether one does which none has compared.
func (c *Config) byPassword(list []*yaml.Node, before bool) (takes, uncompared bool) {
	for i, n := range list {
		name, settings, err := stageNode(c.file, n)
		if err != nil {
			continue
		}
		compared := before || c.compares(list[:i])
		var inner [][]*yaml.Node
		switch name {
		case "own-certificate":
			var own authz.OwnCertificateConfig
			if strictyaml.DecodeNode(c.file, settings, &own) == nil && own.ByPassword() {
				takes, uncompared = true, uncompared || !compared
			}
		case "anyOf":
			for _, b := range settings.Content {
				inner = append(inner, branch(b))
			}
		case "allOf":
			inner = append(inner, branch(settings))
		}
		for _, b := range inner {
			one, not := c.byPassword(b, compared)
			takes, uncompared = takes || one, uncompared || not
		}
	}
	return takes, uncompared
}

// compares reports whether somebody who passes the list may have had a password compared.
func (c *Config) compares(list []*yaml.Node) bool {
	return slices.ContainsFunc(list, func(n *yaml.Node) bool {
		name, settings, err := stageNode(c.file, n)
		switch {
		case err != nil:
		case name == "anyOf":
			return slices.ContainsFunc(settings.Content, func(b *yaml.Node) bool { return c.compares(branch(b)) })
		case name == "allOf":
			return c.compares(branch(settings))
		}
		return name == "password" || name == "device-password"
	})
}
