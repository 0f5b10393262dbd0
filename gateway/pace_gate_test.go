package gateway_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// TestGate: however late those come whose turn it was, and however many together, no window has more than a burst and the rate's; and
// little of the rate is lost.
func TestGate(t *testing.T) {
	random := rand.New(rand.NewPCG(8, 4))
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, r := range []gateway.Rate{{Every: 5 * time.Millisecond, Burst: 1}, {Every: 5 * time.Millisecond, Burst: 20}, {Every: time.Second}} {
		var begun []time.Time
		now, next := start, gateway.NewGate(r)
		for i := range 4_000 {
			// Turns lie evenly; a commit of 40 ms lets all go on together that came meanwhile.
			turn := start.Add(time.Duration(i) * r.Every)
			if late := turn.Truncate(40 * time.Millisecond).Add(40 * time.Millisecond); now.Before(late) {
				now = late
			}
			for wait := next(now); wait > 0; wait = next(now) {
				now = now.Add(wait + time.Duration(random.Int64N(int64(time.Millisecond)))) // timers
			}
			begun = append(begun, now)
		}
		for i := range begun {
			for j := i; j < min(i+200, len(begun)); j++ {
				window := begun[j].Sub(begun[i]) + time.Millisecond
				if n, most := float64(j-i+1), float64(max(r.Burst, 1))+float64(window)/float64(r.Every); n > most+1e-6 {
					t.Fatalf("burst %d: %.0f issuances in %v, at most %.2f may", r.Burst, n, window, most)
				}
			}
		}
		if took, least := now.Sub(start), 4_000*r.Every; took > least+least/50+time.Second {
			t.Errorf("burst %d: it took %v, of %v", r.Burst, took, least)
		}
	}
}

// TestGateClock: a clock that goes back holds nobody up.
func TestGateClock(t *testing.T) {
	at, next := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), gateway.NewGate(gateway.Rate{Every: time.Second})
	if wait := next(at); wait != 0 {
		t.Error(wait)
	}
	if wait := next(at.Add(-time.Hour)); wait > time.Second {
		t.Errorf("wait %v", wait)
	}
}

// TestPaceBunched: three that waited go on at once, late: the CA is asked by one after the other.
func TestPaceBunched(t *testing.T) {
	q := &waits{in: make(chan struct{}, 10)}
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Second, Burst: 1, Queue: 3}), func(w *world) { w.opts.Wait = q.wait })
	w.mustEnroll(w.request("at once"))
	answers := make(chan error, 3)
	for range 3 {
		r := w.request("waits")
		go func() { _, err := w.gw.Enroll(t.Context(), r); answers <- err }()
		<-q.in
	}
	w.clock.add(3 * time.Second)
	for _, one := range q.all {
		close(one.done)
	}
	for i := range 3 {
		if i > 0 {
			select {
			case <-q.in:
			case err := <-answers:
				t.Fatalf("asked with another: %v", err)
			}
			q.mu.Lock()
			last := q.all[len(q.all)-1]
			q.mu.Unlock()
			if last.d < time.Second-time.Millisecond || last.d > time.Second {
				t.Errorf("waits %v at the gate", last.d)
			}
			w.clock.add(last.d)
			close(last.done)
		}
		if err := <-answers; err != nil || w.ca.Total() != i+2 {
			t.Fatalf("%v, %d certificates", err, w.ca.Total())
		}
	}
}

// TestPaceAskedAgain: what a CA broke off, and has not issued, is asked for again in a turn of its own.
func TestPaceAskedAgain(t *testing.T) {
	for name, idempotency := range map[string]backend.Idempotency{"at once": backend.IdempotencyNative, "by the worker": backend.IdempotencyLookup} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 1}), func(w *world) {
				w.desc = func(d *backend.Description) { d.Idempotency = idempotency }
			})
			asked := 0
			w.twist(&twisted{issue: func(ctx context.Context, q *backend.IssueRequest) (*backend.Issuance, error) {
				if asked++; asked == 1 {
					return nil, status.Error(codes.Unavailable, "gone")
				}
				return w.memory.Issue(ctx, q)
			}})
			r := w.request("one")
			if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending || asked != 1 {
				t.Fatalf("%+v, %v; asked %d times", res, err, asked)
			}
			for range 3 {
				w.work(10 * time.Minute)
			}
			if s := w.state(r.ID); s != gateway.StateUnknown || asked != 1 {
				t.Fatalf("it is %s, asked %d times", s, asked)
			}
			w.work(time.Hour)
			if s := w.state(r.ID); s != gateway.StateIssued || asked != 2 {
				t.Errorf("it is %s, asked %d times", s, asked)
			}
		})
	}
}

