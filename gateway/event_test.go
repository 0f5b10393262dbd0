package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// heardSink keeps what it is told, unless it fails.
type heardSink struct {
	mu     sync.Mutex
	events []map[string]any
	size   int // of the largest body
	err    error
}

func (h *heardSink) Name() string { return "heard" }
func (h *heardSink) Close() error { return nil }
func (h *heardSink) Write(_ context.Context, records []audit.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	for _, r := range records {
		var e map[string]any
		if err := json.Unmarshal([]byte(r.Body), &e); err != nil {
			return err
		}
		h.events, h.size = append(h.events, e), max(h.size, len(r.Body))
	}
	return nil
}

// of is the last event of a kind, nil for none.
func (h *heardSink) of(kind string) map[string]any {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range slices.Backward(h.events) {
		if e["kind"] == kind {
			return e
		}
	}
	return nil
}

// heard has a world's audit trail go to a sink.
func (w *world) heard() *heardSink {
	w.t.Helper()
	h := &heardSink{}
	if err := w.store.(*store.Store).ShipTo(w.t.Context(), []audit.Sink{h}); err != nil {
		w.t.Fatal(err)
	}
	return h
}

// TestEventsSayAll: who, how authenticated, what asked, each verdict, what was issued, and the hash of the request.
func TestEventsSayAll(t *testing.T) {
	message := []byte("the message as received")
	sum := sha256.Sum256(message)
	hash := hex.EncodeToString(sum[:])
	decision := []string{"requester", "endpoint", "operation", "protocol", "transaction", "at", "source", "credentials", "requestSHA256", "asked", "verdicts"}
	certificate := []string{"issuer", "serial", "fingerprint"}
	asked := func(w *world, wireID string) *gateway.Request {
		r := w.request("device")
		if wireID != "" {
			r = w.exchange(r, wireID)
		}
		r.Raw, r.Source = message, netip.MustParseAddr("192.0.2.1")
		return r
	}
	for _, c := range []struct {
		kind   string
		change func(*world)
		make   func(w *world)
		wants  []string
	}{
		{"issued", nil, func(w *world) { w.mustEnroll(asked(w, "")) }, slices.Concat(decision, certificate, []string{"granted"})},
		{"refused", func(w *world) {
			w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Denied(gateway.NotAuthorized, "", "no"))}
		}, func(w *world) {
			if _, err := w.gw.Enroll(t.Context(), asked(w, "")); err == nil {
				t.Error("allowed")
			}
		}, slices.Concat(decision, []string{"stage", "reason", "note"})},
		{"held", holding(1), func(w *world) { w.mustEnroll(asked(w, "")) }, slices.Concat(decision, []string{"granted", "stage"})},
		{"approved", holding(1), func(w *world) {
			r := asked(w, "")
			w.mustEnroll(r)
			if _, err := w.approve(r.ID, "anna"); err != nil {
				t.Error(err)
			}
		}, slices.Concat(decision, []string{"granted", "actor"})},
		{"denied", holding(1), func(w *world) {
			r := asked(w, "")
			w.mustEnroll(r)
			if _, err := w.gw.Deny(t.Context(), r.ID, "anna", "no"); err != nil {
				t.Error(err)
			}
		}, slices.Concat(decision, []string{"granted", "actor", "note"})},
		{"confirmed", nil, func(w *world) {
			r := asked(w, "exchange")
			w.mustEnroll(r)
			if _, err := w.gw.Confirm(t.Context(), &gateway.Confirmation{Transaction: r.ID, Request: r, Accepted: true}); err != nil {
				t.Error(err)
			}
		}, slices.Concat(certificate, []string{"transaction", "requester", "wireID", "credentials", "requestSHA256", "source"})},
		{"resumed", nil, func(w *world) {
			first := asked(w, "first exchange")
			w.mustEnroll(first)
			w.mustEnroll(w.exchange(first, "exchange"))
		}, slices.Concat([]string{"transaction", "requester", "wireID", "credentials", "requestSHA256", "source", "note"})},
		{"revocation-ordered", nil, func(w *world) {
			r := asked(w, "")
			res := w.mustEnroll(r)
			c := res.Certificate
			if _, _, err := w.gw.RevokeCertificate(t.Context(), c.RawIssuer, c.SerialNumber.Bytes(), 1, "anna", "lost"); err != nil {
				t.Error(err)
			}
		}, slices.Concat(certificate, []string{"transaction", "actor", "note"})},
	} {
		t.Run(c.kind, func(t *testing.T) {
			var changes []func(*world)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			w := newWorld(t, backendtest.FaultPlan{}, changes...)
			h := w.heard()
			c.make(w)
			e := h.of(c.kind)
			for _, name := range c.wants {
				if _, ok := e[name]; !ok {
					t.Errorf("no %s in %v", name, e)
				}
			}
			if a, _ := e["asked"].(map[string]any); slices.Contains(c.wants, "asked") && (a["subject"] != "CN=device" || a["key"] == nil || a["keySHA256"] == nil) {
				t.Errorf("asked %v", a)
			}
			if slices.Contains(c.wants, "requestSHA256") && e["requestSHA256"] != hash {
				t.Errorf("hash %v", e["requestSHA256"])
			}
			if text, _ := json.Marshal(e); strings.Contains(string(text), "secret") {
				t.Errorf("a secret in %s", text)
			}
		})
	}
}

