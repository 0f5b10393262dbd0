package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// once lets each password enrol one time.
func once(w *world) {
	w.enroll = gateway.Pipeline{password{"secret"}, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
		return gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1, Lost: "enrolled already"})
	})}
}

// exchange is a request of a protocol that confirms.
func (w *world) exchange(r *gateway.Request, wireID string) *gateway.Request {
	c := *w.again(r)
	c.WireID, c.Exchange, c.Confirm = wireID, []byte("record of "+wireID), true
	c.Content, c.Resume = []byte("message of "+wireID), append([]byte("wish"), r.PublicKey...)
	return &c
}

func (w *world) mustEnroll(r *gateway.Request) *gateway.Result {
	w.t.Helper()
	res, err := w.gw.Enroll(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *world) confirm(id string, accepted bool) (*gateway.Transaction, error) {
	return w.gw.Confirm(w.t.Context(), &gateway.Confirmation{Transaction: id, Accepted: accepted, Note: "said so", Exchange: []byte("after")})
}

// revoked reports whether the transaction's certificate is.
func (w *world) revoked(id string) bool {
	w.t.Helper()
	t, err := w.store.Transaction(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return t.Certificate != nil && !t.Certificate.RevokedAt.IsZero()
}

func TestConfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, once)
	r := w.exchange(w.request("device-1"), "a")
	res := w.mustEnroll(r)
	if !res.Unconfirmed || string(res.Exchange) != "record of a" || w.state(r.ID) != gateway.StateUnconfirmed {
		t.Fatalf("%+v, %s", res, w.state(r.ID))
	}
	got, err := w.confirm(r.ID, true)
	if err != nil || got.State != gateway.StateIssued || string(got.Exchange) != "after" {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := w.confirm(r.ID, true); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("a second confirmation: %v", err)
	}
	w.work(time.Hour) // nothing is revoked
	if w.revoked(r.ID) || w.state(r.ID) != gateway.StateIssued {
		t.Errorf("%s, revoked %v", w.state(r.ID), w.revoked(r.ID))
	}
	byWire, err := w.gw.ByWireID(t.Context(), "est", "a")
	if err != nil || byWire.ID != r.ID || string(byWire.Exchange) != "after" {
		t.Errorf("by wire ID: %+v, %v", byWire, err)
	}
	if none, err := w.gw.ByWireID(t.Context(), "est", "b"); none != nil || err != nil {
		t.Errorf("%v, %v", none, err)
	}
	// The device has used its one enrollment.
	if _, err := w.gw.Enroll(t.Context(), w.exchange(w.request("device-1"), "c")); reason(err) != gateway.NotAuthorized {
		t.Errorf("a second enrollment: %v", err)
	}
}

