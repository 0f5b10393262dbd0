package gateway_test

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// reload swaps in a Runtime that is the world's own, changed.
func (w *world) reload(change func(*gateway.Runtime, *gateway.Profile)) {
	w.t.Helper()
	p := &gateway.Profile{
		Name: "device", Backend: "ca", Validity: 72 * time.Hour,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}},
	}
	rt := &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {
			Name: "est", Protocol: gateway.EST, Profile: p, Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll},
		}},
		Backends: map[string]backend.Backend{"ca": described{w.ca, w.desc}},
	}
	change(rt, p)
	if err := w.gw.Swap(w.t.Context(), rt); err != nil {
		w.t.Fatal(err)
	}
}

// enter puts a device into the inventory, in the place of one of its name.
func (w *world) enter(d gateway.Device) {
	w.t.Helper()
	if _, _, err := w.store.ImportDevices(w.t.Context(), []*gateway.Device{&d}, true, gateway.AuditEvent{Kind: "devices", At: w.clock.now()}, nil); err != nil {
		w.t.Fatal(err)
	}
}

// recognising holds every request, of a device in the inventory.
func recognising(w *world) {
	holding(1)(w)
	w.enroll[1] = stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		d, err := w.store.Device(context.Background(), "name", "station-1")
		if err != nil || !g.Recognise(d) {
			return gateway.Unanswered(err)
		}
		return gateway.Allowed("")
	})
}

// renewing holds every request as a renewal of *old.
func renewing(old **x509.Certificate) func(*world) {
	return func(w *world) {
		holding(1)(w)
		w.enroll[1] = stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Replaces = &gateway.Replaced{Issuer: (*old).RawIssuer, Serial: (*old).SerialNumber.Bytes()}
			return gateway.Allowed("")
		})
	}
}

// cannot approves, and wants that refused, with nothing done: the request is held as before.
func (w *world) cannot(id string, want gateway.Reason, detail string) {
	w.t.Helper()
	before := w.memory.Total()
	_, err := w.approve(id, "alice")
	if e := gateway.AsError(err); err == nil || e.Reason != want || !strings.Contains(e.Detail, detail) {
		w.t.Errorf("approved: %v (%v), want %s: %s", err, gateway.AsError(err).Detail, want, detail)
	}
	tx, err := w.store.Transaction(w.t.Context(), id)
	if err != nil || tx.State != gateway.StateHeld || len(tx.Hold.Approvals) != 0 || w.memory.Total() != before {
		w.t.Errorf("after it: %v, %+v", err, tx)
	}
}

func (w *world) can(id string, want gateway.State) {
	w.t.Helper()
	if tx, err := w.approve(id, "alice"); err != nil || tx.State != want {
		w.t.Errorf("approved: %v, %+v", err, tx)
	}
}

// What was disabled or taken away since the request was held gets no certificate by an approval.
func TestDeviceAtApproval(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, recognising)
	good := gateway.Device{Name: "station-1", Enrollments: gateway.Unlimited}
	w.enter(good)
	r := w.request("held")
	w.mustEnroll(r)
	for _, c := range []struct {
		detail string
		change func(d *gateway.Device)
	}{
		{"station-1 is disabled", func(d *gateway.Device) { d.Disabled = true }},
		{"is not valid any more", func(d *gateway.Device) { d.NotAfter = w.clock.now().Add(-time.Minute) }},
		{"may ask at the endpoints other", func(d *gateway.Device) { d.Endpoints = []string{"other"} }},
		{"may no longer have the profile device", func(d *gateway.Device) { d.Profiles = []string{"other"} }},
	} {
		d := good
		c.change(&d)
		w.enter(d)
		w.cannot(r.ID, gateway.NotAuthorized, c.detail)
	}
	if err := w.store.DropDevice(t.Context(), "station-1", gateway.AuditEvent{Kind: "device-removed", At: w.clock.now()}); err != nil {
		t.Fatal(err)
	}
	w.cannot(r.ID, gateway.NotAuthorized, "no longer in the inventory")
	w.enter(good)
	w.can(r.ID, gateway.StateIssued)
}

