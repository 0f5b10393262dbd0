package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// adminListener is the name of the admin API's listener; no configured one has it beside `admin`.
const adminListener = "admin"

// admin reviews how the admin API is reached over the network.
func (f *review) admin() {
	a := f.c.Admin
	if a == nil {
		return
	}
	if f.c.Listeners[adminListener] != nil {
		f.fail(at("listeners", adminListener), "the admin API's listener has this name: choose another")
	}
	if err := (&serve.Listener{Address: a.Address}).Check(); err != nil {
		f.fail(at("admin", "address"), "%v", err)
	}
	for _, name := range byName(f.c.Listeners) {
		if l := f.c.Listeners[name]; l.Address == a.Address && !strings.HasSuffix(a.Address, ":0") {
			f.fail(at("admin", "address"), "%s is listener %s's already: operators have an address of their own", a.Address, name)
		}
	}
	if key, err := a.Check(); err != nil {
		f.fail(append(at("admin"), key...), "%v", err)
	}
}

// addAdmin adds the listener of the admin API, where it is configured.
func (p *process) addAdmin(cfg *Config, specs map[string]serve.Spec) error {
	if cfg.Admin == nil {
		return nil
	}
	access, policy, err := cfg.adminAccess(p.own, p.clock)
	if err != nil {
		return err
	}
	handler := p.admin.Remote(access)
	if cfg.Admin.Console != nil {
		if handler, err = p.withConsole(cfg, access, handler); err != nil {
			return err
		}
	}
	specs[adminListener] = serve.Spec{Address: cfg.Admin.Address, Connections: adminConnections, TLS: policy, Handler: handler}
	return nil
}

// adminAccess reads the files that `admin` names. own is the gateway's own certificate.
func (c *Config) adminAccess(own *serve.Own, clock func() time.Time) (*admin.Access, *tls.Config, error) {
	a := c.Admin
	files := &serve.TLS{}
	serving := func() *x509.Certificate { return leafOf(own.Certificate()) }
	var policy *tls.Config
	if a.TLS != nil {
		files.Cert, files.Key = a.TLS.Cert, a.TLS.Key
		serving = func() *x509.Certificate { return leafOf(&policy.Certificates[0]) }
	}
	access, err := admin.NewAccess(a, c.dir, serving)
	if err != nil {
		return nil, nil, c.fault(at("admin"), "%v", err)
	}
	if policy, err = files.Policy(c.dir, own.Certificate, access.ClientCAs(), clock); err != nil {
		return nil, nil, c.fault(at("admin", "tls"), "%v", err)
	}
	return access, policy, nil
}

