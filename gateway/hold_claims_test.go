package gateway_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// named lets each device enrol once by what the request says of itself, and holds whoever did not authenticate for so many approvers.
func named(approvers int) func(*world) {
	return func(w *world) {
		w.enroll = gateway.Pipeline{stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			if c, ok := r.Credential(gateway.CredentialPassword); ok && string(c.Secret) == "secret" {
				g.Authenticate(c)
			}
			return gateway.Allowed("", gateway.Claim{Key: "device:" + string(r.Subject), Limit: 1, Lost: "device-1 has enrolled once, of 1"})
		}), stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			if g.Requester != "" {
				return gateway.Allowed("")
			}
			v := gateway.Held("somebody has to look")
			v.Terms.Approvers = approvers
			return v
		})}
	}
}

// unproven is a request of somebody who only says which device he is.
func (w *world) unproven(name string) *gateway.Request {
	r := w.request(name)
	r.Credentials = nil
	r.Message = append([]byte("message "), r.PublicKey...)
	return r
}

// A request that waits for people uses nothing up of the device that it says it is: that one enrols, and then the request cannot be
// approved, stays held, and the operator is told why.
func TestHeldRequestTakesNothingOfADevice(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, named(1))
	stranger := w.unproven("device-1")
	if res := w.mustEnroll(stranger); res.Kind != gateway.ResultPending || w.state(stranger.ID) != gateway.StateHeld {
		t.Fatalf("%+v, %s", res, w.state(stranger.ID))
	}
	w.restart()
	device := w.request("device-1")
	if res := w.mustEnroll(device); res.Kind != gateway.ResultIssued {
		t.Fatalf("the device itself: %+v", res)
	}
	_, err := w.approve(stranger.ID, "anna")
	if _, lost := errors.AsType[*gateway.ClaimLostError](err); !lost || reason(err) != gateway.NotAuthorized || !strings.Contains(err.Error(), "device-1 has enrolled once, of 1") {
		t.Errorf("approved: %v", err)
	}
	got, err := w.store.Transaction(t.Context(), stranger.ID)
	if err != nil || got.State != gateway.StateHeld || len(got.Hold.Approvals) != 0 || len(got.Hold.Claims) != 1 || w.memory.Total() != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	// Nobody has to look at what nothing is left for.
	if _, err := w.gw.Enroll(t.Context(), w.unproven("device-1")); reason(err) != gateway.NotAuthorized {
		t.Errorf("held, though nothing is left: %v", err)
	}
	if denied, err := w.gw.Deny(t.Context(), stranger.ID, "anna", ""); err != nil || denied.State != gateway.StateDenied {
		t.Errorf("%+v, %v", denied, err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.NotAuthorized {
		t.Errorf("the denial gave the device's own use back: %v", err)
	}
}

// What is approved counts, by the last approval; what is a message's own use counts from when it is held.
func TestApprovedRequestTakesItsClaims(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, named(2))
	stranger, other := w.unproven("device-1"), w.unproven("device-1")
	w.mustEnroll(stranger)
	w.mustEnroll(other)
	again := w.again(stranger)
	again.Content = []byte("in another way")
	if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.DuplicateCert {
		t.Errorf("the message is good for another request while one is held: %v", err)
	}
	for i, who := range []string{"anna", "otto"} {
		if tx, err := w.approve(stranger.ID, who); err != nil || (tx.State == gateway.StateIssued) != (i == 1) {
			t.Fatalf("%s: %+v, %v", who, tx, err)
		}
		if _, err := w.approve(other.ID, who); (err == nil) != (i == 0) {
			t.Errorf("%s, the other one: %v", who, err)
		}
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.NotAuthorized || w.memory.Total() != 1 {
		t.Errorf("the device is not counted: %v, %d certificates", err, w.memory.Total())
	}
	w.work(gateway.DefaultHold + time.Second)
	if s := w.state(other.ID); s != gateway.StateDenied {
		t.Errorf("the other one is %s", s)
	}
}

// Who authenticated takes it at once, held or not.
func TestHeldRequestOfTheKnown(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	r := w.request("device-1")
	w.mustEnroll(r)
	if tx, err := w.store.Transaction(t.Context(), r.ID); err != nil || tx.State != gateway.StateHeld || len(tx.Hold.Claims) != 0 {
		t.Errorf("%+v, %v", tx, err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.NotAuthorized {
		t.Errorf("taken twice: %v", err)
	}
}
