package gateway_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// farAway is a world whose CA "corp" is asked over a link that may be down.
func farAway(t *testing.T, change ...func(w *world, corp *moody)) (w *world, corp *moody) {
	t.Helper()
	corp = &moody{}
	w = newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		corp.Memory = backendtest.NewMemory(backendtest.MemoryOptions{Seed: t.Name(), Clock: w.clock.now})
		w.more = map[string]backend.Backend{"corp": corp}
		w.shape = func(p *gateway.Profile) { p.Backend = "corp" }
		w.offline = map[string]gateway.Offline{"corp": {Keep: 100, For: 30 * 24 * time.Hour}}
		for _, c := range change {
			c(w, corp)
		}
	})
	return w, corp
}

// ask enrols for a new request, a moment after the one before, and wants the answer.
func (w *world) ask(name string, want gateway.ResultKind) *gateway.Request {
	w.t.Helper()
	w.clock.add(2 * time.Millisecond)
	r := w.request(name)
	if res := w.mustEnroll(r); res.Kind != want {
		w.t.Fatalf("%s: %s, want %s", name, res.Kind, want)
	}
	return r
}

// drain moves the clock on, so that every CA is tried, and empties the queues as far as that goes.
func (w *world) drain() {
	w.t.Helper()
	w.clock.add(time.Minute)
	if err := w.gw.Drain(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// asked are the requests that the CA was asked for from a call on, each once, in the order of the first time.
func (m *moody) asked(from int) (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.issues[from:] {
		if !slices.Contains(ids, r.ID) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// However the link fails, whoever asks is told to wait, finds its own request when it asks again, and has one certificate in the end; the
// CA is asked in the order in which they came, also through a start in between.
func TestQueue(t *testing.T) {
	for _, mood := range []string{"not-asked", "exhausted", "unavailable", "drop"} {
		t.Run(mood, func(t *testing.T) {
			w, corp := farAway(t)
			w.ask("before", gateway.ResultIssued)
			corp.is(mood, true)
			from := corp.calls()
			var all []*gateway.Request
			var ids []string
			for range 5 {
				r := w.ask("device", gateway.ResultPending)
				all, ids = append(all, r), append(ids, r.ID)
			}
			for _, id := range ids[1:] {
				if s := w.state(id); s != gateway.StateQueued {
					t.Errorf("%s, and one before it waits", s)
				}
			}
			if asked := corp.asked(from); !slices.Equal(asked, ids[:1]) {
				t.Errorf("asked for %d", len(asked))
			}
			w.drain()
			w.work(time.Minute)
			if q, err := w.store.Queue(t.Context(), "corp"); err != nil || q.Length != 5 || q.First != ids[0] {
				t.Errorf("%+v, %v", q, err)
			}
			w.restart()
			for i, r := range all {
				if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending || res.Transaction != ids[i] {
					t.Errorf("asked again: %+v", res)
				}
			}
			corp.is("", false)
			r := w.ask("late", gateway.ResultPending) // behind them
			all, ids = append(all, r), append(ids, r.ID)
			w.drain()
			for i, r := range all {
				if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultIssued || res.Transaction != ids[i] || corp.Issued(ids[i]) != 1 {
					t.Errorf("afterwards: %+v, issued %d times", res, corp.Issued(ids[i]))
				}
			}
			if asked := corp.asked(from); !slices.Equal(asked, ids) {
				t.Errorf("asked in the order %v, they came as %v", asked, ids)
			}
			w.ask("after", gateway.ResultIssued)
		})
	}
}

// As many are kept as the configuration says; who comes then is refused, uses nothing up, and is told when to come back.
func TestQueueFull(t *testing.T) {
	w, corp := farAway(t, func(w *world, _ *moody) {
		once(w)
		w.offline["corp"] = gateway.Offline{Keep: 1, For: time.Hour}
	})
	corp.is("not-asked", true)
	r := w.ask("one", gateway.ResultPending)
	w.clock.add(time.Millisecond)
	_, err := w.gw.Enroll(t.Context(), w.request("two"))
	if e := gateway.AsError(err); e.Reason != gateway.Busy || e.RetryAfter == 0 {
		t.Fatalf("%v", err)
	}
	if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending {
		t.Errorf("who waits: %+v", res)
	}
}

// What the CA had nothing of for too long is refused, unasked, and gives back what it had used up.
func TestQueueTooOld(t *testing.T) {
	w, corp := farAway(t, func(w *world, _ *moody) { once(w) })
	corp.is("not-asked", true)
	r := w.ask("one", gateway.ResultPending)
	calls := corp.calls()
	w.clock.add(31 * 24 * time.Hour)
	corp.is("", false)
	w.drain()
	if s := w.state(r.ID); s != gateway.StateFailed || corp.calls() != calls {
		t.Fatalf("%s, %d calls", s, corp.calls()-calls)
	}
	w.ask("one", gateway.ResultIssued)
}

// The dates count from when the CA is asked, and a certificate that nobody could fetch earlier waits a day to be confirmed.
func TestQueueDates(t *testing.T) {
	w, corp := farAway(t)
	corp.is("not-asked", true)
	r := w.exchange(w.request("one"), "wire")
	r.Confirm, r.ConfirmWait = true, time.Minute
	if res := w.mustEnroll(r); res.Kind != gateway.ResultPending {
		t.Fatalf("%+v", res)
	}
	for range 3 { // and are not moved twice by who tried before
		w.clock.add(24 * time.Hour)
		w.drain()
	}
	corp.is("", false)
	w.drain()
	now := w.clock.now()
	tx, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || tx.State != gateway.StateUnconfirmed || tx.ConfirmWait != gateway.QueuedConfirmWait {
		t.Fatalf("%v, %+v", err, tx)
	}
	leaf, err := x509.ParseCertificate(tx.Certificate.DER)
	if err != nil || leaf.NotBefore.Before(now.Add(-time.Minute)) || leaf.NotBefore.After(now) || leaf.NotAfter.Sub(leaf.NotBefore) != 72*time.Hour-time.Second {
		t.Errorf("%v: %v to %v, now is %v", err, leaf.NotBefore, leaf.NotAfter, now)
	}
}

// A device that was disabled meanwhile gets nothing by what it had asked for before.
func TestQueueOfDisabled(t *testing.T) {
	w, corp := farAway(t, func(w *world, _ *moody) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			d, err := w.store.Device(context.Background(), "name", "station-1")
			if err != nil || !g.Recognise(d) {
				return gateway.Unanswered(err)
			}
			return gateway.Allowed("")
		})}
	})
	w.enter(gateway.Device{Name: "station-1", Enrollments: gateway.Unlimited})
	corp.is("not-asked", true)
	r := w.ask("one", gateway.ResultPending)
	w.enter(gateway.Device{Name: "station-1", Enrollments: gateway.Unlimited, Disabled: true})
	corp.is("", false)
	calls := corp.calls()
	w.drain()
	if s := w.state(r.ID); s != gateway.StateFailed || corp.calls() != calls {
		t.Errorf("%s, %d calls", s, corp.calls()-calls)
	}
}

