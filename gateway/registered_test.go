package gateway_test

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// registers is a stage that knows what is registered for who asks, by the word of the stages before it.
type registers struct {
	reg *gateway.Registration
	v   gateway.Verdict
}

func (registers) Name() string { return "registers" }
func (s registers) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	v, _ := s.Identify(ctx, r, g)
	return v
}
func (s registers) Identify(_ context.Context, _ *gateway.Request, g *gateway.Grant) (gateway.Verdict, bool) {
	g.Registration = s.reg
	return s.v, false
}

// renews is a stage that takes the certificate that is shown, and that would be renewed.
type renews struct{ cert *x509.Certificate }

func (renews) Name() string { return "renews" }
func (renews) Identifies()  {}
func (s renews) Decide(_ context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	c, ok := r.Credential(gateway.CredentialTLS)
	if !ok || c.Chain[0] != s.cert || r.OldCert != s.cert || r.Operation == gateway.Enroll {
		return gateway.Denied(gateway.Untrusted, "not issued here", "another certificate")
	}
	g.Authenticate(c)
	return gateway.Allowed("")
}

var (
	cse = &gateway.Registration{Type: gateway.KindCSEID, Value: "cse1.in-cse.m2m.example.com"}
	ae  = &gateway.Registration{Type: gateway.KindAEID, Value: "//m2m.example.com/S98821"}
)

// Who asks is known by the stages that identify, for a first certificate or for a renewal; a client that none of them knows has
// no registration (oneM2M TS-0003 clause 8.3.6.2.2: csrattrs depends on it).
func TestRegistered(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	mine := &x509.Certificate{Raw: []byte{1}}
	tls := gateway.Credential{Kind: gateway.CredentialTLS, ID: "1", Chain: []*x509.Certificate{mine}}
	user := gateway.Credential{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("secret")}
	wrong := gateway.Credential{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("guess")}
	ok, none := gateway.Allowed(""), gateway.Denied(gateway.NotAuthorized, "nothing registered", "no entry")
	down := gateway.Unanswered(errors.New("the store is down"))
	pass := password{"secret"}
	type pipelines = map[gateway.Operation]gateway.Pipeline
	for name, c := range map[string]struct {
		pipelines pipelines
		shows     []gateway.Credential
		want      *gateway.Registration
		reason    gateway.Reason
		detail    string
	}{
		"enrolls":                          {pipelines: pipelines{gateway.Enroll: {pass, registers{cse, ok}}}, shows: []gateway.Credential{user}, want: cse},
		"in a branch":                      {pipelines: pipelines{gateway.Enroll: {gateway.AnyOf(gateway.Pipeline{renews{mine}}, gateway.Pipeline{pass, registers{cse, ok}})}}, shows: []gateway.Credential{user}, want: cse},
		"renews":                           {pipelines: pipelines{gateway.Enroll: {pass, registers{cse, ok}}, gateway.Renew: {renews{mine}, registers{ae, ok}}}, shows: []gateway.Credential{tls}, want: ae},
		"rekeys":                           {pipelines: pipelines{gateway.Rekey: {renews{mine}, registers{ae, ok}}}, shows: []gateway.Credential{tls}, want: ae},
		"a stage that does not identify":   {pipelines: pipelines{gateway.Enroll: {pass, always(none), registers{cse, ok}}}, shows: []gateway.Credential{user}, want: cse},
		"nobody":                           {pipelines: pipelines{gateway.Enroll: {pass, registers{cse, ok}}}, reason: gateway.NotAuthorized, detail: "this client is not known here"},
		"a stranger":                       {pipelines: pipelines{gateway.Enroll: {pass, registers{cse, ok}}}, shows: []gateway.Credential{wrong}, reason: gateway.Unauthenticated, detail: "credentials required"},
		"who has guessed too often":        {pipelines: pipelines{gateway.Enroll: {registers{nil, gateway.Denied(gateway.Busy, "wait", "limited")}}}, shows: []gateway.Credential{user}, reason: gateway.Busy, detail: "wait"},
		"busy, without a password":         {pipelines: pipelines{gateway.Enroll: {registers{nil, gateway.Denied(gateway.Busy, "wait", "limited")}}}, shows: []gateway.Credential{tls}, reason: gateway.NotAuthorized},
		"a stranger's certificate":         {pipelines: pipelines{gateway.Enroll: {renews{nil}, registers{cse, ok}}}, shows: []gateway.Credential{tls}, reason: gateway.NotAuthorized, detail: "this client is not known here"},
		"nothing registered":               {pipelines: pipelines{gateway.Enroll: {pass, registers{nil, none}}}, shows: []gateway.Credential{user}, reason: gateway.NotAuthorized, detail: "nothing registered"},
		"nothing registered, nor renewed":  {pipelines: pipelines{gateway.Enroll: {pass, registers{nil, none}}, gateway.Renew: {password{"another"}}}, shows: []gateway.Credential{user}, reason: gateway.NotAuthorized, detail: "nothing registered"},
		"no stage that knows":              {pipelines: pipelines{gateway.Enroll: {pass}}, shows: []gateway.Credential{user}, reason: gateway.NotAuthorized},
		"on others' word, of whom is none": {pipelines: pipelines{gateway.Enroll: {registers{cse, ok}}}, shows: []gateway.Credential{user}, reason: gateway.NotAuthorized},
		"turned round":                     {pipelines: pipelines{gateway.Enroll: {gateway.Not(gateway.Pipeline{pass}), registers{cse, ok}}}, shows: []gateway.Credential{user}, reason: gateway.NotAuthorized},
		"for revocation only":              {pipelines: pipelines{gateway.Revoke: {pass, registers{cse, ok}}}, shows: []gateway.Credential{user}, reason: gateway.NotAuthorized},
		"no answer":                        {pipelines: pipelines{gateway.Enroll: {pass, registers{cse, down}}}, shows: []gateway.Credential{user}, reason: gateway.Unavailable},
		"no answer, and a renewal":         {pipelines: pipelines{gateway.Enroll: {registers{cse, down}}, gateway.Renew: {renews{mine}, registers{ae, ok}}}, shows: []gateway.Credential{tls}, want: ae},
	} {
		w.with(c.pipelines)
		got, err := w.gw.Registered(t.Context(), &gateway.Request{Endpoint: "est", Credentials: c.shows})
		if got != c.want || (err == nil) != (c.reason == "") {
			t.Errorf("%s: %v, %v", name, got, err)
			continue
		}
		if err != nil && (err.Reason != c.reason || c.detail != "" && err.Detail != c.detail) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.gw.Registered(t.Context(), &gateway.Request{Endpoint: "none", Credentials: []gateway.Credential{user}}); err == nil || err.Reason != gateway.NotAuthorized {
		t.Error(err)
	}
}

// sees is a stage that writes down where a request comes from.
type sees struct{ source *netip.Addr }

func (sees) Name() string { return "sees" }
func (sees) Identifies()  {}
func (s sees) Decide(_ context.Context, r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
	*s.source = r.Source
	return gateway.Denied(gateway.Unauthenticated, "no", "no")
}

// Stages limit wrong passwords by address: without one all clients would share a limit, and any of them could use it up for the rest.
func TestRegisteredSource(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	var seen netip.Addr
	w.with(map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {sees{&seen}}})
	source := netip.MustParseAddr("192.0.2.7")
	if _, err := w.gw.Registered(t.Context(), &gateway.Request{Endpoint: "est", Source: source}); err == nil || seen != source {
		t.Errorf("asked as from %v, %v", seen, err)
	}
}

