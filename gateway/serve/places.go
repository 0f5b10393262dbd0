package serve

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// places are the connections that one socket may have open. When all are taken, a new client gets the place of the connection that
// has waited longest for its client: in the handshake, between two requests, for a header or for a body. One whose request has
// arrived whole keeps its place until it is answered. A source that has as many as one may have gives up one of its own likewise.
//
// Their numbers can change while the socket is open: connections beyond lower ones live on until a new client needs the place.
type places struct {
	freed     chan struct{} // holds one element when there may be room again; for the one that accepts
	idleGrace time.Duration // of a drain

	mu      sync.Mutex
	bounds  bounds
	open    int
	waiting list.List // of *conn, the longest first
	sources map[netip.Addr]*source
	evicted uint64 // closed, since all places were taken
	crowded uint64 // closed, since their source had all of its own
}

// bounds are those of a Spec.
type bounds struct {
	all     int
	each    int            // of one source
	proxies []netip.Prefix // which each does not bind
}

// source is where connections come from: an IPv4 address, or an IPv6 network of 64 bits, which is one customer's.
type source struct {
	open    int
	waiting list.List // of *conn, the longest first
}

func newPlaces(b bounds) *places {
	return &places{freed: make(chan struct{}, 1), idleGrace: idleGrace, bounds: b, sources: map[netip.Addr]*source{}}
}

// sourceOf is the key of a peer among the sources.
func sourceOf(peer netip.Addr) netip.Addr {
	peer = peer.Unmap().WithZone("")
	if peer.Is6() {
		if p, err := peer.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return peer
}

// admission is what became of a new connection.
type admission int

const (
	admitted admission = iota
	crowded            // its source has as many as one may have, each with a request under way
	full               // all have a request under way: freed tells when to ask again
)

// admit gives a new connection a place, and says which one had to give up its own for it, nil for none; the caller closes that one.
func (p *places) admit(c *conn) (evicted *conn, a admission) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sources[c.source]
	if s == nil {
		s = &source{}
	}
	switch {
	case s.open >= p.bounds.each && !within(p.bounds.proxies, c.peer):
		p.crowded++
		if evicted = front(&s.waiting); evicted == nil {
			return nil, crowded
		}
	case p.open >= p.bounds.all:
		if evicted = front(&p.waiting); evicted == nil {
			return nil, full
		}
		p.evicted++
	}
	if evicted != nil {
		p.remove(evicted)
	}
	p.sources[c.source] = s // remove may have taken it away
	p.open++
	s.open++
	p.enqueue(c, s)
	return evicted, admitted
}

// evict takes the place of the connection that has waited longest, nil when none waits. The caller closes it.
func (p *places) evict() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := front(&p.waiting)
	if c != nil {
		p.evicted++
		p.remove(c)
	}
	return c
}

func front(l *list.List) *conn {
	if e := l.Front(); e != nil {
		return e.Value.(*conn)
	}
	return nil
}

func (p *places) enqueue(c *conn, s *source) {
	c.among, c.amongOwn = p.waiting.PushBack(c), s.waiting.PushBack(c)
	p.tell()
}

func (p *places) dequeue(c *conn) {
	if c.among != nil {
		p.waiting.Remove(c.among)
		p.sources[c.source].waiting.Remove(c.amongOwn)
		c.among, c.amongOwn = nil, nil
	}
}

// waits begins the connection's wait for its client, unless it waits already.
func (p *places) waits(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.gone && c.among == nil {
		p.enqueue(c, p.sources[c.source])
	}
}

// busy ends its wait.
func (p *places) busy(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dequeue(c)
}

// idle begins its wait anew: its client has been answered.
func (p *places) idle(c *conn) {
	p.busy(c)
	p.waits(c)
}

// give gives its place back, once.
func (p *places) give(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(c)
}

func (p *places) remove(c *conn) {
	if c.gone {
		return
	}
	p.dequeue(c)
	c.gone = true
	p.open--
	s := p.sources[c.source]
	if s.open--; s.open == 0 {
		delete(p.sources, c.source)
	}
	p.tell()
}

// allow sets how many there are.
func (p *places) allow(b bounds) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bounds = b
	p.tell()
}

func (p *places) tell() {
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// usage is what metrics and log tell of them.
type usage struct {
	open, all        int
	evicted, crowded uint64
}

func (p *places) usage() usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return usage{p.open, p.bounds.all, p.evicted, p.crowded}
}
