package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/gateway/trace"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/host"
)

// Runtime is what one configuration makes. It never changes; a reload makes another one and swaps it as a whole.
type Runtime struct {
	cfg        *Config
	plugins    map[string]*running
	cas        map[string][]backend.CA // by backend
	silence    silence                 // whose cas are as they were last heard
	recalled   map[string]recalled     // what was last heard, before it was made; by backend
	gateway    *gateway.Runtime
	specs      map[string]serve.Spec // by listener
	sealer     *seal.Sealer
	owns       []ownKey                            // certificates of the gateway's own
	identities map[string]func() *gateway.Identity // of the endpoints' RAs
	answers    *gateway.Gateway                    // goes by this Runtime, whichever is in force; nil until plugins run
	tracer     *trace.Tracer                       // nil: nothing is traced
	underway   underway                            // requests that it answers
	before     <-chan struct{}                     // closed when the one before it has retired; nil: there is none that has not
	retired    chan struct{}                       // closed when it has
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
	sealer, err := p.openSealer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	endpoints, err := makeEndpoints(cfg, p.stageDeps(cfg, sealer))
	ras, raErr := loadRAs(cfg, endpoints, p.clock())
	if err := errors.Join(err, raErr); err != nil {
		return nil, err
	}
	if old != nil {
		for name, e := range endpoints {
			for op, pipeline := range e.Pipelines {
				if was := old.gateway.Endpoints[name]; was != nil {
					pipeline.Inherit(was.Pipelines[op])
				}
			}
		}
	}
	rt := &Runtime{
		cfg: cfg, plugins: map[string]*running{}, cas: map[string][]backend.CA{}, recalled: map[string]recalled{}, sealer: sealer, retired: make(chan struct{}),
		gateway: &gateway.Runtime{Endpoints: endpoints, Backends: map[string]backend.Backend{}, Rates: cfg.rates(), Offline: cfg.offline(), Retention: cfg.retention()}, identities: map[string]func() *gateway.Identity{},
	}
	if rt.tracer, err = p.tracerOf(cfg); err != nil {
		return nil, err
	}
	if err := p.furnish(ctx, rt, old, ras); err != nil {
		p.abandon(rt, old)
		return nil, err
	}
	return rt, nil
}

// openSealer reads the key that seals secrets, and makes one where the configuration names none.
func (p *process) openSealer(ctx context.Context, cfg *Config) (*seal.Sealer, error) {
	if cfg.Seal != nil {
		s, err := seal.Load(cfg.path(cfg.Seal.File), false)
		if err != nil {
			return nil, cfg.fault(at("seal", "file"), "%v", err)
		}
		return s, p.warnOfOtherKey(ctx, s, cfg.path(cfg.Seal.File))
	}
	path := filepath.Join(p.data, sealKey)
	if holdsSomething(path) {
		s, err := seal.Load(path, false)
		if err != nil {
			return nil, err
		}
		return s, p.warnOfOtherKey(ctx, s, path)
	}
	kept, err := p.store.Secrets(ctx, "", "", "", 1)
	if err != nil {
		return nil, unread(err)
	}
	if len(kept) > 0 {
		p.log.Warn("the key that sealed the shared secrets of devices is gone, and a new one is made: none of them can be opened; stop and restore it, or give the devices new secrets", "file", path)
	}
	return seal.Load(path, true)
}

// unread is what a store says that cannot be read, as a database that is down: what its driver says names nothing of that.
func unread(err error) error { return fmt.Errorf("the store cannot be read: %w", err) }

// warnOfOtherKey tells of a key that does not open what the store holds: a backup from before, or another replica's.
func (p *process) warnOfOtherKey(ctx context.Context, s *seal.Sealer, file string) error {
	kept, err := p.store.Secrets(ctx, "", "", "", 1)
	if err != nil {
		return unread(err)
	}
	if len(kept) == 0 {
		return nil
	}
	one, err := p.store.Secret(ctx, kept[0].Endpoint, kept[0].Reference)
	if errors.Is(err, gateway.ErrNotFound) {
		return nil
	}
	if err != nil {
		return unread(err)
	}
	// Which key it is stands before what it is sealed for.
	if _, err := s.Open(one.Sealed); errors.Is(err, seal.ErrOtherKey) {
		p.log.Warn("shared secrets of devices are sealed under another key, and those cannot be opened: gateways that share a store need one key (seal: {file: FILE}), and a backup the key of its time",
			"file", file, "key", s.ID(), "err", err)
	}
	return nil
}