// What is certified is the registered identifier and nothing else, whatever a profile makes of the names (oneM2M TS-0003 clause
// 10.1.1); text that no name can hold refuses.
func TestRegisteredIsCertified(t *testing.T) {
	for want, reg := range map[string]*gateway.Registration{
		"301d821b" + hex.EncodeToString([]byte(cse.Value)): cse,
		"301a8618" + hex.EncodeToString([]byte(ae.Value)):  ae,
	} {
		w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
			w.enroll = gateway.Pipeline{password{"secret"}, registers{reg, gateway.Allowed("")}}
			w.shape = func(p *gateway.Profile) {
				p.Shaper = shaper{func(_ *gateway.Request, g *gateway.Grant) error { g.SubjectAltName = nil; return nil }}
			}
		})
		cert := w.mustEnroll(w.request("device-1")).Certificate
		for _, e := range cert.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) && hex.EncodeToString(e.Value) == want {
				want = ""
			}
		}
		if want != "" {
			t.Errorf("%s is not in %v", reg, cert.Extensions)
		}
		reg := *reg
		reg.Value = "with space"
		w.enroll[1] = registers{&reg, gateway.Allowed("")}
		w.shape = nil
		w.swap()
		if _, err := w.gw.Enroll(t.Context(), w.request("device-2")); reason(err) != gateway.NotAuthorized {
			t.Error(err)
		}
	}
}

