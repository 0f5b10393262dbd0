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

// proofs is a stage that says which proofs of possession suffice.
type proofs []gateway.POP

func (proofs) Name() string { return "proofs" }
func (proofs) Decide(context.Context, *gateway.Request, *gateway.Grant) gateway.Verdict {
	return gateway.Allowed("")
}
func (p proofs) Proofs() []gateway.POP { return p }

// RFC 8951 section 4: what has to be linked has to be announced, whichever way a request takes.
func TestRequiresLinking(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	profile := w.gw.ProfilesOf("est")[0]
	linked, signed, either := proofs{gateway.POPLinked, gateway.POPRA}, proofs{gateway.POPSignature}, proofs{gateway.POPSignature, gateway.POPLinked}
	free := password{"secret"}
	for name, c := range map[string]struct {
		pipelines map[gateway.Operation]gateway.Pipeline
		want      bool
	}{
		"none":             {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free}}, false},
		"a signature":      {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free, signed}}, false},
		"either":           {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free, either}}, false},
		"linked":           {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free, linked, either}}, true},
		"renewal":          {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free}, gateway.Renew: {free, linked}}, true},
		"rekey":            {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free}, gateway.Rekey: {free, linked}}, true},
		"revocation":       {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free}, gateway.Revoke: {free, linked}}, false},
		"one way of two":   {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free, gateway.AnyOf(gateway.Pipeline{linked}, gateway.Pipeline{free})}}, false},
		"both ways":        {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free, gateway.AnyOf(gateway.Pipeline{linked}, gateway.Pipeline{free, linked})}}, true},
		"but for an RA":    {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {gateway.AnyOf(gateway.Pipeline{knowsRA{id: "a"}, signed}, gateway.Pipeline{free, linked})}}, true},
		"an RA, or either": {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {gateway.AnyOf(gateway.Pipeline{knowsRA{id: "a"}, signed}, gateway.Pipeline{free})}}, false},
		"an RA alone":      {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {gateway.AnyOf(gateway.Pipeline{knowsRA{id: "a"}, signed})}}, false},
		"what must not be": {map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {free, gateway.Not(gateway.Pipeline{linked})}}, false},
	} {
		err := w.gw.Swap(t.Context(), &gateway.Runtime{
			Backends:  map[string]backend.Backend{"ca": w.memory},
			Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Profile: profile, Pipelines: c.pipelines}},
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := w.gw.RequiresLinking("est"); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if w.gw.RequiresLinking("nowhere") {
		t.Error("an endpoint that is not there")
	}
}
