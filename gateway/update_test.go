package gateway_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// updates puts pipelines of the given operations beside enroll. Each renews *old.
func (w *world) updates(old **x509.Certificate, operations ...gateway.Operation) {
	w.t.Helper()
	renewing := append(gateway.Pipeline{}, w.enroll...)
	renewing = append(renewing, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.Replaces = &gateway.Replaced{Issuer: (*old).RawIssuer, Serial: (*old).SerialNumber.Bytes()}
		return gateway.Allowed("")
	}))
	pipelines := map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll}
	for _, op := range operations {
		pipelines[op] = renewing
	}
	profile := &gateway.Profile{Name: "device", Backend: "ca", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature}
	if err := w.gw.Swap(w.t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Protocol: gateway.EST, Profile: profile, Pipelines: pipelines}},
		Backends:  map[string]backend.Backend{"ca": described{w.ca, w.desc}},
	}); err != nil {
		w.t.Fatal(err)
	}
}

// The certificate that is updated stays valid: while its successor waits to be confirmed, when that is rejected, and when it is
// confirmed, since the device may still have sessions with it (RFC 9810 section 5.3.5).
func TestUpdateLeavesTheOldCertificate(t *testing.T) {
	var old *x509.Certificate
	w := newWorld(t, backendtest.FaultPlan{})
	w.updates(&old, gateway.Renew)
	first := w.mustEnroll(w.request("device-1"))
	old = first.Certificate
	for i, accepted := range []bool{false, true} {
		r := w.exchange(w.request("device-1"), string(rune('a'+i)))
		r.Operation = gateway.Rekey
		if res := w.mustEnroll(r); !res.Unconfirmed || w.revoked(first.Transaction) {
			t.Errorf("unconfirmed: %+v, the old one revoked: %t", res, w.revoked(first.Transaction))
		}
		if _, err := w.confirm(r.ID, accepted); err != nil {
			t.Fatal(err)
		}
		w.work(time.Hour)
		if w.revoked(first.Transaction) || w.revoked(r.ID) == accepted {
			t.Errorf("accepted %t: revoked are the old one %t, the new one %t", accepted, w.revoked(first.Transaction), w.revoked(r.ID))
		}
	}
}

// An update with the same key is a renewal, with another key a rekey: an endpoint with a pipeline for rekey alone takes no key
// twice; one for renew serves both.
func TestUpdateWithTheSameKey(t *testing.T) {
	for _, tt := range []struct {
		operations          []gateway.Operation
		sameKey, anotherKey bool
	}{
		{nil, false, false}, {[]gateway.Operation{gateway.Rekey}, false, true}, {[]gateway.Operation{gateway.Renew}, true, true},
		{[]gateway.Operation{gateway.Renew, gateway.Rekey}, true, true},
	} {
		var old *x509.Certificate
		w := newWorld(t, backendtest.FaultPlan{})
		w.updates(&old, tt.operations...)
		old = w.mustEnroll(w.request("device-1")).Certificate
		for op, may := range map[gateway.Operation]bool{gateway.Renew: tt.sameKey, gateway.Rekey: tt.anotherKey} {
			r := w.request("device-1")
			r.Operation = op
			if _, err := w.gw.Enroll(t.Context(), r); (err == nil) != may || err != nil && reason(err) != gateway.NotAuthorized {
				t.Errorf("pipelines for %v: %s: %v", tt.operations, op, err)
			}
		}
	}
}
