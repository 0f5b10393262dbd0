package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// Who has the configuration read again, beside operators, who are named as the admin API knows them.
const (
	bySignal = "signal"
	byWatch  = "watch"

	byRollover = "rollover" // a CA has changed over, and files had changed since they were read
)

// maxReloadNote is how much of what is wrong with a configuration goes into the audit trail, in bytes: the log has all of it.
const maxReloadNote = 2 << 10

// reloadNote is a text as the audit trail takes it.
func reloadNote(text string) string {
	if len(text) <= maxReloadNote {
		return text
	}
	return strings.ToValidUTF8(text[:maxReloadNote], "") + "..."
}

var errStopping = errors.New("the gateway is stopping")

// reloads is what is known of the configuration that runs and of the orders to read it again.
type reloads struct {
	total   *prometheus.CounterVec
	success prometheus.Gauge
	at      prometheus.Gauge

	mu      sync.Mutex
	running admin.Configuration // with the last order
}

func newReloads(r prometheus.Registerer) (*reloads, error) {
	l := &reloads{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_reloads_total", Help: "Orders to read the configuration again, by what came of them (good, failed).",
		}, []string{"outcome"}),
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "muster_config_last_reload_successful", Help: "Whether the configuration that was read last is in force.",
		}),
		at: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "muster_config_last_reload_success_timestamp_seconds", Help: "When a configuration was last put into force.",
		}),
	}
	for _, c := range []prometheus.Collector{l.total, l.success, l.at} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	for _, outcome := range []string{"good", "failed"} {
		l.total.WithLabelValues(outcome)
	}
	return l, nil
}

// began notes the configuration that the gateway started with.
func (l *reloads) began(cfg *Config, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs(cfg, at)
}

// runs notes the configuration that is in force. It needs the lock.
func (l *reloads) runs(cfg *Config, at time.Time) {
	l.running = admin.Configuration{File: cfg.file, SHA256: cfg.sha256, Since: at.UTC(), Watched: cfg.Watch}
	l.success.Set(1)
	l.at.Set(float64(at.Unix()))
}

// ended notes what came of an order, cfg nil where nothing could be read, and returns what runs now.
func (l *reloads) ended(cfg *Config, by string, at time.Time, err error) admin.Configuration {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &admin.ReloadOutcome{At: at.UTC(), By: by, Good: err == nil}
	if cfg != nil {
		o.SHA256 = cfg.sha256
	}
	if err != nil {
		o.Error = err.Error()
		l.total.WithLabelValues("failed").Inc()
		l.success.Set(0)
	} else {
		l.total.WithLabelValues("good").Inc()
		l.runs(cfg, at)
	}
	l.running.LastReload = o
	return l.running
}

func (l *reloads) configuration() admin.Configuration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running
}

// reload reads the configuration and puts it into force, or changes nothing and says why: by an *admin.NotReloadedError when the
// configuration cannot be put into force. Every order comes here, and each reads the file when its turn comes.
func (p *process) reload(ctx context.Context, by string) (*admin.Reload, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ending, cancel)()
	if err := p.turn(ctx); err != nil {
		return nil, err
	}
	defer p.reloading.give()
	ctx, expire := context.WithTimeout(ctx, startTimeout) // which those before it do not use up
	defer expire()
	p.notices.reloading()
	came := "The last order to reload changed nothing: the log says why"
	defer func() { p.notices.ready(came) }()
	seen := lookAt(p.file)
	if len(seen) == maxNamed {
		p.log.Warn("the configuration has too many values to look for files in all of them: what changes in some is not seen", "values", maxNamed)
	}
	cfg, err := p.load()
	var done *admin.Reload
	if err != nil {
		err = &admin.NotReloadedError{Err: err}
	} else {
		done, err = p.replace(ctx, cfg, by, seen)
	}
	if p.ending.Err() != nil && err != nil {
		return nil, errStopping
	}
	now := p.clock()
	running := p.reloads.ended(cfg, by, now, err)
	if err != nil {
		p.log.Error("reload: nothing has changed", "by", by, "err", err)
		p.recordFailure(ctx, by, now, err)
		p.files.tell(p.runtime.Load().cfg.Watch, seen)
		return nil, err
	}
	done.Configuration = running
	came = "Serving, version " + version() + ", by a configuration that was read again"
	p.log.Info("reload: the configuration is in force", "by", by, "file", cfg.file, "sha256", cfg.sha256)
	p.logListeners()
	p.seen = seen.present()
	p.files.tell(cfg.Watch, p.seen)
	return done, nil
}

// turn waits until nobody else changes what runs; reloading.give ends it. The error is errStopping, or the context's.
func (p *process) turn(ctx context.Context) error {
	if err := p.reloading.take(ctx); err != nil {
		if p.ending.Err() != nil {
			return errStopping
		}
		return err
	}
	if p.ending.Err() != nil {
		p.reloading.give()
		return errStopping
	}
	return nil
}

// replace puts a configuration that was read again into force, once the audit trail has it: what nobody could tell of later does
// not happen.
func (p *process) replace(ctx context.Context, cfg *Config, by string, seen fileMarks) (*admin.Reload, error) {
	var done *admin.Reload
	var unrecorded error
	err := p.enforce(ctx, cfg, func(old, next *Runtime) error {
		done = changesBetween(old, next)
		done.Files = p.readAnew(seen)
		unrecorded = p.recordReload(ctx, by, cfg, done)
		return unrecorded
	})
	switch {
	case err == nil:
		return done, nil
	case unrecorded != nil:
		return nil, fmt.Errorf("the audit trail cannot take the reload: %w", err)
	case ctx.Err() != nil:
		return nil, err
	}
	return nil, &admin.NotReloadedError{Err: err}
}

// readAnew are the files beside the configuration that are not as they were when what runs was made.
func (p *process) readAnew(seen fileMarks) []string {
	return slices.DeleteFunc(seen.others(p.seen), func(path string) bool { return path == p.file })
}

func (p *process) recordReload(ctx context.Context, by string, cfg *Config, done *admin.Reload) error {
	if err := p.store.Audited(ctx); err != nil {
		return err
	}
	return p.store.Record(ctx, gateway.AuditEvent{
		Kind: "reloaded", At: p.clock(), Actor: by, Note: "configuration sha256 " + cfg.sha256 + ofBundle(p.data, cfg.sha256) + reloadSummary(done),
	})
}

// recordFailure tells the audit trail of an order that came to nothing; where that fails, the log alone has it.
func (p *process) recordFailure(ctx context.Context, by string, at time.Time, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := p.store.Record(ctx, gateway.AuditEvent{Kind: "reload-failed", At: at, Actor: by, Note: reloadNote(why.Error())}); err != nil {
		p.log.Error("a reload that failed is not in the audit trail", "err", err)
	}
}
