package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// paced gives the CA a rate.
func paced(r gateway.Rate) func(*world) {
	return func(w *world) { w.rates = map[string]gateway.Rate{"ca": r} }
}

// busy fails the test unless the error turns somebody away; it returns when they may come back.
func busy(t *testing.T, err error) time.Duration {
	t.Helper()
	var e *gateway.Error
	if !errors.As(err, &e) || e.Reason != gateway.Busy || e.RetryAfter <= 0 {
		t.Fatalf("%v is no refusal with a time to come back at", err)
	}
	return e.RetryAfter
}

// TestPace: who finds no turn is told when to come back, and has used up nothing; who comes then gets a certificate.
func TestPace(t *testing.T) {
	var log bytes.Buffer
	claim := gateway.Claim{Key: "once", Limit: 2}
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 1, Queue: 10}), func(w *world) {
		w.logs = &log
		w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Verdict{Decision: gateway.Allow, Claims: []gateway.Claim{claim}})}
	})
	if res, err := w.gw.Enroll(t.Context(), w.request("one")); err != nil || res.Kind != gateway.ResultIssued {
		t.Fatalf("%+v, %v", res, err)
	}
	two := w.request("two")
	for range 3 {
		_, err := w.gw.Enroll(t.Context(), two)
		if again := busy(t, err); again < 45*time.Minute || again > time.Hour {
			t.Errorf("told to come back in %v", again)
		}
		two = w.again(two)
	}
	if len(w.transactions()) != 1 || w.ca.Total() != 1 {
		t.Errorf("%d transactions, %d certificates", len(w.transactions()), w.ca.Total())
	}
	if _, err := w.gw.Explain(t.Context(), two.ID); err == nil {
		t.Error("a request that was never sent is known")
	}
	w.clock.add(time.Hour)
	if res, err := w.gw.Enroll(t.Context(), two); err != nil || res.Kind != gateway.ResultIssued {
		t.Fatalf("the claim was used up by who was turned away: %+v, %v", res, err)
	}
	if text := log.String(); strings.Count(text, "a CA's rate is reached") != 1 || !strings.Contains(text, "backend=ca rate=1/h waiting=0 turned_away=1") ||
		strings.Count(text, "stage=rate") != 3 || !strings.Contains(text, "told to come back in") {
		t.Errorf("the log:\n%s", text)
	}
	// A repeat needs no turn.
	if res, err := w.gw.Enroll(t.Context(), w.again(two)); err != nil || !res.Repeated {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestPaceRefused: who is refused takes no turn, nor does the gateway itself, nor who is held.
func TestPaceRefused(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 1}))
	wrong := w.request("wrong")
	wrong.Credentials[0].Secret = gateway.Secret("guess")
	if _, err := w.gw.Enroll(t.Context(), wrong); reason(err) != gateway.Unauthenticated {
		t.Fatal(err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("one")); err != nil {
		t.Fatal(err)
	}
	_, err := w.gw.Enroll(t.Context(), w.request("two"))
	busy(t, err)
	_, err = w.gw.Enroll(t.Context(), wrong)
	if reason(err) != gateway.Unauthenticated {
		t.Errorf("the rate is told to strangers: %v", err)
	}
}

// TestPaceOwn: the gateway's own certificates take no turn and wait for none.
func TestPaceOwn(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 1}), func(w *world) { w.protocol = gateway.Self })
	for range 3 {
		r := w.request("muster")
		r.Protocol = gateway.Self
		if _, err := w.gw.Enroll(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPaceHeld: a hold takes no turn; the last approval does.
func TestPaceHeld(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 1}), func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Verdict{Decision: gateway.Hold, Terms: gateway.HoldTerms{Approvers: 2}})}
	})
	var held []string
	for _, name := range []string{"one", "two"} {
		r := w.request(name)
		if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
			t.Fatalf("%+v, %v", res, err)
		}
		held = append(held, r.ID)
		if _, err := w.gw.Approve(t.Context(), r.ID, "ann", ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.gw.Approve(t.Context(), held[0], "bob", ""); err != nil || w.state(held[0]) != gateway.StateIssued {
		t.Fatal(err)
	}
	_, err := w.gw.Approve(t.Context(), held[1], "bob", "")
	busy(t, err)
	if s := w.state(held[1]); s != gateway.StateHeld {
		t.Errorf("it is %s", s)
	}
	w.clock.add(time.Hour)
	if _, err := w.gw.Approve(t.Context(), held[1], "bob", ""); err != nil || w.state(held[1]) != gateway.StateIssued {
		t.Error(err)
	}
}

