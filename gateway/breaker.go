package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// Bounds of a breaker.
const (
	breakerTrips = 5                // answers in a row that say that the CA cannot
	breakerFirst = 5 * time.Second  // for which it is left alone then; twice as long each time that it still cannot
	breakerMost  = 60 * time.Second // at most
	breakerCheck = 10 * time.Second // for a CA that is looked at to answer
	lateParts    = 4                // of Options.IssueTimeout: a call that takes longer than one of them, while nobody else is answered either, is one that gets no answer
)

// breakerState is whether a CA is asked, where others can be asked instead.
type breakerState int

const (
	breakerClosed breakerState = iota // it is
	breakerHalf                       // it has answered when it was looked at: one request tries
	breakerOpen                       // it is not
)

func (s breakerState) String() string { return [...]string{"closed", "half-open", "open"}[s] }

// breaker is what this process knows of whether a CA issues. It forbids nothing by itself: a profile with one CA asks that one.
type breaker struct {
	mu       sync.Mutex
	state    breakerState
	failures int       // in a row
	since    time.Time // the first of them
	why      error     // the last of them
	answers  uint64    // that it gave at all
	pause    time.Duration
	until    time.Time // open: when it is looked at again
	trying   bool      // half-open: a request is at it
	checking bool      // it is being looked at
}

// breakers has one for each backend that was ever asked; they outlive a Runtime.
type breakers struct {
	mu sync.Mutex
	by map[string]*breaker
}

func (all *breakers) of(name string) *breaker {
	all.mu.Lock()
	defer all.mu.Unlock()
	b := all.by[name]
	if b == nil {
		if all.by == nil {
			all.by = map[string]*breaker{}
		}
		b = &breaker{}
		all.by[name] = b
	}
	return b
}

// cannot is why a backend is not to be asked to issue where another can be: its plugin does not run or says that it can issue nothing,
// or too many answers in a row said so, or were none; nil when it is to be asked.
func (g *Gateway) cannot(rt *Runtime, name string) error {
	if err := unhealthy(rt, name); err != nil {
		return err
	}
	b := g.breakers.of(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == breakerClosed || b.state == breakerHalf && !b.trying {
		return nil
	}
	return b.fault()
}

// unhealthy is why a plugin answers no call, as far as its host knows.
func unhealthy(rt *Runtime, name string) error {
	if h, ok := rt.Backends[name].(interface{ Healthy() error }); ok {
		return h.Healthy()
	}
	return nil
}

// fault needs the lock.
func (b *breaker) fault() error {
	return fmt.Errorf("it has issued nothing since %s (%w)", b.since.UTC().Format(time.TimeOnly+" UTC"), b.why)
}

// Fault says since when and why a backend is not asked to issue where others can be, nil while it is. It does not look at plugins.
func (g *Gateway) Fault(name string) error {
	b := g.breakers.of(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case breakerOpen:
		return fmt.Errorf("%w; it is looked at again at %s", b.fault(), b.until.UTC().Format(time.TimeOnly+" UTC"))
	case breakerHalf:
		return fmt.Errorf("%w; it answers again, and the next request tries", b.fault())
	}
	return nil
}

// Breaker is whether a backend is asked to issue where others can be: "closed" (it is), "half-open", or "open" until the time beside it.
func (g *Gateway) Breaker(name string) (string, time.Time) {
	b := g.breakers.of(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.String(), b.until
}

// calling is one call of Issue, as the breaker sees it.
type calling struct {
	g       *Gateway
	name    string
	b       *breaker
	answers uint64 // before
	trial   bool   // of a breaker that was half-open
	late    *time.Timer
	failed  bool // it was late, and that is counted
	ended   bool
}

// calls begins a call. The one that tries a breaker which is half-open is the first.
func (g *Gateway) calls(name string) *calling {
	b := g.breakers.of(name)
	c := &calling{g: g, name: name, b: b}
	b.mu.Lock()
	defer b.mu.Unlock()
	c.answers = b.answers
	if b.state == breakerHalf && !b.trying {
		b.trying, c.trial = true, true
	}
	c.late = time.AfterFunc(g.opt.IssueTimeout/lateParts, c.isLate)
	return c
}

// isLate takes a call for one without an answer, unless others that began later, or as early, had theirs meanwhile.
func (c *calling) isLate() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.ended || c.b.answers != c.answers {
		return
	}
	c.failed = true
	c.g.failedAt(c, fmt.Errorf("no answer within %v", c.g.opt.IssueTimeout/lateParts))
}

// end is how a call ended: with an answer, a refusal too (nil), or without one. The first word counts.
func (c *calling) end(failure error) {
	if c == nil {
		return
	}
	c.late.Stop()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	switch {
	case failure == nil:
		c.g.answeredAt(c)
	case !c.failed:
		c.g.failedAt(c, failure)
	}
	if c.trial {
		c.b.trying = false
	}
}

// drop ends a call of which nothing was learned.
func (c *calling) drop() {
	if c == nil {
		return
	}
	c.late.Stop()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.trial && !c.ended {
		c.b.trying = false
	}
	c.ended = true
}

// answeredAt needs the breaker's lock, as the following.
func (g *Gateway) answeredAt(c *calling) {
	b := c.b
	b.answers++
	b.failures = 0
	if b.state == breakerClosed {
		return
	}
	b.state, b.pause = breakerClosed, 0
	g.log.Info("a CA issues again", "backend", c.name, "since", b.since.UTC().Format(time.RFC3339))
	g.meter.breakers.WithLabelValues(c.name).Set(float64(b.state))
}

func (g *Gateway) failedAt(c *calling, why error) {
	b := c.b
	if b.state == breakerOpen || b.state == breakerHalf && !c.trial {
		return // of a call from before: it is known
	}
	if b.failures++; b.failures == 1 {
		b.since = g.now()
	}
	b.why = errors.New(cut(why.Error(), maxShown))
	if c.trial || b.failures >= breakerTrips {
		g.opens(c.name, b)
		c.trial = false
	}
}

// opens leaves a CA alone for a while, longer each time.
func (g *Gateway) opens(name string, b *breaker) {
	was := b.state
	b.pause = min(max(2*b.pause, breakerFirst), breakerMost)
	b.state, b.until, b.trying = breakerOpen, g.now().Add(b.pause), false
	if was != breakerOpen {
		g.log.Error("a CA does not issue: where there is a standby, that is asked", "backend", name, "since", b.since.UTC().Format(time.RFC3339), "again_in", b.pause, "err", b.why)
		g.meter.breakers.WithLabelValues(name).Set(float64(b.state))
	}
}

// keepChecking looks at CAs that are left alone, until ctx ends and what it had begun is done.
func (g *Gateway) keepChecking(ctx context.Context) {
	var looking sync.WaitGroup
	defer looking.Wait()
	tick := time.NewTicker(workEvery)
	defer tick.Stop()
	var asked *Runtime
	for {
		if rt := g.runtime.Load(); rt != asked {
			asked = rt
			rt.learn(ctx, &looking)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.checkCAs(ctx, &looking)
		}
	}
}

// learn asks the CAs of profiles with standbys for their certificates while they can be asked: what is granted and handed out is held
// against them when they cannot.
func (rt *Runtime) learn(ctx context.Context, looking *sync.WaitGroup) {
	names := map[string]bool{}
	for _, e := range rt.Endpoints {
		if all := e.backendsOf(); len(all) > 1 {
			for _, name := range all {
				names[name] = true
			}
		}
	}
	for name := range names {
		looking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, breakerCheck)
			defer cancel()
			_, _ = rt.authorities[name].current(ctx) // who needs them is told what it said
		})
	}
}

