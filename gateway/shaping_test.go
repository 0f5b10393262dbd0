package gateway_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

type shaper struct {
	shape func(r *gateway.Request, g *gateway.Grant) error
}

func (s shaper) Shape(r *gateway.Request, g *gateway.Grant) error { return s.shape(r, g) }
func (shaper) DerivesSubject() bool                               { return true }

type linter struct {
	before func(t *backend.Template, issuer *x509.Certificate) error
	after  func(*x509.Certificate) error
}

func (l linter) Before(t *backend.Template, issuer *x509.Certificate) error {
	return l.before(t, issuer)
}
func (l linter) After(c *x509.Certificate) error { return l.after(c) }

// shaped gives the world's profile a shaper and a linter.
func (w *world) shaped(s gateway.Shaper, l gateway.Linter) {
	w.t.Helper()
	profile := &gateway.Profile{
		Name: "device", Backend: "ca", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature, Shaper: s, Linter: l,
	}
	err := w.gw.Swap(w.t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {
			Name: "est", Protocol: gateway.EST, Profile: profile,
			Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll},
		}},
		Backends: map[string]backend.Backend{"ca": w.ca},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func distinguished(t *testing.T, cn string) []byte {
	t.Helper()
	der, err := asn1.Marshal(pkix.Name{CommonName: cn, Organization: []string{"Operator"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestShaped(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	granted := distinguished(t, "granted")
	var seen []string
	w.shaped(shaper{func(r *gateway.Request, g *gateway.Grant) error {
		seen = append(seen, "shape")
		g.Subject = granted
		return nil
	}}, linter{func(q *backend.Template, issuer *x509.Certificate) error {
		seen = append(seen, "before "+issuer.Subject.CommonName)
		if string(q.Subject) != string(granted) {
			t.Errorf("linted with the subject %x", q.Subject)
		}
		return nil
	}, func(c *x509.Certificate) error {
		seen = append(seen, "after "+c.Subject.CommonName)
		return nil
	}})
	r := w.request("asked")
	r.Subject = nil
	res := w.mustEnroll(r)
	if string(res.Certificate.RawSubject) != string(granted) {
		t.Errorf("issued for %s", res.Certificate.Subject)
	}
	if want := []string{"shape", "before " + w.memory.Issuer().Subject.CommonName, "after granted"}; !slices.Equal(seen, want) {
		t.Errorf("%q, not %q", seen, want)
	}
	tx, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || len(tx.Changes) != 1 || !strings.Contains(tx.Changes[0], "asked for none, granted O=Operator,CN=granted") && !strings.Contains(tx.Changes[0], "granted CN=granted,O=Operator") {
		t.Errorf("changes %q, %v", tx.Changes, err)
	}
	if last := tx.Verdicts[len(tx.Verdicts)-1]; last.Stage != "profile" || last.Decision != gateway.Allow {
		t.Errorf("verdicts %+v", tx.Verdicts)
	}
}

func TestShapedRefusals(t *testing.T) {
	fine := func(*gateway.Request, *gateway.Grant) error { return nil }
	before := func(*backend.Template, *x509.Certificate) error { return nil }
	after := func(*x509.Certificate) error { return nil }
	for name, tt := range map[string]struct {
		shape  func(*gateway.Request, *gateway.Grant) error
		before func(*backend.Template, *x509.Certificate) error
		after  func(*x509.Certificate) error
		want   gateway.Reason
		detail string
		state  gateway.State
	}{
		"may not be asked for": {func(*gateway.Request, *gateway.Grant) error {
			return &gateway.Error{Reason: gateway.BadTemplate, Detail: "ask for no subject"}
		}, before, after, gateway.BadTemplate, "ask for no subject", gateway.StateRefused},
		"template lacks a value": {func(*gateway.Request, *gateway.Grant) error {
			return gateway.Errorf(gateway.NotAuthorized, "", "device d has no attribute site")
		}, before, after, gateway.NotAuthorized, "", gateway.StateRefused},
		"no *Error":    {func(*gateway.Request, *gateway.Grant) error { return errors.New("odd") }, before, after, gateway.Internal, "", gateway.StateRefused},
		"shape panics": {func(*gateway.Request, *gateway.Grant) error { panic("odd") }, before, after, gateway.Internal, "", gateway.StateRefused},
		"lint before": {fine, func(*backend.Template, *x509.Certificate) error { return errors.New("e_dnsname_bad") }, after,
			gateway.BadTemplate, "the certificate would break its rules: e_dnsname_bad", gateway.StateRefused},
		"lint panics": {fine, func(*backend.Template, *x509.Certificate) error { panic("odd") }, after, gateway.BadTemplate, "", gateway.StateRefused},
		"lint after":  {fine, before, func(*x509.Certificate) error { return errors.New("e_serial") }, gateway.Internal, "", gateway.StateFailed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{})
			w.shaped(shaper{tt.shape}, linter{tt.before, tt.after})
			r := w.request("refused")
			_, err := w.gw.Enroll(t.Context(), r)
			if e := gateway.AsError(err); err == nil || e.Reason != tt.want || tt.detail != "" && e.Detail != tt.detail {
				t.Errorf("%v", err)
			}
			if s := w.state(r.ID); s != tt.state {
				t.Errorf("state %q", s)
			}
			if tt.state == gateway.StateRefused && w.memory.Total() != 0 {
				t.Errorf("%d issued", w.memory.Total())
			}
			if tt.state == gateway.StateFailed {
				w.work(time.Minute)
				if !w.revoked(r.ID) {
					t.Error("what failed its lint is not revoked")
				}
			}
		})
	}
}

// What cannot be linted, because the CA does not tell its certificate, is not issued.
func TestShapedWithoutCA(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	w.twist(&twisted{cas: func(context.Context) ([]backend.CA, error) { return nil, errors.New("down") }})
	w.shaped(nil, linter{func(*backend.Template, *x509.Certificate) error { return nil }, nil})
	r := w.request("unlinted")
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unavailable || w.state(r.ID) != "" || w.memory.Total() != 0 {
		t.Errorf("%v, state %q, %d issued", err, w.state(r.ID), w.memory.Total())
	}
}

func TestRecognise(t *testing.T) {
	entry := &gateway.Device{Name: "bts-17", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "SN17"}, {Kind: "imei", Value: "35"}}}
	for name, tt := range map[string]struct {
		before     string
		recognised bool
		after      []string // that a later stage may name
		not        []string
	}{
		"nobody named it":       {"", true, []string{"bts-17", "SN17", "35"}, []string{"SN18"}},
		"by its serial":         {"SN17", true, []string{"bts-17", "SN17"}, []string{"other"}},
		"by its name":           {"bts-17", true, []string{"SN17"}, nil},
		"another was named":     {"SN18", false, []string{"SN18"}, []string{"bts-17"}},
		"part of an identifier": {"SN1", false, nil, []string{"bts-17"}},
	} {
		var g gateway.Grant
		if tt.before != "" {
			g.NameDevice(tt.before)
		}
		if got := g.Recognise(entry); got != tt.recognised {
			t.Errorf("%s: %t", name, got)
		}
		if tt.recognised && (g.Device != "bts-17" || g.Inventory != entry) {
			t.Errorf("%s: device %q", name, g.Device)
		}
		for _, n := range tt.after {
			if !g.NameDevice(n) {
				t.Errorf("%s: %q is not it", name, n)
			}
		}
		for _, n := range tt.not {
			if g.NameDevice(n) {
				t.Errorf("%s: %q is it", name, n)
			}
		}
		if tt.recognised && g.Recognise(&gateway.Device{Name: "bts-18"}) {
			t.Errorf("%s: recognised as two", name)
		}
	}
}

