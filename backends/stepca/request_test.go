package stepca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

func issued(t *testing.T, c *CA, r *backend.IssueRequest) *x509.Certificate {
	t.Helper()
	a, err := c.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// Muster's template renders what was granted, whatever stands in the PKCS#10: names in another order and of any kind too.
func TestTemplateIsRendered(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	subject, err := asn1.Marshal(pkix.Name{CommonName: "granted \"quoted\"", Organization: []string{"Example {{ .x }}"}, SerialNumber: "SN1"}.ToRDNSequence())
	f.ok(err)
	name := func(tag int, b []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: b}
	}
	inOrder, err := asn1.Marshal([]asn1.RawValue{name(2, []byte("a.example")), name(1, []byte("x@a.example")), name(7, []byte{10, 0, 0, 1})})
	f.ok(err)
	reversed, err := asn1.Marshal([]asn1.RawValue{name(7, []byte{10, 0, 0, 1}), name(2, []byte("a.example"))})
	f.ok(err)
	unusual, err := asn1.Marshal([]asn1.RawValue{name(2, []byte("10.0.0.1")), name(8, []byte{0x2a, 3})})
	f.ok(err)
	for what, san := range map[string][]byte{"in order": inOrder, "reversed": reversed, "other kinds": unusual, "none": nil} {
		t.Run(what, func(t *testing.T) {
			r := askWith(t, ecKey(t), "0190-"+what, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "asked"}, DNSNames: []string{"asked.example"}, IPAddresses: []net.IP{net.IPv4(10, 9, 9, 9)}},
				func(t *backend.Template) {
					t.Subject, t.SubjectAltName, t.KeyUsage = subject, san, x509.KeyUsageDigitalSignature|x509.KeyUsageDecipherOnly|x509.KeyUsageKeyAgreement
					t.ExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 17}, oidClientAuth}
					t.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: []byte{5, 0}}, {Id: asn1.ObjectIdentifier{1, 2, 3, 5}, Critical: true, Value: []byte{5, 0}}}
				})
			leaf := issued(t, c, r)
			if !bytes.Equal(leaf.RawSubject, r.Template.Subject) || leaf.KeyUsage != r.Template.KeyUsage || len(leaf.UnknownExtKeyUsage)+len(leaf.ExtKeyUsage) != 2 {
				t.Errorf("%s, %v, %v", leaf.Subject, leaf.KeyUsage, leaf.ExtKeyUsage)
			}
			if !leaf.NotBefore.Equal(r.Template.NotBefore) || !leaf.NotAfter.Equal(r.Template.NotAfter) {
				t.Errorf("valid %s to %s", leaf.NotBefore, leaf.NotAfter)
			}
			var got []byte
			further := 0
			for _, e := range leaf.Extensions {
				if e.Id.Equal(oidSubjectAltName) {
					got = e.Value
				}
				if len(e.Id) == 4 && e.Id[0] == 1 && e.Critical == (e.Id[3] == 5) {
					further++
				}
			}
			if !bytes.Equal(got, san) || further != 2 {
				t.Errorf("subjectAltName %x, not %x; %d further extensions", got, san, further)
			}
		})
	}
}

// Names go as names where step-ca would write them alike, so that its policies see them.
func TestNamesAreSeenByPolicies(t *testing.T) {
	u, err := url.Parse("urn:dev:1")
	if err != nil {
		t.Fatal(err)
	}
	r := askWith(t, ecKey(t), "0190-names", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.ParseIP("2001:db8::1")}, URIs: []*url.URL{u}})
	f := newFake(t, rsaKey(2))
	q, err := (&view{chain: f.chain}).prepare(r, templateMuster)
	f.ok(err)
	if len(q.content.Extensions) != 0 || strings.Join(q.content.DNSNames, ",")+strings.Join(q.content.IPAddresses, ",")+strings.Join(q.content.URIs, ",") != "a.example2001:db8::1urn:dev:1" || q.content.CommonName != "a" {
		t.Errorf("%+v", q.content)
	}
}

