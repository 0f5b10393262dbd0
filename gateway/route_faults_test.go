package gateway_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// died is what a crash point ends a request with.
type died struct{}

// A process that ends around the reroute leaves a request that the worker of the next one settles: with one certificate, and its claim.
func TestRerouteCrashPoints(t *testing.T) {
	points := append(slices.Clone(gateway.CrashPoints), gateway.RerouteCrashPoints...)
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			crash := ""
			w, corp, corp2 := twoRoutes(t, func(w *world, _, _ *moody) {
				w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1}))}
				w.opts.Crash = func(p string) {
					if p == crash {
						crash = ""
						panic(died{})
					}
				}
			})
			corp.is("exhausted", false)
			r := w.request("device-1")
			crash = point
			func() {
				defer func() {
					if p := recover(); p != (died{}) {
						t.Fatalf("it went on: %v", p)
					}
				}()
				w.gw.Enroll(t.Context(), r) //nolint:errcheck // it dies
			}()
			w.restart()
			for range 4 {
				w.work(time.Minute)
			}
			again := w.again(r)
			res, err := w.gw.Enroll(t.Context(), again)
			if err != nil || res.Kind != gateway.ResultIssued {
				t.Fatalf("%+v, %v", res, err)
			}
			if begun := point != gateway.CrashBeforeIntent; (res.Transaction == r.ID) != begun {
				t.Errorf("the answer is of %s, it was %s", res.Transaction, r.ID)
			}
			if n := corp.Total() + corp2.Total(); n != 1 || w.backendOf(res.Transaction) != "corp2" {
				t.Errorf("%d certificates, at %s", n, w.backendOf(res.Transaction))
			}
			if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.NotAuthorized {
				t.Errorf("the claim is not taken: %v", err)
			}
		})
	}
}

// A reroute that the store does not commit, or commits while its answer is lost, leaves nothing that is issued twice, and nothing open.
func TestRerouteFails(t *testing.T) {
	for _, done := range []bool{false, true} {
		for _, mood := range []string{"exhausted", "not-asked", "unavailable"} {
			t.Run(fmt.Sprint(mood, done), func(t *testing.T) {
				failing := true
				s := &watched{fails: func(call string, after bool) error {
					if call == "Reroute" && after == done && failing {
						return errors.New("the disk is full")
					}
					return nil
				}}
				w, corp, corp2 := twoRoutes(t, func(w *world, _, _ *moody) { watch(s)(w) })
				corp.is(mood, false)
				var ids []string
				for range gateway.BreakerTrips - 1 {
					r := w.request("device")
					ids = append(ids, r.ID)
					w.gw.Enroll(t.Context(), r) //nolint:errcheck // its state tells
				}
				w.work(time.Second)
				failing = false
				for range 5 {
					w.work(time.Minute)
				}
				atMost(t, corp, corp2, ids...)
				for _, id := range ids {
					switch s := w.state(id); {
					case s.Open():
						t.Errorf("%s stays %s", id, s)
					case (s == gateway.StateIssued) != (corp.Issued(id)+corp2.Issued(id) == 1):
						t.Errorf("%s is %s, with %d certificates", id, s, corp.Issued(id)+corp2.Issued(id))
					}
				}
			})
		}
	}
}

// Many at once, while both CAs change their minds: no request has two certificates, and in the end none is open.
func TestStandbyRace(t *testing.T) {
	w, corp, corp2 := twoRoutes(t)
	moods := []string{"", "exhausted", "not-asked", "unavailable", "drop", "nothing", "lie"}
	random := rand.New(rand.NewPCG(7, 10))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var ids []string
	for round := range 12 {
		corp.is(moods[random.IntN(len(moods))], random.IntN(2) == 0)
		corp2.is(moods[random.IntN(3)], false)
		for range 12 {
			r := w.request("device")
			wg.Go(func() {
				w.gw.Enroll(t.Context(), r) //nolint:errcheck // its state tells
				mu.Lock()
				defer mu.Unlock()
				ids = append(ids, r.ID)
			})
		}
		wg.Go(func() { w.gw.Work(t.Context()); w.gw.CheckCAs(t.Context()) }) //nolint:errcheck // rows are looked at below
		if round%3 == 2 {
			wg.Wait()
			w.clock.add(7 * time.Second)
		}
	}
	wg.Wait()
	corp.is("", false)
	corp2.is("", false)
	for range 10 {
		w.work(time.Minute)
	}
	atMost(t, corp, corp2, ids...)
	for _, id := range ids {
		if s := w.state(id); s.Open() || s == gateway.StateIssued && corp.Issued(id)+corp2.Issued(id) != 1 {
			t.Errorf("%s is %s, with %d certificates", id, s, corp.Issued(id)+corp2.Issued(id))
		}
	}
}

