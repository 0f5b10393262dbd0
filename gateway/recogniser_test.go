package gateway_test

import (
	"context"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// recogniser is a stage that lets in once, and knows who that was for ever.
type recogniser struct {
	decide   *gateway.Verdict
	identify gateway.Verdict
	proves   bool
	asked    *int
}

func (recogniser) Name() string { return "recogniser" }
func (r recogniser) Decide(context.Context, *gateway.Request, *gateway.Grant) gateway.Verdict {
	return *r.decide
}
func (r recogniser) Identify(context.Context, *gateway.Request, *gateway.Grant) (gateway.Verdict, bool) {
	*r.asked++
	return r.identify, r.proves
}

// Who repeats a request is asked of Identify, whatever Decide would say by now. What only takes others' word proves nobody,
// and what denies ends it.
func TestRepeatByARecogniser(t *testing.T) {
	no := gateway.Denied(gateway.NotAuthorized, "no", "no")
	for name, c := range map[string]struct {
		identify gateway.Verdict
		proves   bool
		before   gateway.Pipeline
		branches bool
		repeated bool
	}{
		"proves":                             {identify: gateway.Allowed("it is"), proves: true, repeated: true},
		"proves, in a branch":                {identify: gateway.Allowed("it is"), proves: true, branches: true, repeated: true},
		"takes others' word":                 {identify: gateway.Allowed("it is")},
		"takes others' word, in a branch":    {identify: gateway.Allowed("it is"), branches: true},
		"takes others' word, who prove":      {identify: gateway.Allowed("it is"), before: gateway.Pipeline{password{"secret"}}, repeated: true},
		"denies":                             {identify: no, proves: true},
		"denies, proving nothing":            {identify: no, before: gateway.Pipeline{password{"secret"}}},
		"denies in a branch, and one proves": {identify: no, branches: true, before: gateway.Pipeline{password{"secret"}}},
	} {
		t.Run(name, func(t *testing.T) {
			v, asked := gateway.Allowed("the first time"), 0
			s := gateway.Stage(recogniser{&v, c.identify, c.proves, &asked})
			if c.branches {
				s = gateway.AnyOf(gateway.Pipeline{s})
			}
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll = append(c.before, s) })
			r := w.request("device-1")
			if _, err := w.gw.Enroll(t.Context(), r); err != nil || asked != 0 {
				t.Fatalf("%v, asked %d times", err, asked)
			}
			v = no
			res, err := w.gw.Enroll(t.Context(), w.again(r))
			if repeated := err == nil && res.Repeated; repeated != c.repeated {
				t.Errorf("%+v, %v", res, err)
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
			if !c.repeated && reason(err) != gateway.NotAuthorized {
				t.Error(err)
			}
		})
	}
}

// A certificate, key or user counts for later stages once one has accepted it.
func TestAuthenticated(t *testing.T) {
	a, b := gateway.Credential{Kind: gateway.CredentialMAC, ID: "a"}, gateway.Credential{Kind: gateway.CredentialPassword, ID: "a"}
	var g gateway.Grant
	if g.Authenticated(a) || g.Authenticated(gateway.Credential{}) {
		t.Error("nobody has accepted it")
	}
	g.Authenticate(a)
	branch := g
	branch.Authenticate(b)
	if !g.Authenticated(a) || g.Authenticated(b) || !branch.Authenticated(a) || !branch.Authenticated(b) || branch.Requester != a.String() {
		t.Errorf("%+v, %+v", g, branch)
	}
}

// Identifiers are told by what they are, not by how they are spelled.
func TestRecogniseSpelling(t *testing.T) {
	d := &gateway.Device{Name: "printer-1", Identifiers: []gateway.DeviceID{{Kind: "mac", Value: "00:11:22:33:44:55"}}}
	g := gateway.Grant{Device: "00-11-22-33-44-55"}
	for range 2 {
		if !g.Recognise(d) || g.Device != "printer-1" {
			t.Fatalf("%+v", g)
		}
	}
	for name, want := range map[string]bool{"printer-1": true, "00-11-22-33-44-55": true, "001122334455": true, "00:11:22:33:44:55": true, "00:11:22:33:44:56": false, "": false} {
		if g.NameDevice(name) != want {
			t.Errorf("%q", name)
		}
	}
}

// Where an endpoint has one profile, that is the one that may be chosen.
func TestChooseTheOnlyProfile(t *testing.T) {
	e := &gateway.Endpoint{Name: "est", Profile: &gateway.Profile{Name: "only"}}
	g := gateway.NewGrant(&gateway.Request{}, e, time.Unix(0, 0))
	if g.ProfileChosen() || g.ChooseProfile("") || g.ChooseProfile("other") || g.ProfileChosen() || !g.ChooseProfile("only") || !g.ProfileChosen() {
		t.Errorf("%+v", g)
	}
}
