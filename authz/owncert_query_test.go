package authz

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// A query says by the certificate who asks, renews nothing and counts nothing.
func TestOwnCertificateQueries(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	mine, next, alien := ca.issue(2, "device-0002", nil), ca.issue(7, "device-0002", nil), ca.issue(8, "device-0008", nil)
	with := func(change func(mine, successor *gateway.Certificate)) *issued {
		m, s := record(mine, "device-0002"), record(next, "device-0002")
		if change == nil {
			return &issued{certs: []*gateway.Certificate{m}}
		}
		s.Replaces = m.Serial
		change(m, s)
		return &issued{certs: []*gateway.Certificate{m, s}}
	}
	renewed := func(_, s *gateway.Certificate) {}
	for name, c := range map[string]struct {
		config OwnCertificateConfig
		store  *issued
		change func(*gateway.Request)
		device string // named by an earlier stage
		now    time.Time
		reason gateway.Reason // "" when allowed
		at     []string       // Owned.Endpoints then; nil: ran
	}{
		"its own":                    {},
		"endpoints":                  {config: OwnCertificateConfig{Endpoints: []string{"ran", "core"}}, change: func(r *gateway.Request) { r.Endpoint = "core" }, at: []string{"ran", "core"}},
		"once asked":                 {config: OwnCertificateConfig{Once: onceAsked}},
		"renewed, not confirmed yet": {store: with(func(_, s *gateway.Certificate) { s.State = gateway.StateUnconfirmed })},
		"renewed, never once":        {config: OwnCertificateConfig{Once: onceNever}, store: with(renewed)},

		"renewed, confirmed":  {store: with(renewed), reason: gateway.Revoked},
		"renewed, once asked": {config: OwnCertificateConfig{Once: onceAsked}, store: with(renewed), reason: gateway.Revoked},
		"no certificate":      {change: func(r *gateway.Request) { r.Credentials = nil }, reason: gateway.Unauthenticated},
		"a password only":     {change: func(r *gateway.Request) { r.Credentials = basic("x", "y").Credentials }, reason: gateway.Unauthenticated},
		"issued elsewhere": {change: func(r *gateway.Request) {
			r.Credentials = []gateway.Credential{credential(gateway.CredentialTLS, alien)}
		}, reason: gateway.Untrusted},
		"another endpoint":      {change: func(r *gateway.Request) { r.Endpoint = "core" }, reason: gateway.NotAuthorized},
		"revoked":               {store: with(func(m, s *gateway.Certificate) { m.RevokedAt, s.State = noon, gateway.StateRejected }), reason: gateway.Revoked},
		"expired":               {now: noon.AddDate(1, 0, 1), reason: gateway.Untrusted},
		"not confirmed":         {store: with(func(m, s *gateway.Certificate) { m.State, s.State = gateway.StateUnconfirmed, gateway.StateRejected }), reason: gateway.NotAuthorized},
		"another device before": {device: "victim", reason: gateway.NotAuthorized},
		"not there":             {store: &issued{}, reason: gateway.Untrusted},
	} {
		if c.store == nil {
			c.store = with(nil)
		}
		if c.now.IsZero() {
			c.now = noon
		}
		s, err := NewOwnCertificate(c.config, c.store, func() time.Time { return c.now })
		if err != nil {
			t.Fatal(err)
		}
		r := &gateway.Request{Operation: gateway.Query, Endpoint: "ran", Credentials: []gateway.Credential{credential(gateway.CredentialTLS, mine)}}
		if c.change != nil {
			c.change(r)
		}
		g := &gateway.Grant{Device: c.device}
		v := s.Decide(t.Context(), r, g)
		if c.reason != "" {
			if v.Decision != gateway.Deny || v.Reason != c.reason || g.Owned != nil {
				t.Errorf("%s: %+v, %+v", name, v, g.Owned)
			}
			continue
		}
		if c.at == nil {
			c.at = []string{"ran"}
		}
		if v.Decision != gateway.Allow || len(v.Claims) != 0 || g.Replaces != nil || g.Revokes != nil || g.Device != "device-0002" || g.Requester == "" {
			t.Errorf("%s: %+v, %+v", name, v, g)
			continue
		}
		if o := g.Owned; o == nil || !bytes.Equal(o.Issuer, mine.RawIssuer) || !bytes.Equal(o.Serial, []byte{2}) || !slices.Equal(o.Endpoints, c.at) {
			t.Errorf("%s: %+v", name, o)
		}
	}
}
