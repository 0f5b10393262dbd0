package main

import (
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// speaks reports whether a stage `ra` lets RAs ask in a device's place, from its settings.
func (c *Config) speaks(settings *yaml.Node) bool {
	var config authz.RAConfig
	return strictyaml.DecodeNode(c.file, settings, &config) == nil && !config.Nested
}

// checkRA refuses a pipeline on which an RA could have any certificate renewed: whether that is one of ours, and still stands, is
// for own-certificate to say. What a revocation is about, the gateway looks up itself.
func (c *Config) checkRA(path []string, op gateway.Operation, nodes []yaml.Node) error {
	list := pipelineNodes(nodes)
	if (op == gateway.Renew || op == gateway.Rekey) && c.unheld(list) {
		return c.fault(path, "the stage ra says who asks, and nothing about the certificate that is renewed, which may be revoked, or another endpoint's: "+
			"put `own-certificate: {}` behind it")
	}
	return nil
}

// unheld reports whether an RA passes the list without an own-certificate behind it.
func (c *Config) unheld(list []*yaml.Node) bool {
	for i, n := range list {
		name, settings, err := stageNode(c.file, n)
		if err != nil || c.held(list[i+1:]) {
			continue
		}
		switch {
		case name == "ra" && c.speaks(settings),
			name == "anyOf" && slices.ContainsFunc(settings.Content, func(b *yaml.Node) bool { return c.unheld(branch(b)) }),
			name == "allOf" && c.unheld(branch(settings)):
			return true
		}
	}
	return false
}

// held reports whether nothing passes the list but by an own-certificate.
func (c *Config) held(list []*yaml.Node) bool {
	return c.everyWay(list, func(name string, _ *yaml.Node) bool { return name == "own-certificate" })
}
