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
	list := pipelineNodes(nodes)
	var errs []error
	c.walk(list, false, func(name string, n, settings *yaml.Node, _ bool) {
		var keys authz.KeysConfig
		if name != "keys" || strictyaml.DecodeNode(c.file, settings, &keys) != nil || len(keys.POP) == 0 {
			return
		}
		if !slices.ContainsFunc(keys.POP, func(pop string) bool { return pop != string(gateway.POPLinked) }) {
			errs = append(errs, c.faultAt(n, strings.Join(path, "."), "keys: pop: tls-binding: %s requests are not bound to a TLS connection, as EST's can be: nobody could pass it. Put signature in its place",
				speaks.title))
		}
	})
	return errors.Join(errs...)
}