func TestRefusals(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	for what, tc := range map[string]struct {
		change func(*backend.IssueRequest)
		want   string
		asked  int
	}{
		"longer than the provisioner allows": {func(r *backend.IssueRequest) { f.max = time.Hour }, "maxTLSCertDuration", 1},
		"no PKCS#10":                         {func(r *backend.IssueRequest) { r.CSR = nil }, "PKCS#10", 0},
		"another key":                        {func(r *backend.IssueRequest) { r.Template.PublicKey = r.Template.PublicKey[1:] }, "another key", 0},
		"a changed PKCS#10":                  {func(r *backend.IssueRequest) { r.CSR = append(r.CSR[:len(r.CSR)-1:len(r.CSR)-1], 0) }, "PKCS#10", 0},
		"beyond the CA's certificate":        {func(r *backend.IssueRequest) { r.Template.NotAfter = f.chain[0].NotAfter.Add(time.Second) }, "valid until", 0},
		"fractions of a second":              {func(r *backend.IssueRequest) { r.Template.NotBefore = r.Template.NotBefore.Add(1) }, "whole seconds", 0},
		"a CA's key usage":                   {func(r *backend.IssueRequest) { r.Template.KeyUsage |= x509.KeyUsageCertSign }, "of a CA", 0},
		"basicConstraints": {func(r *backend.IssueRequest) {
			r.Template.Extensions = []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}, "2.5.29.19", 0},
		"many names": {func(r *backend.IssueRequest) {
			r.Template.SubjectAltName = (&names{dns: strings.Split(strings.Repeat("a,", 200), ",")}).marshal()
		}, "more than 100", 0},
		"a subjectAltName that is none": {func(r *backend.IssueRequest) { r.Template.SubjectAltName = []byte{4, 0} }, "does not parse", 0},
	} {
		t.Run(what, func(t *testing.T) {
			r := ask(t, "0190-"+what, "device-1")
			tc.change(r)
			before := f.calls["sign"]
			_, err := c.Issue(t.Context(), r)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
			if n := f.calls["sign"] - before; n != tc.asked {
				t.Errorf("step-ca was asked %d times", n)
			}
			f.max = 400 * 24 * time.Hour
		})
	}
	if n := f.certificates(); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

// The shipped template makes no CA, whoever holds the provisioner's key.
func TestTemplateMakesNoCA(t *testing.T) {
	f := newFake(t, rsaKey(2))
	for what, claim := range map[string]map[string]any{
		"basicConstraints": {"muster": map[string]any{"extensions": []any{map[string]any{"id": "2.5.29.19", "value": "MAMBAf8="}}}},
		"no claim":         {},
	} {
		if _, err := f.render(&x509.CertificateRequest{}, &fakeClaims{Raw: claim}); err == nil || !strings.Contains(err.Error(), "Muster") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A token is good for its own PKCS#10 and a few minutes.
func TestTokenIsBound(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	r := ask(t, "0190-bound", "device-1")
	issued(t, c, r)
	sum := sha256.Sum256(r.CSR)
	if got := f.last; got.Confirm == nil || got.Confirm.Fingerprint != base64.RawURLEncoding.EncodeToString(sum[:]) || got.ID != tokenID(r.ID) || got.Expires-got.IssuedAt != 300 {
		t.Errorf("%+v", got.claims)
	}
}

// With step-ca's own template only what it makes is asked for.
func TestDefaultTemplate(t *testing.T) {
	f := newFake(t, rsaKey(2), func(f *fake) { f.template = "" })
	c := configured(t, f, "template: default")
	leaf := issued(t, c, ask(t, "0190-default", "device-1"))
	if leaf.Subject.CommonName != "device-1" || len(leaf.DNSNames) != 1 {
		t.Errorf("%s %v", leaf.Subject, leaf.DNSNames)
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: "device-1", Organization: []string{"O"}}.ToRDNSequence())
	f.ok(err)
	for what, change := range map[string]func(*backend.Template){
		"a subject of two": func(t *backend.Template) { t.Subject = subject },
		"no names":         func(t *backend.Template) { t.SubjectAltName = nil },
		"clientAuth alone": func(t *backend.Template) { t.ExtKeyUsage = t.ExtKeyUsage[:1] },
		"key agreement":    func(t *backend.Template) { t.KeyUsage = x509.KeyUsageKeyAgreement },
		"an extension": func(t *backend.Template) {
			t.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		},
	} {
		if _, err := c.Issue(t.Context(), ask(t, "0190-"+what, "device-1", change)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "Muster's template") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := f.certificates(); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// What step-ca refuses before it signs is a refusal, and a CA whose clock is ahead is asked again.
func TestErrors(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	f.faults = []string{"deny"}
	if _, err := c.Issue(t.Context(), ask(t, "0190-deny", "device-1")); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("%v", err)
	}
	f.restart(time.Now().Add(time.Hour))
	if _, err := c.Issue(t.Context(), ask(t, "0190-ahead", "device-1")); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
		t.Errorf("%v", err)
	}
	f.server.Close()
	_, _ = c.Issue(t.Context(), ask(t, "0190-ended", "device-1")) // finds out that its connection has ended
	if _, err := c.Issue(t.Context(), ask(t, "0190-gone", "device-1")); !backend.Definite(err) {
		t.Errorf("not reached: %v", err)
	}
}

// A token that step-ca repeats is in no error, and neither is what a screen would obey.
func TestTokenIsHidden(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	f.faults = []string{"repeat"}
	if _, err := c.Issue(t.Context(), ask(t, "0190-repeat", "device-1")); err == nil || strings.Contains(err.Error(), "eyJ") || !strings.HasSuffix(err.Error(), "what is [hidden] ?") {
		t.Errorf("%q", err)
	}
}

func TestRevoke(t *testing.T) {
	f := newFake(t, rsaKey(2))
	c := configured(t, f)
	// One that Muster did not ask for is revoked when it is shown, and verifies.
	other := f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "x"}}, f.chain[0], ecKey(t).Public(), f.key)
	foreign := f.certificate(&x509.Certificate{Subject: f.chain[0].Subject}, nil, rsaKey(3).Public(), rsaKey(3))
	r := &backend.RevokeRequest{Issuer: other.RawIssuer, Serial: other.SerialNumber.Bytes(), Reason: 4, At: time.Now()}
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.NotFound {
		t.Errorf("unknown: %v", err)
	}
	r.Certificate = foreign.Raw
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.NotFound {
		t.Errorf("another certificate: %v", err)
	}
	r.Certificate, r.Serial = other.Raw, foreign.SerialNumber.Bytes()
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.NotFound {
		t.Errorf("a serial number that is not the certificate's: %v", err)
	}
	r.Certificate = foreign.Raw
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.NotFound {
		t.Errorf("one of the same issuer name: %v", err)
	}
	r.Certificate, r.Serial = other.Raw, other.SerialNumber.Bytes()
	if err := c.Revoke(t.Context(), r); err != nil || len(f.revoked) != 1 || f.revoked[0].ReasonCode != 4 {
		t.Errorf("%v, %v", err, f.revoked)
	}
	if err := c.Revoke(t.Context(), r); err != nil {
		t.Errorf("again: %v", err)
	}
	f.database = false
	r.Serial = serialOf(ask(t, "0190-x", "x"), f.chain[0].RawSubject).Bytes()
	r.Issuer, r.Certificate = f.chain[0].RawSubject, nil
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "database") {
		t.Errorf("no database: %v", err)
	}
}

