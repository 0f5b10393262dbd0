package vault

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func TestMain(m *testing.M) {
	backendtest.Main(m, map[string]func() backend.Backend{"vault": newBackend})
}

func newBackend() backend.Backend { return New(Options{Log: backend.Logger()}) }

// TestConformance runs the suite of the contract against the fake, in process and through a plugin process, which is killed.
func TestConformance(t *testing.T) {
	for what, paged := range map[string]bool{"vault": false, "openbao": true} {
		t.Run(what, func(t *testing.T) {
			backendtest.Run(t, backendtest.Subject{
				New: newBackend,
				Config: func(t *testing.T) []byte {
					f := newFake(t)
					f.paged = paged
					return []byte(f.config(t, ""))
				},
				BadConfig: []byte("url: https://vault.example.org\nauth: {}"),
				Plugin:    "vault",
			})
		})
	}
}

// file makes a file of mode 0600.
func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// config is for a token that does everything, with more lines.
func (f *fake) config(t testing.TB, more string) string {
	return fmt.Sprintf("url: %s\nissuers: [devices, other]\nauth: {token: %q}\n%s", f.URL, file(t, "root\n"), more)
}

// clock stands still until it is moved.
type clock struct{ offset atomic.Int64 }

var begin = time.Now()

func (c *clock) now() time.Time          { return begin.Add(time.Duration(c.offset.Load())) }
func (c *clock) forward(d time.Duration) { c.offset.Add(int64(d)) }