// What is held goes to the CA that can be asked when it is approved, whichever could when it was held.
func TestHeldGoesToStandby(t *testing.T) {
	for _, down := range []bool{true, false} { // when it is approved; before, it was the other way round
		w, corp, corp2 := twoRoutes(t, func(w *world, _, _ *moody) {
			w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Verdict{Decision: gateway.Hold})}
		})
		plugin := func(down bool) {
			corp.mu.Lock()
			defer corp.mu.Unlock()
			if corp.down = nil; down {
				corp.down = errors.New("the plugin does not run")
			}
		}
		plugin(!down)
		r := w.request("device")
		if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
			t.Fatalf("%+v, %v", res, err)
		}
		plugin(down)
		got, err := w.gw.Approve(t.Context(), r.ID, "ann", "")
		if err != nil || got.State != gateway.StateIssued || (got.Backend == "corp2") != down || (w.routeOf(r.ID) != "") != down {
			t.Errorf("%+v, %v", got, err)
		}
		atMost(t, corp, corp2, r.ID)
	}
}

// Another key is certified by the CA that can be asked now, and the earlier certificate is revoked at the CA that issued it.
func TestDeliveryAtStandby(t *testing.T) {
	judged := 0
	w, corp, corp2 := twoRoutes(t, func(w *world, _, _ *moody) { countedOnce(&judged)(w) })
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	corp.is("exhausted", false)
	for range gateway.BreakerTrips {
		w.bareAnew(s)
	}
	second := w.gets(w.again(r), s)
	if w.backendOf(first.Transaction) != "corp" || w.backendOf(second.Transaction) != "corp2" {
		t.Errorf("at %s, then at %s", w.backendOf(first.Transaction), w.backendOf(second.Transaction))
	}
	corp.is("", false)
	w.work(time.Second)
	if !corp.Revoked(first.Transaction) || corp2.Revoked(second.Transaction) {
		t.Error("the earlier certificate is not revoked at its CA, or the new one is")
	}
	w.clock.add(gateway.BreakerFirst)
	w.gw.CheckCAs(t.Context())
	if third := w.gets(w.again(r), s); w.backendOf(third.Transaction) != "corp" {
		t.Errorf("at %s", w.backendOf(third.Transaction))
	}
	w.work(time.Second)
	if !corp2.Revoked(second.Transaction) {
		t.Error("the standby's certificate is not revoked")
	}
}

// bareAnew has another device get a key.
func (w *world) bareAnew(s *bareSeal) {
	w.t.Helper()
	if _, err := w.gw.Enroll(w.t.Context(), w.bare(fmt.Sprint("device-", gateway.NewID(w.clock.now())), s)); err != nil {
		w.t.Fatal(err)
	}
}

// The rate of the CA that is asked counts, not that of the one which is not.
func TestRateOfStandby(t *testing.T) {
	w, corp, _ := twoRoutes(t, func(w *world, _, _ *moody) {
		w.rates = map[string]gateway.Rate{"corp2": {Every: time.Hour, Burst: 2}}
	})
	corp.is("exhausted", false)
	issued := 0
	for range 5 {
		res, err := w.gw.Enroll(t.Context(), w.request("device"))
		switch {
		case err == nil && res.Kind == gateway.ResultIssued:
			issued++
		case reason(err) != gateway.Busy:
			t.Errorf("%+v, %v", res, err)
		}
	}
	if issued != 2 {
		t.Errorf("%d were issued, its rate allows 2", issued)
	}
}

// A profile that names one backend twice, or one that is not there, is not put into force.
func TestRoutesOfNoUse(t *testing.T) {
	for _, standby := range []string{"ca", "nowhere"} {
		w := newWorld(t, backendtest.FaultPlan{})
		p := &gateway.Profile{Name: "device", Backend: "ca", Standby: []gateway.Route{{Backend: standby}}}
		err := w.gw.Swap(t.Context(), &gateway.Runtime{
			Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Protocol: gateway.EST, Profile: p}}, Backends: map[string]backend.Backend{"ca": w.ca},
		})
		if err == nil {
			t.Errorf("%s is taken", standby)
		}
	}
}