// TestEventsAreBounded: who authenticated chooses how much he asks for, and not how large an event is; the hash stands in it all the same.
func TestEventsAreBounded(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	long := strings.Repeat("x", 20<<10)
	w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Denied(gateway.NotAuthorized, "", long))}
	w.swap()
	h := w.heard()
	r := w.request("long")
	r.Raw, r.WireID = []byte("message"), long
	r.Identifiers = []gateway.DeviceID{{Kind: "serial", Value: long}, {Kind: "serial", Value: long}}
	if _, err := w.gw.Enroll(t.Context(), r); err == nil {
		t.Fatal("allowed")
	}
	if e := h.of("refused"); e == nil || e["requestSHA256"] == nil || h.size > 16<<10 {
		t.Errorf("%d bytes", h.size)
	}
}

// TestSumsTellStrangersFromKnown: who authenticated and is turned away without a record is not counted as a stranger; answers that were given again are counted.
func TestSumsTellStrangersFromKnown(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	h := w.heard()
	r := w.request("device")
	w.mustEnroll(r)
	again := *r
	again.ID = gateway.NewID(w.clock.now())
	w.mustEnroll(&again)
	down := stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict { return gateway.Unanswered(errors.New("down")) })
	w.enroll = gateway.Pipeline{password{"secret"}, down}
	w.swap()
	if _, err := w.gw.Enroll(t.Context(), w.request("known")); err == nil {
		t.Fatal("allowed")
	}
	stranger := w.request("stranger")
	stranger.Credentials[0].Secret = gateway.Secret("wrong")
	if _, err := w.gw.Enroll(t.Context(), stranger); err == nil {
		t.Fatal("allowed")
	}
	w.gw.SumUp(t.Context())
	for _, kind := range []string{"strangers", "turned-away", "answers"} {
		counts, _ := h.of(kind)["counts"].(map[string]any)
		if len(counts) != 1 {
			t.Errorf("%s: %v", kind, counts)
		}
	}
}

// TestUnauditedIsNotAnswered: an outcome that no sink got is told to nobody, by the first request or its repeat, until one has it; then the repeat gets the same.
func TestUnauditedIsNotAnswered(t *testing.T) {
	var w *world
	s := &unaudited{}
	w = newWorld(t, backendtest.FaultPlan{}, func(in *world) { in.wrap = func(inner gateway.Store) gateway.Store { s.Store = inner; return s } })
	s.away = true
	r := w.request("device")
	if res := w.mustEnroll(r); res.Kind != gateway.ResultPending || w.memory.Total() != 1 {
		t.Fatalf("%+v, %d issued", res, w.memory.Total())
	}
	again := *r
	again.ID = gateway.NewID(w.clock.now())
	if res, err := w.gw.Enroll(t.Context(), &again); err == nil || gateway.AsError(err).Reason != gateway.Unavailable {
		t.Fatalf("%+v, %v", res, err)
	}
	s.away = false
	again.ID = gateway.NewID(w.clock.now())
	if res := w.mustEnroll(&again); res.Kind != gateway.ResultIssued || w.memory.Total() != 1 {
		t.Errorf("%+v, %d issued", res, w.memory.Total())
	}
}

// unaudited is a store whose sinks are away: it commits outcomes, and says that they got nowhere.
type unaudited struct {
	gateway.Store
	away bool
}

func (s *unaudited) Audited(ctx context.Context) error {
	if s.away {
		return gateway.ErrUnaudited
	}
	return s.Store.Audited(ctx)
}

func (s *unaudited) Settle(ctx context.Context, st *gateway.Settlement) error {
	if err := s.Store.Settle(ctx, st); err != nil || !s.away {
		return err
	}
	return gateway.ErrUnaudited
}
