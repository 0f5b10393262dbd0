package authz

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// keyedFleet has devices with passwords: the name of the device behind "generated-" or "typed-".
func keyedFleet() *fleet {
	generated, typed := HashSecret([]byte(secret)), anna() // "correct horse"
	return &fleet{devices: []*gateway.Device{
		{Name: "generated", Password: generated, Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "SN1"}}},
		{Name: "typed", Password: typed, Identifiers: []gateway.DeviceID{{Kind: "imei", Value: "SN2"}}},
		{Name: "none"},
		{Name: "disabled", Password: generated, Disabled: true},
		{Name: "ended", Password: generated, NotAfter: noon.Add(-time.Second)},
		{Name: "elsewhere", Password: generated, Endpoints: []string{"lab"}},
		{Name: "damaged", Password: "hunter22"},
		{Name: "a", Password: generated, Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "twice"}}},
		{Name: "b", Password: generated, Identifiers: []gateway.DeviceID{{Kind: "imei", Value: "twice"}}},
	}}
}

func newDevicePassword(t *testing.T, c DevicePasswordConfig, f Devices) *DevicePassword {
	t.Helper()
	s, err := NewDevicePassword(c, f, NewHashing(2), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDevicePassword(t *testing.T) {
	for name, c := range map[string]struct {
		config              DevicePasswordConfig
		user, password      string
		challenge           bool   // the password comes as a challenge
		cn                  string // of the request
		before              string // device named by an earlier stage
		reason              gateway.Reason
		note                string
		is                  string
		limit               int64
		stranger, unlimited bool
	}{
		"generated":                    {user: "generated", password: secret, is: "generated", limit: 1},
		"typed":                        {user: "typed", password: "correct horse", is: "typed", limit: 1},
		"by serial number":             {user: "SN1", password: secret, is: "generated", limit: 1},
		"by another kind":              {config: DevicePasswordConfig{Kind: "imei"}, user: "SN1", password: secret, reason: gateway.Unauthenticated, note: "no device's", stranger: true},
		"three uses":                   {config: DevicePasswordConfig{Uses: 3}, user: "generated", password: secret, is: "generated", limit: 3},
		"any number of uses":           {config: DevicePasswordConfig{Uses: Unlimited}, user: "generated", password: secret, is: "generated", unlimited: true},
		"unknown":                      {user: "nobody", password: secret, reason: gateway.Unauthenticated, note: `"nobody" is no device's`, stranger: true},
		"no user":                      {user: "", password: secret, reason: gateway.Unauthenticated, stranger: true},
		"wrong":                        {user: "generated", password: secret + "0", reason: gateway.Unauthenticated, note: "wrong password for device", stranger: true},
		"wrong, typed":                 {user: "typed", password: "correct hors", reason: gateway.Unauthenticated, note: "wrong password for device", stranger: true},
		"another device's":             {user: "typed", password: secret, reason: gateway.Unauthenticated, stranger: true},
		"the hash":                     {user: "generated", password: HashSecret([]byte(secret)), reason: gateway.Unauthenticated, stranger: true},
		"empty":                        {user: "none", password: "", reason: gateway.Unauthenticated, stranger: true},
		"too long":                     {user: "generated", password: strings.Repeat("x", 5000), reason: gateway.Unauthenticated, stranger: true},
		"a device without one":         {user: "none", password: secret, reason: gateway.Unauthenticated, note: "has no password", stranger: true},
		"disabled":                     {user: "disabled", password: secret, reason: gateway.Unauthenticated, note: "is disabled", stranger: true},
		"ended":                        {user: "ended", password: secret, reason: gateway.Unauthenticated, note: "not valid any more", stranger: true},
		"another endpoint's":           {user: "elsewhere", password: secret, reason: gateway.Unauthenticated, note: "not at ran", stranger: true},
		"two devices'":                 {user: "twice", password: secret, reason: gateway.Unauthenticated, note: "kind", stranger: true},
		"another device known before":  {user: "generated", password: secret, before: "typed", reason: gateway.NotAuthorized, note: "none of its names"},
		"the same device known before": {user: "generated", password: secret, before: "SN1", is: "generated", limit: 1},

		"challenge":                   {challenge: true, before: "SN1", password: secret, is: "generated", limit: 1},
		"challenge, nobody named one": {challenge: true, password: secret, reason: gateway.Unauthenticated, note: "nothing says which device", stranger: true},
		"challenge, by subject":       {config: DevicePasswordConfig{By: []string{"subject.CN"}}, challenge: true, cn: "generated", password: secret, is: "generated", limit: 1},
		"challenge, another subject":  {config: DevicePasswordConfig{By: []string{"subject.CN"}}, challenge: true, cn: "typed", password: secret, reason: gateway.Unauthenticated, stranger: true},
		"challenge, bad subject":      {config: DevicePasswordConfig{By: []string{"subject.CN"}}, challenge: true, cn: "a\nb", password: secret, reason: gateway.Unauthenticated, note: "control", stranger: true},
		"challenge, wrong":            {challenge: true, before: "SN1", password: "not it", reason: gateway.Unauthenticated, stranger: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newDevicePassword(t, c.config, keyedFleet())
			r := basic(c.user, c.password)
			if c.challenge {
				r = challenged(c.password)
			}
			r.Endpoint = "ran"
			if c.cn != "" {
				r.Subject = subject(t, "CN="+c.cn)
			}
			g := &gateway.Grant{Device: c.before}
			v := s.Decide(context.Background(), r, g)
			if c.password != "" && strings.Contains(v.Note+v.Detail, c.password) {
				t.Errorf("the password is told: %+v", v)
			}
			if (g.Requester == "") != c.stranger {
				t.Errorf("requester %q", g.Requester)
			}
			if c.reason != "" {
				expect(t, v, gateway.Deny, c.reason, c.note)
				if want := "user name or password is wrong"; c.reason == gateway.Unauthenticated && !c.challenge && v.Detail != want {
					t.Errorf("the client is told %q", v.Detail)
				}
				return
			}
			expect(t, v, gateway.Allow, "", "password of device")
			if g.Device != c.is || g.Inventory == nil || g.Inventory.Name != c.is {
				t.Errorf("grant %+v", g)
			}
			if want := "challenge:" + c.is; c.challenge && g.Requester != want {
				t.Errorf("requester %q", g.Requester)
			}
			switch {
			case c.unlimited:
				if len(v.Claims) != 0 {
					t.Errorf("claims %+v", v.Claims)
				}
			case len(v.Claims) != 1 || v.Claims[0].Key != gateway.PasswordKey(c.is, g.Inventory.Password) || v.Claims[0].Limit != c.limit ||
				v.Claims[0].Reason != gateway.Unauthenticated || v.Claims[0].Detail == "" || v.Claims[0].Lost == "":
				t.Errorf("claims %+v", v.Claims)
			}
			endedDenies(t, s, r)
		})
	}
	expect(t, newDevicePassword(t, DevicePasswordConfig{}, keyedFleet()).Decide(context.Background(), &gateway.Request{}, &gateway.Grant{}),
		gateway.Deny, gateway.Unauthenticated, "no password")
}

func TestDevicePasswordCannotAnswer(t *testing.T) {
	r := basic("generated", secret)
	v := newDevicePassword(t, DevicePasswordConfig{}, &fleet{err: errors.New("no route to the database")}).Decide(context.Background(), r, &gateway.Grant{})
	expect(t, v, gateway.CannotAnswer, gateway.Unavailable, "no route")
	v = newDevicePassword(t, DevicePasswordConfig{}, keyedFleet()).Decide(context.Background(), basic("damaged", "hunter22"), &gateway.Grant{})
	expect(t, v, gateway.CannotAnswer, gateway.Unavailable, "damaged")
	if strings.Contains(v.Note, "hunter22") {
		t.Error("the entry is told")
	}

	s := newDevicePassword(t, DevicePasswordConfig{}, keyedFleet())
	s.hashing.slots <- struct{}{}
	s.hashing.slots <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	verdict := make(chan gateway.Verdict)
	go func() { verdict <- s.Decide(ctx, basic("nobody", "x"), &gateway.Grant{}) }()
	cancel()
	expect(t, <-verdict, gateway.CannotAnswer, gateway.Unavailable)
}

// An unknown device, one without a password and a wrong password take the same: a look-up, a token, a computation. A right
// generated one takes no computation, and is never locked out.
func TestDevicePasswordWork(t *testing.T) {
	f := keyedFleet()
	s := newDevicePassword(t, DevicePasswordConfig{Limit: PasswordLimit{Burst: 5, Every: strictyaml.Duration(10 * time.Second)}}, f)
	decide := func(user, password string) gateway.Verdict {
		r := basic(user, password)
		r.Endpoint = "ran"
		return s.Decide(context.Background(), r, &gateway.Grant{})
	}
	for range 7 {
		expect(t, decide("typed", "correct horse"), gateway.Allow, "")
	}
	for _, user := range []string{"nobody", "none", "generated", "typed", "disabled"} {
		before := f.asked
		expect(t, decide(user, "wrong"), gateway.Deny, gateway.Unauthenticated)
		if f.asked != before+1 {
			t.Errorf("%s: asked %d times", user, f.asked-before)
		}
	}
	for _, user := range []string{"nobody", "none", "generated", "typed", "disabled"} {
		v := decide(user, "correct horse")
		expect(t, v, gateway.Deny, gateway.Busy, "192.0.2.7/32")
		if v.RetryAfter != 10*time.Second {
			t.Errorf("%s: %v", user, v.RetryAfter)
		}
	}
	expect(t, decide("generated", secret), gateway.Allow, "")
	r := basic("typed", "correct horse")
	r.Source = netip.MustParseAddr("192.0.2.8")
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Allow, "")
}

func TestDevicePasswordConfigErrors(t *testing.T) {
	for want, c := range map[string]DevicePasswordConfig{
		`by: "serial" is no place`:       {By: []string{"serial"}},
		`kind: "Serial" is no kind`:      {Kind: "Serial"},
		"limit: burst and sources are 0": {Limit: PasswordLimit{Burst: -1}},
	} {
		_, err := NewDevicePassword(c, keyedFleet(), NewHashing(1), atNoon)
		wantError(t, err, want)
	}
	for _, err := range []error{
		second(NewDevicePassword(DevicePasswordConfig{}, nil, NewHashing(1), atNoon)),
		second(NewDevicePassword(DevicePasswordConfig{}, keyedFleet(), nil, atNoon)),
		second(NewDevicePassword(DevicePasswordConfig{}, keyedFleet(), NewHashing(1), nil)),
	} {
		wantError(t, err, "no devices, hashing or clock")
	}
}

func second[T any](_ T, err error) error { return err }
