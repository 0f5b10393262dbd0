package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/host"
	"github.com/muster-pki/muster/protocols/est"
)

// Runtime is what one configuration makes. It never changes; a reload makes another one and swaps it as a whole.
type Runtime struct {
	cfg     *Config
	plugins map[string]*running
	cas     map[string][]backend.CA // by backend
	gateway *gateway.Runtime
	specs   map[string]serve.Spec // by listener
	names   serve.Names           // of the gateway's own certificate
	self    bool                  // it needs one
}

// running is a plugin with what it was started from.
type running struct {
	plugin *host.Plugin
	key    string   // equal for equal configurations
	holds  []string // directories that no second process can use while this one lives
}

// build makes the Runtime of a configuration, with the plugins of old that it has unchanged. Nothing that runs is
// touched: when it fails, what it started is stopped again.
func (p *process) build(ctx context.Context, cfg *Config, old *Runtime) (*Runtime, error) {
	if old != nil && cfg.storeDSN() != old.cfg.storeDSN() {
		return nil, cfg.fault(at("store"), "the store cannot change while the gateway runs: restart it")
	}
	endpoints, err := makeEndpoints(cfg, p.stageDeps(cfg))
	if err != nil {
		return nil, err
	}
	rt := &Runtime{cfg: cfg, plugins: map[string]*running{}, cas: map[string][]backend.CA{}}
	if err := p.furnish(ctx, rt, old, endpoints); err != nil {
		rt.abandon(old)
		return nil, err
	}
	return rt, nil
}

// furnish does the part of build after which plugins run.
func (p *process) furnish(ctx context.Context, rt, old *Runtime, endpoints map[string]*gateway.Endpoint) error {
	if err := p.startPlugins(ctx, rt, old); err != nil {
		return err
	}
	if err := rt.inquire(ctx); err != nil {
		return err
	}
	cfg := rt.cfg
	rt.gateway = &gateway.Runtime{Endpoints: endpoints, Backends: map[string]backend.Backend{}}
	for name, r := range rt.plugins {
		rt.gateway.Backends[name] = r.plugin
	}
	var addresses []string
	for _, name := range byName(cfg.Listeners) {
		if l := cfg.Listeners[name]; l.TLS.SelfManaged() {
			rt.self = true
			addresses = append(addresses, l.Address)
		}
	}
	if rt.self {
		rt.names = serve.NamesOf(p.hostname, addresses, cfg.ServerCertificate.Names)
		endpoints[selfEndpoint] = makeSelf(cfg.ServerCertificate, rt.names, p.instance)
	}
	var err error
	rt.specs, err = p.makeListeners(rt)
	return err
}

// startPlugins starts what old does not have, side by side.
func (p *process) startPlugins(ctx context.Context, rt, old *Runtime) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := map[string]error{}
	start := map[string]host.Config{}
	for _, name := range byName(rt.cfg.Backends) {
		h, err := rt.cfg.hostConfig(name, p.runDir, p.log)
		if err != nil {
			return err
		}
		p.watch(&h)
		was, err := old.reusable(rt.cfg, name, keyOf(&h))
		if err != nil {
			return err
		}
		if was != nil {
			rt.plugins[name] = was
			continue
		}
		start[name] = h
	}
	for name, h := range start {
		wg.Go(func() {
			plugin, err := host.Start(ctx, h)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[name] = rt.cfg.fault(at("backends", name), "%v", err)
				return
			}
			rt.plugins[name] = &running{plugin: plugin, key: keyOf(&h), holds: rt.cfg.holds(name)}
		})
	}
	wg.Wait()
	var all []error
	for _, name := range byName(errs) {
		all = append(all, errs[name])
	}
	return errors.Join(all...)
}

// keyOf is equal for plugins that need not be started anew.
func keyOf(h *host.Config) string {
	return h.Plugin + "\x00" + h.SHA256 + "\x00" + string(h.Config)
}