// What was seen of a transaction spares a look at it, and nothing else.
func TestConfirmedAsSeen(t *testing.T) {
	for name, since := range map[string]func(w *world, r *gateway.Request){
		"nothing":   func(*world, *gateway.Request) {},
		"confirmed": func(w *world, r *gateway.Request) { w.confirm(r.ID, true) },
		"rejected":  func(w *world, r *gateway.Request) { w.confirm(r.ID, false) },
		"time-out":  func(w *world, _ *gateway.Request) { w.work(5 * time.Minute) },
		"goes on in another exchange": func(w *world, r *gateway.Request) {
			if res := w.mustEnroll(w.exchange(r, "b")); res.Transaction != r.ID {
				w.t.Fatalf("%+v", res)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, once)
			r := w.exchange(w.request("device-1"), "a")
			w.mustEnroll(r)
			seen, err := w.gw.ByWireID(t.Context(), "est", "a")
			if err != nil {
				t.Fatal(err)
			}
			since(w, r)
			before, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.gw.Confirm(t.Context(), &gateway.Confirmation{
				Transaction: r.ID, Seen: seen, Request: r, Accepted: true, Note: "said so", Exchange: []byte("as seen"),
			})
			if seen.State != gateway.StateUnconfirmed {
				t.Errorf("what was seen is %s now", seen.State)
			}
			if name == "nothing" {
				if err != nil || got.State != gateway.StateIssued || w.state(r.ID) != gateway.StateIssued {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			after, errAfter := w.store.Transaction(t.Context(), r.ID)
			if errAfter != nil {
				t.Fatal(errAfter)
			}
			if !errors.Is(err, gateway.ErrStale) || after.State != before.State || string(after.Exchange) != string(before.Exchange) {
				t.Errorf("%v; it was %s, and is %s", err, before.State, after.State)
			}
		})
	}
	w := newWorld(t, backendtest.FaultPlan{}, once)
	r := w.exchange(w.request("device-1"), "a")
	w.mustEnroll(r)
	if _, err := w.gw.Confirm(t.Context(), &gateway.Confirmation{Transaction: r.ID, Seen: &gateway.Transaction{ID: "another"}, Request: r, Accepted: true}); err != nil {
		t.Errorf("with another transaction than the one to be confirmed: %v", err)
	}
}

// What is not confirmed in time, or rejected, is revoked at once by the worker, which looks every second (RFC 9810 sections 5.1.1.2,
// 5.3.18).
func TestNotConfirmed(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(w *world, id string)
		want gateway.State
		note string
	}{
		{"rejected", func(w *world, id string) {
			if _, err := w.confirm(id, false); err != nil {
				w.t.Fatal(err)
			}
		}, gateway.StateRejected, "said so"},
		{"never confirmed", func(w *world, id string) {
			w.work(5*time.Minute - time.Second)
			if w.state(id) != gateway.StateUnconfirmed {
				w.t.Fatalf("%s before its time", w.state(id))
			}
			w.work(time.Second)
		}, gateway.StateRejected, "not confirmed within 5m0s"},
		{"never confirmed, over a restart", func(w *world, id string) {
			w.restart()
			w.work(5 * time.Minute)
		}, gateway.StateRejected, "not confirmed within 5m0s"},
		{"kept", func(w *world, id string) {
			w.keep = true
			w.swap()
			w.work(5 * time.Minute)
		}, gateway.StateIssued, "kept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, once)
			r := w.exchange(w.request("device-1"), "a")
			w.mustEnroll(r)
			c.end(w, r.ID)
			tr, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil || tr.State != c.want || !strings.Contains(tr.Note, c.note) {
				t.Fatalf("%s %q, %v", tr.State, tr.Note, err)
			}
			w.work(0)
			if gone := c.want == gateway.StateRejected; w.revoked(r.ID) != gone {
				t.Errorf("revoked is %v", w.revoked(r.ID))
			}
			_, err = w.gw.Enroll(t.Context(), w.exchange(w.request("device-1"), "b"))
			if free := c.want == gateway.StateRejected; (err == nil) != free {
				t.Errorf("the device's next try: %v", err)
			}
			if _, err := w.confirm(r.ID, true); !errors.Is(err, gateway.ErrStale) {
				t.Errorf("a confirmation that is late: %v", err)
			}
		})
	}
}

