package authz

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

var (
	rawKey   = append(bytes.Repeat([]byte{0xa5}, 31), '\n') // as it is in a file, whatever stands at its end
	shortKey = bytes.Repeat([]byte{7}, 16)
	middling = bytes.Repeat([]byte{0xfe}, 24)
)

func wrappingKeys(t *testing.T, v *vault) *Keys {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "raw", rawKey)
	write(t, dir, "hex", []byte(hex.EncodeToString(shortKey)+"\n"))
	write(t, dir, "base64", []byte(base64.StdEncoding.EncodeToString(middling)+"\r\n"))
	c := KeysConfig{Generate: []string{"P-256"}, Wrapping: WrappingConfig{Keys: map[string]WrappingKey{
		"fleet": {File: "raw"}, "hex:00ff": {File: "hex", Device: "device-1"}, "b": {File: "base64", Device: "device-2"},
	}, Devices: v != nil}}
	s, err := NewKeysFrom(c, dir, v, v, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RFC 7030 section 4.4.1.1: the key is one that both sides have, and nobody else's.
func TestWrapping(t *testing.T) {
	stored := func(reference, device, secret string) *gateway.StoredSecret {
		return &gateway.StoredSecret{Endpoint: "ran", Reference: reference, Device: device, Sealed: sealed(secret, "secret", "ran", reference, device)}
	}
	over := stored("over", "device-1", hex.EncodeToString(shortKey))
	over.NotAfter = noon.Add(-time.Second)
	moved := stored("moved", "device-1", hex.EncodeToString(shortKey))
	moved.Device = "device-2"
	v := &vault{stored: []*gateway.StoredSecret{
		stored("kept", "device-1", hex.EncodeToString(shortKey)), stored("nobody's", "", hex.EncodeToString(middling)),
		stored("a password", "device-1", "not a key at all"), stored("b", "device-1", hex.EncodeToString(shortKey)), over, moved,
	}}
	s := wrappingKeys(t, v)
	for name, tt := range map[string]struct {
		id, device string
		key        []byte // nil: the stage's own
		stranger   bool
		reason     gateway.Reason // "": allowed
		note       string
	}{
		"for everybody":                 {id: "fleet", note: "to be made"},
		"for everybody, a device":       {id: "fleet", device: "device-7", note: "to be made"},
		"the device's":                  {id: "\x00\xff", device: "device-1", note: "to be made"},
		"another device's":              {id: "\x00\xff", device: "device-2", reason: gateway.NotAuthorized, note: `device "device-1"'s, and "device-2" asks`},
		"a device's, whoever asks":      {id: "\x00\xff", reason: gateway.NotAuthorized, note: "no stage before this one says which device asks"},
		"of the store":                  {id: "kept", device: "device-1", note: "to be made"},
		"of the store, another's":       {id: "kept", device: "device-2", reason: gateway.NotAuthorized, note: "device-2"},
		"of the store, everybody's":     {id: "nobody's", device: "device-2", note: "to be made"},
		"the configuration's first":     {id: "b", device: "device-2", note: "to be made"},
		"none":                          {id: "other", device: "device-1", reason: gateway.BadTemplate, note: "none of this stage's"},
		"no identifier":                 {id: "", device: "device-1", reason: gateway.BadTemplate, note: "none of this stage's"},
		"too long an identifier":        {id: strings.Repeat("x", maxReference+1), device: "device-1", reason: gateway.BadTemplate, note: "none of this stage's"},
		"not a key":                     {id: "a password", device: "device-1", reason: gateway.BadTemplate, note: "no key"},
		"over":                          {id: "over", device: "device-1", reason: gateway.BadTemplate, note: "good until"},
		"a stranger, one that is there": {id: "fleet", stranger: true, reason: gateway.Unauthenticated, note: "authenticated the requester"},
		"a stranger, one that is not":   {id: "other", stranger: true, reason: gateway.Unauthenticated, note: "authenticated the requester"},
		"another stage's":               {id: "fleet", key: shortKey, reason: gateway.BadTemplate, note: "two stages have one identifier"},
		"the adapter found none":        {id: "fleet", key: []byte{}, reason: gateway.BadTemplate, note: "two stages"},
	} {
		key, err := s.WrappingKey(t.Context(), "ran", []byte(tt.id))
		if err != nil && !errors.Is(err, gateway.ErrNotFound) {
			t.Fatalf("%s: %v", name, err)
		}
		if tt.key != nil {
			key = tt.key
		}
		g := &gateway.Grant{Requester: "password:factory", Device: tt.device}
		if tt.stranger {
			g.Requester = ""
		}
		r := &gateway.Request{Endpoint: "ran", KeyGen: &gateway.KeyGen{Wrap: gateway.WrapSymmetric, KeyID: []byte(tt.id), WrapKey: key}}
		verdict := s.Decide(t.Context(), r, g)
		if tt.reason == "" {
			expect(t, verdict, gateway.Allow, "", tt.note)
			continue
		}
		expect(t, verdict, gateway.Deny, tt.reason, tt.note)
		if strings.Contains(verdict.Detail, "device-1") {
			t.Errorf("%s: the client is told %q", name, verdict.Detail)
		}
	}
	a := s.Decide(t.Context(), &gateway.Request{KeyGen: &gateway.KeyGen{Wrap: gateway.WrapSymmetric, KeyID: []byte("fleet")}}, &gateway.Grant{})
	b := s.Decide(t.Context(), &gateway.Request{KeyGen: &gateway.KeyGen{Wrap: gateway.WrapSymmetric, KeyID: []byte("other")}}, &gateway.Grant{})
	if a.Detail != b.Detail || a.Reason != b.Reason {
		t.Errorf("a stranger is told which keys there are: %+v, %+v", a, b)
	}
	// What was sealed for another device does not open.
	r := &gateway.Request{Endpoint: "ran", KeyGen: &gateway.KeyGen{Wrap: gateway.WrapSymmetric, KeyID: []byte("moved")}}
	expect(t, s.Decide(t.Context(), r, &gateway.Grant{Requester: "x", Device: "device-2"}), gateway.CannotAnswer, gateway.Unavailable, "cannot be looked up")
	v.err = errors.New("down")
	expect(t, s.Decide(t.Context(), r, &gateway.Grant{Requester: "x"}), gateway.CannotAnswer, gateway.Unavailable, "cannot be looked up")
	// Other ways to encrypt are not its business.
	for _, wrap := range []gateway.WrapKind{gateway.WrapNone, gateway.WrapAsymmetric, gateway.WrapPassword} {
		expect(t, s.Decide(t.Context(), &gateway.Request{KeyGen: &gateway.KeyGen{Wrap: wrap}}, &gateway.Grant{}), gateway.Allow, "", "made")
	}
}

// Keys come as files have them; a key in the store is one, too.
func TestWrappingKeyForms(t *testing.T) {
	s := wrappingKeys(t, nil)
	for id, want := range map[string][]byte{"fleet": rawKey, "\x00\xff": shortKey, "b": middling} {
		got, err := s.WrappingKey(context.Background(), "ran", []byte(id))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %x, %v", id, []byte(got), err)
		}
		clear(got)
		if again, _ := s.WrappingKey(context.Background(), "ran", []byte(id)); !bytes.Equal(again, want) {
			t.Errorf("%q: whoever has the key can change it", id)
		}
	}
	if _, err := s.WrappingKey(context.Background(), "ran", []byte("kept")); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("the store is asked: %v", err)
	}
}

func TestWrappingRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "good", shortKey)
	write(t, dir, "passphrase", []byte("sixteen letters!"))
	write(t, dir, "long", append(bytes.Repeat([]byte{1}, 33), '\n'))
	write(t, dir, "open", shortKey)
	if err := os.Chmod(filepath.Join(dir, "open"), 0o604); err != nil {
		t.Fatal(err)
	}
	with := func(id string, k WrappingKey) KeysConfig {
		return KeysConfig{Generate: []string{"P-256"}, Wrapping: WrappingConfig{Keys: map[string]WrappingKey{id: k}}}
	}
	twice := with("1", WrappingKey{File: "good"})
	twice.Wrapping.Keys["hex:31"] = WrappingKey{File: "good"}
	alone := with("1", WrappingKey{File: "good"})
	alone.Generate = nil
	const nothing = "wrapping: it is for keys that the gateway makes"
	for want, c := range map[string]KeysConfig{
		"no store of sealed secrets":   {Generate: []string{"P-256"}, Wrapping: WrappingConfig{Devices: true}},
		"say which by generate":        alone,
		nothing:                        {Wrapping: WrappingConfig{Required: true}},
		`identifier "1" stands twice`:  twice,
		`identifier "hex:x": 1 to 128`: with("hex:x", WrappingKey{File: "good"}),
		"give the file":                with("1", WrappingKey{}),
		"no such file":                 with("1", WrappingKey{File: "missing"}),
		"want an AES key":              with("1", WrappingKey{File: "passphrase"}),
		"in hexadecimal, in base64":    with("1", WrappingKey{File: "long"}),
		"others may not have access":   with("1", WrappingKey{File: "open"}),
		"device: 1 to 256 bytes":       with("1", WrappingKey{File: "good", Device: "a\x00"}),
	} {
		if _, err := NewKeys(c, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		} else if strings.Contains(err.Error(), "sixteen") {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	if _, err := NewKeys(with("1", WrappingKey{File: "good", Device: "device-1"}), dir); err != nil {
		t.Error(err)
	}
}

var _ gateway.WrappingKeys = (*Keys)(nil)

// With required a key travels encrypted or not at all, however it is to be encrypted.
func TestWrappingRequired(t *testing.T) {
	for _, required := range []bool{false, true} {
		s, err := NewKeys(KeysConfig{Generate: []string{"P-256"}, Wrapping: WrappingConfig{Required: required}}, "")
		if err != nil {
			t.Fatal(err)
		}
		if s.Wraps() != required || s.Shares() {
			t.Errorf("required %t: wraps %t, shares %t", required, s.Wraps(), s.Shares())
		}
		for _, wrap := range []gateway.WrapKind{gateway.WrapNone, gateway.WrapAsymmetric, gateway.WrapPassword} {
			g := &gateway.Grant{Requester: "password:factory"}
			v := s.Decide(t.Context(), &gateway.Request{KeyGen: &gateway.KeyGen{Wrap: wrap}}, g)
			if required && wrap == gateway.WrapNone {
				expect(t, v, gateway.Deny, gateway.BadTemplate, "under TLS alone")
				continue
			}
			expect(t, v, gateway.Allow, "", "made")
		}
	}
	s, err := NewKeys(KeysConfig{}, "")
	if err != nil || !s.Wraps() {
		t.Errorf("a stage that makes none gives none: %v", err)
	}
	if !wrappingKeys(t, nil).Shares() || wrappingKeys(t, nil).Wraps() {
		t.Error("shared keys alone forbid nothing")
	}
}
