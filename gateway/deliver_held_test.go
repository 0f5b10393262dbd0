package gateway_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// heldOnce holds every request for 48 hours, lets each device enrol once, and has keys made.
func heldOnce(w *world) {
	holding(1)(w)
	w.enroll = append(w.enroll, making("P-256"))
}

// holdsBare is a world with a request for a key that waits for approval.
func holdsBare(t *testing.T, change ...func(*world)) (*world, *gateway.Request, *bareSeal) {
	t.Helper()
	w := newWorld(t, backendtest.FaultPlan{}, append([]func(*world){heldOnce}, change...)...)
	s := &bareSeal{}
	r := w.bare("device-1", s)
	if res := w.mustEnroll(r); res.Kind != gateway.ResultPending || res.RetryAfter != 0 || w.state(r.ID) != gateway.StateHeld {
		t.Fatalf("%+v, %s", res, w.state(r.ID))
	}
	return w, r, s
}

// pending asks again, and is told to come back.
func (w *world) pending(r *gateway.Request, s *bareSeal) {
	w.t.Helper()
	made := len(s.keys)
	if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending || res.Key != nil || res.Transaction != r.ID || len(s.keys) != made {
		w.t.Fatalf("%+v, %d keys", res, len(s.keys)-made)
	}
}

func (w *world) mustApprove(id string) *gateway.Transaction {
	w.t.Helper()
	t, err := w.approve(id, "alice")
	if err != nil || t.State != gateway.StateApproved || w.memory.Total() != 0 {
		w.t.Fatalf("%+v, %v; %d issued", t, err, w.memory.Total())
	}
	return t
}

// The key of a request that is held is made when its requester comes for it, once it is approved.
func TestBareKeyOfHeld(t *testing.T) {
	var linted int
	w, r, s := holdsBare(t, func(w *world) {
		w.shape = func(p *gateway.Profile) {
			p.Linter = linter{before: func(tmpl *backend.Template, _ *x509.Certificate) error {
				if linted++; len(tmpl.PublicKey) == 0 {
					t.Error("linted without a key")
				}
				return nil
			}, after: func(*x509.Certificate) error { return nil }}
		}
	})
	if text := w.explained(r.ID); !strings.Contains(text, "a P-256 key is made when the device asks again, once this is approved: it is not kept") || strings.Contains(text, "made a P-256 key") {
		t.Errorf("explained: %s", text)
	}
	w.pending(r, s)
	w.clock.add(30 * time.Hour)
	w.mustApprove(r.ID)
	w.restart()
	w.clock.add(17 * time.Hour)
	res := w.gets(w.again(r), s)
	if c := res.Certificate; res.Transaction != r.ID || !c.NotBefore.Equal(w.clock.now()) || c.NotAfter.Sub(c.NotBefore) != 72*time.Hour-time.Second || linted < 3 {
		t.Errorf("%s, from %s to %s at %s, linted %d times", res.Transaction, c.NotBefore, c.NotAfter, w.clock.now(), linted)
	}
	// Lost: as without a hold, and dated anew.
	w.clock.add(5 * time.Minute)
	last := w.gets(w.again(r), s)
	if c := last.Certificate; last.Transaction == r.ID || !c.NotBefore.Equal(w.clock.now()) || c.NotAfter.Sub(c.NotBefore) != 72*time.Hour-time.Second {
		t.Errorf("from %s to %s at %s", c.NotBefore, c.NotAfter, w.clock.now())
	}
	w.work(0)
	w.onlyValid(last.Transaction)
	if w.used(r) != 1 || len(s.keys) != 2 {
		t.Errorf("%d uses, %d keys", w.used(r), len(s.keys))
	}
}

