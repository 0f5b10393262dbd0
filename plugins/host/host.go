package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// Plugin is a plugin kept running. It is a backend.Backend whose calls wait, within their context, for a restart
// that is under way.
type Plugin struct {
	cfg         Config
	run         *runDir
	exe         executable
	description *backend.Description
	ran         bool               // one that is assumed has; restart's alone
	assumed     bool               // it is Config.Assume: the plugin had not said it when Start returned
	stop        context.CancelFunc // ends supervise
	ended       chan struct{}      // supervise has

	mu       sync.Mutex
	current  *instance     // nil while none runs
	up       chan struct{} // closed while one runs
	reason   error         // why none runs
	held     error         // why calls are kept from it, nil while they are not
	unable   error         // of the newest Issue whose end counts: the CA can issue nothing
	unableAt time.Time
	restarts int
	closing  chan struct{} // closed by Close
	calls    int
	idle     chan struct{} // closed when closing and no call is under way
}

// Start launches the plugin, configures it and asks what it is, within ctx and Config.StartTimeout. The plugin then
// lives until Close, whatever becomes of ctx. An error of the plugin's own keeps its status. With Config.Assume, one whose CA does not
// answer (IsUnanswered) is no error.
func Start(ctx context.Context, c Config) (*Plugin, error) {
	p, err := newPlugin(c)
	if err != nil {
		return nil, err
	}
	i, d, err := p.launch(ctx)
	if p.cfg.Assume != nil && IsUnanswered(err) {
		p.assume(err)
		return p, nil
	}
	if err != nil {
		p.run.remove()
		return nil, fmt.Errorf("starting plugin %s: %w", p.cfg.Name, err)
	}
	p.description = d
	p.setUp(i)
	p.cfg.Log.Info("plugin started", "pid", i.proc.pid(), "backend", d.Name, "version", d.Version, "took", time.Since(i.proc.started).Round(time.Millisecond))
	life, stop := context.WithCancel(context.Background())
	p.stop = stop
	go p.supervise(life, i)
	return p, nil
}

// Validate launches the plugin, has it check the configuration and stops it. Nothing is configured.
func Validate(ctx context.Context, c Config) error {
	p, err := newPlugin(c)
	if err != nil {
		return err
	}
	defer p.run.remove()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	i, err := launch(ctx, &p.cfg, p.exe, p.run.sockets, func(*instance) {})
	if err != nil {
		return fmt.Errorf("starting plugin %s: %w", p.cfg.Name, err)
	}
	defer i.stop()
	return i.api.Validate(ctx, p.cfg.Config)
}

func newPlugin(c Config) (*Plugin, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("plugin %w", err)
	}
	p := &Plugin{cfg: c, ended: make(chan struct{}), up: make(chan struct{}), closing: make(chan struct{}), idle: make(chan struct{})}
	if p.run, err = newRunDir(c.Dir); err != nil {
		return nil, fmt.Errorf("plugin %s: run directory: %w", c.Name, err)
	}
	if p.exe, err = c.prepare(p.run); err != nil {
		p.run.remove()
		return nil, fmt.Errorf("plugin %s: %w", c.Name, err)
	}
	return p, nil
}

// launch makes an instance that is configured and described.
func (p *Plugin) launch(ctx context.Context) (*instance, *backend.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	i, err := launch(ctx, &p.cfg, p.exe, p.run.sockets, p.setDown)
	if err != nil {
		return nil, nil, err
	}
	d, err := i.ready(ctx)
	if err == nil {
		err = i.settle()
	}
	if err != nil {
		i.stop()
		return nil, nil, err
	}
	return i, d, nil
}

// setUp lets calls through to the instance, unless it has ended already.
func (p *Plugin) setUp(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i.isBroken() {
		p.reason = errors.New("its process ended")
		return
	}
	p.current, p.reason, p.unable = i, nil, nil
	close(p.up)
}

// setDown makes calls wait, when it is the instance they go to.
func (p *Plugin) setDown(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != i {
		return
	}
	p.current, p.reason = nil, errors.New("its process ended")
	p.up = make(chan struct{})
}

// supervise keeps an instance running until life ends.
func (p *Plugin) supervise(life context.Context, i *instance) {
	defer close(p.ended)
	failures := 0
	for i != nil {
		select {
		case <-life.Done():
			i.stop()
			p.cfg.Log.Info("plugin stopped", "status", i.proc.status)
			return
		case <-i.proc.exited:
		}
		i.condemn()
		i.stop()
		p.cfg.Log.Error("plugin exited", "pid", i.proc.pid(), "status", i.proc.status, "lived", time.Since(i.proc.started).Round(time.Millisecond))
		if i.served.Load() {
			failures = 0
		}
		i = p.restart(life, &failures)
	}
}

