package gateway_test

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// A storm is a simulation of clients that come back when they are told, in virtual time: one goroutine runs at a time, so that the
// same seed gives the same storm, but for the jitter of the gateway's answers.
type storm struct {
	t      *testing.T
	clock  *clock
	due    visits
	parked chan visit
	issued []time.Time // when the CA was asked
	tries  []int       // of each client
	served []bool
}

// visit is when a client comes, or goes on that waits.
type visit struct {
	at     time.Time
	client int
	goOn   chan struct{} // nil for who comes
}

type visits []visit

func (v visits) Len() int           { return len(v) }
func (v visits) Less(i, j int) bool { return v[i].at.Before(v[j].at) }
func (v visits) Swap(i, j int)      { v[i], v[j] = v[j], v[i] }
func (v *visits) Push(x any)        { *v = append(*v, x.(visit)) }
func (v *visits) Pop() any {
	old := *v
	last := old[len(old)-1]
	old[len(old)-1] = visit{}
	*v = old[:len(old)-1]
	return last
}

// newStorm has n clients come within an hour.
func newStorm(t *testing.T, n int, c *clock, r *rand.Rand) *storm {
	s := &storm{t: t, clock: c, parked: make(chan visit), due: make(visits, 0, n), tries: make([]int, n), served: make([]bool, n), issued: make([]time.Time, 0, n)}
	for i := range n {
		s.due = append(s.due, visit{at: c.now().Add(time.Duration(r.Int64N(int64(time.Hour)))), client: i})
	}
	heap.Init(&s.due)
	return s
}

// wait is Options.Wait of the storm's gateways.
func (s *storm) wait(_ context.Context, d time.Duration) error {
	on := make(chan struct{})
	s.parked <- visit{at: s.clock.now().Add(d), goOn: on}
	<-on
	return nil
}

// run has all clients come, and come again, until each has its certificate. ask is one try of a client's; comes is in what time it
// comes again that was told one.
func (s *storm) run(ask func(client int) error, comes func(client int, told time.Duration) time.Duration) {
	s.t.Helper()
	type end struct {
		client int
		err    error
	}
	ended := make(chan end)
	for len(s.due) > 0 {
		v := heap.Pop(&s.due).(visit)
		s.clock.mu.Lock()
		s.clock.at = v.at
		s.clock.mu.Unlock()
		if v.goOn != nil {
			close(v.goOn)
		} else {
			s.tries[v.client]++
			go func() { ended <- end{v.client, ask(v.client)} }()
		}
		select {
		case p := <-s.parked:
			heap.Push(&s.due, p)
		case e := <-ended:
			if e.err == nil {
				s.served[e.client] = true
				s.issued = append(s.issued, s.clock.now())
				continue
			}
			again := busy(s.t, e.err)
			// In whole seconds, as protocols say it.
			again = (again + time.Second - 1).Truncate(time.Second)
			heap.Push(&s.due, visit{at: s.clock.now().Add(comes(e.client, again)), client: e.client})
		}
	}
}