// A serial number is one of the request's whole content, always of 20 octets, and known again.
func TestSerial(t *testing.T) {
	issuer := []byte("issuer")
	base := ask(t, "0190-serial", "device-1")
	seen := map[string]string{serialOf(base, issuer).String(): "base"}
	for what, change := range map[string]func(*backend.IssueRequest){
		"ID":        func(r *backend.IssueRequest) { r.ID = "0190-other" },
		"subject":   func(r *backend.IssueRequest) { r.Template.Subject = []byte{0x30, 0} },
		"SAN":       func(r *backend.IssueRequest) { r.Template.SubjectAltName = nil },
		"key":       func(r *backend.IssueRequest) { r.Template.PublicKey = nil },
		"notBefore": func(r *backend.IssueRequest) { r.Template.NotBefore = r.Template.NotBefore.Add(time.Second) },
		"notAfter":  func(r *backend.IssueRequest) { r.Template.NotAfter = r.Template.NotAfter.Add(time.Second) },
		"usage":     func(r *backend.IssueRequest) { r.Template.KeyUsage = 0 },
		"extended":  func(r *backend.IssueRequest) { r.Template.ExtKeyUsage = nil },
		"extension": func(r *backend.IssueRequest) {
			r.Template.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2}}}
		},
		"critical": func(r *backend.IssueRequest) {
			r.Template.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2}, Critical: true}}
		},
	} {
		r := *base
		change(&r)
		n := serialOf(&r, issuer)
		if other, taken := seen[n.String()]; taken {
			t.Errorf("%s: as %s", what, other)
		}
		seen[n.String()] = what
		if len(n.Bytes()) != 20 || n.Bytes()[0]&0x80 != 0 || !ours(n.Bytes(), issuer) || ours(n.Bytes(), []byte("another")) || ours(new(big.Int).Add(n, big.NewInt(1)).Bytes(), issuer) {
			t.Errorf("%s: %x", what, n.Bytes())
		}
	}
}
