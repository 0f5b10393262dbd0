package gateway_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// A CA that is left alone is looked at after 5 s, 10 s, ... 60 s; once it tells its certificates one request tries it, others do not.
func TestBreakerHalfOpen(t *testing.T) {
	w, corp, _ := twoRoutes(t)
	corp.is("exhausted", true)
	for range gateway.BreakerTrips {
		if _, err := w.gw.Enroll(t.Context(), w.request("device")); err != nil {
			t.Fatal(err)
		}
	}
	step := func(want time.Duration) {
		t.Helper()
		state, until := w.gw.Breaker("corp")
		if left := until.Sub(w.clock.now()); state != "open" || left != want {
			t.Fatalf("%s for %v, want open for %v", state, left, want)
		}
		w.clock.add(want - time.Millisecond)
		w.gw.CheckCAs(t.Context())
		if _, again := w.gw.Breaker("corp"); again != until {
			t.Fatal("it was looked at too early")
		}
		w.clock.add(time.Millisecond)
		w.gw.CheckCAs(t.Context())
	}
	step(gateway.BreakerFirst)
	step(2 * gateway.BreakerFirst)
	corp.is("exhausted", false) // it answers, and issues nothing
	step(4 * gateway.BreakerFirst)
	asked := corp.calls()
	for range 3 {
		if res, err := w.gw.Enroll(t.Context(), w.request("device")); err != nil || res.Kind != gateway.ResultIssued {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if n := corp.calls() - asked; n != 1 {
		t.Errorf("%d requests tried it", n)
	}
	step(8 * gateway.BreakerFirst)
	w.gw.Enroll(t.Context(), w.request("device")) //nolint:errcheck // it tries
	step(gateway.BreakerMost)
	corp.is("", false)
	r := w.request("device")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || w.backendOf(r.ID) != "corp" {
		t.Errorf("%+v, %v", res, err)
	}
	if s, _ := w.gw.Breaker("corp"); s != "closed" {
		t.Errorf("the breaker is %s", s)
	}
}

// A CA that hangs is left alone after a quarter of the time that it has to answer; a slow one that answers others is not.
func TestHungCAIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, corp, _ := twoRoutes(t, func(w *world, _, _ *moody) { w.opts.IssueTimeout = 20 * time.Second })
		corp.is("hang", true)
		var wg sync.WaitGroup
		for range gateway.BreakerTrips {
			r := w.request("device")
			wg.Go(func() {
				if res, err := w.gw.Enroll(context.Background(), r); err != nil || res.Kind != gateway.ResultPending {
					t.Errorf("%+v, %v", res, err)
				}
			})
		}
		time.Sleep(20*time.Second/gateway.LateParts + time.Millisecond)
		begun := time.Now()
		r := w.request("device")
		if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || w.backendOf(r.ID) != "corp2" || time.Since(begun) > time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(begun))
		}
		wg.Wait()
	})
}

// While one request tries a CA that answers again, the others go to the standby.
func TestOneRequestTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, corp, _ := twoRoutes(t)
		corp.is("exhausted", false)
		for range gateway.BreakerTrips {
			if _, err := w.gw.Enroll(t.Context(), w.request("device")); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.add(gateway.BreakerFirst)
		w.gw.CheckCAs(t.Context())
		corp.is("hang", false)
		asked := corp.calls()
		var wg sync.WaitGroup
		first := w.request("device")
		wg.Go(func() { w.gw.Enroll(context.Background(), first) }) //nolint:errcheck // it hangs
		synctest.Wait()
		for range 3 {
			r := w.request("device")
			if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || w.backendOf(r.ID) != "corp2" {
				t.Errorf("%+v, %v", res, err)
			}
		}
		if n := corp.calls() - asked; n != 1 {
			t.Errorf("%d requests try it", n)
		}
		wg.Wait()
	})
}
