package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/admin/console"
	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/trace"
	"github.com/muster-pki/muster/plugins/host"
	"github.com/muster-pki/muster/protocols/est"
)

const (
	drainTimeout = 25 * time.Second // the CA has 20 s to answer what is under way
	closeTimeout = 10 * time.Second
	ownEvery     = 12 * time.Hour // how often the gateway's own certificates are looked at
	hashesAtOnce = 1              // argon2id computations, 12 MiB each, and as much again until the collector comes
	identityDir  = "identities"   // in the data directory, of RA certificates with their keys
	sealKey      = "seal.key"     // in the data directory

	crashOwnMade = "muster.own-made" // the gateway's own certificates are on the disk, not in force yet
)

// process is what outlives a configuration: store, gateway, listeners, metrics, and the Runtime that runs.
type process struct {
	data     string // directory of the gateway's own files, absolute
	runDir   string // of plugins' sockets
	hostname string
	instance string
	clock    func() time.Time
	crash    func(point string)
	log      *slog.Logger
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	restarts *prometheus.CounterVec
	spans    *prometheus.CounterVec
	hashing  *authz.Hashing
	heard    *hearing
	own      *serve.Own            // the TLS certificate
	owns     map[string]*serve.Own // the RA certificates, by raName; guarded by reloading
	spools   map[string]*watched   // folders of CMP messages, by path; guarded by reloading
	set      *serve.Set
	store    *store.Store
	sinks    []shippedTo // of the audit trail; guarded by reloading
	gateway  *gateway.Gateway
	admin    *admin.Server
	signedIn *console.Sessions // people at the console; nil where there never was one. Guarded by reloading
	lock     *os.File
	answered *est.Answers // to Digest challenges
	started  bool         // the audit trail has the start, and is to have the stop

	file    string                  // the configuration; like load set before start
	load    func() (*Config, error) // reads it
	reloads *reloads
	files   *fileWatch
	notices *notices  // to the service manager; nil for none. Set before start
	seen    fileMarks // the files of the configuration that runs, before they were read; guarded by reloading

	rolled      chan struct{}  // a CA was changed over through this gateway
	inForce     func(*Runtime) // called when one has taken the place of another; set before start, nil for nobody
	reloading   turns
	runtime     atomic.Pointer[Runtime]
	life        context.Context // ends when the work in the background shall
	stopWork    context.CancelFunc
	ending      context.Context // ends when nothing is put into force any more
	stopReloads context.CancelFunc
	work        sync.WaitGroup
}

// newProcess takes the data directory for this process and prepares what needs no configuration.
func newProcess(data, instance string, log *slog.Logger) (*process, error) {
	p := &process{
		data: data, runDir: filepath.Join(data, "run"), clock: time.Now, crash: crashFunc(), log: log,
		registry: prometheus.NewRegistry(), hashing: authz.NewHashing(hashesAtOnce), set: serve.NewSet(log),
		owns: map[string]*serve.Own{}, reloading: newTurns(), answered: &est.Answers{From: time.Now()}, rolled: make(chan struct{}, 1),
	}
	if p.crash == nil {
		p.crash = func(string) {}
	}
	p.life, p.stopWork = context.WithCancel(context.Background())
	p.ending, p.stopReloads = context.WithCancel(context.Background())
	p.files = newFileWatch(log, func(ctx context.Context) { _, _ = p.reload(ctx, byWatch) })
	var err error
	if p.reloads, err = newReloads(p.registry); err != nil {
		return nil, err
	}
	if p.hostname, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("this host's name: %w", err)
	}
	if p.instance = instance; instance == "" {
		p.instance = p.hostname
	}
	tlsDir := filepath.Join(data, "tls")
	for _, dir := range []string{data, tlsDir, filepath.Join(data, identityDir)} {
		if err := serve.MakeDir(dir); err != nil {
			return nil, err
		}
	}
	if p.lock, err = lockData(data); err != nil {
		return nil, err
	}
	p.heard = newHearing(filepath.Join(data, heardDir))
	p.own = serve.NewOwn(filepath.Join(tlsDir, "server.pem"), "TLS certificate", p.clock, log)
	p.calls = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "muster_plugin_call_duration_seconds", Help: "Calls of CA plugins, by what the gateway got.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
	}, []string{"backend", "method", "code"})
	p.spans = trace.NewCounter()
	p.restarts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_plugin_restarts_total", Help: "Restarts of CA plugins.",
	}, []string{"backend"})
	for _, c := range []prometheus.Collector{p.calls, p.restarts, p.set, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := p.registry.Register(c); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// lockData keeps a second gateway out of the directory for as long as this process lives.
func lockData(data string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another gateway runs on %s: stop it, or choose another directory by --data", data)
		}
		return nil, fmt.Errorf("locking %s: %w", data, err)
	}
	return f, nil
}