// A device's own profile takes the place of the endpoint's, with all that it gives.
func TestChooseProfile(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	long := &gateway.Profile{Name: "long", Backend: "ca", Validity: 240 * time.Hour, Backdate: time.Hour, KeyUsage: x509.KeyUsageKeyEncipherment}
	short := &gateway.Profile{Name: "short", Backend: "ca", Validity: time.Hour, KeyUsage: x509.KeyUsageDigitalSignature}
	var offered bool
	choose := stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		if g.ChooseProfile("unknown") {
			return gateway.Denied(gateway.Internal, "", "a profile that nobody offers was chosen")
		}
		if offered = g.ChooseProfile("long"); !offered {
			return gateway.Denied(gateway.NotAuthorized, "", "not offered")
		}
		return gateway.Allowed("")
	})
	swap := func(profiles map[string]*gateway.Profile, p gateway.Pipeline) {
		err := w.gw.Swap(t.Context(), &gateway.Runtime{
			Endpoints: map[string]*gateway.Endpoint{"est": {
				Name: "est", Protocol: gateway.EST, Profile: short, Profiles: profiles, Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: p},
			}},
			Backends: map[string]backend.Backend{"ca": w.ca},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	both := map[string]*gateway.Profile{"short": short, "long": long}
	swap(both, gateway.Pipeline{password{"secret"}, choose})
	r := w.request("chosen")
	c := w.mustEnroll(r).Certificate
	if c.KeyUsage != x509.KeyUsageKeyEncipherment || !c.NotBefore.Equal(w.clock.now().Add(-time.Hour)) || !c.NotAfter.Equal(w.clock.now().Add(240*time.Hour-time.Second)) {
		t.Errorf("usage %d, valid from %s to %s", c.KeyUsage, c.NotBefore, c.NotAfter)
	}
	if tx, err := w.store.Transaction(t.Context(), r.ID); err != nil || tx.Profile != "long" {
		t.Errorf("profile %q, %v", tx.Profile, err)
	}
	// By name, in the request.
	swap(both, gateway.Pipeline{password{"secret"}})
	r = w.request("asked")
	r.Profile = "long"
	if c := w.mustEnroll(r).Certificate; c.KeyUsage != x509.KeyUsageKeyEncipherment {
		t.Errorf("usage %d", c.KeyUsage)
	}
	// Where it is not offered, neither.
	swap(nil, gateway.Pipeline{password{"secret"}, choose})
	if _, err := w.gw.Enroll(t.Context(), w.request("not offered")); reason(err) != gateway.NotAuthorized || offered {
		t.Errorf("%v", err)
	}
	r = w.request("asked")
	r.Profile = "long"
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.BadTemplate {
		t.Errorf("%v", err)
	}
}