// TestPaceStore: when the store does not say whose turn it is, nothing is asked of the CA.
func TestPaceStore(t *testing.T) {
	s := &watched{}
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Second, Burst: 1}), watch(s))
	s.fails = func(call string, _ bool) error {
		if call == "Pace" {
			return errors.New("the disk is gone")
		}
		return nil
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("one")); reason(err) != gateway.Unavailable || w.ca.Total() != 0 {
		t.Errorf("%v, %d certificates", err, w.ca.Total())
	}
	s.fails = func(call string, _ bool) error {
		if call == "Pace" {
			panic("a fault")
		}
		return nil
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("two")); reason(err) != gateway.Unavailable || w.ca.Total() != 0 {
		t.Errorf("%v, %d certificates", err, w.ca.Total())
	}
}

// waits is a Wait that ends when the test says.
type waits struct {
	mu  sync.Mutex
	all []*waiter
	in  chan struct{}
}

type waiter struct {
	d    time.Duration
	done chan struct{}
}

func (q *waits) wait(ctx context.Context, d time.Duration) error {
	w := &waiter{d, make(chan struct{})}
	q.mu.Lock()
	q.all = append(q.all, w)
	q.mu.Unlock()
	q.in <- struct{}{}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestPaceQueue: a full queue of one CA leaves the other requests their way, and a hang-up its turn to the next.
func TestPaceQueue(t *testing.T) {
	q := &waits{in: make(chan struct{}, 10)}
	other := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "other"})
	w := newWorld(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Second, Burst: 1, Queue: 3}), func(w *world) {
		w.opts.Wait, w.opts.MaxInFlight = q.wait, 8
		w.more = map[string]backend.Backend{"other": other}
	})
	if _, err := w.gw.Enroll(t.Context(), w.request("at once")); err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	var requests []*gateway.Request
	var answers []chan error
	for range 3 {
		r, answer := w.request("waits"), make(chan error, 1)
		at := t.Context()
		if len(requests) == 1 {
			at = ctx
		}
		requests, answers = append(requests, r), append(answers, answer)
		go func() { _, err := w.gw.Enroll(at, r); answer <- err }()
		<-q.in
	}
	for i, one := range q.all {
		if want := time.Duration(i+1) * time.Second; one.d != want {
			t.Errorf("%d waits %v, want %v", i, one.d, want)
		}
	}
	_, err := w.gw.Enroll(t.Context(), w.again(requests[2]))
	if again := busy(t, err); again != 10*time.Second {
		t.Errorf("the same request again: %v", err)
	}
	for range 20 { // nor are they remembered as waiting
		_, err := w.gw.Enroll(t.Context(), w.request("turned away"))
		if again := busy(t, err); again < 4*time.Second || again > time.Minute {
			t.Errorf("told to come back in %v", again)
		}
	}
	for range 20 {
		r := w.request("of another CA")
		r.Profile = "other"
		if _, err := w.gw.Enroll(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever waited second hangs up: the next one has that turn, not one after the third.
	hangUp()
	if err := <-answers[1]; reason(err) != gateway.Unavailable {
		t.Errorf("%v", err)
	}
	r, answer := w.request("instead"), make(chan error, 1)
	go func() { _, err := w.gw.Enroll(t.Context(), r); answer <- err }()
	<-q.in
	if d := q.all[3].d; d != 2*time.Second {
		t.Errorf("the turn that was left: in %v", d)
	}
	for i, next := range []chan error{answers[0], answer, answers[2]} {
		w.clock.add(time.Second)
		close(q.all[[]int{0, 3, 2}[i]].done)
		if err := <-next; err != nil || w.ca.Total() != i+2 {
			t.Errorf("%v, %d certificates", err, w.ca.Total())
		}
	}
}

// TestPaceQueuesTogether: queues leave half of the requests under way to others.
func TestPaceQueuesTogether(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.opts.MaxInFlight = 8 })
	for queue, fits := range map[int]bool{4: true, 5: false} {
		err := w.gw.Swap(t.Context(), &gateway.Runtime{
			Backends: map[string]backend.Backend{"ca": w.ca}, Rates: map[string]gateway.Rate{"ca": {Every: time.Second, Queue: queue}},
		})
		if (err == nil) != fits {
			t.Errorf("%d: %v", queue, err)
		}
	}
}