// TestPaceApprovedAtOnce: of two that approve at once, neither saw that one of them is the last: that one needs a turn all the same.
func TestPaceApprovedAtOnce(t *testing.T) {
	s := &watched{}
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 1}), watch(s), func(w *world) {
		hold := gateway.Verdict{Decision: gateway.Hold, Terms: gateway.HoldTerms{Approvers: 2}}
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
			if r.Operation == gateway.Enroll && string(r.Content[:4]) == "held" {
				return hold
			}
			return gateway.Allowed("")
		})}
	})
	w.mustEnroll(w.request("takes the turn"))
	r := w.request("held")
	w.mustEnroll(r)
	first := true
	s.fails = func(call string, done bool) error {
		if call != "Approve" || done || !first {
			return nil
		}
		first = false
		_, err := w.gw.Approve(t.Context(), r.ID, "bob", "")
		return err
	}
	_, err := w.gw.Approve(t.Context(), r.ID, "ann", "")
	busy(t, err)
	if got := w.state(r.ID); got != gateway.StateHeld || w.ca.Total() != 1 {
		t.Errorf("it is %s, %d certificates", got, w.ca.Total())
	}
	w.clock.add(time.Hour)
	if _, err := w.gw.Approve(t.Context(), r.ID, "ann", ""); err != nil || w.state(r.ID) != gateway.StateIssued {
		t.Errorf("%v, %s", err, w.state(r.ID))
	}
}

// TestPaceMadeKeys: a key that the gateway makes is made when its turn has come: at first, when it is asked for again, and when it was
// approved.
func TestPaceMadeKeys(t *testing.T) {
	rate := paced(gateway.Rate{Every: time.Hour, Burst: 1})
	t.Run("at first", func(t *testing.T) {
		judged, s := 0, &bareSeal{}
		w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), rate)
		w.gets(w.bare("device-1", s), s)
		for range 2 { // the second time it is known beforehand
			_, err := w.gw.Enroll(t.Context(), w.bare("device-2", s))
			if again := busy(t, err); again < 45*time.Minute {
				t.Errorf("told to come back in %v", again)
			}
		}
		if len(s.keys) > 2 {
			t.Errorf("%d keys were made for nobody", len(s.keys)-1)
		}
	})
	t.Run("again", func(t *testing.T) {
		judged, s := 0, &bareSeal{}
		w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), rate)
		r := w.bare("device-1", s)
		w.gets(r, s)
		_, err := w.gw.Enroll(t.Context(), w.again(r))
		busy(t, err)
		if len(s.keys) != 1 || w.ca.Total() != 1 || len(w.transactions()) != 1 {
			t.Errorf("%d keys, %d certificates", len(s.keys), w.ca.Total())
		}
	})
	t.Run("approved", func(t *testing.T) {
		w, r, s := holdsBare(t, rate)
		w.mustApprove(r.ID) // which takes none
		if _, taken, err := w.store.Pace(t.Context(), "ca", time.Hour, 1, 0); err != nil || !taken {
			t.Fatal(err)
		}
		_, err := w.gw.Enroll(t.Context(), w.again(r))
		busy(t, err)
		if len(s.keys) != 0 || w.state(r.ID) != gateway.StateApproved {
			t.Errorf("%d keys, %s", len(s.keys), w.state(r.ID))
		}
		w.clock.add(time.Hour)
		w.gets(w.again(r), s)
	})
}

// TestPaceForwarded: a message that is passed on takes a turn where it asks for a certificate, and again where nobody answered it;
// what follows takes none.
func TestPaceForwarded(t *testing.T) {
	w := newPassWorld(t)
	w.rates = map[string]gateway.Rate{"up": {Every: time.Hour, Burst: 1}}
	w.put()
	r := w.ask("ir")
	w.cert("one", r)
	w.answers("down", "cert one", "confirmed")
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unavailable {
		t.Fatal(err)
	}
	_, err := w.gw.Enroll(t.Context(), w.again(r))
	busy(t, err)
	w.clock.add(time.Hour)
	res, err := w.gw.Enroll(t.Context(), w.again(r))
	w.want(res, err, "cert one")
	res, err = w.gw.Enroll(t.Context(), w.again(r)) // as it was answered
	w.want(res, err, "cert one")
	res, err = w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf"))
	w.want(res, err, "confirmed")
	other := w.ask("ir of another")
	other.Resume = nil
	_, err = w.gw.Enroll(t.Context(), other)
	busy(t, err)
	if len(w.transactions()) != 1 || len(w.up.asked) != 3 {
		t.Errorf("%d transactions, passed on: %q", len(w.transactions()), w.up.asked)
	}
}
