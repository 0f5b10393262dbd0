package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// silent is a backend whose CA did not answer when a Runtime was made: it is known as it was last heard.
type silent struct {
	heard time.Time
	since time.Time // when it was asked in vain
	why   error
}

func (s *silent) Error() string {
	return fmt.Sprintf("its CA has not answered since the gateway asked it at %s (%v): it is known as it was heard at %s, and asked for nothing until it answers",
		s.since.UTC().Format(time.RFC3339), s.why, s.heard.UTC().Format(time.RFC3339))
}

// silence are the backends of a Runtime that are silent. They get fewer while it runs.
type silence struct {
	mu sync.Mutex
	by map[string]*silent
}

func (s *silence) of(name string) *silent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[name]
}

func (s *silence) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return byName(s.by)
}

func (s *silence) begins(name string, one *silent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[string]*silent{}
	}
	s.by[name] = one
}

func (s *silence) ends(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, name)
}

// recallable reports whether a start can go by what was last heard of a backend. The local CA's directories are one process's at a time: it is
// here, or it is not.
func (c *Config) recallable(name string) bool { return len(c.holds(name)) == 0 }

// recollect finds what was last heard of the plugins that a Runtime takes over: it is younger than any file.
func (rt *Runtime) recollect(old *Runtime, now time.Time) {
	for name, r := range rt.plugins {
		if old == nil || old.plugins[name] != r || len(old.cas[name]) == 0 {
			continue
		}
		at := now
		if s := old.silence.of(name); s != nil {
			at = s.heard
		}
		rt.recalled[name] = recalled{heard: &heard{Backend: name, At: at, Description: *r.plugin.Description(), CAs: old.cas[name]}}
	}
}

// recalled is what hearing.recall gave.
type recalled struct {
	heard *heard
	err   error
}

// unanswered reports whether an error of CACertificates says that the CA does not answer now, and not that it does, and refuses.
func unanswered(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted:
		return true
	}
	return false
}

// asked is what a backend told, or is known to have told.
type asked struct {
	cas    []backend.CA
	silent *silent // nil: it told now
	err    error
}

// ask asks all backends, side by side.
func (rt *Runtime) ask(ctx context.Context, now time.Time) map[string]asked {
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := map[string]asked{}
	for name := range rt.plugins {
		wg.Go(func() {
			one := rt.askOne(ctx, name, now)
			mu.Lock()
			defer mu.Unlock()
			all[name] = one
		})
	}
	wg.Wait()
	return all
}

func (rt *Runtime) askOne(ctx context.Context, name string, now time.Time) asked {
	plugin, known := rt.plugins[name].plugin, rt.recalled[name]
	if known.heard != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, heardCall)
		defer cancel()
	}
	var cas []backend.CA
	var err error
	if plugin.Assumed() && plugin.PID() == 0 {
		_, err = plugin.Inquire(ctx)
	}
	if err == nil {
		cas, err = casOf(ctx, plugin)
	}
	switch {
	case err == nil:
		return asked{cas: cas}
	case known.heard != nil && (unanswered(err) || plugin.Assumed()):
		return asked{cas: known.heard.CAs, silent: &silent{heard: known.heard.At, since: now, why: err}}
	}
	return asked{err: fmt.Errorf("its CA has to answer when the gateway starts, and does not: %s%s", status.Convert(err).Message(), known.way(err))}
}

// way says what can be done about a CA that does not answer and is not known.
func (r recalled) way(err error) string {
	if r.err == nil || !unanswered(err) {
		return ""
	}
	return fmt.Sprintf("; %v, so that the gateway cannot start without it: see that it can be reached from here, or take the backend out of the configuration until it can", r.err)
}

// furnishSilent has a Runtime go by what was last heard of the backends that are silent. A plugin that it has started is held: whatever its CA is
// when it comes back, nobody has looked at it. One that another Runtime uses was looked at, and goes on.
func (rt *Runtime) furnishSilent(old *Runtime) {
	rt.gateway.Known = map[string]*gateway.Known{}
	for _, name := range rt.silence.names() {
		s := rt.silence.of(name)
		rt.gateway.Known[name] = &gateway.Known{CAs: rt.cas[name], Heard: s.heard, Why: s.why}
		if r := rt.plugins[name]; old == nil || old.plugins[name] != r {
			r.plugin.Hold(s)
		}
	}
}

// tellSilent says which CAs a Runtime that is in force goes without.
func (p *process) tellSilent(rt *Runtime) {
	for _, name := range rt.silence.names() {
		s := rt.silence.of(name)
		p.log.Error("a CA does not answer: the gateway goes by what it last heard of it", "backend", name, "heard", s.heard.UTC().Format(time.RFC3339), "err", s.why,
			"means", rt.meaning(name), "asked_again_every", silentEvery)
	}
}

// meaning says what it means for requests that a backend is silent.
func (rt *Runtime) meaning(name string) string {
	var covered, waiting []string
	for _, profile := range byName(rt.cfg.Profiles) {
		all := rt.cfg.Profiles[profile].each()
		if !slices.ContainsFunc(all, func(one *ProfileConfig) bool { return one.Backend == name }) {
			continue
		}
		if slices.ContainsFunc(all, func(one *ProfileConfig) bool { return rt.silence.of(one.Backend) == nil }) {
			covered = append(covered, profile)
		} else {
			waiting = append(waiting, profile)
		}
	}
	switch {
	case len(covered)+len(waiting) == 0:
		return "no profile uses it"
	case len(waiting) == 0:
		return fmt.Sprintf("requests of %s are issued by the other CA of the profile", strings.Join(covered, ", "))
	case len(covered) == 0:
		return fmt.Sprintf("requests of %s wait or are told to come back, as for any CA that is down", strings.Join(waiting, ", "))
	}
	return fmt.Sprintf("requests of %s are issued by the other CA of the profile; those of %s wait or are told to come back, as for any CA that is down", strings.Join(covered, ", "), strings.Join(waiting, ", "))
}

// keepHeard keeps what the CAs of a Runtime that is in force have told.
func (p *process) keepHeard(rt *Runtime, name string, cas []backend.CA) {
	r := rt.plugins[name]
	if r == nil || len(cas) == 0 || !rt.cfg.recallable(name) || rt.silence.of(name) != nil || r.plugin.Held() != nil {
		return
	}
	err := p.heard.keep(&heard{Backend: name, Configuration: heardUnder(r.key), At: p.clock().UTC().Truncate(time.Second), Description: *r.plugin.Description(), CAs: cas})
	if err != nil {
		p.log.Warn("what a CA told cannot be kept: should it not answer at the next start, the gateway will not start", "backend", name, "err", err)
	}
}
