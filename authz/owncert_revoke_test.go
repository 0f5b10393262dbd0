package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// A certificate revokes itself; the others of its device where that is said; and no other.
func TestOwnCertificateRevokes(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	certs := map[string]*x509.Certificate{}
	var list []*gateway.Certificate
	for i, name := range []string{"new", "old", "elsewhere", "another's", "nobody's", "nobody's too", "unconfirmed"} {
		certs[name] = ca.issue(int64(i+2), name, nil)
		r := record(certs[name], "device-1")
		switch name {
		case "elsewhere":
			r.Endpoint = "core"
		case "another's":
			r.Device = "device-2"
		case "nobody's", "nobody's too":
			r.Device = ""
		case "unconfirmed":
			r.State = gateway.StateUnconfirmed
		}
		list = append(list, r)
	}
	certs["unknown"] = ca.issue(99, "unknown", nil)
	device := OwnCertificateConfig{Revoke: "device"}
	wide := OwnCertificateConfig{Revoke: "device", Endpoints: []string{"ran", "core"}}
	for name, c := range map[string]struct {
		config         OwnCertificateConfig
		signer, target string
		reason         gateway.Reason // "" when allowed
	}{
		"itself":                        {signer: "new", target: "new"},
		"itself, said":                  {config: OwnCertificateConfig{Revoke: "itself"}, signer: "new", target: "new"},
		"itself, unconfirmed":           {signer: "unconfirmed", target: "unconfirmed"},
		"its device's":                  {signer: "new", target: "old", reason: gateway.NotAuthorized},
		"another's":                     {signer: "new", target: "another's", reason: gateway.NotAuthorized},
		"unknown":                       {signer: "new", target: "unknown", reason: gateway.UnknownCert},
		"device, itself":                {config: device, signer: "new", target: "new"},
		"device, its device's":          {config: device, signer: "new", target: "old"},
		"device, from elsewhere":        {config: device, signer: "new", target: "elsewhere", reason: gateway.NotAuthorized},
		"device, from elsewhere, taken": {config: wide, signer: "new", target: "elsewhere"},
		"device, another's":             {config: device, signer: "new", target: "another's", reason: gateway.NotAuthorized},
		"device, nobody's":              {config: device, signer: "new", target: "nobody's", reason: gateway.NotAuthorized},
		"device, of nobody":             {config: device, signer: "nobody's", target: "nobody's too", reason: gateway.NotAuthorized},
		"device, unknown":               {config: device, signer: "new", target: "unknown", reason: gateway.UnknownCert},
		"device, by one not confirmed":  {config: device, signer: "unconfirmed", target: "old", reason: gateway.NotAuthorized},
	} {
		t.Run(name, func(t *testing.T) {
			store := &issued{certs: list}
			s, err := NewOwnCertificate(c.config, store, atNoon)
			if err != nil {
				t.Fatal(err)
			}
			r, target := renewal(certs[c.signer]), certs[c.target]
			revokes(r, target)
			g := &gateway.Grant{}
			v := s.Decide(t.Context(), r, g)
			if c.reason == "" && v.Decision != gateway.Allow || c.reason != "" && (v.Decision != gateway.Deny || v.Reason != c.reason) {
				t.Fatalf("%+v", v)
			}
			if allowed := g.Revokes != nil && string(g.Revokes.Issuer) == string(target.RawIssuer) && new(big.Int).SetBytes(g.Revokes.Serial).Cmp(target.SerialNumber) == 0; allowed != (c.reason == "") {
				t.Errorf("the grant says %+v", g.Revokes)
			}
			if g.Requester == "" || g.Replaces != nil {
				t.Errorf("%+v", g)
			}
		})
	}
	// It is not known whose it is while the look-up of the other fails.
	s, err := NewOwnCertificate(device, &secondFails{issued: issued{certs: list}}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	r := renewal(certs["new"])
	revokes(r, certs["old"])
	if v := s.Decide(t.Context(), r, &gateway.Grant{}); v.Decision != gateway.CannotAnswer || !strings.Contains(v.Note, errSecond.Error()) {
		t.Errorf("%+v", v)
	}
	if _, err := NewOwnCertificate(OwnCertificateConfig{Revoke: "all"}, &issued{}, atNoon); err == nil || !strings.Contains(err.Error(), "revoke") {
		t.Errorf("%v", err)
	}
}

var errSecond = errors.New("the second look-up fails")

// secondFails is a look-up of which the second fails.
type secondFails struct {
	issued
	n int
}

func (s *secondFails) Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	if s.n++; s.n == 2 {
		return nil, errSecond
	}
	return s.issued.Certificate(ctx, issuer, serial)
}
