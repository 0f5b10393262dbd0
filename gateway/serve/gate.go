package serve

import (
	"net/netip"
	"runtime"
	"sync"
)

// gate lets a few TLS handshakes compute at a time, so that a flood of them leaves the other processors to requests. Sources take turns:
// one that has a thousand handshakes waiting gets no more of them than one that has a single one.
type gate struct {
	mu    sync.Mutex
	free  int
	queue map[netip.Addr][]chan struct{} // those that wait, by source
	turns []netip.Addr                   // the sources of queue, whose turn is next first
}

// newGate lets half of the processors compute handshakes.
func newGate() *gate {
	return &gate{free: max(1, runtime.GOMAXPROCS(0)/2), queue: map[netip.Addr][]chan struct{}{}}
}

func (g *gate) enter(source netip.Addr) {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	if len(g.queue[source]) == 0 {
		g.turns = append(g.turns, source)
	}
	g.queue[source] = append(g.queue[source], turn)
	g.mu.Unlock()
	<-turn
}

// leave passes the turn on.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.turns) == 0 {
		g.free++
		return
	}
	source := g.turns[0]
	g.turns = g.turns[1:]
	waiting := g.queue[source]
	close(waiting[0])
	if len(waiting) == 1 {
		delete(g.queue, source)
		return
	}
	g.queue[source] = waiting[1:]
	g.turns = append(g.turns, source)
}
