package gateway

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"
)

// Paces is the part of the Store that has all replicas ask a CA for certificates at one rate.
type Paces interface {
	// Pace takes the next turn at a backend, if it comes within most: turns lie every apart, of which burst may come at once
	// after a rest (GCRA). wait is how long it is until the turn, on the database's clock; when it would be longer than most, ok
	// is false, wait is how long it would be, and nothing is taken. A turn need not survive a crash of the database's host.
	Pace(ctx context.Context, backend string, every time.Duration, burst int, most time.Duration) (wait time.Duration, ok bool, err error)
}

// Rate is how fast a CA may be asked to issue. The zero value is as fast as requests come.
type Rate struct {
	Every time.Duration // between two issuances, over all replicas; 0: no limit
	Burst int           // issuances at once after a rest; 0: 1
	Queue int           // requests of this process that may wait for their turn; the others are turned away
}

// String is the rate as configurations write it: "50/s", "1/h".
func (r Rate) String() string {
	for _, u := range rateUnits {
		n := math.Round(float64(u.period) / float64(r.Every))
		if n >= 1 && math.Abs(float64(u.period)/n-float64(r.Every)) < 1 {
			return fmt.Sprintf("%.0f/%s", n, u.name)
		}
	}
	return "one in " + r.Every.String()
}

var rateUnits = []struct {
	name   string
	period time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}}

const (
	// stagePace is where the log shows what this file decides.
	stagePace = "rate"
	// paceMost is how long a request waits for its turn at most: within the patience of every client that we know.
	paceMost = 10 * time.Second
	// queuePart is the part of Options.MaxInFlight, one in so many, that may wait at all backends together, so that whoever
	// asks for something else finds a place.
	queuePart = 2
)

// pacer is this process's view of one backend's rate. All that it has is bounded, however many are turned away.
type pacer struct {
	mu      sync.Mutex
	rate    Rate
	asking  int                    // requests that are asking the store for a turn
	waiting int                    // that have one, which has not come yet
	wishes  map[RepeatKey]struct{} // of those that wait
	spare   []time.Time            // turns to come of those who did not wait for them, the earliest first; at most maxSpare
	shut    time.Time              // until then the store has no turn within paceMost
	line    line
	gate    gate
	told    time.Time // when the log had the last line of it
	away    uint64    // turned away since
}

// maxSpare bounds the turns that are kept for the next who come: no more come back than wait, or ask, at once.
const maxSpare = 512

// pacers has one pacer for each backend that was ever paced.
type pacers struct {
	mu   sync.Mutex
	by   map[string]*pacer
	seed maphash.Seed
}

