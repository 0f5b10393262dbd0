package authz

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

const (
	cmpSecret    = "printed on the screen"
	deviceSecret = "secret of device-1"
)

// vault is a store of sealed secrets, and its key: sealed is the context, then the secret.
type vault struct {
	stored []*gateway.StoredSecret
	err    error
}

func (v *vault) Secret(_ context.Context, endpoint, reference string) (*gateway.StoredSecret, error) {
	if v.err != nil {
		return nil, v.err
	}
	for _, s := range v.stored {
		if s.Endpoint == endpoint && s.Reference == reference {
			return s, nil
		}
	}
	return nil, gateway.ErrNotFound
}

func sealed(secret string, context ...string) []byte {
	return []byte(strings.Join(context, "\x00") + "\x00\x00" + secret)
}

func (v *vault) Open(b []byte, context ...string) ([]byte, error) {
	secret, ok := bytes.CutPrefix(b, sealed("", context...))
	if !ok {
		return nil, errors.New("sealed for another context")
	}
	return bytes.Clone(secret), nil
}

func newVault() *vault {
	return &vault{stored: []*gateway.StoredSecret{
		{Endpoint: "ran", Reference: "\x00\x01", Device: "device-1", Sealed: sealed(deviceSecret, "secret", "ran", "\x00\x01", "device-1")},
		{Endpoint: "ran", Reference: "shared", Sealed: sealed("nobody's in particular", "secret", "ran", "shared", "")},
		{Endpoint: "ran", Reference: "old", Device: "device-2", Sealed: sealed(deviceSecret, "secret", "ran", "old", "device-2"), NotAfter: noon},
		{Endpoint: "ran", Reference: "moved", Device: "device-3", Sealed: sealed(deviceSecret, "secret", "ran", "moved", "device-1")},
		{Endpoint: "ran", Reference: "short", Device: "device-4", Sealed: sealed("", "secret", "ran", "short", "device-4")},
	}}
}

func mac(reference string) *gateway.Request {
	return &gateway.Request{
		Endpoint:    "ran",
		Credentials: []gateway.Credential{{Kind: gateway.CredentialMAC, ID: gateway.ReferenceID([]byte(reference))}},
	}
}

// secretConfig has one secret of a file, one of a device, one that ends at noon, and one that is sealed.
func secretConfig(t *testing.T) (SharedSecretConfig, string) {
	dir := t.TempDir()
	write(t, dir, "cmp-secret", []byte(cmpSecret+"\n"))
	return SharedSecretConfig{Secrets: map[string]SharedSecretEntry{
		"3078":     {File: "cmp-secret"},
		"hex:00ff": {File: "cmp-secret", Device: "device-9"},
		"ends":     {File: "cmp-secret", NotAfter: noon},
		"sealed":   {Sealed: base64.StdEncoding.EncodeToString(sealed("sealed secret", "config", "sealed"))},
	}}, dir
}