// An answer lost on its way: the device asks again for the same, in an exchange of its own.
func TestResume(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, once)
	r := w.request("device-1")
	one, two := w.exchange(r, "a"), w.exchange(r, "b")
	first, second := w.mustEnroll(one), w.mustEnroll(two)
	if !second.Certificate.Equal(first.Certificate) || second.Transaction != one.ID || !second.Unconfirmed || string(second.Exchange) != "record of b" {
		t.Fatalf("%+v", second)
	}
	if old, err := w.gw.ByWireID(t.Context(), "est", "a"); err != nil || old != nil {
		t.Errorf("the first exchange goes on: %+v, %v", old, err)
	}
	// The same message again has the same record.
	third := w.mustEnroll(w.again(two))
	if string(third.Exchange) != "record of b" || !third.Repeated {
		t.Errorf("%+v", third)
	}
	stranger := w.exchange(r, "c")
	stranger.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("guess")}}
	if _, err := w.gw.Enroll(t.Context(), stranger); reason(err) != gateway.Unauthenticated {
		t.Errorf("a stranger: %v", err)
	}
	other := w.exchange(w.request("device-1"), "d") // another key
	if _, err := w.gw.Enroll(t.Context(), other); reason(err) != gateway.NotAuthorized {
		t.Errorf("another key: %v", err)
	}
	if _, err := w.confirm(one.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.exchange(r, "e")); reason(err) != gateway.NotAuthorized {
		t.Errorf("after the confirmation the same wish is a new one: %v", err)
	}
	if n := w.ca.Total(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// The time to confirm counts from when the certificate was there, also for who takes it over or repeats itself (RFC 9810 section
// 5.1.1.2).
func TestConfirmUntil(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("device-1")
	one, two := w.exchange(r, "a"), w.exchange(r, "b")
	until := w.clock.now().Add(5 * time.Minute)
	for _, step := range []struct {
		name string
		r    *gateway.Request
	}{{"at once", one}, {"repeated", w.again(one)}, {"taken over", two}, {"taken over, and repeated", w.again(two)}} {
		if res := w.mustEnroll(step.r); !res.ConfirmUntil.Equal(until) {
			t.Errorf("%s: until %s, want %s", step.name, res.ConfirmUntil, until)
		}
		w.clock.add(time.Minute)
	}
	if _, err := w.confirm(one.ID, true); err != nil {
		t.Fatal(err)
	}
	if res := w.mustEnroll(w.again(two)); !res.ConfirmUntil.IsZero() {
		t.Errorf("confirmed: until %s", res.ConfirmUntil)
	}
}

// Without a confirmation to wait for, an equal wish gets the same certificate for as long as a repeat does.
func TestResumeWithoutConfirmation(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("device-1")
	one, two := w.exchange(r, "a"), w.exchange(r, "b")
	one.Confirm, two.Confirm = false, false
	first, second := w.mustEnroll(one), w.mustEnroll(two)
	if !second.Certificate.Equal(first.Certificate) || second.Unconfirmed || string(second.Exchange) != "record of b" {
		t.Errorf("%+v", second)
	}
	three := w.exchange(r, "c") // which would wait for a confirmation that the certificate does not need
	if res := w.mustEnroll(three); res.Certificate.Equal(first.Certificate) || !res.Unconfirmed {
		t.Errorf("%+v", res)
	}
	w.clock.add(11 * time.Minute)
	four := w.exchange(r, "d")
	four.Confirm, four.Resume = false, two.Resume
	if res := w.mustEnroll(four); res.Certificate.Equal(first.Certificate) {
		t.Error("after ten minutes it is still the same")
	}
}

// Many at once, in exchanges of their own: one certificate.
func TestResumeAtOnce(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("device-1")
	var mu sync.Mutex
	var certs []*x509.Certificate
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			res, err := w.gw.Enroll(t.Context(), w.exchange(r, string(rune('a'+i))))
			if err != nil || res.Kind != gateway.ResultIssued {
				t.Errorf("%+v, %v", res, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			certs = append(certs, res.Certificate)
		})
	}
	wg.Wait()
	for _, c := range certs {
		if !bytes.Equal(c.Raw, certs[0].Raw) {
			t.Error("two certificates")
		}
	}
	if n := w.ca.Total(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// The transaction that a wish goes on from is settled at the moment of going on: its certificate is what was wished for, and
// no second one is issued.
func TestResumeWhatIsSettledMeanwhile(t *testing.T) {
	s := &watched{}
	w := newWorld(t, backendtest.FaultPlan{}, watch(s))
	lost := true
	w.twist(&twisted{issue: lostOnce(w, &lost)})
	r := w.request("device-1")
	one, two := w.exchange(r, "a"), w.exchange(r, "b")
	one.Confirm, two.Confirm = false, false
	if res := w.mustEnroll(one); res.Kind != gateway.ResultPending {
		t.Fatalf("%+v", res)
	}
	calls := 0
	s.adopting = func() error {
		if calls++; calls == 1 {
			return gateway.ErrStale // as if it had been another's turn
		}
		w.work(time.Minute)
		return nil
	}
	res := w.mustEnroll(two)
	if res.Kind != gateway.ResultIssued || res.Transaction != one.ID || string(res.Exchange) != "record of b" || calls != 2 {
		t.Errorf("%+v after %d adoptions", res, calls)
	}
	if n := w.memory.Total(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// A claim that is lost says how the request is refused.
func TestClaimLostReason(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			return gateway.Allowed("", gateway.Claim{Key: "renewed:1", Limit: 1, Reason: gateway.Revoked, Detail: "renewed already"})
		})}
	})
	r := w.request("device-1")
	w.mustEnroll(r)
	_, err := w.gw.Enroll(t.Context(), w.request("device-1"))
	if e := gateway.AsError(err); e.Reason != gateway.Revoked || e.Detail != "renewed already" {
		t.Errorf("%v", err)
	}
	if res := w.mustEnroll(w.again(r)); !res.Repeated {
		t.Errorf("the same request again: %+v", res)
	}
}

