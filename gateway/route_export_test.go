package gateway

import (
	"context"
	"sync"
	"time"
)

const (
	BreakerTrips = breakerTrips
	BreakerFirst = breakerFirst
	BreakerMost  = breakerMost
	LateParts    = lateParts
)

// CheckCAs looks at the CAs that are due, and waits for what they say.
func (g *Gateway) CheckCAs(ctx context.Context) {
	var looking sync.WaitGroup
	g.checkCAs(ctx, &looking)
	looking.Wait()
}

// Breaker is a backend's state, and until when it is left alone.
func (g *Gateway) Breaker(name string) (string, time.Time) {
	b := g.breakers.of(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.String(), b.until
}