// An AE-ID is of a provider within the CA's name constraints (oneM2M TS-0003 clause 10.1.1.5), whatever form the certificate has it in.
// Of the others CAs and relying parties say so themselves.
func TestRegisteredWithinConstraints(t *testing.T) {
	for name, c := range map[string]struct {
		permitted, excluded []string
		reg                 gateway.Registration
		refused             bool
	}{
		"of no constraints":             {reg: *ae},
		"of the provider":               {permitted: []string{"m2m.example.com"}, reg: *ae},
		"of another":                    {permitted: []string{"m2m.example.net"}, reg: *ae, refused: true},
		"of an excluded one":            {excluded: []string{"m2m.example.com"}, reg: *ae, refused: true},
		"another in the certificate":    {permitted: []string{"m2m.example.com"}, reg: gateway.Registration{Type: gateway.KindAEID, Value: "m2m://m2m.example.com/S1", Entered: "//elsewhere.example/S1"}, refused: true},
		"with a scheme":                 {permitted: []string{"m2m.example.com"}, reg: gateway.Registration{Type: gateway.KindAEID, Value: "m2m://m2m.example.com/S1", Entered: "//m2m.example.com/S1"}},
		"no AE-ID":                      {permitted: []string{"m2m.example.com"}, reg: gateway.Registration{Type: gateway.KindAEID, Value: "S1"}, refused: true},
		"a node, which has no provider": {permitted: []string{"m2m.example.net"}, reg: gateway.Registration{Type: gateway.KindNodeID, Value: "urn:gsma:imei:1"}},
	} {
		w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
			w.memory = backendtest.NewMemory(backendtest.MemoryOptions{Seed: t.Name(), Clock: w.clock.now, Constrain: func(ca *x509.Certificate) {
				ca.PermittedDNSDomains, ca.ExcludedDNSDomains = c.permitted, c.excluded
			}})
			w.ca = backendtest.Faulty(w.memory, backendtest.FaultPlan{})
			w.enroll = gateway.Pipeline{password{"secret"}, registers{&c.reg, gateway.Allowed("")}}
		})
		_, err := w.gw.Enroll(t.Context(), w.request("device-1"))
		if c.refused != (err != nil) || err != nil && (reason(err) != gateway.NotAuthorized || !strings.Contains(err.Error(), "is outside of the name constraints of")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Identifiers stand in the inventory as certificates name them: relative ones are somebody else elsewhere.
func TestRegisteredIdentifiers(t *testing.T) {
	for kind, values := range map[string]map[string]bool{
		gateway.KindCSEID: {
			"cse1.in-cse.m2m.example.com": true, "in-cse.m2m.example": true, "CSE1.IN-CSE.M2M.example": true,
			"/cse1": false, "cse1": false, "cse1.example": false, "//m2m.example.com/cse1": false, "*.in-cse.m2m.example.com": false, "cse1.in-cse.m2m.example.": false, "a b.c.d": false,
		},
		gateway.KindAEID: {
			"//m2m.example.com/S98821": true, "//m2m.example.com/cse1/C01": true,
			"S98821": false, "/cse1/C01": false, "https://m2m.example.com/S98821": false, "//m2m.example.com/": false, "//m2m.example.com": false,
			"//*.example.com/S1": false, "//m2m.example.com/*": false, "//m2m.example.com/a/b/c": false, "//-m2m/S1": false, "//m2m.example.com/S 1": false,
		},
		gateway.KindNodeID: {"490154203237518": true, "urn:gsma:imei:49015420-323751-8": true, "a b": false, "*": false, "": false, "node{1}": false},
	} {
		for value, good := range values {
			value = gateway.NormalIdentifier(kind, value)
			if err := gateway.CheckIdentifier(kind, value); (err == nil) != good {
				t.Errorf("%s %q: %v", kind, value, err)
			}
		}
	}
	if got := gateway.NormalIdentifier(gateway.KindCSEID, " CSE1.in-cse.Example.com"); got != "cse1.in-cse.example.com" {
		t.Error(got)
	}
	if got := gateway.NormalIdentifier(gateway.KindAEID, "//M2M.example.com/S1"); got != "//M2M.example.com/S1" {
		t.Error(got)
	}
	if s := cse.String(); !strings.Contains(s, "cse-id cse1.") || cse.Tag() != 2 || ae.Tag() != 6 {
		t.Error(s)
	}
}

// What is held, or asked for again, names the identifier that was registered then: it is not issued once the entry has another.
func TestRegisteredAtApproval(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, recognising, func(w *world) {
		w.enroll = append(w.enroll, registers{&gateway.Registration{Type: gateway.KindAEID, Value: "m2m:" + ae.Value, Entered: ae.Value}, gateway.Allowed("")})
	})
	entry := gateway.Device{Name: "station-1", Enrollments: gateway.Unlimited, Identifiers: []gateway.DeviceID{{Kind: gateway.KindAEID, Value: ae.Value}}}
	w.enter(entry)
	r := w.request("held")
	w.mustEnroll(r)
	for _, id := range []gateway.DeviceID{{Kind: gateway.KindAEID, Value: "//m2m.example.com/S1"}, {Kind: gateway.KindNodeID, Value: ae.Value}} {
		other := entry
		other.Identifiers = []gateway.DeviceID{id}
		w.enter(other)
		w.cannot(r.ID, gateway.NotAuthorized, "no longer registers the ae-id "+ae.Value)
	}
	w.enter(entry)
	w.can(r.ID, gateway.StateIssued)
}