// watch counts a plugin's calls and restarts.
func (p *process) watch(h *host.Config) {
	traceCalls(h)
	name := h.Name
	h.OnRestart = func(string) { p.restarts.WithLabelValues(name).Inc() }
	h.OnCall = func(_, method string, code codes.Code, took time.Duration) {
		p.calls.WithLabelValues(name, method, code.String()).Observe(took.Seconds())
	}
}

// stageDeps is what stages are made with.
func (p *process) stageDeps(cfg *Config, sealer *seal.Sealer) stageDeps {
	known := lookUps(p.store)
	return stageDeps{
		Dir: cfg.dir, Certs: known, Secrets: known, Devices: known, Challenges: known, Opener: sealer, Clock: p.clock, Log: p.log, Hashing: p.hashing,
	}
}

// start opens the store and puts the first configuration into force. Listeners are open when it returns.
func (p *process) start(ctx context.Context, cfg *Config) error {
	if path, ok := strings.CutPrefix(cfg.storeDSN(), "sqlite:"); ok {
		if p.served() && !holdsSomething(path) {
			p.log.Warn("the store is gone, and a new, empty one is made: certificates issued before cannot be renewed by themselves, and requests repeated from before get new ones; if it was lost, stop and restore it", "file", path)
		}
		if err := serve.MakeDir(filepath.Dir(path)); err != nil {
			return cfg.fault(at("store"), "%v", err)
		}
	}
	var err error
	key, err := p.auditKey()
	if err != nil {
		return err
	}
	if p.store, err = store.Open(ctx, cfg.storeDSN(), store.Options{
		Instance: p.instance, Log: p.log, AuditKey: key, AuditHead: filepath.Join(p.data, auditHead),
	}); err != nil {
		return cfg.fault(at("store"), "%v", err)
	}
	if err := p.registerStore(); err != nil {
		return err
	}
	if p.gateway, err = gateway.New(gateway.Options{
		Store: p.store, Clock: p.clock, Log: p.log, Metrics: p.registry, Crash: p.crash, CAChanged: p.caChanged, Trace: p.begin,
		IssueTimeout: issueTimeout(),
	}); err != nil {
		return err
	}
	if err := p.openAdmin(); err != nil {
		return err
	}
	if err := p.apply(ctx, cfg); err != nil {
		return err
	}
	now := p.clock()
	if err := p.recorded(p.store.RecordSigned(ctx, gateway.AuditEvent{Kind: "started", At: now, Actor: p.instance, Note: "configuration sha256 " + cfg.sha256 + "; version " + version()})); err != nil {
		return fmt.Errorf("the audit trail cannot take the start: %w", err)
	}
	p.started = true
	p.reloads.began(cfg, now)
	p.files.tell(cfg.Watch, p.seen)
	p.work.Go(func() { p.files.run(p.life) })
	p.work.Go(p.renewOwn)
	p.work.Go(p.followCAs)
	p.work.Go(p.keepAudit)
	return nil
}

// served reports whether a gateway has run on the data directory before.
func (p *process) served() bool { return holdsSomething(filepath.Join(p.data, "tls", "server.pem")) }

