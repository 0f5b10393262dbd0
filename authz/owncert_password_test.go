package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// users lists what was issued to users, the newest first, as the store does.
type users struct{ issued }

func (f *users) Certificates(_ context.Context, q gateway.CertificateFilter) (list []*gateway.Certificate, err error) {
	for _, c := range f.certs {
		if q.Renewed == nil && (q.Requester == "" || c.Requester == q.Requester) && (q.SubjectRaw == nil || bytes.Equal(c.SubjectRaw, q.SubjectRaw)) &&
			!c.NotAfter.Before(q.ValidAt) && c.RevokedAt.IsZero() {
			list = append(list, c)
		}
	}
	return list, f.err
}

func recordOf(cert *x509.Certificate, user string, change func(*gateway.Certificate)) *gateway.Certificate {
	r := record(cert, "")
	r.Requester, r.SubjectRaw, r.NotBefore, r.NotAfter = "password:"+user, cert.RawSubject, cert.NotBefore, cert.NotAfter
	if change != nil {
		change(r)
	}
	return r
}

func byPassword(t *testing.T, store Certificates) *OwnCertificate {
	t.Helper()
	s, err := NewOwnCertificate(OwnCertificateConfig{Kinds: []string{"password"}}, store, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// CONFORMANCE, EST, Authentication: Basic alone renews the newest valid certificate issued to that user and subject.
func TestPasswordFindsTheNewestValid(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	withSAN := func(c *x509.Certificate) { c.DNSNames = []string{"d.example"} }
	older, newer, san, other := ca.issue(2, "d", nil), ca.issue(3, "d", nil), ca.issue(4, "d", withSAN), ca.issue(5, "victim", nil)
	names := func(c *x509.Certificate) gateway.Names {
		return gateway.Names{Subject: c.RawSubject, SubjectAltName: sanOf(c)}
	}
	is := func(state gateway.State) func(*gateway.Certificate) {
		return func(c *gateway.Certificate) { c.State = state }
	}
	for name, c := range map[string]struct {
		certs []*gateway.Certificate // newest first
		names gateway.Names
		user  string
		kind  gateway.CredentialKind
		want  *x509.Certificate
		looks bool
	}{
		"the newest":             {certs: []*gateway.Certificate{recordOf(newer, "a", nil), recordOf(older, "a", nil)}, names: names(older), want: newer, looks: true},
		"another user's":         {certs: []*gateway.Certificate{recordOf(newer, "b", nil)}, names: names(newer), looks: true},
		"of two users":           {certs: []*gateway.Certificate{recordOf(newer, "b", nil), recordOf(older, "a", nil)}, names: names(newer), want: older, looks: true},
		"another subject":        {certs: []*gateway.Certificate{recordOf(other, "a", nil)}, names: names(older), looks: true},
		"no subject":             {certs: []*gateway.Certificate{recordOf(other, "a", nil)}, names: gateway.Names{}, looks: true},
		"the newest is revoked":  {certs: []*gateway.Certificate{recordOf(newer, "a", func(c *gateway.Certificate) { c.RevokedAt = noon }), recordOf(older, "a", nil)}, names: names(older), want: older, looks: true},
		"the newest has expired": {certs: []*gateway.Certificate{recordOf(newer, "a", func(c *gateway.Certificate) { c.NotAfter = noon.Add(-time.Second) }), recordOf(older, "a", nil)}, names: names(older), want: older, looks: true},
		"not valid yet":          {certs: []*gateway.Certificate{recordOf(newer, "a", func(c *gateway.Certificate) { c.NotBefore = noon.Add(time.Second) })}, names: names(newer), looks: true},
		"not confirmed":          {certs: []*gateway.Certificate{recordOf(newer, "a", is(gateway.StateUnconfirmed))}, names: names(newer), looks: true},
		"rejected":               {certs: []*gateway.Certificate{recordOf(newer, "a", is(gateway.StateRejected))}, names: names(newer), looks: true},
		"of another endpoint":    {certs: []*gateway.Certificate{recordOf(newer, "a", func(c *gateway.Certificate) { c.Endpoint = "core" })}, names: names(newer), looks: true},
		"its subjectAltName":     {certs: []*gateway.Certificate{recordOf(newer, "a", nil), recordOf(san, "a", nil)}, names: names(san), want: san, looks: true},
		"another subjectAltName": {certs: []*gateway.Certificate{recordOf(newer, "a", nil)}, names: names(san), want: newer, looks: true}, // Decide says what differs
		"another kind":           {certs: []*gateway.Certificate{recordOf(newer, "a", nil)}, names: names(newer), kind: gateway.CredentialChallenge},
	} {
		kind := gateway.CredentialPassword
		if c.kind != "" {
			kind = c.kind
		}
		got, looks, err := byPassword(t, &users{issued{certs: c.certs}}).HeldBy(context.Background(), "ran", gateway.Credential{Kind: kind, ID: "a"}, c.names)
		if err != nil || looks != c.looks || (got == nil) != (c.want == nil) || got != nil && !got.Equal(c.want) {
			t.Errorf("%s: %v, %v, %v", name, got, looks, err)
		}
	}
	s, err := NewOwnCertificate(OwnCertificateConfig{}, &users{issued{certs: []*gateway.Certificate{recordOf(newer, "a", nil)}}}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	password := gateway.Credential{Kind: gateway.CredentialPassword, ID: "a"}
	if got, looks, err := s.HeldBy(context.Background(), "ran", password, names(newer)); got != nil || looks || err != nil {
		t.Errorf("by default: %v, %v, %v", got, looks, err)
	}
	if _, _, err := byPassword(t, &users{issued{err: errors.New("down")}}).HeldBy(context.Background(), "ran", password, names(newer)); err == nil {
		t.Error("the store's failure is nobody's certificate")
	}
	broken := recordOf(newer, "a", func(c *gateway.Certificate) { c.DER = []byte{1} })
	if _, _, err := byPassword(t, &users{issued{certs: []*gateway.Certificate{broken}}}).HeldBy(context.Background(), "ran", password, names(newer)); err == nil {
		t.Error("a broken record is nobody's certificate")
	}
}

// The password of one user renews nothing of another's, and one that nobody has compared renews nothing at all.
func TestPasswordRenewsItsOwn(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	withSAN := func(c *x509.Certificate) { c.DNSNames = []string{"d.example"} }
	mine, victim, gone := ca.issue(2, "device-0002", withSAN), ca.issue(3, "victim", nil), ca.issue(4, "gone", nil)
	store := &users{issued{certs: []*gateway.Certificate{
		recordOf(mine, "a", nil), recordOf(victim, "b", nil), recordOf(gone, "a", func(c *gateway.Certificate) { c.RevokedAt = noon }),
	}}}
	asks := func(cert *x509.Certificate) *gateway.Request {
		r := renewal(cert)
		r.Credentials = basic("a", "secret").Credentials
		return r
	}
	for name, c := range map[string]struct {
		change   func(*gateway.Request)
		stranger bool // no stage has compared the password
		reason   gateway.Reason
		notes    []string
	}{
		"renews":                     {notes: []string{"certificate 02", "CN=device-0002"}},
		"rekeys":                     {change: func(r *gateway.Request) { r.Operation = gateway.Rekey }},
		"a password not compared":    {stranger: true, reason: gateway.Unauthenticated, notes: []string{"no stage before this one"}},
		"nothing was found":          {change: func(r *gateway.Request) { r.OldCert = nil }, reason: gateway.NotAuthorized, notes: []string{`user "a" holds no valid certificate`}},
		"another user's certificate": {change: func(r *gateway.Request) { *r = *asks(victim) }, reason: gateway.NotAuthorized, notes: []string{`was issued to "password:b"`}},
		"another user's names":       {change: func(r *gateway.Request) { r.Subject = victim.RawSubject }, reason: gateway.NotAuthorized, notes: []string{"CN=victim"}},
		"another subjectAltName":     {change: func(r *gateway.Request) { r.Extensions = nil }, reason: gateway.NotAuthorized, notes: []string{"subjectAltName"}},
		"a revoked certificate":      {change: func(r *gateway.Request) { *r = *asks(gone) }, reason: gateway.Revoked},
		"enrolls":                    {change: func(r *gateway.Request) { r.Operation = gateway.Enroll }, reason: gateway.NotAuthorized, notes: []string{"asks to enroll"}},
		"revokes":                    {change: func(r *gateway.Request) { revokes(r, mine) }, reason: gateway.NotAuthorized},
		"queries":                    {change: func(r *gateway.Request) { r.Operation = gateway.Query }, reason: gateway.NotAuthorized},
		"no password":                {change: func(r *gateway.Request) { r.Credentials = nil }, reason: gateway.Unauthenticated, notes: []string{"carries no password"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, g := asks(mine), &gateway.Grant{}
			if !c.stranger {
				g.Authenticate(r.Credentials[0])
			}
			if c.change != nil {
				c.change(r)
			}
			v := byPassword(t, store).Decide(context.Background(), r, g)
			if c.reason != "" {
				expect(t, v, gateway.Deny, c.reason, c.notes...)
				if g.Replaces != nil || c.stranger && g.Requester != "" {
					t.Errorf("granted %+v", g)
				}
				return
			}
			expect(t, v, gateway.Allow, "", c.notes...)
			if g.Requester != "password:a" || g.Replaces == nil || !bytes.Equal(g.Replaces.Serial, mine.SerialNumber.Bytes()) || !bytes.Equal(g.Subject, mine.RawSubject) {
				t.Errorf("granted %+v", g)
			}
		})
	}
}

// Who shows a certificate is judged by it, whatever password stands beside it.
func TestWhatIsShownCountsBeforeThePassword(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	mine, others := ca.issue(2, "d", nil), newCA(t, "Vendor", nil).issue(2, "d", nil)
	for _, kinds := range [][]string{{"password", "tls-certificate"}, {"tls-certificate", "password"}} {
		s, err := NewOwnCertificate(OwnCertificateConfig{Kinds: kinds}, &users{issued{certs: []*gateway.Certificate{recordOf(mine, "a", nil)}}}, atNoon)
		if err != nil {
			t.Fatal(err)
		}
		r, g := renewal(mine), &gateway.Grant{}
		r.Credentials = append(basic("a", "secret").Credentials, credential(gateway.CredentialTLS, others))
		g.Authenticate(r.Credentials[0])
		expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.Untrusted)
	}
	for _, kinds := range [][]string{{"password", "password"}, {"password", "tls-certificate", "password"}} {
		if _, err := NewOwnCertificate(OwnCertificateConfig{Kinds: kinds}, &users{}, atNoon); err == nil || !strings.Contains(err.Error(), "stands twice") {
			t.Errorf("%v: %v", kinds, err)
		}
	}
}
