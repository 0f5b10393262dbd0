package gateway_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// next is a Runtime with an endpoint of a name, on a backend "other" that the running one does not have.
func (w *world) next(endpoint string, protocol gateway.Protocol, b backend.Backend) *gateway.Runtime {
	return &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{endpoint: {
			Name: endpoint, Protocol: protocol, Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll},
			Profile: &gateway.Profile{Name: "device", Backend: "other", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature},
		}},
		Backends: map[string]backend.Backend{"other": b},
	}
}

// What is made with a prepared Gateway answers by its Runtime before that is in force, while, and after it; nobody else sees it
// before it is in force.
func TestPreparedKeepsToItsRuntime(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	first, err := w.gw.Prepare(t.Context(), w.next("first", gateway.EST, w.ca))
	if err != nil {
		t.Fatal(err)
	}
	enroll := func(g *gateway.Gateway, endpoint string) bool {
		t.Helper()
		r := w.request(endpoint)
		r.Endpoint = endpoint
		res, err := g.Enroll(t.Context(), r)
		if err != nil && reason(err) != gateway.NotAuthorized {
			t.Fatal(err)
		}
		return err == nil && res.Kind == gateway.ResultIssued
	}
	known := func(g *gateway.Gateway, endpoint string) bool { return len(g.ProfilesOf(endpoint)) > 0 }
	if !enroll(first, "first") || enroll(w.gw, "first") || known(w.gw, "first") || !enroll(w.gw, "est") || enroll(first, "est") {
		t.Error("before it is in force")
	}
	w.gw.Use(first)
	if !enroll(w.gw, "first") || enroll(w.gw, "est") {
		t.Error("in force")
	}
	if err := w.gw.Swap(t.Context(), w.next("second", gateway.EST, w.ca)); err != nil {
		t.Fatal(err)
	}
	if !enroll(first, "first") || !known(first, "first") || enroll(w.gw, "first") || !enroll(w.gw, "second") {
		t.Error("after it was in force")
	}
}

// While a Runtime is prepared, the worker settles by it the gateway's own requests, and no others: the backend that they need runs in
// no other.
func TestWorkerSettlesOwnRequestsOfAPreparedRuntime(t *testing.T) {
	for _, protocol := range []gateway.Protocol{gateway.Self, gateway.EST} {
		w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop, 2: backendtest.FaultDrop}})
		prepared, err := w.gw.Prepare(t.Context(), w.next("self", protocol, w.ca))
		if err != nil {
			t.Fatal(err)
		}
		r := w.request("self")
		r.Protocol, r.Endpoint = protocol, "self"
		if res, err := prepared.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
			t.Fatalf("%+v, %v", res, err)
		}
		w.work(time.Minute)
		if state, want := w.state(r.ID), protocol == gateway.Self; (state == gateway.StateIssued) != want {
			t.Errorf("%s: %s", protocol, state)
		}
		w.gw.Drop(prepared)
	}
}

// Once it is dropped, nothing goes by it.
func TestDroppedIsForgotten(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop, 2: backendtest.FaultDrop}})
	prepared, err := w.gw.Prepare(t.Context(), w.next("self", gateway.Self, w.ca))
	if err != nil {
		t.Fatal(err)
	}
	r := w.request("self")
	r.Protocol, r.Endpoint = gateway.Self, "self"
	if _, err := prepared.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.gw.Drop(prepared)
	w.work(time.Minute)
	if state := w.state(r.ID); state == gateway.StateIssued {
		t.Error(state)
	}
}

// heir remembers through its heirs.
type heir struct {
	stage
	name string
	from *heir
}

func (h *heir) Name() string            { return h.name }
func (h *heir) Inherit(s gateway.Stage) { h.from = s.(*heir) }

// Stages inherit from those of their name, the first from the first, wherever they stand.
func TestInherit(t *testing.T) {
	one := func(name string) *heir { return &heir{stage: always(gateway.Allowed("")), name: name} }
	a, b, c, other := one("x"), one("x"), one("x"), one("y")
	a2, b2, c2, none := one("x"), one("x"), one("x"), one("z")
	gateway.Pipeline{none, a2, gateway.AnyOf(gateway.Pipeline{b2}, gateway.Pipeline{c2})}.Inherit(
		gateway.Pipeline{gateway.AnyOf(gateway.Pipeline{a}, gateway.Pipeline{b}), other, gateway.Not(gateway.Pipeline{c})})
	if a2.from != a || b2.from != b || c2.from != c || none.from != nil {
		t.Errorf("%+v %+v %+v %+v", a2.from, b2.from, c2.from, none.from)
	}
	fresh := one("x")
	gateway.Pipeline{fresh}.Inherit(nil)
	if fresh.from != nil {
		t.Error("from nothing")
	}
}
