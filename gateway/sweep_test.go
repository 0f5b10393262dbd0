package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// sweeper notes what the gateway has its store sweep.
type sweeper struct {
	gateway.Store
	orders []gateway.SweepOrder
	answer func() (gateway.SweepResult, error)
}

func (s *sweeper) Sweep(_ context.Context, o gateway.SweepOrder) (gateway.SweepResult, error) {
	s.orders = append(s.orders, o)
	return s.answer()
}

// TestSweepEvery: once an hour, and as long as batches are full with each look.
func TestSweepEvery(t *testing.T) {
	s := &sweeper{answer: func() (gateway.SweepResult, error) { return gateway.SweepResult{}, nil }}
	var logs strings.Builder
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.logs = &logs
		w.wrap = func(inner gateway.Store) gateway.Store { s.Store = inner; return s }
	})
	sweeps := func(want int) {
		t.Helper()
		w.gw.Sweep(t.Context())
		if len(s.orders) != want {
			t.Fatalf("swept %d times, want %d", len(s.orders), want)
		}
	}
	sweeps(1)
	if o := s.orders[0]; o != (gateway.SweepOrder{}) {
		t.Errorf("%+v, where nothing says how long", o)
	}
	w.clock.add(time.Hour - 1)
	sweeps(1)
	w.clock.add(1)
	full := 2
	s.answer = func() (gateway.SweepResult, error) {
		full--
		return gateway.SweepResult{Refused: 256, More: full >= 0}, nil
	}
	sweeps(2)
	sweeps(3)
	sweeps(4)
	sweeps(4)
	if !strings.Contains(logs.String(), "refused=768") {
		t.Errorf("logged: %s", logs.String())
	}
	s.answer = func() (gateway.SweepResult, error) { return gateway.SweepResult{}, errors.New("away") }
	w.clock.add(time.Hour)
	sweeps(5)
	sweeps(5)
	w.clock.add(-48 * time.Hour) // it was wrong before
	sweeps(6)
	rt := &gateway.Runtime{Retention: gateway.Retention{Refused: time.Hour, Ended: 2 * time.Hour}}
	if err := w.gw.Swap(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	w.clock.add(time.Hour)
	sweeps(7)
	now := w.clock.now()
	if o, want := s.orders[6], (gateway.SweepOrder{Refused: now.Add(-time.Hour), Ended: now.Add(-2 * time.Hour)}); o != want {
		t.Errorf("%+v, want %+v", o, want)
	}
}

// TestLoopingDevice: who is refused the same again and again gets five rows a minute; the others are explained from memory, and
// summed up in the audit trail.
func TestLoopingDevice(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Denied(gateway.NotAuthorized, "", "no"))}
	})
	h := w.heard()
	var last string
	refused := func(n int) {
		t.Helper()
		for range n {
			r := w.request("device")
			last = r.ID
			if _, err := w.gw.Enroll(t.Context(), r); err == nil {
				t.Fatal("allowed")
			}
		}
	}
	kept := func(want int) {
		t.Helper()
		list, err := w.store.Transactions(t.Context(), gateway.TransactionFilter{States: []gateway.State{gateway.StateRefused}})
		if err != nil || len(list) != want {
			t.Fatalf("%d are kept, %v, want %d", len(list), err, want)
		}
	}
	refused(4)
	kept(4)
	refused(1)
	tr, err := w.gw.Explain(t.Context(), last)
	if err != nil || !strings.Contains(tr.Note, "further ones are counted") {
		t.Errorf("%+v, %v", tr, err)
	}
	refused(7)
	kept(5)
	tr, err = w.gw.Explain(t.Context(), last)
	if err != nil || tr.Reason != gateway.NotAuthorized || len(tr.Verdicts) != 2 || tr.Requester == "" {
		t.Errorf("%+v, %v", tr, err)
	}
	w.gw.SumUp(t.Context())
	if e := h.of("turned-away"); e == nil || e["counts"].(map[string]any)["est not-authorized"] != 7.0 {
		t.Errorf("summed up: %v", e)
	}
	w.clock.add(time.Minute)
	refused(1)
	kept(6)
}
