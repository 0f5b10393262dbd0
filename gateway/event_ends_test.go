package gateway_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// TestEndsSayAll: each end of a transaction that TestEventsSayAll does not look at says whose it is, and of which certificate; a decision all of it.
func TestEndsSayAll(t *testing.T) {
	about := []string{"transaction", "at", "protocol", "endpoint", "operation", "requester", "source"}
	decision := slices.Concat(about, []string{"credentials", "requestSHA256", "asked", "verdicts", "granted"})
	certificate := []string{"issuer", "serial", "fingerprint", "subject"}
	fails := func(f backendtest.Fault) backendtest.FaultPlan {
		return backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: f}}
	}
	unconfirmed := func(w *world, r *gateway.Request) *gateway.Request {
		x := w.exchange(r, "exchange")
		x.Raw, x.Source = r.Raw, r.Source
		w.mustEnroll(x)
		return x
	}
	for _, c := range []struct {
		name, kind string
		plan       backendtest.FaultPlan
		change     func(*world)
		make       func(w *world, r *gateway.Request)
		wants      []string
	}{
		{"failed", "failed", fails(backendtest.FaultRefuse), nil, func(w *world, r *gateway.Request) { _, _ = w.gw.Enroll(t.Context(), r) }, slices.Concat(decision, []string{"reason", "note"})},
		{"stuck", "stuck", fails(backendtest.FaultDrop), func(w *world) {
			w.desc = func(d *backend.Description) { d.Idempotency = backend.IdempotencyNone }
		}, func(w *world, r *gateway.Request) { _, _ = w.gw.Enroll(t.Context(), r); w.work(time.Second) }, slices.Concat(decision, []string{"note"})},
		{"settled by the worker", "issued", fails(backendtest.FaultDrop), func(w *world) {
			w.desc = func(d *backend.Description) { d.Idempotency = backend.IdempotencyLookup }
		}, func(w *world, r *gateway.Request) { _, _ = w.gw.Enroll(t.Context(), r); w.work(time.Second) }, slices.Concat(decision, certificate)},
		{"issued, and to be confirmed", "issued", backendtest.FaultPlan{}, nil, func(w *world, r *gateway.Request) { unconfirmed(w, r) }, slices.Concat(decision, certificate, []string{"wireID"})},
		{"rejected", "rejected", backendtest.FaultPlan{}, nil, func(w *world, r *gateway.Request) {
			x := unconfirmed(w, r)
			if _, err := w.gw.Confirm(t.Context(), &gateway.Confirmation{Transaction: x.ID, Request: x, Note: "said so"}); err != nil {
				t.Error(err)
			}
		}, slices.Concat(about, certificate, []string{"note", "credentials", "requestSHA256", "wireID"})},
		{"unconfirmed", "unconfirmed", backendtest.FaultPlan{}, nil, func(w *world, r *gateway.Request) { unconfirmed(w, r); w.work(5 * time.Minute) }, slices.Concat(about, certificate, []string{"note", "wireID"})},
		{"kept", "kept", backendtest.FaultPlan{}, func(w *world) { w.keep = true }, func(w *world, r *gateway.Request) { unconfirmed(w, r); w.work(5 * time.Minute) }, slices.Concat(about, certificate, []string{"wireID"})},
		{"revoked", "revoked", backendtest.FaultPlan{}, nil, func(w *world, r *gateway.Request) {
			c := w.mustEnroll(r).Certificate
			if _, _, err := w.gw.RevokeCertificate(t.Context(), c.RawIssuer, c.SerialNumber.Bytes(), 1, "anna", "lost"); err != nil {
				t.Error(err)
			}
			w.work(time.Second)
		}, slices.Concat(about, certificate)},
		{"nobody approved in time", "denied", backendtest.FaultPlan{}, holding(1), func(w *world, r *gateway.Request) {
			w.mustEnroll(r)
			w.work(30 * 24 * time.Hour)
		}, slices.Concat(decision, []string{"note"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []func(*world)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			w := newWorld(t, c.plan, changes...)
			h := w.heard()
			r := w.request("device")
			r.Raw, r.Source = []byte("message"), netip.MustParseAddr("192.0.2.1")
			c.make(w, r)
			wantFields(t, h, c.kind, c.wants)
		})
	}
	t.Run("passed on", func(t *testing.T) {
		w := newPassWorld(t)
		h := w.heard()
		r := w.ask("message")
		r.Source = netip.MustParseAddr("192.0.2.1")
		w.cert("a", r)
		w.answers("cert a", "confirmed")
		if _, err := w.gw.Enroll(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		wantFields(t, h, "passed-on", slices.Concat(about, []string{"credentials", "requestSHA256", "asked", "verdicts", "granted", "wireID"}))
		wantFields(t, h, "issued", slices.Concat(decision, certificate))
		if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf")); err != nil {
			t.Fatal(err)
		}
		wantFields(t, h, "confirmed", slices.Concat(about, certificate, []string{"wireID"}))
	})
}

// wantFields wants the last event of a kind to have all of them.
func wantFields(t *testing.T, h *heardSink, kind string, wants []string) {
	t.Helper()
	e := h.of(kind)
	if e == nil {
		t.Fatalf("no event %q in %v", kind, h.events)
	}
	for _, name := range wants {
		if _, ok := e[name]; !ok {
			t.Errorf("%s: no %s in %v", kind, name, e)
		}
	}
	sum := sha256.Sum256([]byte("message"))
	if slices.Contains(wants, "requestSHA256") && e["requestSHA256"] != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: hash %v", kind, e["requestSHA256"])
	}
}