// reusable returns the plugin of the Runtime that runs, when it is the one that cfg wants; nil when another has to be
// started. The error says that it could not live beside one that runs.
func (rt *Runtime) reusable(cfg *Config, name, key string) (*running, error) {
	if rt == nil {
		return nil, nil
	}
	if was := rt.plugins[name]; was != nil && was.key == key {
		return was, nil
	}
	for _, other := range byName(rt.plugins) {
		for _, dir := range cfg.holds(name) {
			if slices.Contains(rt.plugins[other].holds, dir) {
				return nil, cfg.fault(at("backends", name, "config"), "%s is in use by the running backend %s, which has another name or configuration: restart the gateway to change it", dir, other)
			}
		}
	}
	return nil, nil
}

// holds are the directories of a shipped backend.
func (c *Config) holds(name string) []string {
	s := shippedBackends()[c.Backends[name].Plugin]
	n := c.Backends[name].Config
	var dirs []string
	if n == nil {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if slices.Contains(s.paths, n.Content[i].Value) {
			dirs = append(dirs, c.path(n.Content[i+1].Value))
		}
	}
	return dirs
}

// abandon stops what was started for a Runtime that will not run.
func (rt *Runtime) abandon(old *Runtime) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for name, r := range rt.plugins {
		if old == nil || old.plugins[name] != r {
			r.plugin.Close(ctx) //nolint:errcheck // it served nothing
		}
	}
}