// An answer that could not be recorded is asked for again before anything else: one certificate, and the order holds.
func TestQueueBrokeOff(t *testing.T) {
	broken := false
	w, corp := farAway(t, func(w *world, _ *moody) {
		w.wrap = func(s gateway.Store) gateway.Store {
			return &watched{Store: s, settling: func(context.Context) error {
				if broken {
					return errors.New("disk")
				}
				return nil
			}}
		}
	})
	corp.is("not-asked", true)
	one, two := w.ask("one", gateway.ResultPending), w.ask("two", gateway.ResultPending)
	corp.is("", false)
	broken = true
	from := corp.calls()
	w.drain()
	if s := w.state(one.ID); s != gateway.StateIssuing {
		t.Errorf("%s", s)
	}
	broken = false
	w.restart()
	w.drain()
	for _, r := range []*gateway.Request{one, two} {
		if s := w.state(r.ID); s != gateway.StateIssued || corp.Issued(r.ID) != 1 {
			t.Errorf("%s, issued %d times", s, corp.Issued(r.ID))
		}
	}
	if asked := corp.asked(from); !slices.Equal(asked, []string{one.ID, two.ID}) {
		t.Errorf("asked for %v", asked)
	}
}

// silent has no answer about one request.
type silent struct {
	*moody
	of string
}