func TestSharedSecret(t *testing.T) {
	config, dir := secretConfig(t)
	both := config
	both.Devices = true
	for name, c := range map[string]struct {
		config    SharedSecretConfig
		reference string
		endpoint  string
		before    string // device named by an earlier stage
		now       time.Time
		vault     *vault
		secret    string         // "" when the adapter finds none
		reason    gateway.Reason // of the stage; "" when allowed
		device    string
		note      string
	}{
		"from a file":                  {config: config, reference: "3078", secret: cmpSecret, note: `"3078"`},
		"at any endpoint of the stage": {config: config, reference: "3078", endpoint: "core", secret: cmpSecret},
		"of a device":                  {config: config, reference: "\x00\xff", secret: cmpSecret, device: "device-9", note: `"hex:00ff", device "device-9"`},
		"the device known before":      {config: config, reference: "\x00\xff", secret: cmpSecret, before: "device-9", device: "device-9"},
		"another device known before":  {config: config, reference: "\x00\xff", secret: cmpSecret, before: "device-8", reason: gateway.NotAuthorized, note: "device-8"},
		"sealed":                       {config: config, reference: "sealed", secret: "sealed secret"},
		"at its last instant":          {config: config, reference: "ends", secret: cmpSecret},
		"past its time":                {config: config, reference: "ends", now: noon.Add(time.Second), reason: gateway.Unauthenticated, note: "good until"},
		"unknown":                      {config: config, reference: "3079", reason: gateway.Unauthenticated, note: "none of this stage's"},
		"no reference":                 {config: config, reference: "", reason: gateway.Unauthenticated, note: "names no shared secret"},
		"a reference without end":      {config: both, reference: strings.Repeat("x", 129), vault: &vault{err: errors.New("asked")}, reason: gateway.Unauthenticated},
		"the text of bytes":            {config: config, reference: "hex:00ff", reason: gateway.Unauthenticated},
		"of the store":                 {config: both, reference: "\x00\x01", secret: deviceSecret, device: "device-1", note: "of the store"},
		"of the store, nobody's":       {config: both, reference: "shared", secret: "nobody's in particular"},
		"of the store, last instant":   {config: both, reference: "old", secret: deviceSecret, device: "device-2"},
		"of the store, past its time":  {config: both, reference: "old", now: noon.Add(time.Second), reason: gateway.Unauthenticated, note: "good until"},
		"of the store, not looked at":  {config: config, reference: "\x00\x01", reason: gateway.Unauthenticated},
		"of the store, elsewhere":      {config: both, reference: "\x00\x01", endpoint: "core", reason: gateway.Unauthenticated},
		"the store fails":              {config: both, reference: "\x00\x01", vault: &vault{err: errors.New("disk on fire")}, reason: gateway.Unavailable, note: "disk on fire"},
		"configured, the store fails":  {config: both, reference: "3078", vault: &vault{err: errors.New("disk on fire")}, secret: cmpSecret},
	} {
		t.Run(name, func(t *testing.T) {
			if c.now.IsZero() {
				c.now = noon
			}
			if c.vault == nil {
				c.vault = newVault()
			}
			s, err := NewSharedSecret(c.config, dir, c.vault, nil, newVault(), func() time.Time { return c.now })
			if err != nil {
				t.Fatal(err)
			}
			r := mac(c.reference)
			if c.endpoint != "" {
				r.Endpoint = c.endpoint
			}
			got, err := s.SharedSecret(context.Background(), r.Endpoint, []byte(c.reference))
			if string(got) != c.secret {
				t.Errorf("secret %q, want %q", []byte(got), c.secret)
			}
			if (err == nil) != (c.secret != "") || (c.reason == gateway.Unauthenticated) != errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("look-up: %v", err)
			}
			r.Credentials[0].Secret = got // as the adapter verified the MAC
			g := &gateway.Grant{Device: c.before}
			v := s.Decide(context.Background(), r, g)
			switch c.reason {
			case "":
				expect(t, v, gateway.Allow, "", c.note)
				if g.Requester != "mac-key:"+gateway.ReferenceID([]byte(c.reference)) || g.Device != c.device {
					t.Errorf("grant %+v", g)
				}
			case gateway.Unavailable:
				expect(t, v, gateway.CannotAnswer, c.reason, c.note)
			default:
				expect(t, v, gateway.Deny, c.reason, c.note)
			}
			if c.reason != "" && c.reason != gateway.NotAuthorized && g.Requester != "" {
				t.Errorf("requester %q after %s", g.Requester, v.Note)
			}
			if strings.Contains(v.Note+v.Detail, cmpSecret) || strings.Contains(v.Note, deviceSecret) {
				t.Errorf("the secret is told: %s", v.Note)
			}
			endedDenies(t, s, r)
			if _, err := s.SharedSecret(ended(t), r.Endpoint, []byte(c.reference)); err == nil || errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("look-up when the context has ended: %v", err)
			}
		})
	}
}

