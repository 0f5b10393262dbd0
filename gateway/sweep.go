package gateway

import (
	"context"
	"time"
)

// Retention is for how long the store keeps what is over. The audit trail has a time of its own.
type Retention struct {
	Refused time.Duration // what ended without a certificate: refused, denied, failed; 0: for ever
	Ended   time.Duration // what had a certificate, from when that has expired, and requests to revoke; 0: for ever
}

// Sweeps is the part of the Store that takes away what is over.
type Sweeps interface {
	// Sweep takes away, in commits of its own, at most about o.Limit rows of each: uses that have lapsed, transactions that ended
	// without a certificate, and transactions with their certificates. It reports whether more is to be taken away. Only one instance
	// sweeps at a time: the others take nothing, and do not wait. Audit events stay.
	//
	// What is open, has work, answers a repeat, or is referred to stays. So does a certificate whose predecessor may still be
	// renewed (ended before the same time): of that it says that it was renewed. Claims that do not lapse stay, for ever: a message
	// that had a certificate has no other one, and a device's count goes on.
	Sweep(ctx context.Context, o SweepOrder) (SweepResult, error)
}

// SweepOrder is what Sweep takes away.
type SweepOrder struct {
	Refused time.Time // what ended without a certificate before; zero: nothing
	Ended   time.Time // what had a certificate that expired before; zero: nothing
	Limit   int       // rows of each kind in one commit; 0: 64
}

// SweepResult is what Sweep took away.
type SweepResult struct {
	Uses, Refused, Ended int
	More                 bool // a batch was full
}

// sweepEvery is how often it is looked for what can be swept. Where a batch was full the next follows with the worker's next look.
const sweepEvery = time.Hour

// Sweep takes a batch away of what is over, if that is due by the clock. Run calls it each second.
func (g *Gateway) Sweep(ctx context.Context) {
	now := g.now()
	// A clock that was set back does not keep it from sweeping.
	if wait := g.sweepNext.Sub(now); wait > 0 && wait <= sweepEvery {
		return
	}
	keep := g.runtime.Load().Retention
	var o SweepOrder
	if keep.Refused > 0 {
		o.Refused = now.Add(-keep.Refused)
	}
	if keep.Ended > 0 {
		o.Ended = now.Add(-keep.Ended)
	}
	g.sweepNext = now.Add(sweepEvery)
	done, err := g.store.Sweep(ctx, o)
	g.swept.Uses, g.swept.Refused, g.swept.Ended = g.swept.Uses+done.Uses, g.swept.Refused+done.Refused, g.swept.Ended+done.Ended
	switch {
	case err != nil && ctx.Err() == nil:
		g.log.Error("what is over could not be swept, and is tried again in an hour", "err", err)
	case done.More:
		g.sweepNext = time.Time{}
	case g.swept != SweepResult{}:
		g.log.Info("what is over was swept", "refused", g.swept.Refused, "ended", g.swept.Ended, "uses", g.swept.Uses)
		g.swept = SweepResult{}
	}
}
