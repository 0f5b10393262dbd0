package gateway_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// spiteful answers all requests but one, as CAs do that fall over one message, or bound what one device may ask for.
type spiteful struct {
	*moody
	of  string
	err error
}

func (s *spiteful) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if r.ID == s.of {
		return nil, s.err
	}
	return s.moody.Issue(ctx, r)
}

// A request that the CA says it has nothing of, and whose answer is lost each time, lets the others pass too; and so does one that the CA
// has no time for, while it has for others.
func TestQueuePoisoned(t *testing.T) {
	for name, failure := range map[string]error{"lost": errMute, "busy": backend.Exhausted(time.Hour, "enough of this device")} {
		t.Run(name, func(t *testing.T) {
			s := &spiteful{err: failure}
			w, corp := farAway(t, func(w *world, corp *moody) {
				s.moody = corp
				w.more["corp"] = s
			})
			corp.is("not-asked", true)
			one, two, three := w.ask("one", gateway.ResultPending), w.ask("two", gateway.ResultPending), w.ask("three", gateway.ResultPending)
			s.of = one.ID
			corp.is("", false)
			for range 3 {
				w.drain()
			}
			if b, c := w.state(two.ID), w.state(three.ID); b != gateway.StateIssued || c != gateway.StateIssued {
				t.Fatalf("behind one that gets no answer (%s): %s, %s", w.state(one.ID), b, c)
			}
			w.work(time.Minute) // and it is not in their way when it was asked again
			four := w.request("four")
			if _, err := w.gw.Enroll(t.Context(), four); err != nil {
				t.Fatal(err)
			}
			w.drain()
			if d := w.state(four.ID); d != gateway.StateIssued {
				t.Errorf("later: %s", d)
			}
			s.of = ""
			w.work(2 * time.Hour)
			w.drain()
			if a := w.state(one.ID); a != gateway.StateIssued || corp.Issued(one.ID) != 1 {
				t.Errorf("%s", a)
			}
		})
	}
}

// A CA that has time for nobody loses the order of a few, not of all that wait.
func TestQueueAllBusy(t *testing.T) {
	w, corp := farAway(t)
	corp.is("exhausted", false)
	for range 20 {
		w.ask("device", gateway.ResultPending)
	}
	for range 12 {
		w.clock.add(6 * time.Second)
		if err := w.gw.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if q, err := w.store.Queue(t.Context(), "corp"); err != nil || q.Length < 18 || q.Length == 20 {
		t.Errorf("%+v, %v", q, err)
	}
}

// How long a request may wait for the CA counts from its approval, not from when it came.
func TestQueueLongHeld(t *testing.T) {
	w, corp := farAway(t, func(w *world, _ *moody) {
		holding(1)(w)
		w.offline["corp"] = gateway.Offline{Keep: 10, For: time.Hour}
	})
	corp.is("not-asked", true)
	r := w.ask("held", gateway.ResultPending)
	w.clock.add(24 * time.Hour)
	if tx, err := w.approve(r.ID, "alice"); err != nil || tx.State != gateway.StateQueued {
		t.Fatalf("%v, %+v", err, tx)
	}
	corp.is("", false)
	w.drain()
	if s := w.state(r.ID); s != gateway.StateIssued {
		t.Errorf("%s", s)
	}
}

// A request that a standby keeps, which the profile's first CA does not, has its own dates and its device as any other.
func TestQueueOfStandby(t *testing.T) {
	w, corp, corp2 := twoRoutes(t, func(w *world, _, _ *moody) {
		w.offline = map[string]gateway.Offline{"corp2": {Keep: 10, For: 24 * time.Hour}}
	})
	corp.is("not-asked", false)
	corp2.is("not-asked", false)
	r := w.ask("one", gateway.ResultPending)
	w.clock.add(2 * time.Hour)
	corp2.is("", false)
	w.drain()
	tx, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || tx.State != gateway.StateIssued {
		t.Fatalf("%v, %s: %s", err, tx.State, tx.Note)
	}
	if off := w.clock.now().Sub(tx.Certificate.NotBefore).Abs(); off > 2*time.Minute {
		t.Errorf("valid from %v, asked for at %v", tx.Certificate.NotBefore, w.clock.now())
	}
}

// What an earlier release left with the CA, or a configuration without `offline`, goes on with the dates that it was recorded with.
func TestQueueOfBefore(t *testing.T) {
	broken := false
	w, corp := farAway(t, func(w *world, _ *moody) {
		w.offline = nil
		w.wrap = func(s gateway.Store) gateway.Store {
			return &watched{Store: s, settling: func(context.Context) error {
				if broken {
					return errors.New("disk")
				}
				return nil
			}}
		}
	})
	corp.is("unavailable", true)
	broken = true
	r := w.ask("one", gateway.ResultPending)
	if s := w.state(r.ID); s != gateway.StateIssuing {
		t.Fatalf("%s", s)
	}
	was := w.clock.now()
	broken = false
	w.offline = map[string]gateway.Offline{"corp": {Keep: 10, For: 24 * time.Hour}}
	w.restart()
	w.work(2 * time.Hour)
	corp.is("", false)
	w.drain()
	tx, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || tx.State != gateway.StateIssued {
		t.Fatalf("%v, %s: %s", err, tx.State, tx.Note)
	}
	if off := was.Sub(tx.Certificate.NotBefore).Abs(); off > time.Minute {
		t.Errorf("valid from %v, recorded at %v", tx.Certificate.NotBefore, was)
	}
}

// One that waits for a CA which is no longer configured ends by an operator's word, and whoever stands in the way of nobody goes on.
func TestQueueOfNoBackend(t *testing.T) {
	w, corp := farAway(t, func(w *world, _ *moody) { once(w) })
	corp.is("not-asked", true)
	r := w.ask("one", gateway.ResultPending)
	more, shape := w.more, w.shape
	w.more, w.offline, w.shape = nil, nil, nil
	w.swap()
	w.drain()
	if s := w.state(r.ID); s != gateway.StateQueued {
		t.Fatalf("%s", s)
	}
	if _, err := w.gw.SettleStuck(t.Context(), r.ID, &backend.Issuance{Certificate: []byte{1}}, "anna", ""); reason(err) != gateway.NotAuthorized {
		t.Errorf("%v", err)
	}
	if tr, err := w.gw.SettleStuck(t.Context(), r.ID, nil, "anna", "the CA is gone"); err != nil || tr.State != gateway.StateFailed {
		t.Fatalf("%v, %+v", err, tr)
	}
	w.more, w.shape = more, shape
	w.swap()
	corp.is("", false)
	w.ask("one", gateway.ResultIssued) // what it had used up was given back
}
