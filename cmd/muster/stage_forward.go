package main

import (
	"context"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// forwardsTo is the backend that the last stage of an operation's pipeline passes on to, "" when it does not.
func (c *Config) forwardsTo(e *EndpointConfig, op gateway.Operation) string {
	nodes, _ := e.stages(op)
	if len(nodes) == 0 {
		return ""
	}
	name, settings, err := stageNode(c.file, &nodes[len(nodes)-1])
	var config authz.ForwardConfig
	if err != nil || name != "forward" || strictyaml.DecodeNode(c.file, settings, &config) != nil {
		return ""
	}
	return config.Backend
}

// certifiesHere reports whether some operation of the endpoint is answered with a certificate of the profile's CA.
func (c *Config) certifiesHere(e *EndpointConfig) bool {
	return slices.ContainsFunc(gateway.Certifying, func(op gateway.Operation) bool {
		_, given := e.stages(op)
		return given && c.forwardsTo(e, op) == ""
	})
}

// checkForward refuses a stage `forward` where it cannot do what it says: what stands behind it would judge a message that is
// gone, and what holds would lose it.
func (c *Config) checkForward(path []string, op gateway.Operation, e *EndpointConfig, nodes []yaml.Node, p gateway.Pipeline) error {
	count, holds := 0, c.holding(pipelineNodes(nodes))
	p.Stages(func(s gateway.Stage) {
		if _, ok := s.(gateway.Forwarder); ok {
			count++
		}
	})
	if count == 0 {
		return nil
	}
	to := c.forwardsTo(e, op)
	switch {
	case e.Protocol != gateway.CMP:
		return c.fault(path, "the stage forward passes CMP messages on, and the endpoint speaks %s: leave it out", e.Protocol)
	case op != gateway.Revoke && !op.Certifies():
		return c.fault(path, "the stage forward stands in enroll, renew, rekey and revoke")
	case count > 1 || to == "":
		return c.fault(path, "the stage forward is the last of its pipeline, once, and stands within no other stage: what is behind it would judge a message that is gone")
	case holds != "":
		return c.fault(path, "the stage %s holds requests, and a message that is passed on cannot wait: its device would be answered here, in another's place. "+
			"Leave it out, and have the authority that the message goes to hold it", holds)
	}
	if _, ok := c.Backends[to]; !ok {
		return c.fault(append(slices.Clone(path), strconv.Itoa(len(nodes)-1), "forward", "backend"), "there is no backend %q%s", to, strictyaml.Suggest(to, byName(c.Backends)))
	}
	return nil
}

// passesOn reports why a backend that a pipeline of the endpoint forwards to cannot do so.
func (rt *Runtime) passesOn(name string, described map[string]*backend.Description) error {
	e := rt.cfg.Endpoints[name]
	for _, op := range gateway.Operations {
		to := rt.cfg.forwardsTo(e, op)
		if d := described[to]; to != "" && d != nil && !slices.Contains(d.Capabilities, backend.CapExchange) {
			return rt.cfg.fault(at("endpoints", name, string(op)), "backend %s (%s) does not pass messages on (it has no capability exchange): name another in the stage forward", to, d.Name)
		}
	}
	return nil
}

// passesOnly reports whether a backend certifies nothing and passes messages on.
func passesOnly(d *backend.Description) bool {
	return slices.Contains(d.Capabilities, backend.CapExchange) &&
		!slices.Contains(d.Forms, backend.FormTemplate) && !slices.Contains(d.Forms, backend.FormPKCS10)
}

// casOf asks a backend for its CAs. One that only passes messages on, or holds keys, need not know any.
func casOf(ctx context.Context, b backend.Backend) ([]backend.CA, error) {
	cas, err := b.CACertificates(ctx)
	if status.Code(err) == codes.Unimplemented {
		if d, failed := b.Describe(ctx); failed == nil && (passesOnly(d) || holdsOnly(d)) {
			return nil, nil
		}
	}
	return cas, err
}
