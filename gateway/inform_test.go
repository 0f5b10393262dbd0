package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// derives is a Shaper that makes subjects or not, and says no more.
type derives bool

func (derives) Shape(*gateway.Request, *gateway.Grant) error { return nil }
func (d derives) DerivesSubject() bool                       { return bool(d) }

type asks struct{ derives }

func (asks) NamesWanted() gateway.NamesWanted { return gateway.NamesWanted{SAN: []uint8{2}} }

func TestNamesWantedOfProfile(t *testing.T) {
	for want, s := range map[string]gateway.Shaper{"{[2.5.4.3] []}": nil, "{[] []}": derives(true), "{[] [2]}": asks{false}} {
		if got := fmt.Sprint((&gateway.Profile{Shaper: s}).NamesWanted()); got != want {
			t.Errorf("%v: %s, want %s", s, got, want)
		}
	}
	if got := fmt.Sprint((&gateway.Profile{Shaper: derives(false)}).NamesWanted()); got != "{[2.5.4.3] []}" {
		t.Error(got)
	}
}

// An endpoint's profiles, its own first, and the CA of each.
func TestProfilesOf(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	own := w.gw.ProfilesOf("est")
	if len(own) != 1 || own[0].Name != "device" || w.gw.ProfilesOf("nowhere") != nil {
		t.Fatalf("%v", own)
	}
	ca, err := w.gw.AuthorityOf(t.Context(), own[0])
	if err != nil || len(ca.Chain) == 0 {
		t.Fatalf("%v, %v", ca, err)
	}
	for name, p := range map[string]*gateway.Profile{"no such CA": {Backend: "ca", Issuer: "other"}, "no such backend": {Backend: "other"}} {
		if _, err := w.gw.AuthorityOf(t.Context(), p); gateway.AsError(err).Reason != gateway.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.clock.add(2 * time.Minute)
	w.twist(&twisted{cas: func(context.Context) ([]backend.CA, error) { return nil, errors.New("away") }})
	if _, err := w.gw.AuthorityOf(t.Context(), &gateway.Profile{Backend: "ca"}); gateway.AsError(err).Reason != gateway.Unavailable {
		t.Errorf("%v", err)
	}
	err = w.gw.Swap(t.Context(), &gateway.Runtime{
		Backends: map[string]backend.Backend{"ca": w.memory},
		Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Profile: own[0], Profiles: map[string]*gateway.Profile{
			"zero": {Name: "zero", Backend: "ca"}, "device": own[0], "alpha": {Name: "alpha", Backend: "ca"},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range w.gw.ProfilesOf("est") {
		names = append(names, p.Name)
	}
	if fmt.Sprint(names) != "[device alpha zero]" {
		t.Error(names)
	}
}
