package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// sign gives a request another key, and the PKCS#10 that it asks by.
func (w *world) sign(r *gateway.Request) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err == nil {
		r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: r.Subject, ExtraExtensions: r.Extensions}, key)
	}
	if err == nil {
		r.PublicKey, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

var (
	oidSAN    = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidMadeUp = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
)

func dnsSAN(t *testing.T, names ...string) []byte {
	t.Helper()
	var list []asn1.RawValue
	for _, n := range names {
		list = append(list, asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte(n)})
	}
	der, err := asn1.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A CA that certifies a PKCS#10 as it stands is not asked for anything else than stands in it: what would come back would have to be
// revoked.
func TestNotAskedForWhatTheCSRHasNot(t *testing.T) {
	templates, csrOnly := []backend.Form{backend.FormTemplate, backend.FormPKCS10}, []backend.Form{backend.FormPKCS10}
	subject := func(t *testing.T, n pkix.Name) []byte {
		der, err := asn1.Marshal(n.ToRDNSequence())
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	whole := pkix.Name{CommonName: "pump-1", Organization: []string{"O"}}
	grant := func(change func(t *testing.T, g *gateway.Grant)) func(*testing.T, *gateway.Grant) { return change }
	none := grant(func(*testing.T, *gateway.Grant) {})
	fewer := grant(func(t *testing.T, g *gateway.Grant) { g.Subject = subject(t, pkix.Name{CommonName: "pump-1"}) })
	wider := grant(func(t *testing.T, g *gateway.Grant) {
		g.Subject = subject(t, pkix.Name{CommonName: "pump-1", Organization: []string{"O"}, Country: []string{"DE"}})
	})
	sans := func(names ...string) func(*testing.T, *gateway.Grant) {
		return func(t *testing.T, g *gateway.Grant) {
			g.SubjectAltName = nil
			if len(names) > 0 {
				g.SubjectAltName = dnsSAN(t, names...)
			}
		}
	}
	extra := grant(func(t *testing.T, g *gateway.Grant) {
		g.Extensions = append(g.Extensions, pkix.Extension{Id: oidMadeUp, Value: []byte{5, 0}})
	})
	for name, c := range map[string]struct {
		forms     []backend.Form
		overrides []backend.Field
		decides   []backend.Field
		asked     []pkix.Extension // beside subject and the two DNS names a, b
		grants    func(*testing.T, *gateway.Grant)
		drop      bool   // the CSR
		want      string // what the operator reads, "" when the CA is asked
	}{
		"as asked for":                  {csrOnly, nil, nil, nil, none, false, ""},
		"no PKCS#10":                    {csrOnly, nil, nil, nil, none, true, "takes PKCS#10 only, and the request is none"},
		"no PKCS#10, templates":         {templates, nil, nil, nil, none, true, ""},
		"fewer attributes":              {csrOnly, nil, nil, nil, fewer, false, `its subject is another one than granted: asked for CN=pump-1,O=O, granted CN=pump-1`},
		"fewer, templates":              {templates, nil, nil, nil, fewer, false, ""},
		"fewer, replaced":               {csrOnly, []backend.Field{backend.FieldSubject}, nil, nil, fewer, false, ""},
		"fewer, the CA decides":         {csrOnly, nil, []backend.Field{backend.FieldSubject}, nil, fewer, false, "its subject is another one"},
		"more attributes":               {csrOnly, nil, nil, nil, wider, false, "its subject is another one"},
		"more, the CA decides":          {csrOnly, nil, []backend.Field{backend.FieldSubject}, nil, wider, false, ""},
		"more, the CA decides the SAN":  {csrOnly, nil, []backend.Field{backend.FieldSubjectAltName}, nil, wider, false, "its subject is another one"},
		"fewer names":                   {csrOnly, nil, nil, nil, sans("a"), false, "its subjectAltName is another one than granted"},
		"fewer names, replaced":         {csrOnly, []backend.Field{backend.FieldSubjectAltName}, nil, nil, sans("a"), false, ""},
		"fewer names, the CA decides":   {csrOnly, nil, []backend.Field{backend.FieldSubjectAltName}, nil, sans("a"), false, "its subjectAltName is another one"},
		"more names":                    {csrOnly, nil, nil, nil, sans("a", "b", "c"), false, "its subjectAltName is another one"},
		"more names, the CA decides":    {csrOnly, nil, []backend.Field{backend.FieldSubjectAltName}, nil, sans("a", "b", "c"), false, ""},
		"names in another order":        {csrOnly, nil, nil, nil, sans("b", "a"), false, ""},
		"no names":                      {csrOnly, nil, nil, nil, sans(), false, "its subjectAltName is another one"},
		"an extension more":             {csrOnly, nil, nil, nil, extra, false, "its extension 1.3.6.1.4.1.99999.1 is another one than granted"},
		"an extension of another value": {csrOnly, nil, nil, []pkix.Extension{{Id: oidMadeUp, Value: []byte{4, 0}}}, extra, false, "its extension 1.3.6.1.4.1.99999.1"},
		"the extension":                 {csrOnly, nil, nil, []pkix.Extension{{Id: oidMadeUp, Value: []byte{5, 0}}}, extra, false, ""},
		"an extension, left out":        {csrOnly, nil, nil, []pkix.Extension{{Id: oidMadeUp, Value: []byte{5, 0}}}, none, false, ""},
		"a critical one, left out":      {csrOnly, nil, nil, []pkix.Extension{{Id: oidMadeUp, Critical: true, Value: []byte{5, 0}}}, none, false, "its critical extension 1.3.6.1.4.1.99999.1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.desc = func(d *backend.Description) { d.Forms, d.Overrides, d.Decides = c.forms, c.overrides, c.decides }
				w.enroll = append(w.enroll, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
					c.grants(t, g)
					return gateway.Allowed("")
				}))
			})
			asked := 0
			w.twist(&twisted{issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
				asked++
				return w.memory.Issue(ctx, r)
			}})
			r := w.request("pump-1")
			r.Subject = subject(t, whole)
			r.Extensions = append([]pkix.Extension{{Id: oidSAN, Value: dnsSAN(t, "a", "b")}}, c.asked...)
			w.sign(r)
			if c.drop {
				r.CSR = nil
			}
			_, err := w.gw.Enroll(t.Context(), r)
			if c.want == "" {
				if err != nil || asked != 1 {
					t.Fatalf("%v, asked %d times", err, asked)
				}
				return
			}
			if reason(err) != gateway.BadTemplate || asked != 0 {
				t.Fatalf("%v, asked %d times", err, asked)
			}
			tx, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil || tx.State != gateway.StateRefused || !strings.Contains(tx.Note, "backend: backend ca (") || !strings.Contains(tx.Note, c.want) {
				t.Errorf("%+v, %v", tx, err)
			}
		})
	}
}

