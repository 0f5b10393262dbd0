package main

import (
	"context"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// OfflineConfig keeps requests while their CA cannot be asked.
type OfflineConfig struct {
	// Keep is how many requests may wait for the CA at once, 1 to 100000; further ones are refused. Default 10000.
	Keep int `yaml:"keep"`
	// For is how long one waits at most, 1m to 365d, before it is refused. Default 30d.
	For strictyaml.Duration `yaml:"for"`
}

const (
	defaultKeep = 10_000
	maxKeep     = 100_000
	defaultFor  = 30 * 24 * time.Hour
	maxFor      = 365 * 24 * time.Hour
)

// offline checks what backends say of requests that wait.
func (f *review) offline() {
	for _, name := range byName(f.c.Backends) {
		o, path := f.c.Backends[name].Offline, at("backends", name, "offline")
		if o == nil {
			continue
		}
		if o.Keep < 0 || o.Keep > maxKeep {
			f.fail(append(path, "keep"), "want 1 to %d", maxKeep)
		}
		if d := time.Duration(o.For); d != 0 && (d < time.Minute || d > maxFor) {
			f.fail(append(path, "for"), "want 1m to 365d")
		}
	}
}

// offline are those of the backends that have one.
func (c *Config) offline() map[string]gateway.Offline {
	all := map[string]gateway.Offline{}
	for name, b := range c.Backends {
		if b.Offline == nil {
			continue
		}
		o := gateway.Offline{Keep: b.Offline.Keep, For: time.Duration(b.Offline.For)}
		if o.Keep == 0 {
			o.Keep = defaultKeep
		}
		if o.For == 0 {
			o.For = defaultFor
		}
		all[name] = o
	}
	return all
}

// queued adds what waits for a CA to its state.
func (p *process) queued(ctx context.Context, b *admin.Backend) {
	if q, err := p.store.Queue(ctx, b.Name); err == nil && q.Length > 0 {
		b.Queued, b.QueuedSince = q.Length, gateway.IDTime(q.First)
	}
}

// queuedText is the line of `muster status` about what waits for a CA.
func queuedText(b *admin.Backend) string {
	return fmt.Sprintf("  %d requests wait until this CA can be asked, the first since %s: muster ls --state queued", b.Queued, b.QueuedSince.UTC().Format(time.RFC3339))
}