// A renewal that was held gives no certificate in the place of one that was revoked meanwhile.
func TestReplacedAtApproval(t *testing.T) {
	var old *x509.Certificate
	w := newWorld(t, backendtest.FaultPlan{})
	renew := func(name string, age time.Duration) (id string) {
		t.Helper()
		w.enroll = gateway.Pipeline{password{"secret"}}
		w.swap()
		old = w.mustEnroll(w.request(name)).Certificate
		w.clock.add(age)
		renewing(&old)(w)
		w.swap()
		r := w.request(name)
		w.mustEnroll(r)
		return r.ID
	}
	id := renew("revoked", 0)
	if _, _, err := w.gw.RevokeCertificate(t.Context(), old.RawIssuer, old.SerialNumber.Bytes(), 1, "bob", "stolen"); err != nil {
		t.Fatal(err)
	}
	w.cannot(id, gateway.NotAuthorized, "was revoked at")
	if _, err := w.gw.Deny(t.Context(), id, "alice", ""); err != nil {
		t.Error(err)
	}
	// The hold outlives it: who asked had proved in time who it was.
	id = renew("expired", 30*time.Hour)
	if w.clock.add(47 * time.Hour); !old.NotAfter.Before(w.clock.now()) {
		t.Fatalf("%s is not over at %s", old.NotAfter, w.clock.now())
	}
	w.can(id, gateway.StateIssued)
	id = renew("in force", 0)
	w.can(id, gateway.StateIssued)

	// Rejected, and not revoked yet.
	w.enroll = gateway.Pipeline{password{"secret"}}
	w.swap()
	first := w.exchange(w.request("rejected"), "a")
	old = w.mustEnroll(first).Certificate
	renewing(&old)(w)
	w.swap()
	r := w.request("rejected")
	w.mustEnroll(r)
	if _, err := w.confirm(first.ID, false); err != nil {
		t.Fatal(err)
	}
	w.cannot(r.ID, gateway.NotAuthorized, "is rejected")
}

// What is approved is what this gateway issues still; else the request stays held, and is approved when that is mended.
func TestConfigurationAtApproval(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	r := w.request("held")
	w.mustEnroll(r)
	nothing := linter{func(*backend.Template, *x509.Certificate) error { return nil }, func(*x509.Certificate) error { return nil }}
	for _, c := range []struct {
		want   gateway.Reason
		detail string
		change func(*gateway.Runtime, *gateway.Profile)
	}{
		{gateway.NotAuthorized, "endpoint est of the request is no longer configured", func(rt *gateway.Runtime, _ *gateway.Profile) {
			rt.Endpoints["other"] = rt.Endpoints["est"]
			rt.Endpoints["other"].Name = "other"
			delete(rt.Endpoints, "est")
		}},
		{gateway.NotAuthorized, "no longer offers the profile device", func(_ *gateway.Runtime, p *gateway.Profile) { p.Name = "other" }},
		{gateway.NotAuthorized, "is now another CA's", func(rt *gateway.Runtime, p *gateway.Profile) {
			p.Backend = "other"
			rt.Backends["other"] = rt.Backends["ca"]
		}},
		{gateway.NotAuthorized, "is now another CA's", func(_ *gateway.Runtime, p *gateway.Profile) { p.Issuer = "rsa" }},
		{gateway.BadTemplate, "would break its rules: not of these days", func(_ *gateway.Runtime, p *gateway.Profile) {
			strict := nothing
			strict.before = func(q *backend.Template, _ *x509.Certificate) error {
				if q.NotBefore.Equal(w.clock.now()) {
					return errors.New("not of these days")
				}
				return nil
			}
			p.Linter = strict
		}},
	} {
		w.clock.add(time.Hour)
		w.reload(c.change)
		w.cannot(r.ID, c.want, c.detail)
	}
	w.reload(func(_ *gateway.Runtime, p *gateway.Profile) { p.Linter = nothing })
	w.can(r.ID, gateway.StateIssued)
}

// A certificate that would be over when it is approved is not asked for.
func TestDatesOverAtApproval(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1), func(w *world) {
		w.enroll[1] = stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.NotAfter = g.NotBefore.Add(time.Hour) // as the request asked
			return gateway.Allowed("")
		})
	})
	r := w.request("held")
	w.mustEnroll(r)
	w.clock.add(time.Hour)
	w.cannot(r.ID, gateway.NotAuthorized, "which is over")
}

// What was approved and is never confirmed is revoked, and the enrollment given back; a day is left to poll.
func TestApprovedAndNeverConfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	r := w.exchange(w.request("silent"), "a")
	w.mustEnroll(r)
	w.can(r.ID, gateway.StateUnconfirmed)
	w.work(24*time.Hour - time.Second)
	if s := w.state(r.ID); s != gateway.StateUnconfirmed {
		t.Fatalf("within the day: %s", s)
	}
	if _, err := w.gw.Enroll(t.Context(), w.exchange(w.request("silent"), "b")); reason(err) != gateway.NotAuthorized {
		t.Errorf("the device's next try within the day: %v", err)
	}
	w.work(time.Second)
	w.work(0)
	if s := w.state(r.ID); s != gateway.StateRejected || !w.revoked(r.ID) || !w.memory.Revoked(r.ID) {
		t.Errorf("after it: %s, revoked %t", s, w.revoked(r.ID))
	}
	if res := w.mustEnroll(w.exchange(w.request("silent"), "c")); res.Kind != gateway.ResultPending {
		t.Errorf("the device's next try: %+v", res)
	}
}