// leafOf is a pair's certificate, nil while there is none.
func leafOf(pair *tls.Certificate) *x509.Certificate {
	if pair == nil || len(pair.Certificate) == 0 {
		return nil
	}
	if pair.Leaf != nil {
		return pair.Leaf
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// adminConnections is how many operators and services can be connected at once.
const adminConnections = 256

// openAdmin serves the admin API on its Unix socket.
func (p *process) openAdmin() error {
	l, err := admin.Listen(filepath.Join(p.data, adminSocket))
	if err != nil {
		return err
	}
	p.admin, err = admin.New(admin.Config{
		Store: p.store, Gateway: p.gateway, Backends: p.backendStates, CAs: p.adminCAs, CRL: p.adminCRL, Sinks: p.sinkStates, Metrics: p.registry,
		Version: version(), Instance: p.instance,
		Sealer: func() admin.Sealer { return p.runtime.Load().sealer }, TakesSecrets: p.takesSecrets, TakesChallenges: p.takesChallenges, ProcessCMP: p.processCMP,
		Configuration: p.reloads.configuration, Pipelines: p.pipelineDrawings, Reload: p.reload,
		Ready: p.ready, Started: func() bool { return p.runtime.Load() != nil }, Clock: p.clock, Log: p.log,
	})
	if err != nil {
		l.Close()
		return err
	}
	p.work.Go(func() {
		if err := p.admin.Serve(l); err != nil {
			p.log.Error("the admin socket stopped", "err", err)
		}
	})
	return nil
}

// backendStates is what the admin API says of the plugins.
func (p *process) backendStates(ctx context.Context) []admin.Backend {
	rt := p.runtime.Load()
	if rt == nil {
		return nil
	}
	var all []admin.Backend
	for _, name := range byName(rt.plugins) {
		plugin := rt.plugins[name].plugin
		b := admin.Backend{Name: name, Plugin: rt.cfg.Backends[name].Plugin, PID: plugin.PID(), Restarts: plugin.Restarts()}
		b.Breaker, _ = p.gateway.Breaker(name)
		if d, err := plugin.Describe(ctx); err == nil {
			b.Idempotency = string(d.Idempotency)
		}
		if err := p.faultOf(rt.plugins[name], name); err != nil {
			b.Error = err.Error()
		}
		if s := rt.silence.of(name); s != nil {
			b.LastHeard, b.Means = s.heard, rt.meaning(name)
		}
		p.queued(ctx, &b)
		all = append(all, b)
	}
	return all
}

// adminCAs asks the backends for their CAs.
func (p *process) adminCAs(ctx context.Context) []admin.BackendCAs {
	rt := p.runtime.Load()
	if rt == nil {
		return nil
	}
	var all []admin.BackendCAs
	for _, name := range byName(rt.plugins) {
		plugin := rt.plugins[name].plugin
		b := admin.BackendCAs{Backend: name}
		d, err := plugin.Describe(ctx)
		if err == nil {
			b.Rolls = slices.Contains(d.Capabilities, backend.CapRollover)
			b.CAs, err = casOf(ctx, plugin)
		}
		b.Err = err
		all = append(all, b)
	}
	return all
}

// adminCRL is a CRL of a backend.
func (p *process) adminCRL(ctx context.Context, backend, name string) ([]byte, error) {
	if rt := p.runtime.Load(); name == "" && rt != nil && len(rt.cas[backend]) > 0 {
		name = rt.cas[backend][0].Name
	}
	der, _, err := p.gateway.CRL(ctx, backend, name)
	return der, err
}

// takesChallenges says why an endpoint cannot have challenges, or not for the profile, nil when it can.
func (p *process) takesChallenges(endpoint, profile string) error {
	rt := p.runtime.Load()
	if rt == nil {
		return errors.New("the gateway is starting: try again")
	}
	e := rt.cfg.Endpoints[endpoint]
	if e == nil {
		return fmt.Errorf("there is no endpoint %q%s", endpoint, strictyaml.Suggest(endpoint, byName(rt.cfg.Endpoints)))
	}
	stages := slices.Concat(e.Enroll, e.Renew, e.Rekey, e.Revoke, e.Query)
	if !slices.ContainsFunc(stages, func(n yaml.Node) bool { return switchedOn(&n, "challenge", "issued") }) {
		return fmt.Errorf("endpoint %s takes no challenges that are made here: put `- challenge: {issued: true}` into its pipeline, then reload", endpoint)
	}
	if made := rt.gateway.Endpoints[endpoint]; profile != "" && made != nil && profile != made.Profile.Name && made.Profiles[profile] == nil {
		offered := byName(made.Profiles)
		if made.Profiles[made.Profile.Name] == nil { // an endpoint with one profile lists none
			offered = append(offered, made.Profile.Name)
		}
		return fmt.Errorf("endpoint %s does not offer the profile %q%s", endpoint, profile, strictyaml.Suggest(profile, offered))
	}
	return nil
}

// switchedOn looks for `STAGE: {KEY: true}` in a stage and the stages below it.
func switchedOn(n *yaml.Node, stage, key string) bool {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == stage && child.Kind == yaml.MappingNode {
			for j := 0; j+1 < len(child.Content); j += 2 {
				if child.Content[j].Value == key && strings.EqualFold(child.Content[j+1].Value, "true") {
					return true
				}
			}
		}
		if switchedOn(child, stage, key) {
			return true
		}
	}
	return false
}
