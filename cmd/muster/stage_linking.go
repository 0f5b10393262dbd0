package main

import (
	"errors"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// checkLinking refuses stages that take nothing but requests that are bound to their TLS connection where the protocol binds none, or where all
// clients' TLS ends at proxies.
func (c *Config) checkLinking(path []string, e *EndpointConfig, nodes []yaml.Node) error {
	speaks, ok := spoken(e.Protocol)
	if !ok {
		return nil
	}
	why := speaks.title + " requests are not bound to a TLS connection, as EST's can be: nobody could pass it. Put signature in its place"
	if slices.Contains(speaks.carries, gateway.CredentialTLS) {
		proxied := func(l *serve.Listener) bool { return l != nil && l.TLS == nil && len(l.Proxies) > 0 }
		if slices.ContainsFunc(e.Listeners, func(l string) bool { return !proxied(c.Listeners[l]) }) {
			return nil
		}
		why = "TLS ends at the proxies in front of the endpoint's listeners, and no request is bound to it: nobody could pass it. " +
			"Put signature in its place, or serve the endpoint on a listener with `tls: {}` that clients reach directly"
	}
	list := pipelineNodes(nodes)
	var errs []error
	c.walk(list, false, func(name string, n, settings *yaml.Node, _ bool) {
		var keys authz.KeysConfig
		if name != "keys" || strictyaml.DecodeNode(c.file, settings, &keys) != nil || len(keys.POP) == 0 {
			return
		}
		if !slices.ContainsFunc(keys.POP, func(pop string) bool { return pop != string(gateway.POPLinked) }) {
			errs = append(errs, c.faultAt(n, strings.Join(path, "."), "keys: pop: tls-binding: %s", why))
		}
	})
	return errors.Join(errs...)
}