// check asserts the rate in any window, and that everybody has a certificate after at most so many tries.
func (s *storm) check(r gateway.Rate, most int) {
	s.t.Helper()
	if slices.Contains(s.served, false) || len(s.issued) != len(s.served) {
		s.t.Errorf("not everybody has a certificate")
	}
	slices.SortFunc(s.issued, time.Time.Compare)
	for _, n := range []int{r.Burst, r.Burst + 1, r.Burst + 100, len(s.issued) / 2, len(s.issued) - 1} {
		for i := range len(s.issued) - n {
			// n+1 issuances take as long as all but a burst of them.
			if took, least := s.issued[i+n].Sub(s.issued[i]), time.Duration(n+1-r.Burst)*r.Every; took < least-time.Millisecond {
				s.t.Fatalf("%d issuances in %v, which takes %v", n+1, took, least)
			}
		}
	}
	sum, worst := 0, 0
	for _, n := range s.tries {
		sum, worst = sum+n, max(worst, n)
	}
	took := s.issued[len(s.issued)-1].Sub(s.issued[0])
	s.t.Logf("%d certificates in %v, of %v at the rate; %.2f tries each, %d at most",
		len(s.issued), took.Round(time.Second), time.Duration(len(s.issued))*r.Every, float64(sum)/float64(len(s.tries)), worst)
	if worst > most {
		s.t.Errorf("somebody had to come %d times", worst)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what pools held, too
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// storms has n clients come to gateways that share one store, at random.
func storms(t *testing.T, n, gateways int, rate gateway.Rate, random *rand.Rand, comes func(client int, told time.Duration) time.Duration) *storm {
	c := &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	s := newStorm(t, n, c, random)
	var worlds []*world
	for range gateways {
		worlds = append(worlds, newWorld(t, backendtest.FaultPlan{}, paced(rate), func(w *world) {
			w.clock, w.opts.Wait = c, s.wait
			w.wrap = func(own gateway.Store) gateway.Store {
				if len(worlds) > 0 {
					return worlds[0].store
				}
				return own
			}
		}))
	}
	var before, most uint64
	asked := 0
	s.run(func(client int) error {
		if asked++; asked == n/100 {
			before = heapInUse()
		} else if asked%(n/2) == 0 {
			most = max(most, heapInUse())
		}
		return worlds[random.IntN(gateways)].gw.Turn(t.Context(), "ca", uint64(client+1))
	}, comes)
	if most = max(most, heapInUse()); most > before+1<<20 {
		t.Errorf("the heap grew by %d bytes", most-before)
	}
	t.Logf("%d bytes of heap at first, %d at most", before, most)
	return s
}

// TestRenewalStorm: 100,000 clients whose certificates end in the same hour, before a CA that makes so many in nearly three.
func TestRenewalStorm(t *testing.T) {
	random := rand.New(rand.NewPCG(8, 3))
	inTime := func(_ int, told time.Duration) time.Duration {
		return told + time.Duration(random.Int64N(int64(time.Second)))
	}
	fast := gateway.Rate{Every: 100 * time.Millisecond, Burst: 10, Queue: 100}
	slow := gateway.Rate{Every: 2500 * time.Millisecond, Burst: 4, Queue: 4}
	t.Run("100000 in time", func(t *testing.T) {
		storms(t, 100_000, 1, fast, random, inTime).check(fast, 20)
	})
	t.Run("4000 late", func(t *testing.T) {
		storms(t, 4_000, 1, slow, random, func(_ int, told time.Duration) time.Duration {
			return told + time.Duration(random.Int64N(int64(5*time.Minute)))
		}).check(slow, 20)
	})
	t.Run("4000 at three replicas", func(t *testing.T) {
		storms(t, 4_000, 3, slow, random, inTime).check(slow, 30)
	})
	// A hundred come every ten seconds, whatever they are told: the others are not sent to the end of the line for it.
	t.Run("2000 with 100 impatient ones", func(t *testing.T) {
		rate := gateway.Rate{Every: 2 * time.Second, Burst: 1, Queue: 5}
		s := storms(t, 2_000, 1, rate, random, func(client int, told time.Duration) time.Duration {
			if client < 100 {
				return 10 * time.Second
			}
			return inTime(client, told)
		})
		for client := range 100 {
			s.tries[client] = 0
		}
		s.check(rate, 20)
	})
}

// TestRenewalStormThrough: 2,000 through the whole gateway. What the CA was asked is what was let through, and each has one certificate.
func TestRenewalStormThrough(t *testing.T) {
	const n = 2_000
	rate := gateway.Rate{Every: 5 * time.Second, Burst: 2, Queue: 2}
	random := rand.New(rand.NewPCG(8, 3))
	c := &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	s := newStorm(t, n, c, random)
	w := newWorld(t, backendtest.FaultPlan{}, paced(rate), func(w *world) { w.clock, w.opts.Wait = c, s.wait })
	requests := make([]*gateway.Request, n)
	s.run(func(client int) error {
		if requests[client] == nil {
			requests[client] = w.request("device-" + strconv.Itoa(client))
		}
		res, err := w.gw.Enroll(t.Context(), w.again(requests[client]))
		if err == nil && res.Kind != gateway.ResultIssued {
			t.Errorf("%+v", res)
		}
		return err
	}, func(_ int, told time.Duration) time.Duration {
		return told + time.Duration(random.Int64N(int64(time.Second)))
	})
	s.check(rate, 20)
	if all := w.transactions(); len(all) != n || w.ca.Total() != n {
		t.Errorf("%d transactions, %d certificates", len(all), w.ca.Total())
	}
}