// Who comes for a key that was approved is told what became of it.
func TestBareKeyOfHeldEnds(t *testing.T) {
	denied := func(w *world, r *gateway.Request, s *bareSeal) {
		w.t.Helper()
		if _, err := w.gw.Enroll(w.t.Context(), w.again(r)); reason(err) != gateway.NotAuthorized || w.state(r.ID) != gateway.StateDenied || len(s.keys) != 0 {
			w.t.Errorf("%v, %s, %d keys", err, w.state(r.ID), len(s.keys))
		}
		if w.used(r) != 0 || w.memory.Total() != 0 {
			w.t.Errorf("%d uses, %d issued", w.used(r), w.memory.Total())
		}
	}
	t.Run("denied", func(t *testing.T) {
		w, r, s := holdsBare(t)
		if _, err := w.gw.Deny(t.Context(), r.ID, "alice", ""); err != nil {
			t.Fatal(err)
		}
		denied(w, r, s)
	})
	t.Run("denied once it was approved", func(t *testing.T) {
		w, r, s := holdsBare(t)
		w.mustApprove(r.ID)
		if _, err := w.gw.Deny(t.Context(), r.ID, "bob", "wait"); err != nil {
			t.Fatal(err)
		}
		denied(w, r, s)
	})
	t.Run("nobody came", func(t *testing.T) {
		w, r, s := holdsBare(t)
		w.mustApprove(r.ID)
		if _, err := w.approve(r.ID, "bob"); !errors.Is(err, gateway.ErrStale) {
			t.Errorf("approved again: %v", err)
		}
		w.work(48*time.Hour - time.Second)
		if s := w.state(r.ID); s != gateway.StateApproved {
			t.Errorf("before its time: %s", s)
		}
		w.clock.add(time.Second)
		w.pending(r, s) // its time is over, and the worker has not been there
		w.work(0)
		denied(w, r, s)
		if text := w.explained(r.ID); !strings.Contains(text, "approved, and nobody came for the key by 2026-03-03T12:00:00Z") {
			t.Error(text)
		}
	})
	t.Run("approved in the last moment", func(t *testing.T) {
		w, r, s := holdsBare(t)
		w.clock.add(48*time.Hour - time.Second)
		if got := w.mustApprove(r.ID); !got.Hold.Until.Equal(w.clock.now().Add(10 * time.Minute)) {
			t.Errorf("until %s at %s", got.Hold.Until, w.clock.now())
		}
		w.work(10*time.Minute - time.Second)
		w.gets(w.again(r), s)
	})
	t.Run("the device was disabled", func(t *testing.T) {
		w, r, s := holdsBare(t, func(w *world) {
			w.enroll = append(w.enroll, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
				g.Inventory = &gateway.Device{Name: "station-1"}
				return gateway.Allowed("")
			}))
		})
		w.enter(gateway.Device{Name: "station-1"})
		w.mustApprove(r.ID)
		w.enter(gateway.Device{Name: "station-1", Disabled: true})
		if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.NotAuthorized || w.state(r.ID) != gateway.StateApproved || len(s.keys) != 0 {
			t.Errorf("%v, %s", err, w.state(r.ID))
		}
		w.enter(gateway.Device{Name: "station-1"})
		w.gets(w.again(r), s)
	})
	t.Run("nothing says who comes for it", func(t *testing.T) {
		w := newWorld(t, backendtest.FaultPlan{}, heldOnce)
		r := w.bare("device-1", &bareSeal{})
		r.Content = nil
		if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unsupported || w.state(r.ID) != gateway.StateRefused {
			t.Errorf("%v, %s", err, w.state(r.ID))
		}
	})
}

// Wherever the gateway dies over a key that was approved: who asks again gets one in the end, and is counted once.
func TestBareKeyOfHeldOverCrash(t *testing.T) {
	for _, point := range gateway.CrashPoints {
		t.Run(point, func(t *testing.T) {
			crash := ""
			w, r, s := holdsBare(t, crashing(&crash))
			w.mustApprove(r.ID)
			w.dies(&crash, point, func() { w.gw.Enroll(t.Context(), w.again(r)) }) //nolint:errcheck // it does not return
			w.work(time.Minute)
			last := w.gets(w.again(r), s)
			if (last.Transaction == r.ID) != (point == gateway.CrashBeforeIntent) {
				t.Errorf("%s takes the place of %s", last.Transaction, r.ID)
			}
			w.work(0)
			w.onlyValid(last.Transaction)
			if w.used(r) != 1 {
				t.Errorf("%d uses", w.used(r))
			}
		})
	}
}

// Several copies come for a key at once, at two replicas: one certificate is valid in the end, and its key was handed out.
func TestBareKeyOfHeldAtOnce(t *testing.T) {
	c := pgtest.Shared(t)
	one, two := replicas(t, c, backendtest.FaultPlan{}, backend.IdempotencyNative)
	heldOnce(one)
	two.enroll = one.enroll
	one.swap()
	two.swap()
	s := &bareSeal{}
	r := one.bare("device-1", s)
	one.mustEnroll(r)
	one.mustApprove(r.ID)
	one.oneOfCopies(two, r)
}

// The store fails when somebody comes for a key: told to come back, and gets one.
func TestStoreFailsACollection(t *testing.T) {
	for _, lost := range []bool{false, true} {
		st := &watched{}
		w, r, s := holdsBare(t, watch(st))
		w.mustApprove(r.ID)
		f := &failing{call: "Collect", nth: 1, lost: lost}
		st.fails = f.fails
		if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.Unavailable || !f.hit {
			t.Fatalf("%v, failed %t", err, f.hit)
		}
		st.fails = nil
		w.work(time.Minute)
		last := w.gets(w.again(r), s)
		w.work(0)
		w.onlyValid(last.Transaction)
	}
}
