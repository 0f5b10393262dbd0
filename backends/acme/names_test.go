package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// request asks for a name as a device would.
func request(t testing.TB, names ...string) *backend.IssueRequest {
	t.Helper()
	return requestOf(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names})
}

func requestOf(t testing.TB, template *x509.CertificateRequest) *backend.IssueRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	r := &backend.IssueRequest{ID: "id", CSR: der, Template: backend.Template{
		Subject: csr.RawSubject, PublicKey: csr.RawSubjectPublicKeyInfo, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}}
	for _, e := range csr.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			r.Template.SubjectAltName = e.Value
		}
	}
	return r
}

// TestRefusedBeforeAsking: what is not for an ACME CA does not reach it.
func TestRefusedBeforeAsking(t *testing.T) {
	f := newFake(t)
	c := configured(t, f)
	plain := func() *backend.IssueRequest { return request(t, "a.example.org") }
	changed := func(change func(r *backend.IssueRequest)) *backend.IssueRequest {
		r := plain()
		change(r)
		return r
	}
	many := make([]string, maxIdentifiers+1)
	for i := range many {
		many[i] = strings.Repeat("a", i%60+1) + strings.Repeat("b", i/60) + ".example.org"
	}
	for what, test := range map[string]struct {
		r    *backend.IssueRequest
		want string
	}{
		"no names":       {requestOf(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example.org"}}), "no subjectAltName"},
		"mail":           {requestOf(t, &x509.CertificateRequest{DNSNames: []string{"a.example.org"}, EmailAddresses: []string{"a@example.org"}}), "neither"},
		"URI":            {requestOf(t, &x509.CertificateRequest{URIs: []*url.URL{{Scheme: "urn", Opaque: "x"}}}), "neither"},
		"capitals":       {request(t, "A.example.org"), "lower case"},
		"a single label": {request(t, "router"), "with a domain"},
		"a trailing dot": {request(t, "a.example.org."), "with a domain"},
		"a wildcard":     {request(t, "*.example.org"), "dns-01"},
		"a name twice":   {request(t, "a.example.org", "a.example.org"), "twice"},
		"too many":       {request(t, many...), "more than"},
		"another CN":     {requestOf(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device-1"}, DNSNames: []string{"a.example.org"}}), "common name"},
		"an extension": {changed(func(r *backend.IssueRequest) {
			r.Template.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}}}
		}), "none but its own"},
		"other names":        {changed(func(r *backend.IssueRequest) { r.Template.SubjectAltName = plainSAN(t) }), "other names"},
		"another key":        {changed(func(r *backend.IssueRequest) { r.Template.PublicKey = plain().Template.PublicKey }), "another public key"},
		"another CA":         {changed(func(r *backend.IssueRequest) { r.Issuer = "other" }), "no CA"},
		"no CSR":             {changed(func(r *backend.IssueRequest) { r.CSR = nil }), "no PKCS#10"},
		"a broken CSR":       {changed(func(r *backend.IssueRequest) { r.CSR = r.CSR[:20] }), "does not parse"},
		"a broken signature": {changed(func(r *backend.IssueRequest) { r.CSR[len(r.CSR)-1] ^= 1 }), "signature"},
	} {
		_, err := c.Issue(t.Context(), test.r)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(f.accounts)+len(f.orders) > 0 {
		t.Error("the CA was asked")
	}
	c.running.Load().solve = map[string]solver{dns01: folder(f.dir)}
	if _, err := c.Issue(t.Context(), requestOf(t, &x509.CertificateRequest{IPAddresses: []net.IP{{192, 0, 2, 1}}})); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an address by dns-01: %v", err)
	}
	ids, err := c.running.Load().parseNames(requestOf(t, &x509.CertificateRequest{DNSNames: []string{"*.example.org"}}).Template.SubjectAltName)
	if err != nil || len(ids) != 1 || ids[0].Value != "*.example.org" {
		t.Errorf("a wildcard by dns-01: %v, %v", ids, err)
	}
}

func plainSAN(t *testing.T) []byte {
	t.Helper()
	return request(t, "b.example.org").Template.SubjectAltName
}

func TestAddress(t *testing.T) {
	f := newFake(t)
	c := configured(t, f)
	a, err := c.Issue(t.Context(), requestOf(t, &x509.CertificateRequest{IPAddresses: []net.IP{net.ParseIP("2001:db8::1"), {192, 0, 2, 1}}}))
	if err != nil || a.Ticket == "" {
		t.Fatal(err)
	}
	for _, o := range f.orders {
		if o.Identifiers[0]["value"] != "2001:db8::1" || o.Identifiers[1]["value"] != "192.0.2.1" || o.Identifiers[0]["type"] != "ip" {
			t.Error(o.Identifiers)
		}
	}
}
