package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// gateSlack is how much each may be late without its being lost to the next: timers are no more exact.
	gateSlack = time.Millisecond
	// gateMost is how far this process may lag behind its turns before it takes no more of them.
	gateMost = 2 * time.Second
	// gateLeast is how many may be at the gate whatever the queue, so that a commit of several stops nobody.
	gateLeast = 4
)

// gate has issuances begin at the rate. A turn says when a request may go on to its intent's commit; commits take their time, end
// several together, and timers wake late. Without it a CA would see what was even come in bunches.
//
// It is of this process: replicas are kept apart by their turns, up to what each is late.
type gate struct {
	one  chan struct{} // who has the gate, which others wait for in the order in which they came
	last time.Time     // a step for each issuance, at most a burst before now: as turns are in the store
	held int           // at the gate
}

var errGate = errors.New("the CA's rate leaves no room in time")

// next is in how long an issuance may begin; when at once, it is taken to have begun.
func (t *gate) next(now time.Time, r Rate) time.Duration {
	if t.last.After(now) { // the clock went back
		t.last = now
	}
	due := t.last.Add(r.Every)
	if wait := due.Sub(now); wait > 0 {
		return wait
	}
	t.last = due
	if rested := now.Add(-r.Every*time.Duration(max(r.Burst, 1)-1) - gateSlack); due.Before(rested) {
		t.last = rested
	}
	return 0
}

// lags reports whether so many are at the gate that it helps nobody to take a turn.
func (t *gate) lags(r Rate) bool {
	return t.held > 1 && time.Duration(t.held-1)*r.Every > gateMost
}

// begins waits until this process may ask the transaction's CA for the certificate, within ctx's deadline. Its error says that the
// CA was not asked.
func (g *Gateway) begins(ctx context.Context, t *Transaction) error {
	rate := g.runtime.Load().Rates[t.Backend]
	if rate.Every == 0 || t.Protocol == Self {
		return nil
	}
	p := g.pacers.of(t.Backend, rate)
	p.mu.Lock()
	p.gate.held++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.gate.held--
		p.mu.Unlock()
	}()
	select {
	case p.gate.one <- struct{}{}:
		defer func() { <-p.gate.one }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		p.mu.Lock()
		wait := p.gate.next(g.now(), rate)
		p.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
			return errGate
		}
		if err := g.opt.Wait(ctx, wait); err != nil {
			return err
		}
	}
}

// beginsAgain takes another turn for a CA that is asked again since it broke off, or was never reached: a thousand such at once would
// be a storm of their own. They may wait longer than requests, so that they come before those.
func (g *Gateway) beginsAgain(ctx context.Context, t *Transaction) error {
	rate := g.runtime.Load().Rates[t.Backend]
	if rate.Every == 0 || t.Protocol == Self {
		return nil
	}
	most := 2 * paceMost
	if end, ok := ctx.Deadline(); ok {
		most = min(most, max(time.Until(end), 0))
	}
	wait, ok, err := g.store.Pace(ctx, t.Backend, rate.Every, max(rate.Burst, 1), most)
	switch {
	case err != nil:
		return fmt.Errorf("whose turn it is: %w", err)
	case !ok:
		return fmt.Errorf("%w: the next turn is in %v", errGate, wait.Round(time.Second))
	case wait > 0:
		if err := g.opt.Wait(ctx, wait); err != nil {
			return err
		}
	}
	return g.begins(ctx, t)
}
