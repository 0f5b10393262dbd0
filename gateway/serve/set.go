package serve

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
)

// Set is the listeners of a process. A reload changes it as a whole or not at all: Prepare opens what is new, then
// Commit swaps handlers and TLS policies of what stays and closes what is gone. One change is made at a time.
type Set struct {
	log   *slog.Logger
	gate  *gate
	limit func() (uint64, error) // on open files

	mu      sync.Mutex
	servers map[string]*server
	told    uint64 // how many open files were missed in the log
	running sync.WaitGroup
}

// NewSet makes an empty set.
func NewSet(log *slog.Logger) *Set {
	return &Set{log: log, gate: newGate(), limit: descriptors, servers: map[string]*server{}}
}

// Change is a prepared change of a Set. Exactly one of Commit and Abort is called.
type Change struct {
	set   *Set
	specs map[string]Spec
	next  map[string]*server
	fresh map[string]*server
}

// ListenError says which listener cannot be opened.
type ListenError struct {
	Listener string
	Err      error
}

func (e *ListenError) Error() string { return "listener " + e.Listener + ": " + e.Err.Error() }

func (e *ListenError) Unwrap() error { return e.Err }

// Prepare opens the sockets that specs need and the set does not have. A socket is kept when its address is what it was, be it
// under another name. The error is a *ListenError, and nothing has changed.
func (s *Set) Prepare(specs map[string]Spec) (*Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{set: s, specs: specs, next: map[string]*server{}, fresh: map[string]*server{}}
	taken := map[*server]bool{}
	keep := func(name string, spec Spec, srv *server) {
		if srv != nil && !taken[srv] && c.next[name] == nil && srv.address == spec.Address {
			c.next[name] = srv
			taken[srv] = true
		}
	}
	for name, spec := range specs {
		keep(name, spec, s.servers[name])
	}
	for name, spec := range specs {
		for _, srv := range s.servers {
			// A port of 0 says nothing about which socket is meant.
			if !strings.HasSuffix(spec.Address, ":0") {
				keep(name, spec, srv)
			}
		}
	}
	for name, spec := range specs {
		if c.next[name] != nil {
			continue
		}
		srv, err := open(name, spec, s.gate, s.log)
		if err != nil {
			c.Abort()
			return nil, err
		}
		c.next[name], c.fresh[name] = srv, srv
	}
	return c, nil
}

// Addr is where the named listener listens, or will after Commit; nil for an unknown one.
func (c *Change) Addr(name string) net.Addr {
	if srv := c.next[name]; srv != nil {
		return srv.socket.Addr()
	}
	return nil
}

// Abort closes what Prepare opened.
func (c *Change) Abort() {
	for _, srv := range c.fresh {
		srv.stopAccepting()
	}
}

// Commit makes the change. Listeners that are gone end within ctx, in the background; ended is closed when all of them have.
func (c *Change) Commit(ctx context.Context) (ended <-chan struct{}) {
	s := c.set
	s.mu.Lock()
	defer s.mu.Unlock()
	old := maps.Clone(s.servers)
	s.servers = c.next
	s.tellDescriptors(c.specs)
	for name, srv := range c.next {
		spec := c.specs[name]
		srv.places.allow(spec.bounds())
		srv.policy.Store(&policy{spec.TLS, spec.Handler})
		if c.fresh[name] != nil {
			s.running.Go(srv.run)
		}
	}
	var gone sync.WaitGroup
	for _, srv := range old {
		if !contains(c.next, srv) {
			gone.Add(1)
			s.running.Go(func() {
				defer gone.Done()
				if err := srv.drain(ctx); err != nil {
					s.log.Warn("draining", "err", err)
				}
			})
		}
	}
	done := make(chan struct{})
	s.running.Go(func() {
		gone.Wait()
		close(done)
	})
	return done
}

func contains(m map[string]*server, srv *server) bool {
	for _, v := range m {
		if v == srv {
			return true
		}
	}
	return false
}

// Addrs is where the listeners listen.
func (s *Set) Addrs() map[string]net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]net.Addr, len(s.servers))
	for name, srv := range s.servers {
		all[name] = srv.socket.Addr()
	}
	return all
}

// Drain stops all listeners: no more clients are accepted, requests under way have until ctx ends, what remains is
// cut off. It returns when every listener has ended.
func (s *Set) Drain(ctx context.Context) error {
	s.mu.Lock()
	servers := s.servers
	s.servers = map[string]*server{}
	s.mu.Unlock()
	errs := make(chan error, len(servers))
	for _, srv := range servers {
		go func() { errs <- srv.drain(ctx) }()
	}
	var all []error
	for range servers {
		all = append(all, <-errs)
	}
	s.running.Wait()
	return errors.Join(all...)
}
