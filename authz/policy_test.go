package authz

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// policyOf makes a stage of settings as they stand in a configuration.
func policyOf(t testing.TB, dir, settings string) (*Policy, error) {
	t.Helper()
	var c PolicyConfig
	if err := strictyaml.Decode("muster.yaml", []byte(settings), &c); err != nil {
		return nil, err
	}
	return NewPolicy(c.In("muster.yaml"), dir, func() time.Time { return noon })
}

const someRules = `rules:
  - {name: north, if: 'device.name.startsWith("north-")', profile: lab}
  - {name: loop, if: 'request.endpoint == "closed"', deny: "this endpoint is closed"}
  - {name: far, if: '!cidr("10.0.0.0/8").containsIP(request.source)', hold: "from far away", approvers: 2, expires: 3d}
  - {name: lab-hours, if: 'grant.profile == "lab" && grant.notAfter - grant.notBefore < duration("48h")', allow: true}
  - {name: site, if: 'attributes["site"] == "muc" || requester == ""', allow: true}
`

func TestPolicy(t *testing.T) {
	s, err := policyOf(t, t.TempDir(), someRules)
	if err != nil {
		t.Fatal(err)
	}
	lab := &gateway.Profile{Name: "lab", Validity: time.Hour}
	base := &gateway.Profile{Name: "base", Validity: 400 * time.Hour}
	offers := &gateway.Endpoint{Profile: base, Profiles: map[string]*gateway.Profile{"base": base, "lab": lab}}
	for name, c := range map[string]struct {
		device, source, endpoint, requester string
		attributes                          map[string]string
		offered                             *gateway.Endpoint
		before                              string // the profile that an earlier stage has chosen
		decision                            gateway.Decision
		reason                              gateway.Reason
		detail, note, profile               string
	}{
		"allow":               {source: "10.0.0.1", decision: gateway.Allow, note: "rule site (muster.yaml:6): allow, since attributes[\"site\"] = \"muc\", requester = \"\"", attributes: map[string]string{"site": "muc"}, profile: "base"},
		"otherwise":           {source: "10.0.0.1", requester: "password:a", attributes: map[string]string{"site": "ber"}, decision: gateway.Deny, reason: gateway.NotAuthorized, detail: "no rule allows this", note: "otherwise deny", profile: "base"},
		"deny":                {source: "10.0.0.1", endpoint: "closed", decision: gateway.Deny, reason: gateway.NotAuthorized, detail: "this endpoint is closed", note: "rule loop (muster.yaml:3)", profile: "base"},
		"hold":                {source: "192.0.2.1", decision: gateway.Hold, note: "rule far (muster.yaml:4): hold \"from far away\", since request.source = \"192.0.2.1\"; 2 people to approve within 3d", profile: "base"},
		"profile":             {device: "north-1", source: "10.0.0.1", decision: gateway.Allow, note: "rule north (muster.yaml:2): profile lab, since device.name = \"north-1\"; rule lab-hours", profile: "lab"},
		"profile, again":      {device: "north-1", source: "10.0.0.1", before: "lab", decision: gateway.Allow, note: "rule lab-hours", profile: "lab"},
		"profile of another":  {device: "north-1", source: "10.0.0.1", before: "base", decision: gateway.Deny, reason: gateway.NotAuthorized, note: "rule north (muster.yaml:2) chooses the profile lab: an earlier stage has chosen base", profile: "base"},
		"profile not offered": {device: "north-1", source: "10.0.0.1", offered: &gateway.Endpoint{Profile: base}, decision: gateway.Deny, reason: gateway.NotAuthorized, note: "chooses the profile lab: the endpoint does not offer it", profile: "base"},
		"cannot answer":       {source: "10.0.0.1", requester: "password:a", decision: gateway.CannotAnswer, reason: gateway.Unavailable, note: "rule site (muster.yaml:6, column 11 of the expression): no such key: site", profile: "base"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &gateway.Request{Operation: gateway.Enroll, Source: netip.MustParseAddr(c.source), Endpoint: c.endpoint}
			e := c.offered
			if e == nil {
				e = offers
			}
			g := gateway.NewGrant(r, e, noon)
			g.Device, g.Requester, g.Attributes = c.device, c.requester, c.attributes
			if c.before != "" && !g.ChooseProfile(c.before) {
				t.Fatal("not offered")
			}
			v := s.Decide(t.Context(), r, g)
			if v.Decision != c.decision || v.Reason != c.reason || v.Detail != c.detail || g.Profile != c.profile || !strings.Contains(v.Note, c.note) || len(v.Claims) != 0 {
				t.Errorf("%+v, profile %s\nwant the note %q", v, g.Profile, c.note)
			}
			if terms := (gateway.HoldTerms{Approvers: 2, Expires: 72 * time.Hour}); c.decision == gateway.Hold && v.Terms != terms {
				t.Errorf("terms %+v", v.Terms)
			}
			if _, identifies := any(s).(gateway.Identifier); identifies {
				t.Error("rules say nothing of who asks")
			}
		})
	}
	if !s.Holds() || s.Name() != "policy" {
		t.Error("it may hold")
	}
}

func TestPolicyConfig(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules:\n  - {name: a, if: device.knwn, allow: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "good.yaml"), []byte(someRules), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := policyOf(t, dir, "file: good.yaml"); err != nil || len(s.Rules().Rules()) != 5 {
		t.Errorf("%v", err)
	}
	for settings, want := range map[string]string{
		"file: policy.yaml":                 "policy.yaml:2:26: rules[0].if: device.knwn: no such field; did you mean known?",
		"file: none.yaml":                   "no such file",
		"file: good.yaml\notherwise: allow": "file has the rules, and otherwise",
		"file: good.yaml\n" + someRules:     "file has the rules, and otherwise",
		"{}":                                "muster.yaml: there are no rules",
		"rules: [{name: a, if: 'true', allow: true}]\noter: deny": `unknown key "oter" (known: file, rules, otherwise)`,
	} {
		_, err := policyOf(t, dir, settings)
		wantError(t, err, want)
	}
	_, err := NewPolicy(PolicyConfig{}, dir, nil)
	wantError(t, err, "no clock")
}

// BenchmarkPolicy is what the stage costs a request, with what it takes to see the request as rules do.
func BenchmarkPolicy(b *testing.B) {
	s, err := policyOf(b, "", someRules)
	if err != nil {
		b.Fatal(err)
	}
	base := &gateway.Profile{Name: "base", Validity: time.Hour}
	r := &gateway.Request{Operation: gateway.Enroll, Source: netip.MustParseAddr("10.0.0.1")}
	b.ReportAllocs()
	for b.Loop() {
		g := gateway.NewGrant(r, &gateway.Endpoint{Profile: base}, noon)
		g.Attributes = map[string]string{"site": "muc"}
		if v := s.Decide(b.Context(), r, g); v.Decision != gateway.Allow {
			b.Fatal(v)
		}
	}
}