// A CA whose answer was lost: the certificate waits for its confirmation from when it is known.
func TestUnknownThenUnconfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	lost := true
	w.twist(&twisted{issue: lostOnce(w, &lost)})
	r := w.exchange(w.request("device-1"), "a")
	if res := w.mustEnroll(r); res.Kind != gateway.ResultPending || string(res.Exchange) != "record of a" {
		t.Fatalf("%+v", res)
	}
	w.work(time.Minute)
	if s := w.state(r.ID); s != gateway.StateUnconfirmed {
		t.Fatalf("%s", s)
	}
	if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultIssued || !res.Unconfirmed {
		t.Errorf("%+v", res)
	}
	w.work(5 * time.Minute)
	w.work(0)
	if s := w.state(r.ID); s != gateway.StateRejected || !w.revoked(r.ID) {
		t.Errorf("%s, revoked %v", s, w.revoked(r.ID))
	}
}

// A rejected certificate is revoked in the end: the gateway is killed before it has answered the rejection, and the CA
// cannot be reached for a while.
func TestRejectedIsRevokedInTheEnd(t *testing.T) {
	killed := false
	w := newWorld(t, backendtest.FaultPlan{}, once, func(w *world) {
		w.opts.Crash = func(point string) {
			if point == gateway.CrashAfterConclude {
				killed = true
				panic(point)
			}
		}
	})
	down := true
	w.twist(&twisted{revoke: func(ctx context.Context, r *backend.RevokeRequest) error {
		if down {
			return status.Error(codes.Unavailable, "the CA's process was killed")
		}
		return w.memory.Revoke(ctx, r)
	}})
	r := w.exchange(w.request("device-1"), "a")
	w.mustEnroll(r)
	func() {
		defer func() { recover() }() //nolint:errcheck // the kill
		w.confirm(r.ID, false)       //nolint:errcheck // nobody reads its answer
	}()
	if !killed {
		t.Fatal("the crash point was never passed")
	}
	for range 3 {
		w.restart()
		w.work(time.Minute)
	}
	if w.revoked(r.ID) || w.state(r.ID) != gateway.StateRejected {
		t.Fatalf("%s, revoked %v", w.state(r.ID), w.revoked(r.ID))
	}
	if _, err := w.confirm(r.ID, true); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("confirmed when its revocation was queued: %v", err)
	}
	if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || res.Transaction == r.ID {
		t.Errorf("the same message again: %+v, %v", res, err)
	}
	down = false
	w.work(10 * time.Minute)
	if !w.revoked(r.ID) {
		t.Error("not revoked, though the CA is back")
	}
}

// Confirmation and time-out at once: one of them counts.
func TestConfirmRacesTimeOut(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	for range 20 {
		r := w.exchange(w.request("device-1"), gateway.NewID(w.clock.now()))
		w.mustEnroll(r)
		w.clock.add(5 * time.Minute)
		var wg sync.WaitGroup
		var confirmed error
		wg.Go(func() { _, confirmed = w.confirm(r.ID, true) })
		wg.Go(func() { w.gw.Work(t.Context()) }) //nolint:errcheck // the state tells
		wg.Wait()
		want := gateway.StateRejected
		if confirmed == nil {
			want = gateway.StateIssued
		}
		if got := w.state(r.ID); got != want {
			t.Errorf("%s, and the client was told %v", got, confirmed)
		}
	}
}
