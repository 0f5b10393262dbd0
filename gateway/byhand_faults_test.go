package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// What an operator says he found changes nothing when it is another CA's, or nobody can tell: neither is the request over, nor anything
// revoked at the CA that has not issued it.
func TestSettledByHandOfAnotherCA(t *testing.T) {
	w, r, found := stuck(t)
	tr, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "elsewhere", Clock: w.clock.now}).Issue(t.Context(), tr.Intent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.gw.SettleStuck(t.Context(), r.ID, foreign, "anna", ""); reason(err) != gateway.BadTemplate || !strings.Contains(err.Error(), "none of the certificates") {
		t.Errorf("another CA's: %v", err)
	}
	if s := w.state(r.ID); s != gateway.StateStuck {
		t.Errorf("another CA's: it is %s", s)
	}

	silent := false
	down := &twisted{cas: func(ctx context.Context) ([]backend.CA, error) {
		if silent {
			return nil, errors.New("down")
		}
		return w.memory.CACertificates(ctx)
	}}
	w.desc = func(d *backend.Description) { d.Idempotency = backend.IdempotencyNone }
	w.twist(down)
	silent = true
	w.clock.add(time.Hour) // what the CA said is no longer believed
	if _, err := w.gw.SettleStuck(t.Context(), r.ID, found, "anna", ""); reason(err) != gateway.Unavailable {
		t.Errorf("nobody can tell: %v", err)
	}
	if tr, err := w.store.Transaction(t.Context(), r.ID); err != nil || tr.State != gateway.StateStuck || strings.Contains(tr.Note, "down") {
		t.Errorf("nobody can tell: %+v, %v", tr, err)
	}
	silent = false
	if tr, err := w.gw.SettleStuck(t.Context(), r.ID, found, "anna", ""); err != nil || tr.State != gateway.StateIssued {
		t.Errorf("%+v, %v", tr, err)
	}
}

// Of two requests that one certificate fits, one has it, when operators give it to both at once.
func TestSettledByHandTwice(t *testing.T) {
	s := &watched{}
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop, 2: backendtest.FaultDrop}}, idempotency(backend.IdempotencyNone), watch(s))
	r := w.request("device-1")
	other := w.again(r)
	other.Content = []byte("in another way")
	w.mustEnroll(r)
	w.mustEnroll(other)
	o, err := w.memory.Lookup(t.Context(), &backend.IssueRequest{ID: r.ID})
	if err != nil || o.State != backend.OutcomeIssued {
		t.Fatal(o, err)
	}
	s.settling = func(context.Context) error {
		s.settling = nil
		_, err := w.gw.SettleStuck(t.Context(), r.ID, o.Issuance, "otto", "")
		return err
	}
	if _, err := w.gw.SettleStuck(t.Context(), other.ID, o.Issuance, "anna", ""); reason(err) != gateway.BadTemplate {
		t.Errorf("given twice: %v", err)
	}
	if a, b := w.state(r.ID), w.state(other.ID); a != gateway.StateIssued || b != gateway.StateStuck {
		t.Errorf("%s and %s", a, b)
	}
}

// Whose certificate was found by hand, days later maybe, has the time to come for it that one has whose request was held.
func TestSettledByHandWaitsToBeConfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop}}, idempotency(backend.IdempotencyNone))
	r := w.exchange(w.request("device-1"), "wire-1")
	w.mustEnroll(r)
	o, err := w.memory.Lookup(t.Context(), &backend.IssueRequest{ID: r.ID})
	if err != nil || o.State != backend.OutcomeIssued {
		t.Fatal(o, err)
	}
	if tr, err := w.gw.SettleStuck(t.Context(), r.ID, o.Issuance, "anna", ""); err != nil || tr.State != gateway.StateUnconfirmed {
		t.Fatalf("%+v, %v", tr, err)
	}
	w.work(12 * time.Hour)
	if tr, err := w.confirm(r.ID, true); err != nil || tr.State != gateway.StateIssued {
		t.Errorf("%+v, %v", tr, err)
	}
}
