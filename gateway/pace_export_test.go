package gateway

import (
	"context"
	"time"
)

// Turn waits for a turn at a backend, as a request of the client does. nil when it has come.
func (g *Gateway) Turn(ctx context.Context, backend string, client uint64) error {
	if e := g.wait(ctx, backend, g.runtime.Load().Rates[backend], client, ""); e != nil {
		return e
	}
	return nil
}

// NewGate is a gate of the rate: in how long who comes now may begin.
func NewGate(r Rate) func(now time.Time) time.Duration {
	t := &gate{}
	return func(now time.Time) time.Duration { return t.next(now, r) }
}
