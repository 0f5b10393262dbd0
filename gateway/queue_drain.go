package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// How often a CA is tried for which requests wait, and how long one of them may keep the others waiting.
const (
	drainFirst  = time.Second     // twice as long each time that it cannot be asked
	drainMost   = 5 * time.Second // so that what waits goes on this soon after the CA is back
	drainFaults = 3               // times that a CA which answers others has no answer for the first: then it goes the worker's way
	drainBusy   = time.Minute     // between two that go that way since the CA has no time for them: it may have none for anybody, and the order is lost
)

// drains is what this process knows of the queues that it empties.
type drains struct {
	mu sync.Mutex
	by map[string]*drain
}

type drain struct {
	busy   bool
	again  time.Time // not before
	pause  time.Duration
	head   string    // whose answers were lost
	faults int       // how often, while the CA answered others
	passed time.Time // when one was passed last that the CA had no time for
}

// keepDraining empties the queues of CAs that can be asked again, until ctx ends and what it had begun is done.
func (g *Gateway) keepDraining(ctx context.Context) {
	var doing sync.WaitGroup
	defer doing.Wait()
	tick := time.NewTicker(workEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := g.beginDrains(ctx, &doing); err != nil && ctx.Err() == nil {
			g.log.Error("the queues cannot be read", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Drain empties the queues of CAs that it is time to try, as far as they can be asked. Tests call it instead of Run.
func (g *Gateway) Drain(ctx context.Context) error {
	var doing sync.WaitGroup
	defer doing.Wait()
	return g.beginDrains(ctx, &doing)
}

func (g *Gateway) beginDrains(ctx context.Context, doing *sync.WaitGroup) error {
	all, err := g.store.Queues(ctx)
	if err != nil {
		return err
	}
	g.meter.queued.Reset()
	for _, q := range all {
		g.meter.queued.WithLabelValues(q.Backend).Set(float64(q.Length))
		d := g.drains.begin(q.Backend, g.now())
		if d == nil {
			continue
		}
		doing.Go(func() { g.drain(ctx, q.Backend, d) })
	}
	return nil
}

// begin is the drain of a backend's queue, nil when it is under way or its CA is left alone for a while.
func (all *drains) begin(name string, now time.Time) *drain {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.by == nil {
		all.by = map[string]*drain{}
	}
	d := all.by[name]
	if d == nil {
		d = &drain{}
		all.by[name] = d
	}
	if d.busy || now.Before(d.again) {
		return nil
	}
	d.busy = true
	return d
}

// end notes how it ended: failed when the CA cannot be asked.
func (all *drains) end(d *drain, now time.Time, failed bool) {
	all.mu.Lock()
	defer all.mu.Unlock()
	d.busy = false
	if !failed {
		d.pause, d.again = 0, time.Time{}
		return
	}
	d.pause = min(max(2*d.pause, drainFirst), drainMost)
	d.again = now.Add(d.pause)
}

// drain asks a CA for what waits for it, one after the other, until nothing does or it cannot be asked.
func (g *Gateway) drain(ctx context.Context, name string, d *drain) {
	failed, done := false, 0
	defer func() {
		g.drains.end(d, g.now(), failed)
		if done > 0 {
			g.log.Info("a CA was asked for what waited for it", "backend", name, "requests", done)
		}
	}()
	for ctx.Err() == nil {
		if unhealthy(g.runtime.Load(), name) != nil && d.pause > 0 { // as it was when that was last told: a claim would be a commit, for days
			failed = true
			return
		}
		deadline := time.Now().Add(g.opt.IssueTimeout) // before the lease begins, so that it ends before the lease does
		w, err := g.store.ClaimQueued(ctx, name, g.lease())
		if errors.Is(err, ErrNotFound) {
			return
		}
		if err == nil {
			err = g.askFirst(context.WithoutCancel(ctx), *w, d, deadline)
		}
		if err != nil {
			failed = true
			return
		}
		done++
	}
}

// askFirst asks for the first of a queue. Its error says that it stays the first.
func (g *Gateway) askFirst(ctx context.Context, w Work, d *drain, deadline time.Time) error {
	attempt, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	_, err := shielded(g, func() (struct{}, error) { return struct{}{}, g.takeFirst(attempt, w, d) })
	g.meter.work.WithLabelValues(string(w.Kind), outcomeOf(err)).Inc()
	if err == nil {
		return nil
	}
	level := slog.LevelWarn
	if d.pause > 0 { // told before: a link may be down for days
		level = slog.LevelDebug
	}
	g.log.Log(ctx, level, "a CA cannot be asked for what waits for it", "backend", w.Backend, "id", w.Transaction, "attempts", w.Attempts, "err", err)
	ctx, cancel = context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if failed := g.store.Postpone(ctx, w, neverDue, err.Error()); failed != nil && !errors.Is(failed, ErrStale) { // settled has given it back, or this does
		g.log.Error("work could not be postponed", "id", w.Transaction, "kind", w.Kind, "err", failed)
	}
	return err
}

func (g *Gateway) takeFirst(ctx context.Context, w Work, d *drain) error {
	t, err := g.store.Transaction(ctx, w.Transaction)
	if err != nil {
		return err
	}
	rt := g.runtime.Load()
	a := &ask{t: t, epoch: w.Epoch, backend: rt.Backends[t.Backend], desc: rt.descriptions[t.Backend], queued: true}
	if a.backend == nil || a.desc == nil {
		return fmt.Errorf("%w: %s", errNoBackend, t.Backend)
	}
	if err := unhealthy(rt, t.Backend); err != nil {
		return err
	}
	land := g.takeOff(t.ID)
	defer land()
	defer func() { a.call.drop() }()
	if t.State == StateQueued {
		err = g.askQueued(ctx, a)
	} else {
		err = g.askQueuedAgain(ctx, a)
	}
	if err == nil || !a.silent || a.desc.Idempotency == backend.IdempotencyNone {
		return err
	}
	return g.keepsOthersWaiting(ctx, a, d, err)
}

// keepsOthersWaiting counts the answers that the first of a queue did not get from a CA that answers others. One that has had enough
// chances leaves the queue: unknown, and the worker's. So does one that the CA has no time for, since that may be what it says of one device alone.
func (g *Gateway) keepsOthersWaiting(ctx context.Context, a *ask, d *drain, why error) error {
	if _, err := shielded(g, func() (*caList, error) { return listCAs(ctx, a.backend) }); err != nil {
		return why
	}
	if d.head != a.t.ID {
		d.head, d.faults = a.t.ID, 0
	}
	if d.faults++; d.faults < drainFaults {
		return why
	}
	if notNow(why) {
		now := g.now()
		if now.Sub(d.passed).Abs() < drainBusy {
			return why
		}
		d.passed = now
	}
	a.queued, a.passed = false, true
	g.log.Error("a CA that answers others does not answer for this request: it lets the others pass", "id", a.t.ID, "backend", a.t.Backend, "err", why)
	if a.returned {
		epoch, err := g.store.LeaseWork(ctx, a.t.ID, g.lease())
		if err != nil {
			return err
		}
		a.epoch = epoch
	}
	return g.settled(ctx, a, nil, errors.New(why.Error()))
}
