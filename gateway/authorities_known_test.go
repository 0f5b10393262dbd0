package gateway_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// silentCorp is a world that begins while corp does not answer, known or not.
func silentCorp(t *testing.T, known bool, cas ...backend.CA) (w *world, corp, corp2 *moody) {
	return twoRoutes(t, func(w *world, corp, _ *moody) {
		if len(cas) == 0 {
			var err error
			if cas, err = corp.Memory.CACertificates(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		corp.is("not-asked", true)
		if known {
			w.known = map[string]*gateway.Known{"corp": {CAs: cas, Heard: time.Unix(1, 0), Why: errors.New("no route to host")}}
		}
	})
}

// A CA that is known and silent from the first moment is not asked at all: the first request has its certificate of the standby. Its certificates are
// handed out as they were.
func TestKnownBeginsOpen(t *testing.T) {
	w, corp, corp2 := silentCorp(t, true)
	if state, _ := w.gw.Breaker("corp"); state != "open" {
		t.Errorf("the breaker is %s", state)
	}
	all, err := w.gw.CACertificates(t.Context(), "est")
	if err != nil {
		t.Fatal(err)
	}
	cas, _ := corp.Memory.CACertificates(t.Context())
	if !bytes.Equal(all[0].Raw, cas[0].Chain[0]) {
		t.Errorf("another CA is handed out: %s", all[0].Subject)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("d")); err != nil || corp.calls() != 0 || corp2.calls() != 1 {
		t.Errorf("%v; corp was asked %d times, corp2 %d", err, corp.calls(), corp2.calls())
	}
	corp.is("", false)
	w.gw.Answers("corp")
	w.gw.CheckCAs(t.Context()) // at once, not after a pause
	if _, err := w.gw.Enroll(t.Context(), w.request("e")); err != nil || corp.calls() != 1 {
		t.Errorf("%v; corp, which is back, was asked %d times", err, corp.calls())
	}
	if state, _ := w.gw.Breaker("corp"); state != "closed" {
		t.Errorf("the breaker is %s", state)
	}
}

// One that is not silent is asked as ever, and what cannot be read keeps the Runtime from being made.
func TestKnownIsChecked(t *testing.T) {
	w, _, _ := silentCorp(t, false)
	if state, _ := w.gw.Breaker("corp"); state != "closed" {
		t.Errorf("nothing is known: the breaker is %s", state)
	}
	for _, cas := range [][]backend.CA{nil, {{Name: "x"}}, {{Name: "x", Chain: [][]byte{{1}}}}} {
		ca := &moody{Memory: w.memory}
		_, err := w.gw.Prepare(t.Context(), &gateway.Runtime{
			Backends: map[string]backend.Backend{"corp": ca}, Known: map[string]*gateway.Known{"corp": {CAs: cas, Why: errors.New("x")}},
		})
		if err == nil {
			t.Errorf("%+v is taken", cas)
		}
	}
}