// What stands in a PKCS#10 and was not granted is no CA's to certify: the device would have decided it.
func TestExtensionsTakenFromTheCSR(t *testing.T) {
	for name, c := range map[string]struct {
		forms []backend.Form
		id    asn1.ObjectIdentifier
		value []byte // in the certificate
		ok    bool
	}{
		"the device's":     {[]backend.Form{backend.FormPKCS10}, oidMadeUp, []byte{5, 0}, false},
		"the CA's own":     {[]backend.Form{backend.FormPKCS10}, oidMadeUp, []byte{4, 0}, true},
		"the key's":        {[]backend.Form{backend.FormPKCS10}, asn1.ObjectIdentifier{2, 5, 29, 14}, []byte{4, 1, 7}, true},
		"a CA's templates": {[]backend.Form{backend.FormTemplate}, oidMadeUp, []byte{5, 0}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.desc = func(d *backend.Description) { d.Forms = c.forms }
				w.enroll = append(w.enroll, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
					g.Extensions = nil
					return gateway.Allowed("")
				}))
			})
			w.twist(&twisted{issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
				own := *r
				own.Template.Extensions = []pkix.Extension{{Id: c.id, Value: c.value}}
				return w.memory.Issue(ctx, &own)
			}})
			r := w.request("pump-1")
			asks := []byte{5, 0}
			if !bytes.Equal(c.value, asks) && !c.id.Equal(oidMadeUp) {
				asks = c.value
			}
			r.Extensions = []pkix.Extension{{Id: c.id, Value: asks}}
			w.sign(r)
			_, err := w.gw.Enroll(t.Context(), r)
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
			tx, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil || !c.ok && (tx.State != gateway.StateFailed || !strings.Contains(tx.Note, "was taken from the request, and not granted")) {
				t.Errorf("%+v, %v", tx, err)
			}
			w.work(0)
			if w.memory.Revoked(r.ID) == c.ok {
				t.Errorf("revoked: %t", !c.ok)
			}
		})
	}
}

