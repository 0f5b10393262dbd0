package authz

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// phones are two iPhones, of which one has two serial numbers, and a third that is known by its serial number only.
func phones() *fleet {
	return &fleet{devices: []*gateway.Device{
		{Name: "phone-7", Identifiers: []gateway.DeviceID{{Kind: "udid", Value: "U7"}, {Kind: "serial", Value: "S7"}, {Kind: "serial", Value: "S7-OLD"}}},
		{Name: "phone-8", Identifiers: []gateway.DeviceID{{Kind: "udid", Value: "U8"}, {Kind: "serial", Value: "S8"}, {Kind: "imei", Value: "490154203237518"}}},
		{Name: "phone-9", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "S9"}}},
		{Name: "phone-0", Identifiers: []gateway.DeviceID{{Kind: "udid", Value: "U0"}}, Disabled: true},
	}}
}

// phone is a message that states identifiers, pairs of kind and value, signed by a credential of the kind.
func phone(kind gateway.CredentialKind, ids ...string) *gateway.Request {
	r := &gateway.Request{Endpoint: "ota", Operation: gateway.Query, Credentials: []gateway.Credential{{
		Kind: kind, ID: "f00d", Chain: []*x509.Certificate{{Subject: pkix.Name{CommonName: "x"}}},
	}}}
	for i := 0; i+1 < len(ids); i += 2 {
		r.Identifiers = append(r.Identifiers, gateway.DeviceID{Kind: ids[i], Value: ids[i+1]})
	}
	return r
}

func TestDeviceCertificate(t *testing.T) {
	s, err := NewDeviceCertificate(DeviceCertificateConfig{})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway.Grant{}
	r := phone(gateway.CredentialDevice)
	if v := s.Decide(t.Context(), r, g); v.Decision != gateway.Allow || !g.Authenticated(r.Credentials[0]) || g.Device != "" {
		t.Errorf("%+v %+v", v, g)
	}
	for _, kind := range []gateway.CredentialKind{gateway.CredentialSigner, gateway.CredentialTLS} {
		g := &gateway.Grant{}
		if v := s.Decide(t.Context(), phone(kind), g); v.Decision != gateway.Deny || v.Reason != gateway.Unauthenticated || g.Requester != "" {
			t.Errorf("%s: %+v", kind, v)
		}
	}
}

func TestStatedIdentifiers(t *testing.T) {
	udid := []string{"identifier.udid", "identifier.serial"}
	for _, tt := range []struct {
		name   string
		r      *gateway.Request
		by     []string
		before func(*gateway.Request, *gateway.Grant) // what an earlier stage did; nil: accepted the signer
		device string                                 // "": refused
		note   string
	}{
		{name: "UDID and serial", r: phone("device-certificate", "udid", "u7", "serial", "S7"), device: "phone-7"},
		{name: "another serial of the same device", r: phone("device-certificate", "udid", "U7", "serial", "S7-OLD"), device: "phone-7"},
		{name: "the second place", r: phone("device-certificate", "serial", "S9"), device: "phone-9"},
		{name: "a certificate of ours", r: phone("message-signer", "udid", "U7"), device: "phone-7"},
		{name: "nobody accepted the signer", r: phone("device-certificate", "udid", "U7"), before: func(*gateway.Request, *gateway.Grant) {}, note: "neither the request nor"},
		{name: "an RA that passed it on says nothing", r: phone("nested-signer", "udid", "U7"), note: "neither the request nor"},
		{name: "two devices", r: phone("device-certificate", "udid", "U7", "serial", "S8"), note: "phone-8"},
		{name: "two devices, by a third identifier", r: phone("device-certificate", "udid", "U7", "imei", "49-015420-323751-8"), note: "phone-8"},
		{name: "a serial that is not the entry's", r: phone("device-certificate", "udid", "U7", "serial", "S6"), note: `has "S7"`},
		{name: "what the entry does not say", r: phone("device-certificate", "udid", "U7", "meid", "M1"), device: "phone-7"},
		{name: "unknown", r: phone("device-certificate", "udid", "U6"), note: "no device's"},
		{name: "a value of another kind", r: phone("device-certificate", "udid", "S7"), note: "no device's"},
		{name: "disabled", r: phone("device-certificate", "udid", "U0"), note: "disabled"},
		{name: "the certificate is another device's", r: phone("message-signer", "udid", "U7"), note: `an earlier one "phone-8"`,
			before: func(r *gateway.Request, g *gateway.Grant) { g.Authenticate(r.Credentials[0]); g.NameDevice("phone-8") }},
		{name: "by the device, with a UDID that is another's", r: phone("message-signer", "udid", "U7"), by: []string{"device"}, note: "phone-7",
			before: func(r *gateway.Request, g *gateway.Grant) { g.Authenticate(r.Credentials[0]); g.NameDevice("phone-8") }},
	} {
		by := tt.by
		if by == nil {
			by = udid
		}
		s, err := NewInventory(InventoryConfig{By: by}, phones(), atNoon)
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway.Grant{}
		if tt.before == nil {
			g.Authenticate(tt.r.Credentials[0])
		} else {
			tt.before(tt.r, g)
		}
		v := s.Decide(t.Context(), tt.r, g)
		switch {
		case tt.device != "" && (v.Decision != gateway.Allow || g.Device != tt.device):
			t.Errorf("%s: %+v, device %q", tt.name, v, g.Device)
		case tt.device == "" && (v.Decision != gateway.Deny || !strings.Contains(v.Note, tt.note)):
			t.Errorf("%s: %+v", tt.name, v)
		}
	}
}

func TestStatedIdentifiersUnanswered(t *testing.T) {
	f := phones()
	s, err := NewInventory(InventoryConfig{By: []string{"identifier.udid"}}, f, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	f.err = errors.New("down")
	r, g := phone("device-certificate", "udid", "U7"), &gateway.Grant{}
	g.Authenticate(r.Credentials[0])
	if v := s.Decide(t.Context(), r, g); v.Decision != gateway.CannotAnswer {
		t.Errorf("%+v", v)
	}
}

// laterFails is an inventory that is gone after the first look-up.
type laterFails struct{ *fleet }

func (f laterFails) Device(ctx context.Context, kind, value string) (*gateway.Device, error) {
	if f.asked > 0 {
		f.err = errors.New("down")
	}
	return f.fleet.Device(ctx, kind, value)
}

func TestStatedIdentifiersNotCompared(t *testing.T) {
	s, err := NewInventory(InventoryConfig{By: []string{"identifier.udid"}}, laterFails{phones()}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	r, g := phone("device-certificate", "serial", "S8", "udid", "U7"), &gateway.Grant{}
	g.Authenticate(r.Credentials[0])
	if v := s.Decide(t.Context(), r, g); v.Decision != gateway.CannotAnswer || g.Device != "" {
		t.Errorf("%+v %+v", v, g)
	}
}

func TestIdentifierPlaces(t *testing.T) {
	for _, wrong := range []string{"identifier", "identifier.", "identifier.UDID", "identifiers.udid"} {
		if _, err := parsePlaces([]string{wrong}); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
	if c := (InventoryConfig{By: []string{"identifier.udid"}}); c.Claimed() {
		t.Error("a signed statement counts as the request's own word")
	}
}