// started configures a backend, and asks for its CAs, as the gateway does.
func started(t testing.TB, config string, c *clock) *CA {
	t.Helper()
	ca := New(Options{Clock: c.now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err := ca.Configure(t.Context(), []byte(config)); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.CACertificates(t.Context()); err != nil {
		t.Fatal(err)
	}
	return ca
}

// asked is a request of the gateway with a key of its own.
func asked(t testing.TB, id string, csr x509.CertificateRequest) (*backend.IssueRequest, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return askedFor(t, id, csr, key), key
}

func askedFor(t testing.TB, id string, csr x509.CertificateRequest, key *ecdsa.PrivateKey) *backend.IssueRequest {
	t.Helper()
	if csr.RawSubject == nil && len(csr.Subject.CommonName) == 0 {
		csr.Subject = pkix.Name{CommonName: "device"}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &csr, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now().UTC().Truncate(time.Second).Add(-time.Minute)
	r := &backend.IssueRequest{ID: id, CSR: der, Template: backend.Template{
		Subject: parsed.RawSubject, PublicKey: parsed.RawSubjectPublicKeyInfo, NotBefore: from, NotAfter: from.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}},
	}}
	if san := find(parsed, oidSubjectAltName); san != nil {
		r.Template.SubjectAltName = san.Value
	}
	return r
}

func leafOf(t testing.TB, a *backend.Issuance, err error) *x509.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestVerbatim: what the request does not name is set as granted; what it names otherwise is refused before the engine hears of it.
func TestVerbatim(t *testing.T) {
	f := newFake(t)
	ca := started(t, f.config(t, ""), new(clock))
	r, _ := asked(t, "plain", x509.CertificateRequest{DNSNames: []string{"device.example.org"}})
	r.Template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement
	a, err := ca.Issue(t.Context(), r)
	c := leafOf(t, a, err)
	if c.KeyUsage != r.Template.KeyUsage || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || !c.NotAfter.Equal(r.Template.NotAfter) {
		t.Errorf("key usage %b, extended %v, until %s", c.KeyUsage, c.ExtKeyUsage, c.NotAfter)
	}
	r, _ = asked(t, "bare", x509.CertificateRequest{})
	r.Template.KeyUsage, r.Template.ExtKeyUsage = 0, nil
	a, err = ca.Issue(t.Context(), r)
	if c = leafOf(t, a, err); c.KeyUsage != 0 || len(c.ExtKeyUsage) > 0 {
		t.Errorf("key usage %b and extended %v were not granted", c.KeyUsage, c.ExtKeyUsage)
	}

	ext := func(id asn1.ObjectIdentifier, value any) x509.CertificateRequest {
		der, err := asn1.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: id, Value: der}}}
	}
	type basic struct {
		IsCA bool `asn1:"optional"`
	}
	usage := asn1.BitString{Bytes: []byte{0x80}, BitLength: 1} // digitalSignature
	signs := asn1.BitString{Bytes: []byte{0x06}, BitLength: 7} // keyCertSign, cRLSign
	for name, test := range map[string]struct {
		csr    x509.CertificateRequest
		change func(r *backend.IssueRequest)
		want   string // "" for issued
	}{
		"the key usage granted":        {csr: ext(oidKeyUsage, usage)},
		"another key usage":            {csr: ext(oidKeyUsage, signs), want: "another key usage"},
		"a key usage that is none":     {csr: ext(oidKeyUsage, 7), want: "another key usage"},
		"the purpose granted":          {csr: ext(oidExtKeyUsage, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}})},
		"another purpose":              {csr: ext(oidExtKeyUsage, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}}), want: "another extended key usage"},
		"an end entity":                {csr: ext(oidBasicConstraints, basic{})},
		"a CA":                         {csr: ext(oidBasicConstraints, basic{true}), want: "a CA certificate"},
		"a key identifier":             {csr: ext(oidSubjectKeyID, []byte{1, 2, 3})},
		"a key identifier of 65 bytes": {csr: ext(oidSubjectKeyID, make([]byte, 65)), want: "subject key identifier"},
		"an extension nobody granted":  {csr: ext(asn1.ObjectIdentifier{1, 2, 3}, "x"), want: "1.2.3, which was not granted"},
		"an extension granted": {csr: ext(asn1.ObjectIdentifier{1, 2, 3}, "x"), change: func(r *backend.IssueRequest) {
			r.Template.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{0x13, 1, 'x'}}}
		}},
		"an extension that is missing": {change: func(r *backend.IssueRequest) {
			r.Template.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{0x13, 1, 'x'}}}
		}, want: "1.2.3 is granted"},
		"names that were not granted": {csr: x509.CertificateRequest{DNSNames: []string{"a.example"}}, change: func(r *backend.IssueRequest) { r.Template.SubjectAltName = nil }, want: "another subjectAltName"},
		"names that are missing":      {change: func(r *backend.IssueRequest) { r.Template.SubjectAltName = []byte{0x30, 0} }, want: "subjectAltName is granted"},
		"another key":                 {change: func(r *backend.IssueRequest) { r.Template.PublicKey = []byte{0x30, 0} }, want: "another key"},
		"another subject":             {change: func(r *backend.IssueRequest) { r.Template.Subject = []byte{0x30, 0} }, want: "another subject"},
		"no request":                  {change: func(r *backend.IssueRequest) { r.CSR = nil }, want: "PKCS#10 requests only"},
		"a request that is none":      {change: func(r *backend.IssueRequest) { r.CSR = []byte{0x30, 0} }, want: "does not parse"},
		"a broken signature":          {change: func(r *backend.IssueRequest) { r.CSR[len(r.CSR)-1] ^= 1 }, want: "signature is wrong"},
		"a begin to come":             {change: func(r *backend.IssueRequest) { r.Template.NotBefore = time.Now().Add(time.Hour) }, want: "from now on"},
		"a begin long ago":            {change: func(r *backend.IssueRequest) { r.Template.NotBefore = time.Now().Add(-61 * time.Minute) }, want: "too long ago"},
		"an end that is over": {change: func(r *backend.IssueRequest) {
			r.Template.NotBefore, r.Template.NotAfter = begin.Add(-10*time.Minute), begin.Add(-time.Second)
		}, want: "it would end at"},
		"an end after the CA's": {change: func(r *backend.IssueRequest) { r.Template.NotAfter = time.Now().Add(300 * time.Hour) }, want: "its CA ends"},
		"no such CA":            {change: func(r *backend.IssueRequest) { r.Issuer = "third" }, want: "no CA"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := asked(t, name, test.csr)
			if test.change != nil {
				test.change(r)
			}
			before := f.signed
			_, err := ca.Issue(t.Context(), r)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, not INVALID_ARGUMENT with %q", err, test.want)
			}
			if f.signed != before {
				t.Error("it was certified")
			}
		})
	}
}

