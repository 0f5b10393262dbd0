package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cms"
)

// device is an EST client of our own, for what takes thousands of them. What it proves about the wire, curl and strongSwan
// prove better.
type device struct {
	key  crypto.Signer
	csr  []byte // DER
	cert *x509.Certificate
}

func newDevice(t testing.TB, name string) *device {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{key: key}
	d.csr = request(t, key, name)
	return d
}

func request(t testing.TB, key crypto.Signer, name string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// answer is what an EST server said.
type answer struct {
	status int
	body   string
	cert   *x509.Certificate // with 200
	header http.Header
}

// client makes an HTTP client that trusts the quickstart's roots, and shows the device's certificate when it has one.
func (g *instance) client(d *device) *http.Client {
	g.t.Helper()
	pem, err := os.ReadFile(g.env["MUSTER_CA"])
	if err != nil {
		g.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		g.t.Fatal("no certificate in MUSTER_CA")
	}
	conf := &tls.Config{RootCAs: roots}
	if d != nil && d.cert != nil {
		conf.Certificates = []tls.Certificate{{Certificate: [][]byte{d.cert.Raw}, PrivateKey: d.key}}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
}

// post sends an EST request with whatever body; user "" sends no Basic credentials.
func (g *instance) post(ctx context.Context, c *http.Client, operation, user, password, contentType string, body []byte) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.env["MUSTER_HTTPS"]+"/.well-known/est/"+operation, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	a := &answer{status: res.StatusCode, body: string(b), header: res.Header}
	if a.status != http.StatusOK {
		return a, nil
	}
	der, err := base64.StdEncoding.DecodeString(strings.Map(dropSpace, a.body))
	if err != nil {
		return nil, fmt.Errorf("the reply is not base64: %w", err)
	}
	certs, err := cms.ParseCertsOnly(der, cms.Limits{})
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%d certificates in the reply", len(certs))
	}
	a.cert, err = x509.ParseCertificate(certs[0])
	return a, err
}

func dropSpace(r rune) rune {
	if r == '\r' || r == '\n' || r == ' ' {
		return -1
	}
	return r
}

// enroll sends the device's request with the quickstart's user and password.
func (g *instance) enroll(ctx context.Context, c *http.Client, d *device) (*answer, error) {
	return g.post(ctx, c, "simpleenroll", g.env["MUSTER_EST_USER"], g.env["MUSTER_EST_PASSWORD"], "application/pkcs10",
		[]byte(toBase64(d.csr)))
}

// mustEnroll enrols and keeps the certificate.
func (g *instance) mustEnroll(d *device) {
	g.t.Helper()
	a, err := g.enroll(g.t.Context(), g.client(nil), d)
	if err != nil {
		g.t.Fatal(err)
	}
	if a.status != http.StatusOK {
		g.t.Fatalf("enrolling: %d %s", a.status, a.body)
	}
	d.cert = a.cert
}

func toBase64(der []byte) string { return base64.StdEncoding.EncodeToString(der) }
