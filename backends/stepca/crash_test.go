package stepca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// configured is a backend in front of the fake.
func configured(t testing.TB, f *fake, more ...string) *CA {
	t.Helper()
	c := New(Options{})
	if err := c.Configure(t.Context(), f.config(more...)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask is a request for a certificate of the name; change changes the template, which its PKCS#10 does not know of.
func ask(t testing.TB, id, name string, change ...func(*backend.Template)) *backend.IssueRequest {
	t.Helper()
	key := ecKey(t)
	return askWith(t, key, id, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}}, change...)
}

func askWith(t testing.TB, key crypto.Signer, id string, q *x509.CertificateRequest, change ...func(*backend.Template)) *backend.IssueRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, q, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	r := &backend.IssueRequest{ID: id, CSR: der, Template: backend.Template{Subject: csr.RawSubject, PublicKey: csr.RawSubjectPublicKeyInfo, NotBefore: now, NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{oidClientAuth, oidServerAuth}}}
	for _, e := range csr.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			r.Template.SubjectAltName = e.Value
		}
	}
	for _, c := range change {
		c(&r.Template)
	}
	return r
}

// The crash points: where a call ends, what Issue says, what Lookup finds then, and that there is one certificate.
func TestCrashPoints(t *testing.T) {
	for _, tc := range []struct {
		what   string
		faults []string
		lookup backend.OutcomeState
		err    string // of Lookup
		made   int    // in the end
	}{
		{"the CA never saw it", []string{"before"}, backend.OutcomeNever, "", 1},
		{"the answer was lost", []string{"after"}, backend.OutcomeIssued, "", 1},
		{"signed, and the database failed", []string{"500"}, backend.OutcomeIssued, "", 1},
		{"the answer was lost, and its repeat's too", []string{"after", "", "after"}, "", "EOF", 1},
	} {
		t.Run(tc.what, func(t *testing.T) {
			f := newFake(t, rsaKey(2))
			c := configured(t, f)
			r := ask(t, "0190-crash", "device-1")
			f.faults = tc.faults
			if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
				t.Fatalf("%v, not an unknown outcome", err)
			}
			r.Asked = time.Now()
			o, err := c.Lookup(t.Context(), r)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%+v, %v", o, err)
				}
				o, err = c.Lookup(t.Context(), r)
				tc.lookup = backend.OutcomeIssued
			}
			if err != nil || o.State != tc.lookup {
				t.Fatalf("%+v, %v; not %s", o, err, tc.lookup)
			}
			// A call that was still under way comes to nothing, or to the same.
			late := o.Issuance
			if o.State == backend.OutcomeNever {
				if n := f.certificates(); n != 0 {
					t.Errorf("never, and there are %d certificates", n)
				}
				if late, err = c.Issue(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			again, err := c.Issue(t.Context(), r)
			if err != nil || !bytes.Equal(again.Certificate, late.Certificate) {
				t.Errorf("another certificate (%v)", err)
			}
			if n := f.certificates(); n != tc.made {
				t.Errorf("%d certificates, not %d", n, tc.made)
			}
		})
	}
}

// After never, the call that was asked about is refused by the CA itself, however late it arrives.
func TestNeverIsKept(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	r := ask(t, "0190-late", "device-1")
	run, err := c.open.Get(t.Context())
	f.ok(err)
	q, err := run.view.Load().prepare(r, templateMuster)
	f.ok(err)
	r.Asked = time.Now()
	if o, err := c.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
		t.Fatalf("%+v, %v", o, err)
	}
	a, err := c.sign(t.Context(), run, r, q, tokenID(r.ID))
	if err != nil || a.Status != 401 {
		t.Fatalf("HTTP %d, %v: the late call was not refused", a.Status, err)
	}
	if n := f.certificates(); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