// furnish does the part of build after which plugins run.
func (p *process) furnish(ctx context.Context, rt, old *Runtime, ras map[string]*gateway.Identity) error {
	if err := p.startPlugins(ctx, rt, old); err != nil {
		return err
	}
	rt.recollect(old, p.clock())
	if err := rt.inquire(ctx, p.clock()); err != nil {
		return err
	}
	rt.furnishSilent(old)
	cfg := rt.cfg
	for _, name := range cfg.unconstrained() {
		p.log.Warn("the MEF's CA may have no name constraints, which oneM2M TS-0003 clause 10.1.1.5 demands (allow: unconstrained-ca)", "endpoint", name)
	}
	for name, r := range rt.plugins {
		if !holdsOnly(r.plugin.Description()) {
			rt.gateway.Backends[name] = r.plugin
		}
	}
	var addresses []string
	for _, name := range byName(cfg.Listeners) {
		if l := cfg.Listeners[name]; l.TLS.SelfManaged() {
			addresses = append(addresses, l.Address)
		}
	}
	if cfg.Admin != nil && cfg.Admin.TLS == nil {
		addresses = append(addresses, cfg.Admin.Address)
	}
	if len(addresses) > 0 {
		names := serve.NamesOf(p.hostname, addresses, cfg.ServerCertificate.Names)
		rt.gateway.Endpoints[selfEndpoint] = makeSelf(cfg.ServerCertificate, names, p.instance)
		rt.owns = append(rt.owns, p.tlsKey(names))
	}
	if err := rt.openKeys(ctx, ras); err != nil {
		return err
	}
	if err := p.furnishRAs(rt, ras); err != nil {
		return err
	}
	var err error
	if rt.answers, err = p.gateway.Prepare(ctx, rt.gateway); err != nil {
		return err
	}
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
			var known recalled
			if rt.cfg.recallable(name) {
				if known.heard, known.err = p.heard.recall(name, keyOf(&h)); known.err == nil {
					h.Assume = &known.heard.Description
				}
			}
			plugin, err := host.Start(ctx, h)
			mu.Lock()
			defer mu.Unlock()
			rt.recalled[name] = known
			if err != nil {
				why := ""
				if host.IsUnanswered(err) {
					why = known.way(err)
				}
				errs[name] = rt.cfg.fault(at("backends", name), "%v%s", err, why)
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
	// One that is held waits for somebody to look at it: that is done with a process of its own, which is used if it is found good.
	if was := rt.plugins[name]; was != nil && was.key == key && was.plugin.Held() == nil {
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

// holds are the folders of a shipped backend that no two processes may have at once. Files that it only reads are none.
func (c *Config) holds(name string) []string {
	s := shippedBackends()[c.Backends[name].Plugin]
	n := c.Backends[name].Config
	var dirs []string
	if n == nil {
		return nil
	}
	if keysInToken(n) { // the local CA by another program
		s = shippedBackends()["local"]
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if slices.Contains(s.holds, n.Content[i].Value) {
			dirs = append(dirs, c.path(n.Content[i+1].Value))
		}
	}
	return dirs
}

// abandon stops what a Runtime has for itself alone: one that will not run, or that nobody needs any more. other is the one that
// runs, nil for none.
func (p *process) abandon(rt, other *Runtime) {
	rt.hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if rt.answers != nil {
		p.gateway.Drop(rt.answers)
	}
	p.closeTracer(rt.tracer)
	for name, r := range rt.plugins {
		if other == nil || other.plugins[name] != r {
			r.plugin.Close(ctx) //nolint:errcheck // whoever asked it is told
		}
	}
}

// roots are those that clients should trust: the roots of all chains, then those that a rollover has left behind, for as
// long as the CAs name them: certificates under them are still out.
func (rt *Runtime) roots() ([]*x509.Certificate, error) {
	roots, err := rootsOf(rt.cas)
	if err != nil {
		return nil, err
	}
	for _, name := range byName(rt.cas) {
		for _, ca := range rt.cas[name] {
			for _, der := range ca.Rollover {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					return nil, fmt.Errorf("backend %s, CA %s: %w", name, ca.Name, err)
				}
				// Links have the root's name for both, but are not signed by their own key.
				if bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil && !slices.ContainsFunc(roots, c.Equal) {
					roots = append(roots, c)
				}
			}
		}
	}
	return roots, nil
}

// rootsOf are the CA certificates at the end of each chain, the default CA's first.
func rootsOf(cas map[string][]backend.CA) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for _, name := range byName(cas) {
		for _, ca := range cas[name] {
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