func (s *silent) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if r.ID == s.of {
		return nil, errMute
	}
	return s.moody.Issue(ctx, r)
}

func (s *silent) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if r.ID == s.of {
		return nil, errMute
	}
	return s.moody.Lookup(ctx, r)
}

// One request that the CA never answers holds the others up three times, no more: then it is the worker's.
func TestQueuePasses(t *testing.T) {
	s := &silent{}
	w, corp := farAway(t, func(w *world, corp *moody) {
		s.moody = corp
		w.more["corp"] = s
	})
	corp.is("not-asked", true)
	one, two := w.ask("one", gateway.ResultPending), w.ask("two", gateway.ResultPending)
	s.of = one.ID
	corp.is("", false)
	w.drain()
	w.drain()
	if w.state(two.ID) != gateway.StateQueued {
		t.Fatal("it was passed at once")
	}
	w.drain()
	if a, b := w.state(one.ID), w.state(two.ID); a != gateway.StateUnknown || b != gateway.StateIssued {
		t.Fatalf("%s, %s", a, b)
	}
	s.of = ""
	w.work(time.Minute)
	if a := w.state(one.ID); a != gateway.StateIssued || corp.Issued(one.ID) != 1 {
		t.Errorf("%s", a)
	}
}

// A refusal of the CA is one, also of what waited; and it holds up nobody.
func TestQueueRefused(t *testing.T) {
	w, corp := farAway(t)
	corp.is("not-asked", true)
	one, two := w.ask("one", gateway.ResultPending), w.ask("two", gateway.ResultPending)
	corp.is("refuse", false)
	w.drain()
	for _, r := range []*gateway.Request{one, two} {
		if s := w.state(r.ID); s != gateway.StateFailed {
			t.Errorf("%s", s)
		}
	}
}

// Without the setting the gateway refuses, as ever; and what waits from before it was taken out still goes to the CA.
func TestQueueTakenOut(t *testing.T) {
	w, corp := farAway(t)
	corp.is("exhausted", true)
	one := w.ask("one", gateway.ResultPending)
	w.offline = nil
	w.swap()
	w.clock.add(time.Millisecond)
	if _, err := w.gw.Enroll(t.Context(), w.request("two")); reason(err) != gateway.Busy && reason(err) != gateway.Unavailable {
		t.Errorf("%v", err)
	}
	w.drain()
	if s := w.state(one.ID); s != gateway.StateQueued {
		t.Errorf("%s", s)
	}
	corp.is("", false)
	w.drain()
	if s := w.state(one.ID); s != gateway.StateIssued {
		t.Errorf("%s", s)
	}
}

// A request that somebody approved while the CA could not be asked waits as the others do.
func TestQueueOfApproved(t *testing.T) {
	w, corp := farAway(t, func(w *world, _ *moody) { holding(1)(w) })
	corp.is("not-asked", true)
	r := w.ask("held", gateway.ResultPending)
	w.clock.add(24 * time.Hour)
	if tx, err := w.approve(r.ID, "alice"); err != nil || tx.State != gateway.StateQueued {
		t.Fatalf("%v, %+v", err, tx)
	}
	w.clock.add(24 * time.Hour)
	corp.is("", false)
	w.drain()
	tx, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || tx.State != gateway.StateIssued || w.clock.now().Sub(tx.Certificate.NotBefore).Abs() > time.Minute {
		t.Errorf("%v, %+v", err, tx)
	}
}
