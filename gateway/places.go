package gateway

import (
	"context"
	"sync"
	"time"
)

// Bounds of what is worked on at once. There is none over all CAs: some that hang together would take the others' places.
const (
	workPerLook = 64 // rows that are leased in one commit
	workPerCA   = 16 // rows that ask one CA; and rows that ask none
)

// places bounds the rows of work that are done at once. No row waits for one: what has none is not leased.
type places struct {
	claiming sync.Mutex // one gives places away at a time

	mu    sync.Mutex
	taken map[string]int // by the CA that is asked (Work.Backend)
	freed chan struct{}  // has a value when a place became free since that was last read
}

func newPlaces() places { return places{taken: map[string]int{}, freed: make(chan struct{}, 1)} }

// of is how many rows may be begun that ask the CA.
func (p *places) of(backend string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return workPerCA - p.taken[backend]
}

func (p *places) take(backend string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[backend]++
}

func (p *places) leave(backend string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[backend]--; p.taken[backend] == 0 {
		delete(p.taken, backend)
	}
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// beginWork leases what is due, as far as there are places, begins it all at once, and says how many rows that are. doing ends with
// the last of them.
//
// No row waits for another under its lease, and no CA is asked after a deadline within it: whoever takes a row over
// may rely on that nobody else is at it.
func (g *Gateway) beginWork(ctx context.Context, doing *sync.WaitGroup) (int, error) {
	p := &g.places
	p.claiming.Lock()
	defer p.claiming.Unlock()
	deadline := time.Now().Add(g.opt.IssueTimeout) // before the leases begin, so that it ends before they do
	due, err := g.store.ClaimDue(ctx, g.lease(), workPerLook, p.of)
	if err != nil {
		return 0, err
	}
	for _, w := range due {
		p.take(w.Backend)
		doing.Go(func() {
			defer p.leave(w.Backend)
			_ = g.do(context.WithoutCancel(ctx), w, deadline)
		})
	}
	return len(due), nil
}
