package gateway_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// hungCA is a CA that answers a Lookup when it is released, or never.
type hungCA struct {
	backend.Backend
	released chan struct{}
}

func (h *hungCA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	select {
	case <-h.released:
		return h.Backend.Lookup(ctx, r)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// twoCAs is a world with the CA "ca" and one that hangs, each of which has dropped so many answers. Those of the one that hangs are
// due first. s sees what is leased.
func twoCAs(t *testing.T, s *watched, hung, good int) (w *world, ca *hungCA, ids map[string][]string) {
	t.Helper()
	drop := map[int]backendtest.Fault{}
	for i := range max(hung, good) + 100 {
		drop[i+1] = backendtest.FaultDrop
	}
	w = newWorld(t, backendtest.FaultPlan{ByCall: drop}, watch(s), idempotency(backend.IdempotencyLookup), func(w *world) {
		memory := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "hung", Clock: w.clock.now})
		ca = &hungCA{Backend: backendtest.Faulty(memory, backendtest.FaultPlan{ByCall: drop}), released: make(chan struct{})}
		w.more = map[string]backend.Backend{"hung": ca}
	})
	ids = map[string][]string{"hung": w.lose("hung", hung)}
	w.clock.add(time.Second)
	ids["ca"] = w.lose("", good)
	w.clock.add(time.Second)
	return w, ca, ids
}

// lose has n requests made whose answers the profile's CA drops.
func (w *world) lose(profile string, n int) (ids []string) {
	w.t.Helper()
	for range n {
		r := w.request("device")
		r.Profile = profile
		if res, err := w.gw.Enroll(w.t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
			w.t.Fatalf("%+v, %v", res, err)
		}
		ids = append(ids, r.ID)
	}
	return ids
}

func (w *world) wantStates(ids []string, want gateway.State) {
	w.t.Helper()
	for _, id := range ids {
		if got := w.state(id); got != want {
			w.t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
}

// leases counts what is leased, by CA.
type leases struct {
	mu sync.Mutex
	by map[string]int
}

func (l *leases) watch() *watched {
	l.by = map[string]int{}
	return &watched{claimed: func(_ time.Duration, due []gateway.Work) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, w := range due {
			l.by[w.Backend]++
		}
	}}
}

func (l *leases) of(ca string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[ca]
}

// A CA that hangs takes its own places: what waits for it is not leased, and other CAs' rows are done as if it were not there.
func TestHungCATakesItsOwnPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l leases
		const more = 4
		w, h, ids := twoCAs(t, l.watch(), gateway.WorkPerCA+more, 3)
		first := make(chan error, 1)
		go func() {
			_, err := w.gw.Work(t.Context())
			first <- err
		}()
		synctest.Wait() // for all but what hangs
		w.wantStates(ids["ca"], gateway.StateIssued)
		w.wantStates(ids["hung"], gateway.StateUnknown)
		if n := l.of("hung"); n != gateway.WorkPerCA {
			t.Errorf("%d rows of the CA that hangs are leased, want %d", n, gateway.WorkPerCA)
		}
		again := w.lose("", 5)
		w.clock.add(time.Second)
		if n, err := w.gw.Work(t.Context()); n != len(again) || err != nil {
			t.Errorf("%d rows beside those that hang, want %d; %v", n, len(again), err)
		}
		w.wantStates(again, gateway.StateIssued)
		if n := l.of("hung"); n != gateway.WorkPerCA {
			t.Errorf("%d rows of the CA that hangs are leased, want %d", n, gateway.WorkPerCA)
		}
		close(h.released)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if n, err := w.gw.Work(t.Context()); n != more || err != nil {
			t.Errorf("%d rows were left, want %d; %v", n, more, err)
		}
		w.wantStates(ids["hung"], gateway.StateIssued)
	})
}

// However many CAs hang at once, with more rows overdue than there are places: what asks another CA, or none, is done.
func TestHungCAsTakeNobodyElsesPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hung = 6
		h := &hungCA{released: make(chan struct{})}
		drop := backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{}}
		for i := range 3 * hung * (gateway.WorkPerCA + 1) {
			drop.ByCall[i+1] = backendtest.FaultDrop
		}
		w := newWorld(t, drop, idempotency(backend.IdempotencyLookup), func(w *world) {
			h.Backend = backendtest.Faulty(backendtest.NewMemory(backendtest.MemoryOptions{Seed: "hung", Clock: w.clock.now}), drop)
			w.more = map[string]backend.Backend{}
			for i := range hung {
				w.more[fmt.Sprint("hung-", i)] = h
			}
		})
		for name := range w.more {
			w.lose(name, gateway.WorkPerCA+1)
		}
		w.clock.add(time.Second)
		good := w.lose("", 3)
		w.clock.add(time.Second)
		var doing sync.WaitGroup
		for range 2 { // as Run does, which looks until nothing is begun
			doing.Go(func() { _, _ = w.gw.Work(t.Context()) })
			synctest.Wait()
		}
		w.wantStates(good, gateway.StateIssued)
		close(h.released)
		doing.Wait()
	})
}

// Run begins a row as soon as a place is free, not when it looks next; it returns when what it had begun is done, and that is a
// CA's whole time when it hangs. Nothing of it takes a moment of the time that is measured, which goes on when all wait.
func TestRunFillsPlacesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l leases
		s := l.watch()
		var mu sync.Mutex
		settled, postponed, all := 0, 0, make(chan struct{})
		const good, timeout = 5 * gateway.WorkPerCA, 20 * time.Second
		w, _, ids := twoCAs(t, s, 2*gateway.WorkPerCA, good)
		s.settling = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if settled++; settled == good {
				close(all)
			}
			return nil
		}
		s.postpone = func(gateway.Work, string) {
			mu.Lock()
			defer mu.Unlock()
			postponed++
		}
		ctx, stop := context.WithCancel(t.Context())
		start, ended := time.Now(), make(chan struct{})
		go func() {
			defer close(ended)
			w.gw.Run(ctx)
		}()
		<-all
		synctest.Wait()
		if took := time.Since(start); took >= gateway.WorkEvery {
			t.Errorf("%d rows took %v", good, took)
		}
		w.wantStates(ids["ca"], gateway.StateIssued)
		stop()
		<-ended
		if took := time.Since(start); took != timeout || l.of("hung") != gateway.WorkPerCA || postponed != gateway.WorkPerCA {
			t.Errorf("Run ended after %v, with %d of %d rows put off; the CA has %v", took, postponed, l.of("hung"), timeout)
		}
	})
}

// What was just recorded as unknown is looked at when it is due, without waiting for the next look, and however often that happens.
func TestRunIsNudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := make(chan struct{}, 100)
		w, _, _ := twoCAs(t, &watched{claimed: func(time.Duration, []gateway.Work) { looks <- struct{}{} }}, 0, 0)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.gw.Run(ctx)
		}()
		synctest.Wait()
		for len(looks) > 0 {
			<-looks
		}
		w.lose("", 1)
		start := time.Now()
		<-looks
		if took := time.Since(start); took >= gateway.WorkEvery {
			t.Errorf("the next look came after %v", took)
		}
		stop()
		<-ended
	})
}