// TestSubjectEncoding: the engine writes names in string types of its own choice; what stands in them is the same.
func TestSubjectEncoding(t *testing.T) {
	f := newFake(t)
	ca := started(t, f.config(t, ""), new(clock))
	utf8 := []byte{0x30, 0x11, 0x31, 0x0f, 0x30, 0x0d, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x06, 'd', 'e', 'v', 'i', 'c', 'e'}
	r, _ := asked(t, "utf8", x509.CertificateRequest{RawSubject: utf8})
	a, err := ca.Issue(t.Context(), r)
	c := leafOf(t, a, err)
	if bytes.Equal(c.RawSubject, utf8) {
		t.Error("the fake keeps string types, and the engine does not")
	}
	r.Asked = time.Now()
	again := started(t, f.config(t, ""), new(clock))
	o, err := again.Lookup(t.Context(), r)
	if err != nil || o.State != backend.OutcomeIssued || !bytes.Equal(o.Issuance.Certificate, c.Raw) {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestByRole: the role decides, and is told names and end.
func TestByRole(t *testing.T) {
	f := newFake(t)
	f.roles["devices"] = map[string]any{"no_store": false}
	ca := started(t, f.config(t, "sign: role\nrole: devices\n"), new(clock))
	d, err := ca.Describe(t.Context())
	if err != nil || len(d.Overrides) > 0 || !slices.Contains(d.Decides, backend.FieldSubjectAltName) {
		t.Errorf("%+v, %v", d, err)
	}
	r, _ := asked(t, "one", x509.CertificateRequest{DNSNames: []string{"device.example.org"}})
	a, err := ca.Issue(t.Context(), r)
	c := leafOf(t, a, err)
	if !c.NotAfter.Equal(r.Template.NotAfter) || !slices.Equal(c.DNSNames, []string{"device.example.org"}) {
		t.Errorf("until %s, %v", c.NotAfter, c.DNSNames)
	}
	body := f.bodies[len(f.bodies)-1]
	if body["common_name"] != "device" || body["alt_names"] != "device.example.org" || body["exclude_cn_from_sans"] != true {
		t.Errorf("%v", body)
	}
	r, _ = asked(t, "two", x509.CertificateRequest{DNSNames: []string{"device.example.org"}})
	r.Template.SubjectAltName = nil
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument {
		t.Errorf("names that were not granted: %v", err)
	}
	r, _ = asked(t, "three", x509.CertificateRequest{})
	r.Template.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}}}
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an extension: %v", err)
	}
	// Requests of a role are found again.
	r, _ = asked(t, "four", x509.CertificateRequest{})
	if _, err := started(t, f.config(t, "sign: role\nrole: devices\n"), new(clock)).Issue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r.Asked = time.Now()
	if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeIssued {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestChain: what the engine does not have above an issuer is taken from a file; without it no CA certificates are given.
func TestChain(t *testing.T) {
	f := newFake(t)
	root := f.issuers["devices"].root
	for _, ca := range f.issuers {
		ca.root = ca.cert // which is all that the engine has
	}
	config := strings.Replace(f.config(t, ""), "[devices, other]", "[devices]", 1)
	ca := New(Options{})
	if err := ca.Configure(t.Context(), []byte(config)); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.CACertificates(t.Context()); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "name a PEM file") {
		t.Errorf("%v", err)
	}
	ca = started(t, config+fmt.Sprintf("chain: %q\n", file(t, text(root.Raw))), new(clock))
	cas, err := ca.CACertificates(t.Context())
	if err != nil || len(cas) != 1 || len(cas[0].Chain) != 2 || !bytes.Equal(cas[0].Chain[1], root.Raw) {
		t.Errorf("%v, %v", cas, err)
	}
	r, _ := asked(t, "one", x509.CertificateRequest{})
	if a, err := ca.Issue(t.Context(), r); err != nil || len(a.Chain) != 2 {
		t.Errorf("%v, %v", a, err)
	}
}

// TestRevokeWhatIsNotStored: the certificate itself is presented.
func TestRevokeWhatIsNotStored(t *testing.T) {
	f := newFake(t)
	f.roles["devices"] = map[string]any{"no_store": true}
	ca := started(t, f.config(t, "role: devices\nlookup: none\n"), new(clock))
	r, _ := asked(t, "one", x509.CertificateRequest{})
	a, err := ca.Issue(t.Context(), r)
	c := leafOf(t, a, err)
	revoke := &backend.RevokeRequest{Issuer: c.RawIssuer, Serial: c.SerialNumber.Bytes()}
	if err := ca.Revoke(t.Context(), revoke); status.Code(err) != codes.NotFound {
		t.Errorf("%v, not NOT_FOUND", err)
	}
	revoke.Certificate = c.Raw
	for range 2 {
		if err := ca.Revoke(t.Context(), revoke); err != nil {
			t.Error(err)
		}
	}
	if len(f.revoked) != 1 {
		t.Error("it was not revoked")
	}
	stranger, _ := makeCA(t, "stranger", nil, nil)
	foreign := &backend.RevokeRequest{Issuer: stranger.RawIssuer, Serial: stranger.SerialNumber.Bytes(), Certificate: stranger.Raw}
	if err := ca.Revoke(t.Context(), foreign); status.Code(err) != codes.NotFound {
		t.Errorf("another CA's certificate: %v, not NOT_FOUND", err)
	}
	foreign.Serial = []byte{1}
	if err := ca.Revoke(t.Context(), foreign); status.Code(err) != codes.NotFound {
		t.Errorf("a certificate with another serial number: %v, not NOT_FOUND", err)
	}
}

// TestNoCRL: no content is no CRL.
func TestNoCRL(t *testing.T) {
	ca := started(t, newFake(t).config(t, ""), new(clock))
	if err := ca.CRL(t.Context(), "third", new(bytes.Buffer)); status.Code(err) != codes.NotFound {
		t.Errorf("%v, not NOT_FOUND", err)
	}
	if err := New(Options{}).CRL(context.Background(), "", new(bytes.Buffer)); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, not UNAVAILABLE", err)
	}
}