// checkCAs looks at each CA that has been left alone for long enough: one that tells its certificates is tried by the next request.
// No request waits for one that does not even do that.
func (g *Gateway) checkCAs(ctx context.Context, looking *sync.WaitGroup) {
	rt := g.runtime.Load()
	for name, ca := range rt.Backends {
		b := g.breakers.of(name)
		b.mu.Lock()
		due := b.state == breakerOpen && !b.checking && !g.now().Before(b.until)
		b.checking = b.checking || due
		b.mu.Unlock()
		if !due {
			continue
		}
		looking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, breakerCheck)
			defer cancel()
			err := unhealthy(rt, name)
			if err == nil {
				_, err = shielded(g, func() (*caList, error) { return listCAs(ctx, ca) })
			}
			g.looked(name, b, err)
		})
	}
}

// looked takes down what a look at a CA found.
func (g *Gateway) looked(name string, b *breaker, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.checking = false
	switch {
	case b.state != breakerOpen: // a request had an answer meanwhile
	case err != nil:
		b.why = errors.New(cut(err.Error(), maxShown))
		g.opens(name, b)
	default:
		b.state = breakerHalf
		g.log.Info("a CA answers again: the next request tries it", "backend", name)
		g.meter.breakers.WithLabelValues(name).Set(float64(b.state))
	}
}

// notNow reports whether an error of Issue proves that the CA has nothing of the request, and says that it cannot now: another one can
// be asked for it.
func notNow(err error) bool {
	return backend.IsNotAsked(err) || status.Code(err) == codes.ResourceExhausted && backend.Definite(err)
}

// standsFor is what an error of Issue says of the CA: nil for a refusal, which is an answer.
func standsFor(err error) error {
	if err != nil && backend.Definite(err) && !notNow(err) {
		return nil
	}
	return err
}
