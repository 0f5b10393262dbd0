package simulate

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"time"
)

const (
	tick         = time.Second
	firstBackoff = time.Second // after a try without an answer; doubled each time
	maxBackoff   = 30 * time.Second
	maxSpread    = 10 * time.Second

	// hopeless is after how many refusals, and nothing issued, a run ends: a wrong password is wrong for the next device too.
	hopeless = 20
)

// due is when a device asks next, since the run began.
type due struct {
	at     time.Duration
	device int32
}

type agenda []due

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(due)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// result is what came of one try.
type result struct {
	device int32
	answer Answer
	took   time.Duration
}

// run is one phase under way. One goroutine owns all of it; the requests under way have one each, and nothing else has.
type run struct {
	fleet   *Fleet
	phase   Phase
	client  Client
	pace    Pace
	watch   Watch
	begun   time.Time
	agenda  agenda
	asking  int
	tally   tally
	results chan result
}

// Run has every device ask until it has its certificate, is refused or gives up, and reports. When ctx ends, so does the run: what is
// under way is broken off.
func (f *Fleet) Run(ctx context.Context, phase Phase, client Client, pace Pace, watch Watch) *Report {
	r := &run{
		fleet: f, phase: phase, client: client, pace: pace, watch: watch, begun: time.Now(), agenda: make(agenda, len(f.devices)),
		results: make(chan result), tally: newTally(),
	}
	for i := range f.devices {
		f.devices[i] = device{cert: f.devices[i].cert}
		// In the order of their numbers, the first at once: a heap already.
		r.agenda[i] = due{at: time.Duration(float64(pace.Within) * float64(i) / float64(len(f.devices))), device: int32(i)}
	}
	r.sample()
	asks, stop := context.WithCancel(ctx)
	defer stop()
	cause := r.loop(asks)
	stop()
	for ; r.asking > 0; r.asking-- {
		r.take(<-r.results, cause)
	}
	r.sample()
	for i := range f.devices {
		if f.devices[i].fate == undecided {
			r.tally.left++
			r.tally.leftBecause = cause
		}
	}
	r.show(true)
	return r.report()
}

const (
	causeInterrupted = "the run was interrupted"
	causeHopeless    = "every device before was refused"
)

// loop ends when every device's fate is known, and else returns why it ended.
func (r *run) loop(ctx context.Context) (cause string) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	wake := time.NewTimer(0)
	defer wake.Stop()
	for r.tally.issued+r.tally.failed < len(r.fleet.devices) {
		if r.tally.issued == 0 && r.tally.failed >= hopeless {
			return causeHopeless
		}
		for len(r.agenda) > 0 && r.asking < r.pace.Concurrency && r.agenda[0].at <= time.Since(r.begun) {
			r.ask(ctx, heap.Pop(&r.agenda).(due).device)
		}
		var next <-chan time.Time // nil: when a request ends
		if len(r.agenda) > 0 && r.asking < r.pace.Concurrency {
			wake.Reset(r.agenda[0].at - time.Since(r.begun))
			next = wake.C
		}
		if r.tally.issued+r.tally.failed == len(r.fleet.devices) { // those that could not even be asked for
			return ""
		}
		select {
		case got := <-r.results:
			r.asking--
			if ctx.Err() != nil { // which may be why it has no answer
				r.take(got, causeInterrupted)
				return causeInterrupted
			}
			r.take(got, "")
		case <-next:
		case <-ticker.C:
			r.sample()
			r.show(false)
		case <-ctx.Done():
			return causeInterrupted
		}
	}
	return ""
}

// ask begins one try.
func (r *run) ask(ctx context.Context, n int32) {
	d := &r.fleet.devices[n]
	if d.tries++; d.tries == 1 {
		d.first = time.Since(r.begun)
	}
	shown, err := r.fleet.at(int(n), r.phase)
	if err != nil {
		r.fail(d, err.Error())
		return
	}
	r.asking++
	go func() {
		begun := time.Now()
		answer := r.client.Ask(ctx, shown)
		if answer.Cert != nil && !certifies(answer.Cert, shown.Key) {
			answer = Answer{Refused: "the certificate is not of the device's key"}
		}
		r.results <- result{n, answer, time.Since(begun)}
	}()
}

// take notes what came of a try, and when the device asks again. over is why the run has ended, "" while it has not.
func (r *run) take(got result, over string) {
	d, a, now := &r.fleet.devices[got.device], got.answer, time.Since(r.begun)
	var wait time.Duration
	switch {
	case a.Cert != nil:
		d.cert, d.fate, d.latency, d.until, d.open = a.Cert, certified, got.took, now-d.first, nil
		if r.phase == Revoke {
			d.cert = nil
		}
		r.tally.certified(now, got.took)
		return
	case a.Refused != "":
		r.fail(d, a.Refused)
		return
	case a.Away != "":
		d.open, d.broken = a.Open, 0
		r.tally.turnedAway(now, a.Away, a.After)
		if wait = a.After; wait <= 0 {
			wait = r.pace.Retry
		}
		wait += spread(wait)
	default:
		if over == "" {
			r.tally.broke(a.Broken)
		}
		wait = min(firstBackoff<<min(d.broken, 16), maxBackoff)
		d.broken++
		wait += spread(wait)
	}
	if over != "" {
		return // counted with those that were left
	}
	if now+wait-d.first > r.pace.GiveUp {
		last := a.Broken
		if a.Away != "" {
			last = "told to wait (" + a.Away + ")"
		}
		r.fail(d, "gave up after "+r.pace.GiveUp.String()+", the last answer: "+last)
		return
	}
	heap.Push(&r.agenda, due{now + wait, got.device})
}

// spread is what a device waits beyond what it was told, so that those who were told the same do not come back together: up to a tenth.
// It never comes earlier.
func spread(wait time.Duration) time.Duration {
	return rand.N(min(wait/10, maxSpread) + 1)
}

func (r *run) fail(d *device, cause string) {
	d.fate = failed
	r.tally.failure(cause)
}

func (r *run) sample() {
	if r.watch.Sample == nil {
		return
	}
	if s, ok := r.watch.Sample(); ok {
		r.tally.sampled(time.Since(r.begun), s)
	}
}

func (r *run) show(finished bool) {
	if r.watch.Show == nil {
		return
	}
	now := time.Since(r.begun)
	r.watch.Show(Standing{
		Phase: r.phase, Elapsed: now, Devices: len(r.fleet.devices), Issued: r.tally.issued, Failed: r.tally.failed, Waiting: len(r.agenda), Asking: r.asking,
		Away: r.tally.away, Rate: r.tally.lastSecond(now), Latency: r.tally.recent, Finished: finished,
	})
}
