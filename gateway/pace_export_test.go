package gateway

import "context"

// Turn waits for a turn at a backend, as a request of the client does. nil when it has come.
func (g *Gateway) Turn(ctx context.Context, backend string, client uint64) error {
	if e := g.wait(ctx, backend, g.runtime.Load().Rates[backend], client, ""); e != nil {
		return e
	}
	return nil
}