// A CA without a database that started anew knows no tokens. It is never believed to say never.
func TestRestartWithoutDatabase(t *testing.T) {
	f := newFake(t, rsaKey(2), func(f *fake) { f.database = false })
	c := configured(t, f)
	r := ask(t, "0190-restart", "device-1")
	f.faults = []string{"after"}
	if _, err := c.Issue(t.Context(), r); err == nil {
		t.Fatal("no error")
	}
	r.Asked = time.Now()
	f.restart(time.Now().Add(-time.Second))
	o, err := c.Lookup(t.Context(), r)
	if err != nil || o.State != backend.OutcomeIssued {
		t.Fatalf("%+v, %v", o, err)
	}
	if n := f.certificates(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// With an ECDSA key, or with step-ca's own template, nothing is asked for twice.
func TestNone(t *testing.T) {
	for what, f := range map[string]*fake{
		"ECDSA":            newFake(t, ecKey(t)),
		"its own template": newFake(t, rsaKey(2), func(f *fake) { f.template = "" }),
	} {
		t.Run(what, func(t *testing.T) {
			var more []string
			if f.template == "" {
				more = []string{"template: default"}
			}
			c := configured(t, f, more...)
			if d, err := c.Describe(t.Context()); err != nil || d.Idempotency != backend.IdempotencyNone {
				t.Fatalf("%+v, %v", d, err)
			}
			// A connection that waits may be closed just when the request is sent on it.
			if _, err := c.Issue(t.Context(), ask(t, "0190-own", "device-1")); err != nil || !f.closes {
				t.Errorf("%v, over a connection of its own: %t", err, f.closes)
			}
			before := f.certificates()
			r := ask(t, "0190-none", "device-1")
			f.faults = []string{"after"}
			for range 2 {
				if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
					t.Fatalf("%v, not an unknown outcome", err)
				}
			}
			if n := f.certificates() - before; n != 1 {
				t.Errorf("%d certificates", n)
			}
			if _, err := c.Lookup(t.Context(), r); status.Code(err) != codes.Unimplemented {
				t.Errorf("Lookup: %v", err)
			}
		})
	}
}

// An issuing key that changed to a randomized one makes no second certificate of what was asked before.
func TestLookupAfterTheKeyChanged(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	r := ask(t, "0190-changed", "device-1")
	f.faults = []string{"after"}
	if _, err := c.Issue(t.Context(), r); err == nil {
		t.Fatal("no error")
	}
	f.mu.Lock()
	key := ecKey(t)
	f.chain[0] = f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "Fake Intermediate"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, f.chain[1], key.Public(), rsaKey(1))
	f.key = key
	f.mu.Unlock()
	if o, err := c.Lookup(t.Context(), r); err == nil || !strings.Contains(err.Error(), "serial number") {
		t.Errorf("%+v, %v", o, err)
	}
	if n := f.certificates(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// Nor does one that changed to another that repeats: under it the certificate would be a second one.
func TestLookupAfterTheIssuerChanged(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	r := ask(t, "0190-changed", "device-1")
	f.faults = []string{"after"}
	if _, err := c.Issue(t.Context(), r); err == nil {
		t.Fatal("no error")
	}
	r.Asked = time.Now().Add(-time.Hour)
	f.mu.Lock()
	f.key = rsaKey(3)
	f.chain[0] = f.certificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Fake Intermediate 2"}, NotBefore: r.Asked.Add(time.Second), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, f.chain[1], f.key.Public(), rsaKey(1))
	f.mu.Unlock()
	if o, err := c.Lookup(t.Context(), r); err == nil || !strings.Contains(err.Error(), "from after that") {
		t.Errorf("%+v, %v", o, err)
	}
	if n := f.certificates(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// A provisioner without the template is noticed with the first certificate, which is revoked; there is no second.
func TestTemplateMissing(t *testing.T) {
	f := newFake(t, rsaKey(2), func(f *fake) { f.template = "" })
	c := configured(t, f)
	r := ask(t, "0190-foreign", "device-1")
	if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) || !strings.Contains(err.Error(), "stepca.tpl") {
		t.Fatalf("%v", err)
	}
	if len(f.revoked) != 1 || f.certificates() != 1 {
		t.Errorf("%d revoked of %d certificates", len(f.revoked), f.certificates())
	}
	if _, err := c.Issue(t.Context(), ask(t, "0190-next", "device-2")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the next: %v", err)
	}
	if _, err := c.Lookup(t.Context(), r); err == nil || f.certificates() != 1 {
		t.Errorf("Lookup: %v, %d certificates", err, f.certificates())
	}
}

// A CA that does not remember tokens is not believed that it never saw one.
func TestNeverNeedsAMemory(t *testing.T) {
	f := newFake(t, rsaKey(2), func(f *fake) { f.forgetful = true })
	c := configured(t, f)
	if o, err := c.Lookup(t.Context(), ask(t, "0190-forgetful", "device-1")); err == nil || !strings.Contains(err.Error(), "does not remember") {
		t.Errorf("%+v, %v", o, err)
	}
}
