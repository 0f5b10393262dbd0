package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
)

// makeEndpoints makes the endpoints of a configuration with their pipelines: every file that a stage names is read,
// no backend is asked.
func makeEndpoints(c *Config, deps stageDeps) (map[string]*gateway.Endpoint, error) {
	var errs []error
	profiles := map[string]*gateway.Profile{}
	for _, name := range byName(c.Profiles) {
		p, err := c.Profiles[name].profile(name)
		if err != nil {
			errs = append(errs, c.fault(at("profiles", name), "%v", err))
			continue
		}
		if _, err := authz.NewKeys(authz.KeysConfig{Allowed: c.Profiles[name].Keys}, c.dir); err != nil {
			errs = append(errs, c.fault(at("profiles", name, "keys"), "%v", err))
		}
		profiles[name] = p
	}
	endpoints := map[string]*gateway.Endpoint{}
	for _, name := range byName(c.Endpoints) {
		e := c.Endpoints[name]
		made := &gateway.Endpoint{
			Name: name, Protocol: e.Protocol, Profile: profiles[e.Profile], Repeat: time.Duration(e.Repeat),
			Profiles: map[string]*gateway.Profile{}, Pipelines: map[gateway.Operation]gateway.Pipeline{},
		}
		for _, p := range e.offered() {
			if profiles[p] != nil {
				made.Profiles[p] = profiles[p]
			}
		}
		if e.Protocol == gateway.CMP {
			s := section(e.CMP).WithDefaults()
			made.ConfirmWait, made.KeepUnconfirmed = time.Duration(s.ConfirmWait), s.Unconfirmed == cmp.UnconfirmedKeep
		}
		faults := len(errs)
		for _, op := range gateway.Operations {
			if _, given := e.stages(op); !given {
				continue
			}
			p, err := c.pipeline(name, op, deps)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			made.Pipelines[op] = p
		}
		if len(errs) == faults {
			if err := c.checkHTTPAuth(name, e, made); err != nil {
				errs = append(errs, err)
			}
		}
		if err := c.checkMEFServers(e); err != nil {
			errs = append(errs, err)
		}
		endpoints[name] = made
	}
	return endpoints, errors.Join(errs...)
}

// validity is that of its certificates.
func (p *ProfileConfig) validity() time.Duration {
	if p.Validity == 0 {
		return defaultValidity
	}
	return time.Duration(p.Validity)
}

func (p *ProfileConfig) profile(name string) (*gateway.Profile, error) {
	usage, err := parseKeyUsage(p.KeyUsage)
	if err != nil {
		return nil, err
	}
	extended, err := parseExtKeyUsage(p.ExtKeyUsage)
	if err != nil {
		return nil, err
	}
	validity := p.validity()
	made := &gateway.Profile{
		Name: name, Backend: p.Backend, Issuer: p.Issuer, Standby: p.standbys(), Validity: validity, Backdate: time.Duration(p.Backdate), Jitter: p.Jitter.Of(validity),
		KeyUsage: usage, ExtKeyUsage: extended, Keys: p.Keys,
	}
	return made, p.furnish(made)
}

// pipeline makes one operation's stages. A certifying pipeline ends with the profile's key stage: keys and proof of
// possession are judged whether a `keys` stage stands there or not.
func (c *Config) pipeline(name string, op gateway.Operation, deps stageDeps) (gateway.Pipeline, error) {
	e := c.Endpoints[name]
	nodes, _ := e.stages(op)
	path := at("endpoints", name, string(op))
	var p gateway.Pipeline
	var errs []error
	for i := range nodes {
		s, err := decodeStage(c.file, &nodes[i], deps)
		if err != nil {
			errs = append(errs, strictyaml.Under(c.file, fmt.Sprintf("%s[%d]", strings.Join(path, "."), i), &nodes[i], err))
			continue
		}
		p = append(p, s)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	has := func(stage string) (found bool) {
		p.Stages(func(s gateway.Stage) { found = found || s.Name() == stage })
		return found
	}
	if err := c.checkForward(path, op, e, nodes, p); err != nil {
		return nil, err
	}
	if stage := c.holding(pipelineNodes(nodes)); stage != "" && op == gateway.Revoke {
		return nil, c.fault(path, "the stage %s holds requests, and a revocation does not wait: leave it out. What the device may not do itself, an operator does (muster revoke)", stage)
	} else if stage != "" && op == gateway.Query {
		return nil, c.fault(path, "the stage %s holds requests, and a query does not wait: leave it out", stage)
	}
	if err := errors.Join(
		c.checkPolicies(path, op, e, p), c.checkCredentials(path, op, e, p), c.checkOrder(path, nodes), c.checkVouched(path, op, nodes),
		c.checkRA(path, op, nodes), c.checkByPassword(path, op, nodes), c.checkGenerate(path, e, p), c.checkLinking(path, e, nodes),
		c.checkDecrypts(path, e, nodes), c.check3GPP(path, op, e, nodes), c.checkMEF(path, op, e, nodes), c.checkMEFSCEP(path, op, nodes, e),
		c.checkMEFPassword(path, op, nodes, e), c.checkDevices(path, op, nodes), c.checkHint(path, op, e, nodes), c.checkAttributes(path, op, e, nodes),
		c.checkNames(path, op, e, nodes),
	); err != nil {
		return nil, err
	}
	if op.Certifies() {
		s, err := c.keyStage(e, has("keys"))
		if err != nil {
			return nil, err
		}
		p = append(p, s)
	}
	return p, nil
}

// checkCredentials refuses a pipeline that reads passwords which would travel in clear, and stages that nobody could
// pass since the protocol has no such credential.
func (c *Config) checkCredentials(path []string, op gateway.Operation, e *EndpointConfig, p gateway.Pipeline) error {
	speaks, ok := spoken(e.Protocol)
	if !ok {
		return nil
	}
	title := speaks.title
	switch { // which others of the protocol's may well carry
	case op == gateway.Revoke:
		title += " revocation"
	case op == gateway.Query && len(speaks.proofs(op)) < len(speaks.carries):
		title += " query"
	}
	var errs []error
	p.Stages(func(s gateway.Stage) {
		r, ok := s.(interface {
			Credentials() []gateway.CredentialKind
		})
		if !ok || len(r.Credentials()) == 0 {
			return
		}
		kinds := r.Credentials()
		if !slices.ContainsFunc(kinds, func(k gateway.CredentialKind) bool { return slices.Contains(speaks.proofs(op), k) }) {
			errs = append(errs, c.fault(path, "the stage %s looks at %s, which %s requests do not carry: nobody could pass it", s.Name(), wordsOf(kinds), title))
			return
		}
		if !slices.Contains(kinds, gateway.CredentialPassword) || !slices.Contains(speaks.carries, gateway.CredentialPassword) {
			return
		}
		for _, l := range e.Listeners {
			if !c.Listeners[l].Private() {
				errs = append(errs, c.fault(path, "the stage %s reads passwords, and listener %s has no TLS: they would travel in clear. "+
					"Give the listener `tls: {}`, or serve the endpoint on another", s.Name(), l))
			}
		}
	})
	return errors.Join(errs...)
}

func wordsOf(kinds []gateway.CredentialKind) string {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(k)
	}
	return strings.Join(words, " and ")
}