func TestSharedSecretNeedsAMAC(t *testing.T) {
	config, dir := secretConfig(t)
	s, err := NewSharedSecret(config, dir, nil, nil, newVault(), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*gateway.Request{
		"nothing":     {},
		"a password":  basic("3078", cmpSecret),
		"a challenge": {Credentials: []gateway.Credential{{Kind: gateway.CredentialChallenge, ID: "3078", Secret: gateway.Secret(cmpSecret)}}},
	} {
		g := &gateway.Grant{}
		expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.Unauthenticated, "carries no mac-key")
		if g.Requester != "" {
			t.Errorf("%s: requester %q", name, g.Requester)
		}
	}
}

// Two branches with one reference and two secrets: which one it was, the secret says, when the adapter passes it on.
func TestSharedSecretOfAnotherStage(t *testing.T) {
	config, dir := secretConfig(t)
	config.Devices = true
	s, err := NewSharedSecret(config, dir, newVault(), nil, newVault(), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"3078", "\x00\x01"} {
		own, err := s.SharedSecret(context.Background(), "ran", []byte(reference))
		if err != nil {
			t.Fatal(err)
		}
		r := mac(reference)
		r.Credentials[0].Secret = own
		expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Allow, "")
		r.Credentials[0].Secret = gateway.Secret("another stage's secret")
		g := &gateway.Grant{}
		expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.Unauthenticated, "two stages have one reference")
		if g.Requester != "" || g.Device != "" {
			t.Errorf("grant %+v", g)
		}
		own[0] ^= 1 // what was given out is a copy
		if again, err := s.SharedSecret(context.Background(), "ran", []byte(reference)); err != nil || bytes.Equal(again, own) {
			t.Errorf("the stage's own secret was changed (%v)", err)
		}
	}
}

// What the store holds is not taken for what was asked for.
func TestSharedSecretThatDoesNotOpen(t *testing.T) {
	config := SharedSecretConfig{Devices: true}
	s, err := NewSharedSecret(config, "", newVault(), nil, newVault(), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for reference, want := range map[string]string{"moved": "another context", "short": "fewer than 8 bytes"} {
		got, err := s.SharedSecret(context.Background(), "ran", []byte(reference))
		wantError(t, err, want)
		if got != nil || errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("%s: %v %v", reference, got, err)
		}
		r := mac(reference)
		r.Credentials[0].Secret = gateway.Secret("x")
		expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable, want)
	}
	for name, stored := range map[string]*gateway.StoredSecret{
		"nothing":            nil,
		"another endpoint's": {Endpoint: "core", Reference: "a", Sealed: sealed(deviceSecret, "secret", "core", "a", "")},
		"another reference":  {Endpoint: "ran", Reference: "b", Sealed: sealed(deviceSecret, "secret", "ran", "b", "")},
	} {
		s.secrets = wrongVault{stored}
		if got, err := s.SharedSecret(context.Background(), "ran", []byte("a")); got != nil || err == nil || errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("%s: %v %v", name, got, err)
		}
		expect(t, s.Decide(context.Background(), mac("a"), &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable, "another secret")
	}
}

type wrongVault struct{ stored *gateway.StoredSecret }

func (w wrongVault) Secret(context.Context, string, string) (*gateway.StoredSecret, error) {
	return w.stored, nil
}

func TestSharedSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		secret  string // "" for an error
		err     string
	}{
		"plain":          {"12345678", 0o600, "12345678", ""},
		"LF":             {"12345678\n", 0o640, "12345678", ""},
		"CRLF":           {"12345678\r\n", 0o400, "12345678", ""},
		"two line ends":  {"12345678\n\n", 0o600, "12345678\n", ""},
		"a space":        {" 12345678 \n", 0o600, " 12345678 ", ""},
		"longest":        {strings.Repeat("x", 1024) + "\r\n", 0o600, strings.Repeat("x", 1024), ""},
		"short":          {"1234567\n", 0o600, "", "8 to 1024 bytes"},
		"empty":          {"", 0o600, "", "8 to 1024 bytes"},
		"too long":       {strings.Repeat("x", 1025), 0o600, "", "8 to 1024 bytes"},
		"for all to see": {"12345678\n", 0o644, "", "chmod 600"},
		"for all to set": {"12345678\n", 0o602, "", "chmod 600"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, dir, "secret", []byte(c.content))
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(path) }) //nolint:errcheck // the folder goes too
			s, err := NewSharedSecret(SharedSecretConfig{Secrets: map[string]SharedSecretEntry{"a": {File: "secret"}}}, dir, nil, nil, nil, atNoon)
			if c.secret == "" {
				wantError(t, err, c.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.SharedSecret(context.Background(), "x", []byte("a")); err != nil || string(got) != c.secret {
				t.Errorf("%q %v, want %q", []byte(got), err, c.secret)
			}
		})
	}
}

func TestSharedSecretConfigErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "secret", []byte(cmpSecret))
	one := func(e SharedSecretEntry) SharedSecretConfig {
		return SharedSecretConfig{Secrets: map[string]SharedSecretEntry{"a": e}}
	}
	file := SharedSecretEntry{File: "secret"}
	for want, c := range map[string]SharedSecretConfig{
		"no secrets":                      {},
		"give either file or sealed":      one(SharedSecretEntry{}),
		`reference "a": give either file`: one(SharedSecretEntry{File: "secret", Sealed: "AAAA"}),
		"absent":                          one(SharedSecretEntry{File: "absent"}),
		"is not a file":                   one(SharedSecretEntry{File: "."}),
		"want base64":                     one(SharedSecretEntry{Sealed: "!"}),
		"sealed: sealed for another":      one(SharedSecretEntry{Sealed: base64.StdEncoding.EncodeToString(sealed(cmpSecret, "config", "b"))}),
		"8 to 1024 bytes":                 one(SharedSecretEntry{Sealed: base64.StdEncoding.EncodeToString(sealed("short", "config", "a"))}),
		"device:":                         one(SharedSecretEntry{File: "secret", Device: "a\x00"}),
		`reference ""`:                    {Secrets: map[string]SharedSecretEntry{"": file}},
		`reference "hex:0"`:               {Secrets: map[string]SharedSecretEntry{"hex:0": file}},
		"1 to 128 bytes":                  {Secrets: map[string]SharedSecretEntry{strings.Repeat("x", 129): file}},
		`reference "1" stands twice`:      {Secrets: map[string]SharedSecretEntry{"1": file, "hex:31": file}},
	} {
		_, err := NewSharedSecret(c, dir, newVault(), nil, newVault(), atNoon)
		wantError(t, err, want)
		if err != nil && strings.Contains(err.Error(), cmpSecret) {
			t.Errorf("the secret is told: %v", err)
		}
	}
	devices := SharedSecretConfig{Devices: true}
	if _, err := NewSharedSecret(devices, dir, nil, nil, newVault(), atNoon); err == nil {
		t.Error("made without a store")
	}
	if _, err := NewSharedSecret(devices, dir, newVault(), nil, nil, atNoon); err == nil {
		t.Error("made without a key")
	}
	_, err := NewSharedSecret(one(SharedSecretEntry{Sealed: "AAAA"}), dir, nil, nil, nil, atNoon)
	wantError(t, err, "no key")
	if _, err := NewSharedSecret(one(file), dir, nil, nil, nil, nil); err == nil {
		t.Error("made without a clock")
	}
	if _, err := NewSharedSecret(one(file), dir, nil, nil, nil, atNoon); err != nil {
		t.Errorf("without store and key, which it does not need: %v", err)
	}
	// A pipe must not be waited for.
	if _, err := NewSharedSecret(one(SharedSecretEntry{File: filepath.Join(os.DevNull)}), dir, nil, nil, nil, atNoon); err == nil {
		t.Error("read a device file")
	}
}

// The stage is found by the gateway as what it is.
var (
	_ gateway.SharedSecrets = (*SharedSecret)(nil)
	_ gateway.Identifier    = (*SharedSecret)(nil)
	_ gateway.Identifier    = (*DevicePassword)(nil)
	_ gateway.Recogniser    = (*Challenge)(nil)
	_ gateway.Recogniser    = (*Inventory)(nil)
	_ gateway.Identifier    = (*VendorCA)(nil)
	_ gateway.Identifier    = (*ClientCertificate)(nil)
)