// What a CA sets by its own rules is taken, and the operator is told; what it sets beyond is revoked.
func TestCADecides(t *testing.T) {
	for name, c := range map[string]struct {
		decides []backend.Field
		change  func(t *backend.Template)
		note    string // "" for a certificate that is not taken
	}{
		"as granted":        {[]backend.Field{backend.FieldValidity}, func(*backend.Template) {}, "-"},
		"shorter":           {[]backend.Field{backend.FieldValidity}, func(t *backend.Template) { t.NotAfter = t.NotAfter.Add(-24 * time.Hour) }, "the CA set by its own rules: validity from 2026-03-01T12:00:00Z to 2026-03-03T11:59:59Z"},
		"longer":            {[]backend.Field{backend.FieldValidity}, func(t *backend.Template) { t.NotAfter = t.NotAfter.Add(24 * time.Hour) }, ""},
		"not said":          {[]backend.Field{backend.FieldSubject}, func(t *backend.Template) { t.NotAfter = t.NotAfter.Add(-24 * time.Hour) }, ""},
		"fewer usages":      {[]backend.Field{backend.FieldKeyUsage}, func(t *backend.Template) { t.KeyUsage = x509.KeyUsageDigitalSignature }, "keyUsage digitalSignature"},
		"another's subject": {[]backend.Field{backend.FieldSubject}, func(t *backend.Template) { t.Subject = bytes.ReplaceAll(t.Subject, []byte("pump-1"), []byte("pump-2")) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.desc = func(d *backend.Description) { d.Decides = c.decides }
				w.shape = func(p *gateway.Profile) { p.KeyUsage |= x509.KeyUsageKeyEncipherment }
			})
			w.twist(&twisted{issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
				own := *r
				c.change(&own.Template)
				return w.memory.Issue(ctx, &own)
			}})
			r := w.request("pump-1")
			_, err := w.gw.Enroll(t.Context(), r)
			tx, failed := w.store.Transaction(t.Context(), r.ID)
			if failed != nil || (err == nil) != (c.note != "") {
				t.Fatal(err, failed)
			}
			w.work(0)
			if w.memory.Revoked(r.ID) != (c.note == "") {
				t.Errorf("revoked: %t", c.note != "")
			}
			switch {
			case c.note == "" && tx.State != gateway.StateFailed, c.note == "-" && tx.Note != "", c.note != "" && c.note != "-" && !strings.Contains(tx.Note, c.note):
				t.Errorf("%s: %s", tx.State, tx.Note)
			}
		})
	}
}

// It does so too when its dates were moved since it was counted, by an approval.
func TestActiveAsLongAsTheCADecided(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.desc = func(d *backend.Description) { d.Decides = []backend.Field{backend.FieldValidity} }
		hold := true
		w.enroll = append(w.enroll, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			v := gateway.Allowed("", gateway.Claim{Key: "active", Limit: 1, Active: true})
			if hold {
				v.Decision, hold = gateway.Hold, false
			}
			return v
		}))
	})
	w.twist(&twisted{issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
		own := *r
		own.Template.NotAfter = own.Template.NotAfter.Add(time.Hour)
		return w.memory.Issue(ctx, &own)
	}})
	r := w.request("pump-1")
	w.mustEnroll(r)
	w.clock.add(time.Hour)
	tx, err := w.approve(r.ID, "anna")
	if err != nil || tx.State != gateway.StateIssued {
		t.Fatalf("%+v, %v", tx, err)
	}
	w.clock.add(tx.Certificate.NotAfter.Sub(w.clock.now()) - time.Minute)
	if _, err := w.gw.Enroll(t.Context(), w.request("pump-1")); reason(err) == "" {
		t.Error("two certificates are valid, of one")
	}
	w.clock.add(2 * time.Minute)
	w.mustEnroll(w.request("pump-1"))
}

// A certificate that may end a little later than granted counts as valid for that long.
func TestActiveAsLongAsTheCAMayDecide(t *testing.T) {
	for name, c := range map[string]struct {
		decides []backend.Field
		later   time.Duration
	}{
		"the validity":  {[]backend.Field{backend.FieldValidity}, time.Hour},
		"another field": {[]backend.Field{backend.FieldSubject}, 0},
	} {
		var until time.Time
		w := newWorld(t, backendtest.FaultPlan{}, watch(&watched{begun: func(b *gateway.Beginning) { until = b.Claims[0].Until }}), func(w *world) {
			w.desc = func(d *backend.Description) { d.Decides = c.decides }
			w.enroll = append(w.enroll, always(gateway.Allowed("", gateway.Claim{Key: "active", Limit: 1, Active: true})))
		})
		res, err := w.gw.Enroll(t.Context(), w.request("pump-1"))
		if err != nil {
			t.Fatal(err)
		}
		if want := res.Certificate.NotAfter.Add(c.later); !until.Equal(want) {
			t.Errorf("%s: until %s, want %s", name, until, want)
		}
	}
}
