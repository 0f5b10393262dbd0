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

// checkLinking refuses stages that take nothing but requests that are bound to their TLS connection where the protocol binds none.
func (c *Config) checkLinking(path []string, e *EndpointConfig, nodes []yaml.Node) error {
	speaks, ok := spoken(e.Protocol)
	if !ok || slices.Contains(speaks.carries, gateway.CredentialTLS) {
		return nil
	}
	list := make([]*yaml.Node, len(nodes))
	for i := range nodes {
		list[i] = &nodes[i]
	}
	var errs []error
	c.walk(list, false, func(name string, n, settings *yaml.Node, _ bool) {
		var keys authz.KeysConfig
		if name != "keys" || strictyaml.DecodeNode(c.file, settings, &keys) != nil || len(keys.POP) == 0 {
			return
		}
		if !slices.ContainsFunc(keys.POP, func(pop string) bool { return pop != string(gateway.POPLinked) }) {
			errs = append(errs, &strictyaml.Error{File: c.file, Line: n.Line, Path: strings.Join(path, "."), Message: "keys: pop: tls-binding: " + speaks.title +
				" requests are not bound to a TLS connection, as EST's can be: nobody could pass it. Put signature in its place"})
		}
	})
	return errors.Join(errs...)
}