func holdsSomething(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// apply puts the first configuration into force, or fails and changes nothing.
func (p *process) apply(ctx context.Context, cfg *Config) error {
	if err := p.turn(ctx); err != nil {
		return err
	}
	defer p.reloading.give()
	return p.enforce(ctx, cfg, nil)
}

// enforce puts a configuration into force, or fails and changes nothing. All that can fail is done before anybody sees anything of it:
// plugins run, sockets are open, the gateway's own certificates are there. record is asked last, before the change; nil for nobody.
// The caller has the turn.
func (p *process) enforce(ctx context.Context, cfg *Config, record func(old, next *Runtime) error) error {
	old := p.runtime.Load()
	rt, err := p.build(ctx, cfg, old)
	if err != nil {
		return err
	}
	change, err := p.set.Prepare(rt.specs)
	if err != nil {
		p.abandon(rt, old)
		return cfg.unopened(err)
	}
	spools, err := p.openSpools(rt)
	if err != nil {
		change.Abort()
		p.abandon(rt, old)
		return err
	}
	undo := func(err error) error {
		change.Abort()
		spools.abort()
		p.abandon(rt, old)
		return err
	}
	if old == nil { // nobody is served yet, and its own certificates may need the worker
		p.gateway.Use(rt.answers)
		p.work.Go(func() { p.gateway.Run(p.life) })
	}
	unship, err := p.ship(ctx, rt)
	if err != nil {
		return undo(err)
	}
	undo = func(err error) error {
		unship()
		change.Abort()
		spools.abort()
		p.abandon(rt, old)
		return err
	}
	use, err := p.prepareOwn(ctx, rt, rt.cas)
	if err != nil {
		return undo(err)
	}
	if old != nil {
		p.crash(crashOwnMade)
	}
	if record != nil {
		if err := record(old, rt); err != nil {
			return undo(err)
		}
	}

	// From here on nothing fails. A request goes by one Runtime, the old one or this, whatever has been changed so far.
	p.gateway.Use(rt.answers)
	p.runtime.Store(rt)
	use()
	p.watchSpools(spools)
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	drained := change.Commit(drain)
	p.work.Go(func() {
		defer cancel()
		select {
		case <-drained:
		case <-p.life.Done():
		}
	})
	p.warnOfEnds(rt)
	p.tellSilent(rt)
	for name, cas := range rt.cas {
		p.keepHeard(rt, name, cas)
	}
	if old == nil {
		return nil
	}
	if p.inForce != nil {
		p.inForce(rt)
	}
	rt.before = old.retired
	old.hangUp() // not only when it retires: reloads may come faster than that
	p.work.Go(func() { p.retire(old, rt) })
	return nil
}

// retire stops what a reload left behind, once no request needs it.
func (p *process) retire(old, next *Runtime) {
	latest := time.After(retireLatest)
	select {
	case <-time.After(retireSoonest):
	case <-p.life.Done():
	}
	old.leaves(latest, p.life.Done())
	p.abandon(old, next)
	close(old.retired)
}

// renewOwn replaces the gateway's own certificates in time.
func (p *process) renewOwn() {
	tick := time.NewTicker(ownEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-tick.C:
			if p.turn(p.ending) != nil {
				return
			}
			rt := p.runtime.Load()
			if use, err := p.prepareOwn(p.ending, rt, p.currentCAs(p.ending, rt)); err != nil {
				p.log.Error("the gateway's own certificates", "err", err)
			} else {
				use()
			}
			p.warnOfEnds(rt)
			p.reloading.give()
		}
	}
}

// stop drains the listeners, ends the work, stops the plugins and closes the store. Requests under way have until
// ctx ends.
func (p *process) stop(ctx context.Context) error {
	var errs []error
	// A reload that is under way ends, either way, and none begins: the listeners that are drained are the last ones.
	p.stopReloads()
	errs = append(errs, p.reloading.take(ctx))
	errs = append(errs, p.set.Drain(ctx))
	p.stopWork()
	if p.signedIn != nil {
		p.signedIn.Close()
	}
	if p.admin != nil {
		errs = append(errs, p.admin.Shutdown(ctx))
	}
	p.work.Wait()
	if rt := p.runtime.Load(); rt != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		for _, name := range byName(rt.plugins) {
			errs = append(errs, rt.plugins[name].plugin.Close(closing))
		}
		p.closeTracer(rt.tracer)
	}
	if p.store != nil {
		p.recordStop(ctx)
		errs = append(errs, p.store.Close())
	}
	errs = append(errs, p.lock.Close())
	return errors.Join(errs...)
}