// restart launches until it succeeds, or returns nil when life ends.
func (p *Plugin) restart(life context.Context, failures *int) *instance {
	for {
		wait := p.cfg.backoff(*failures)
		*failures++
		if wait > 0 {
			select {
			case <-life.Done():
			case <-p.cfg.After(wait):
			}
		}
		if life.Err() != nil {
			return nil
		}
		i, d, err := p.launch(life)
		if err == nil {
			if err = p.describes(d); err != nil {
				i.stop()
			}
		}
		if err != nil {
			if life.Err() != nil {
				return nil
			}
			p.mu.Lock()
			p.reason = err
			p.mu.Unlock()
			level := slog.LevelError
			if p.assumed && !p.ran && IsUnanswered(err) {
				level = slog.LevelDebug // it was said
			}
			p.cfg.Log.Log(life, level, "plugin does not restart", "error", err, "attempt", *failures)
			continue
		}
		if p.assumed && !p.ran { // its start, at last
			p.ran = true
			p.setUp(i)
			p.cfg.Log.Info("plugin started", "pid", i.proc.pid(), "backend", d.Name, "version", d.Version)
			return i
		}
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
		p.setUp(i)
		p.cfg.Log.Warn("plugin restarted", "pid", i.proc.pid(), "took", time.Since(i.proc.started).Round(time.Millisecond))
		p.cfg.OnRestart(p.cfg.Name)
		return i
	}
}

// acquire waits for an instance and counts a call. past: one that Hold does not keep.
func (p *Plugin) acquire(ctx context.Context, past bool) (*instance, error) {
	for {
		p.mu.Lock()
		up, reason := p.up, p.reason
		if p.isClosing() {
			p.mu.Unlock()
			return nil, status.Errorf(codes.Unavailable, "%s: the plugin is being stopped", p.cfg.Name)
		}
		if p.held != nil && !past {
			defer p.mu.Unlock()
			return nil, backend.NotAsked(status.Errorf(codes.Unavailable, "%s: the plugin is not used: %v", p.cfg.Name, p.held))
		}
		if p.current != nil {
			defer p.mu.Unlock()
			p.calls++
			return p.current, nil
		}
		p.mu.Unlock()
		select {
		case <-up:
		case <-p.closing:
		case <-ctx.Done():
			// Whatever ended the wait: the call was never made.
			return nil, backend.NotAsked(status.Errorf(codes.Unavailable, "%s: the plugin does not run: %v (%v)", p.cfg.Name, reason, ctx.Err()))
		}
	}
}

func (p *Plugin) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	p.checkIdle()
}

// checkIdle needs the lock.
func (p *Plugin) checkIdle() {
	if p.isClosing() && p.calls == 0 {
		select {
		case <-p.idle:
		default:
			close(p.idle)
		}
	}
}

func (p *Plugin) isClosing() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// Close refuses new calls, waits within ctx for those under way, and stops the plugin. Its error says that calls
// were cut off. A second Close waits for the first one's end.
func (p *Plugin) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.isClosing() {
		close(p.closing)
	}
	p.checkIdle()
	p.mu.Unlock()
	var err error
	select {
	case <-p.idle:
	case <-ctx.Done():
		p.mu.Lock()
		err = fmt.Errorf("plugin %s: stopped with %d calls under way: %w", p.cfg.Name, p.calls, context.Cause(ctx))
		p.mu.Unlock()
	}
	p.stop()
	<-p.ended
	p.run.remove()
	return err
}

// Healthy says why no call can be answered now, or why the CA can issue nothing; nil while the plugin runs and can.
func (p *Plugin) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.isClosing():
		return fmt.Errorf("plugin %s is being stopped", p.cfg.Name)
	case p.held != nil:
		return p.held
	case p.current == nil:
		return fmt.Errorf("plugin %s does not run: %w", p.cfg.Name, p.reason)
	case p.unable != nil && p.cfg.Clock().Sub(p.unableAt) < unableFor:
		return fmt.Errorf("plugin %s can issue nothing: %w", p.cfg.Name, p.unable)
	}
	return nil
}

// unableFor is how long the word of a CA that it can issue nothing counts, when it is not asked again: whatever it left open is
// asked for again more often. Else nobody would ask any more who goes by it.
const unableFor = time.Minute

// noteAbility goes by the end of an Issue: whether the CA says that it can issue nothing (backend.Unable).
func (p *Plugin) noteAbility(err error) {
	unable := backend.IsUnable(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch was := p.unable != nil; {
	case unable:
		if p.unable, p.unableAt = err, p.cfg.Clock(); !was {
			p.cfg.Log.Error("the CA can issue nothing", "error", err)
		}
	case was && (err == nil || backend.Definite(err)):
		p.unable = nil
		p.cfg.Log.Info("the CA can issue again")
	}
}

// PID is the process ID of the plugin; 0 while it restarts.
func (p *Plugin) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return 0
	}
	return p.current.proc.pid()
}

// Restarts counts the restarts that succeeded.
func (p *Plugin) Restarts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts
}

// Description is what the plugin said of itself when it started, and says again at every restart.
func (p *Plugin) Description() *backend.Description {
	d := *p.description
	d.Forms, d.Overrides, d.Decides, d.Capabilities = slices.Clone(d.Forms), slices.Clone(d.Overrides), slices.Clone(d.Decides), slices.Clone(d.Capabilities)
	return &d
}

var _ slog.LogValuer = (*Plugin)(nil)

// LogValue is slog.LogValuer: the name, since the configuration may hold secrets.
func (p *Plugin) LogValue() slog.Value { return slog.StringValue(p.cfg.Name) }