// of is the backend's pacer. A new rate begins anew: what was promised under another one is of no use.
func (all *pacers) of(backend string, r Rate) *pacer {
	all.mu.Lock()
	defer all.mu.Unlock()
	p := all.by[backend]
	if p == nil {
		p = &pacer{rate: r, wishes: map[RepeatKey]struct{}{}, gate: gate{one: make(chan struct{}, 1)}}
		all.by[backend] = p
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate != r {
		p.rate, p.spare, p.shut, p.line = r, nil, time.Time{}, line{}
	}
	return p
}

// checkRates reports rates that make no sense, and queues that leave too little of the requests under way to others.
func (g *Gateway) checkRates(rt *Runtime) error {
	sum := 0
	for name, r := range rt.Rates {
		if r.Every < 0 || r.Burst < 0 || r.Queue < 0 || rt.Backends[name] == nil {
			return fmt.Errorf("backend %s: not configured, or with a rate below nothing", name)
		}
		sum += r.Queue
	}
	if most := g.opt.MaxInFlight / queuePart; sum > most {
		return fmt.Errorf("%d requests could wait for their turn at CAs: at most %d of the %d under way may", sum, most, g.opt.MaxInFlight)
	}
	return nil
}

// takeTurn waits until the backend may be asked to issue once more. It refuses with Busy, and a time to come back at, when that is
// not soon; nothing is used up then. It stands before all that a request uses up or records.
//
// The gateway's own certificates pass: they are few, and without them nobody is served.
func (g *Gateway) takeTurn(ctx context.Context, rt *Runtime, d *decision, backend string, k keys) *Error {
	rate := rt.Rates[backend]
	if rate.Every == 0 || d.request != nil && d.request.Protocol == Self {
		return nil
	}
	e := g.wait(ctx, backend, rate, g.pacers.whoIs(d), orDefault(k.resume, k.repeat))
	if e != nil {
		d.stage, d.note = stagePace, cause(e, "")
	}
	return e
}

// crowded is takeTurn's refusal where it is certain already, nil else: asked before something dear is done.
func (g *Gateway) crowded(rt *Runtime, d *decision) *Error {
	backend := d.grant.Backend
	rate := rt.Rates[backend]
	if rate.Every == 0 || d.request.Protocol == Self {
		return nil
	}
	p := g.pacers.of(backend, rate)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := g.now()
	if p.spared(now); len(p.spare) > 0 || !p.full(now) {
		return nil
	}
	e := g.turnedAway(p, backend, g.pacers.whoIs(d), now, p.soonest(now))
	d.stage, d.note = stagePace, cause(e, "")
	return e
}

// whoIs tells one who is turned away from another, by what stays the same when they come again; 0 for nobody in particular.
func (all *pacers) whoIs(d *decision) uint64 {
	if d.request == nil || d.grant == nil {
		return 0
	}
	return maphash.String(all.seed, d.grant.Device+"\x00"+d.grant.Requester+"\x00"+string(d.request.Subject))
}

// wait takes a turn and waits for it.
func (g *Gateway) wait(ctx context.Context, backend string, rate Rate, who uint64, wish RepeatKey) *Error {
	p := g.pacers.of(backend, rate)
	turn, wait, e := g.reserve(ctx, p, backend, who, wish)
	if e != nil || wait <= 0 {
		return e
	}
	start := g.now()
	g.meter.waiting.WithLabelValues(backend).Inc()
	err := g.opt.Wait(ctx, wait)
	g.meter.waiting.WithLabelValues(backend).Dec()
	g.meter.waits.WithLabelValues(backend).Observe(g.now().Sub(start).Seconds())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	delete(p.wishes, wish)
	if err != nil {
		p.leave(turn)
		return unavailable("the CA is busy", fmt.Errorf("waited for a turn at the backend %s: %w", backend, err))
	}
	return nil
}

// reserve takes a turn: one that somebody left, or the store's next.
func (g *Gateway) reserve(ctx context.Context, p *pacer, backend string, who uint64, wish RepeatKey) (turn time.Time, wait time.Duration, _ *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := g.now()
	if _, waits := p.wishes[wish]; waits && wish != "" {
		// Two turns would be one wasted: whoever comes second gets the first one's certificate.
		return turn, 0, &Error{Reason: Busy, Detail: "the same request waits for the CA", RetryAfter: paceMost,
			Err: fmt.Errorf("the same request waits for its turn at the backend %s", backend)}
	}
	p.spared(now)
	switch {
	case len(p.spare) > 0 && p.waiting < p.rate.Queue:
		turn = p.spare[0]
		p.spare = slices.Delete(p.spare, 0, 1)
		wait = turn.Sub(now)
	case p.full(now):
		return turn, 0, g.turnedAway(p, backend, who, now, p.soonest(now))
	default:
		var ok bool
		var err error
		rate, most := p.rate, p.most()
		p.asking++
		p.mu.Unlock()
		_, err = shielded(g, func() (_ struct{}, err error) { // the lock is given back below
			wait, ok, err = g.store.Pace(ctx, backend, rate.Every, max(rate.Burst, 1), most)
			return
		})
		p.mu.Lock()
		p.asking--
		now = g.now()
		switch turn = now.Add(wait); {
		case err != nil:
			return turn, 0, unavailable("the CA cannot be asked now", fmt.Errorf("whose turn it is at the backend %s: %w", backend, err))
		case !ok:
			p.shut = turn.Add(-most)
			return turn, 0, g.turnedAway(p, backend, who, now, wait)
		case wait <= 0:
			p.line.rested()
			return turn, 0, nil
		}
		p.line.got(turn, p.rate.Every)
		if p.waiting >= p.rate.Queue {
			p.leave(turn)
			return turn, 0, g.turnedAway(p, backend, who, now, wait)
		}
	}
	p.waiting++
	if wish != "" {
		p.wishes[wish] = struct{}{}
	}
	return turn, wait, nil
}

// full reports whether who asks now would wait too long, or in a queue that has no place. It needs the lock.
func (p *pacer) full(now time.Time) bool {
	if left := p.shut.Sub(now); left > 0 && left <= max(lineMost, p.rate.Every) { // more: the clock went back
		return true
	}
	if behind := p.gate.held; p.gate.lags(p.rate) || p.waiting+behind >= max(p.rate.Queue, p.rate.Burst, gateLeast) {
		return true
	}
	return p.waiting > 0 && p.waiting >= p.rate.Queue || p.waiting+p.asking >= p.rate.Queue+max(p.rate.Burst, 1)
}

// most is how long who asks now may wait. It needs the lock.
func (p *pacer) most() time.Duration {
	if p.rate.Queue == 0 {
		return 0
	}
	return paceMost
}

// soonest is in how long there may be a turn for who finds none now. It needs the lock.
func (p *pacer) soonest(now time.Time) time.Duration {
	return max(p.shut.Add(p.most()).Sub(now), time.Duration(p.waiting+1)*p.rate.Every)
}

// spared forgets the turns that have passed. It needs the lock.
func (p *pacer) spared(now time.Time) {
	p.spare = slices.DeleteFunc(p.spare, func(t time.Time) bool { return !t.After(now) })
}

// leave gives a turn to who comes next. It needs the lock.
func (p *pacer) leave(turn time.Time) {
	if len(p.spare) < maxSpare {
		i, _ := slices.BinarySearchFunc(p.spare, turn, time.Time.Compare)
		p.spare = slices.Insert(p.spare, i, turn)
	}
}

// turnedAway is the refusal of who finds no place in the queue, with the time to come back at; none is for nobody before soonest. It
// needs the lock.
func (g *Gateway) turnedAway(p *pacer, backend string, who uint64, now time.Time, soonest time.Duration) *Error {
	again := p.line.promise(who, now, soonest, p.rate.Every)
	p.away++
	g.meter.away.WithLabelValues(backend).Inc()
	g.tell(p, backend, now)
	return &Error{
		Reason: Busy, Detail: fmt.Sprintf("the CA is busy: come back in %.0f s", math.Ceil(again.Seconds())), RetryAfter: again,
		Err: fmt.Errorf("the backend %s issues %v, and %d requests wait: told to come back in %v", backend, p.rate, p.waiting, again.Round(time.Second)),
	}
}

// tell has the log say once in a minute that requests are turned away. It needs the lock.
func (g *Gateway) tell(p *pacer, backend string, now time.Time) {
	if p.away == 0 || now.Sub(p.told).Abs() < time.Minute {
		return
	}
	g.log.Warn("a CA's rate is reached", "backend", backend, "rate", p.rate.String(), "waiting", p.waiting, "turned_away", p.away)
	p.told, p.away = now, 0
}

// tellPaces says what no request came to say.
func (g *Gateway) tellPaces() {
	g.pacers.mu.Lock()
	defer g.pacers.mu.Unlock()
	for name, p := range g.pacers.by {
		p.mu.Lock()
		g.tell(p, name, g.now())
		p.mu.Unlock()
	}
}

// sleep is Options.Wait by the machine's clock.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