// A denial stands in the way of nothing but the very request that was denied.
func TestDenialBlocksNobodyElse(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	r := w.exchange(w.request("denied"), "a")
	w.mustEnroll(r)
	if _, err := w.gw.Deny(t.Context(), r.ID, "alice", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.NotAuthorized {
		t.Fatalf("the same message: %v", err)
	}
	// In a new exchange the same device is judged anew, and held; so is one with another key.
	anew := w.exchange(r, "b")
	if res := w.mustEnroll(anew); res.Kind != gateway.ResultPending || res.Transaction != anew.ID {
		t.Errorf("the same wish in a new exchange: %+v", res)
	}
	if _, err := w.gw.Deny(t.Context(), anew.ID, "alice", ""); err != nil {
		t.Fatal(err)
	}
	// Approved after all, its answer gets lost: the device begins anew once more, and gets what was made for it.
	third := w.exchange(r, "b3")
	w.mustEnroll(third)
	w.can(third.ID, gateway.StateUnconfirmed)
	res, err := w.gw.Enroll(t.Context(), w.exchange(r, "b4"))
	if err != nil || res.Transaction != third.ID || res.Kind != gateway.ResultIssued {
		t.Fatalf("the answer got lost: %+v, %v", res, err)
	}
	if _, err := w.confirm(third.ID, false); err != nil {
		t.Fatal(err)
	}
	other := w.exchange(w.request("denied"), "c")
	if res := w.mustEnroll(other); res.Kind != gateway.ResultPending || res.Transaction != other.ID {
		t.Errorf("another key: %+v", res)
	}
	w.can(other.ID, gateway.StateUnconfirmed)
	// A message that was denied goes on being told so, while the other one has its certificate.
	if _, err := w.gw.Enroll(t.Context(), w.again(anew)); reason(err) != gateway.NotAuthorized {
		t.Errorf("the denied one: %v", err)
	}
}

// Clients that all call their transaction "0" get each its own.
func TestPollsUnderOneWireID(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	key := func(id string) gateway.Credential {
		return gateway.Credential{Kind: gateway.CredentialKey, ID: id}
	}
	ask := func(id string) *gateway.Request {
		t.Helper()
		r := w.request("zero-" + id)
		r.WireID, r.Credentials = "0", append(r.Credentials, key(id))
		w.mustEnroll(r)
		return r
	}
	poll := func(id string) (*gateway.Result, error) {
		return w.gw.Poll(t.Context(), &gateway.Request{
			ID: gateway.NewID(w.clock.now()), WireID: "0", Protocol: gateway.EST, Endpoint: "est", Operation: gateway.Query,
			Received: w.clock.now(), Credentials: []gateway.Credential{key(id)},
		})
	}
	asked := map[string]*gateway.Request{}
	for _, id := range []string{"a", "b", "c"} {
		asked[id] = ask(id)
	}
	w.can(asked["a"].ID, gateway.StateIssued)
	if _, err := w.gw.Deny(t.Context(), asked["c"].ID, "alice", ""); err != nil {
		t.Fatal(err)
	}
	if res, err := poll("a"); err != nil || res.Kind != gateway.ResultIssued || res.Transaction != asked["a"].ID {
		t.Errorf("the one that was approved: %+v, %v", res, err)
	}
	if res, err := poll("b"); err != nil || res.Kind != gateway.ResultPending || res.Transaction != asked["b"].ID {
		t.Errorf("the one that waits: %+v, %v", res, err)
	}
	if _, err := poll("c"); reason(err) != gateway.NotAuthorized {
		t.Errorf("the one that was denied: %v", err)
	}
	for _, stranger := range []string{"d", "", "%", "_", `a","message-key:b`} {
		if res, err := poll(stranger); reason(err) != gateway.UnknownCert {
			t.Errorf("stranger %q: %+v, %v", stranger, res, err)
		}
	}
}

// Two stages that count the same thing use it up once, by the stricter limit of the two.
func TestOneUseOfAClaim(t *testing.T) {
	count := func(limit int64) gateway.Stage {
		return always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: limit}))
	}
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, gateway.AnyOf(gateway.Pipeline{always(gateway.Denied("", "", "no")), count(1)}, gateway.Pipeline{count(3)}), count(2)}
	})
	for i := range 3 {
		_, err := w.gw.Enroll(t.Context(), w.request("device-1"))
		if i < 2 && err != nil || i == 2 && reason(err) != gateway.NotAuthorized {
			t.Errorf("enrollment %d: %v", i+1, err)
		}
	}
	if used, err := w.store.Uses(t.Context(), []string{"device:1"}); err != nil || used["device:1"] != 2 || w.memory.Total() != 2 {
		t.Errorf("%v uses, %v, %d certificates", used, err, w.memory.Total())
	}
}