// inquire asks the backends what they can do and refuses what they cannot.
func (rt *Runtime) inquire(ctx context.Context) error {
	var errs []error
	described := map[string]*backend.Description{}
	for _, name := range byName(rt.plugins) {
		d, err := rt.plugins[name].plugin.Describe(ctx)
		if err == nil {
			described[name] = d
			rt.cas[name], err = rt.plugins[name].plugin.CACertificates(ctx)
		}
		if err != nil {
			errs = append(errs, rt.cfg.fault(at("backends", name), "%v", err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, name := range byName(rt.cfg.Profiles) {
		p := rt.cfg.Profiles[name]
		if err := rt.issuer(at("profiles", name, "issuer"), p.Backend, p.Issuer); err != nil {
			errs = append(errs, err)
		}
		if err := certifies(described[p.Backend], p); err != nil {
			errs = append(errs, rt.cfg.fault(at("profiles", name), "%v", err))
		}
	}
	if s := rt.cfg.ServerCertificate; s != nil {
		if err := rt.issuer(at("server-certificate", "issuer"), s.Backend, s.Issuer); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (rt *Runtime) issuer(path []string, backendName, issuer string) error {
	var names []string
	for _, ca := range rt.cas[backendName] {
		names = append(names, ca.Name)
	}
	if issuer == "" && len(names) > 0 || slices.Contains(names, issuer) {
		return nil
	}
	return rt.cfg.fault(path, "backend %s has no CA %q%s", backendName, issuer, strictyaml.Suggest(issuer, names))
}

// certifies reports why the backend cannot issue what the profile says.
func certifies(d *backend.Description, p *ProfileConfig) error {
	if slices.Contains(d.Forms, backend.FormTemplate) {
		return nil
	}
	if !slices.Contains(d.Forms, backend.FormPKCS10) {
		return fmt.Errorf("backend %s (%s) certifies neither templates nor PKCS#10 requests: name another backend", p.Backend, d.Name)
	}
	// The gateway sets these from the profile, whatever the CSR says.
	var missing []string
	for _, f := range []backend.Field{backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage} {
		if !slices.Contains(d.Overrides, f) {
			missing = append(missing, string(f))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("backend %s (%s) certifies a PKCS#10 request as it stands and cannot set %s, which this profile decides: "+
			"name a backend that takes templates, or one that overrides these", p.Backend, d.Name, strings.Join(missing, ", "))
	}
	return nil
}

// roots are the CA certificates at the end of each chain, the default CA's first.
func (rt *Runtime) roots() ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for _, name := range byName(rt.cas) {
		for _, ca := range rt.cas[name] {
			if len(ca.Chain) == 0 {
				continue
			}
			c, err := x509.ParseCertificate(ca.Chain[len(ca.Chain)-1])
			if err != nil {
				return nil, fmt.Errorf("backend %s, CA %s: %w", name, ca.Name, err)
			}
			if !slices.ContainsFunc(roots, c.Equal) {
				roots = append(roots, c)
			}
		}
	}
	return roots, nil
}

// makeListeners makes what each listener serves.
func (p *process) makeListeners(rt *Runtime) (map[string]serve.Spec, error) {
	specs := map[string]serve.Spec{}
	for _, name := range byName(rt.cfg.Listeners) {
		l := rt.cfg.Listeners[name]
		spec := serve.Spec{Address: l.Address, Connections: l.Connections}
		if l.TLS != nil {
			cas, err := rt.advertised(name)
			if err != nil {
				return nil, err
			}
			if spec.TLS, err = l.TLS.Policy(rt.cfg.dir, p.own.Certificate, cas, p.clock); err != nil {
				return nil, rt.cfg.fault(at("listeners", name, "tls"), "%v", err)
			}
		}
		router := echo.New()
		router.Logger.SetOutput(io.Discard)
		handler, err := rt.estHandler(name, p)
		if err != nil {
			return nil, err
		}
		handler.Register(router, func(endpoint string) bool { return slices.Contains(rt.cfg.Endpoints[endpoint].Listeners, name) })
		if m := rt.cfg.Metrics; m != nil && slices.Contains(m.Listeners, name) {
			router.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{})))
		}
		spec.Handler = serve.Health(p.ready, p.log.With("listener", name), router)
		specs[name] = spec
	}
	return specs, nil
}

// estHandler serves the EST endpoints of one listener. A default belongs to its listener, so each has a handler.
func (rt *Runtime) estHandler(listener string, p *process) (*est.Handler, error) {
	o := est.Options{Gateway: p.gateway, Clock: p.clock, Log: p.log}
	for _, name := range byName(rt.cfg.Endpoints) {
		if e := rt.cfg.Endpoints[name]; e.Protocol == gateway.EST && slices.Contains(e.Listeners, listener) {
			o.Endpoints = append(o.Endpoints, e.est(name))
		}
	}
	return est.New(o)
}

func (e *EndpointConfig) est(name string) est.Endpoint {
	made := est.Endpoint{Name: name, Default: e.Default}
	if e.EST != nil {
		made.Config = *e.EST
	}
	return made
}

// anchored is a stage that knows the CAs of the certificates it looks at.
type anchored interface{ Anchors() []*x509.Certificate }

// advertised are the CAs that a listener's TLS names to clients: those of our own certificates, and those that the
// stages trust. None, which means any (RFC 8446 section 4.2.4), when a stage reads certificates of CAs it does not tell.
func (rt *Runtime) advertised(listener string) ([]*x509.Certificate, error) {
	var cas []*x509.Certificate
	anyCA := false
	for _, name := range byName(rt.cfg.Endpoints) {
		e := rt.cfg.Endpoints[name]
		if !slices.Contains(e.Listeners, listener) {
			continue
		}
		for _, p := range rt.gateway.Endpoints[name].Pipelines {
			p.Stages(func(s gateway.Stage) {
				r, ok := s.(interface {
					Credentials() []gateway.CredentialKind
				})
				if !ok || !slices.Contains(r.Credentials(), gateway.CredentialTLS) || s.Name() == "own-certificate" {
					return
				}
				if a, ok := s.(anchored); ok {
					cas = append(cas, a.Anchors()...)
				} else {
					anyCA = true
				}
			})
		}
		for _, ca := range rt.cas[rt.cfg.Profiles[e.Profile].Backend] {
			for _, der := range ca.Chain {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					return nil, fmt.Errorf("CA %s: %w", ca.Name, err)
				}
				cas = append(cas, c)
			}
		}
	}
	if anyCA {
		return nil, nil
	}
	return cas, nil
}

// ready is /readyz: the gateway can issue, and every plugin runs.
func (p *process) ready(ctx context.Context) error {
	errs := []error{p.gateway.Ready(ctx)}
	if rt := p.runtime.Load(); rt != nil {
		for _, name := range byName(rt.plugins) {
			if err := rt.plugins[name].plugin.Healthy(); err != nil {
				errs = append(errs, fmt.Errorf("backend %s: %w", name, err))
			}
		}
	} else {
		errs = append(errs, errors.New("starting"))
	}
	return errors.Join(errs...)
}
