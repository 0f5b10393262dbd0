package gateway

import (
	"context"
	"sync"
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
