package authz

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func TestSharedSecretOfTheInventory(t *testing.T) {
	const deviceKey = "secret of printer-1"
	value := func(name string) []byte { return sealed(deviceKey, "device", name) }
	devices := func() *fleet {
		return &fleet{devices: []*gateway.Device{
			{Name: "printer-1", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "SN1"}}, Sealed: value("printer-1")},
			{Name: "none"},
			{Name: "disabled", Disabled: true, Sealed: value("disabled")},
			{Name: "ended", NotAfter: noon.Add(-time.Second), Sealed: value("ended")},
			{Name: "elsewhere", Endpoints: []string{"lab"}, Sealed: value("elsewhere")},
			{Name: "moved", Sealed: value("printer-1")},
			{Name: "short", Sealed: sealed("1234567", "device", "short")},
			{Name: "3078", Sealed: value("3078")},
			{Name: "shared", Sealed: value("shared")},
			{Name: "a", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "twice"}}, Sealed: value("a")},
			{Name: "b", Identifiers: []gateway.DeviceID{{Kind: "imei", Value: "twice"}}, Sealed: value("b")},
			{Name: "hex:00aa", Sealed: value("hex:00aa")},
		}}
	}
	for name, c := range map[string]struct {
		reference string
		before    string
		found     string // the secret, "" for none
		unknown   error  // what the look-up says then
		reason    gateway.Reason
		device    string
	}{
		"by name":              {reference: "printer-1", found: deviceKey, device: "printer-1"},
		"by identifier":        {reference: "SN1", found: deviceKey, device: "printer-1"},
		"known before":         {reference: "printer-1", before: "SN1", found: deviceKey, device: "printer-1"},
		"another known before": {reference: "printer-1", before: "ended", found: deviceKey, reason: gateway.NotAuthorized},
		"not printable":        {reference: "\x00\xaa", found: deviceKey, device: "hex:00aa"},
		"configured too":       {reference: "3078", found: cmpSecret},
		"stored too":           {reference: "shared", found: "nobody's in particular"},
		"unknown":              {reference: "nobody", unknown: gateway.ErrNotFound},
		"without one":          {reference: "none", unknown: gateway.ErrNotFound},
		"disabled":             {reference: "disabled", unknown: gateway.ErrNotFound},
		"ended":                {reference: "ended", unknown: gateway.ErrNotFound},
		"another endpoint's":   {reference: "elsewhere", unknown: gateway.ErrNotFound},
		"two devices'":         {reference: "twice", unknown: gateway.ErrNotFound},
		"of another device":    {reference: "moved"},
		"short":                {reference: "short"},
	} {
		t.Run(name, func(t *testing.T) {
			config, dir := secretConfig(t)
			config.Devices, config.Inventory = true, true
			s, err := NewSharedSecret(config, dir, newVault(), devices(), newVault(), atNoon)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.SharedSecret(context.Background(), "ran", []byte(c.reference))
			if string(got) != c.found || (err == nil) != (c.found != "") || c.unknown != nil && !errors.Is(err, c.unknown) || c.unknown == nil && errors.Is(err, gateway.ErrNotFound) {
				t.Fatalf("%q, %v", []byte(got), err)
			}
			r := mac(c.reference)
			r.Credentials[0].Secret = got
			g := &gateway.Grant{Device: c.before}
			v := s.Decide(context.Background(), r, g)
			switch {
			case c.unknown != nil:
				expect(t, v, gateway.Deny, gateway.Unauthenticated)
			case c.found == "":
				expect(t, v, gateway.CannotAnswer, gateway.Unavailable, c.reference)
			case c.reason != "":
				expect(t, v, gateway.Deny, c.reason)
			default:
				expect(t, v, gateway.Allow, "")
				if g.Device != c.device || (g.Inventory != nil) != (c.device != "") || !g.Authenticated(r.Credentials[0]) {
					t.Errorf("grant %+v", g)
				}
			}
			if c.found != "" {
				r.Credentials[0].Secret = gateway.Secret("another secret")
				expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
			}
		})
	}

	config := SharedSecretConfig{Inventory: true}
	f := devices()
	s, err := NewSharedSecret(config, "", nil, f, newVault(), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	f.err = errors.New("no route to the database")
	if _, err := s.SharedSecret(context.Background(), "ran", []byte("printer-1")); err == nil || errors.Is(err, gateway.ErrNotFound) {
		t.Error(err)
	}
	expect(t, s.Decide(context.Background(), mac("printer-1"), &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable)
	for _, d := range []Devices{nil, f} {
		if _, err := NewSharedSecret(config, "", nil, d, nil, atNoon); err == nil {
			t.Error("made without inventory or key")
		}
	}
}

// The store is asked the same for every reference, so that its time says nothing about which there are.
func TestSharedSecretLookUps(t *testing.T) {
	config, dir := secretConfig(t)
	config.Inventory = true
	for _, reference := range []string{"3078", "printer-1", "nobody"} {
		f := &fleet{devices: []*gateway.Device{{Name: "printer-1", Sealed: sealed(deviceSecret, "device", "printer-1")}}}
		s, err := NewSharedSecret(config, dir, nil, f, newVault(), atNoon)
		if err != nil {
			t.Fatal(err)
		}
		s.SharedSecret(context.Background(), "ran", []byte(reference)) //nolint:errcheck // what is found does not matter
		if f.asked != 1 {
			t.Errorf("%s: %d look-ups", reference, f.asked)
		}
	}
}
