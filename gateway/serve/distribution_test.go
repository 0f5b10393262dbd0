package serve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// shelf is a Publisher with one CRL and two certificates, local/ec.
type shelf struct {
	info  gateway.CRLInfo
	certs []*x509.Certificate
	err   error
}

func (s *shelf) CRL(_ context.Context, backend, name string) ([]byte, gateway.CRLInfo, error) {
	if backend != "local" || name != "ec" {
		return nil, gateway.CRLInfo{}, fmt.Errorf("%w: %s", gateway.ErrNotFound, name)
	}
	return []byte("the CRL"), s.info, s.err
}

func (s *shelf) Issuers(_ context.Context, backend, name string) ([]*x509.Certificate, error) {
	if backend != "local" || name != "ec" {
		return nil, fmt.Errorf("%w: %s", gateway.ErrNotFound, name)
	}
	return s.certs, s.err
}

func (s *shelf) OCSP(_ context.Context, backend, issuer string, request []byte) ([]byte, *gateway.OCSPInfo, error) {
	switch {
	case backend != "local" || issuer != "ec":
		return nil, nil, fmt.Errorf("%w: %s", gateway.ErrNotFound, issuer)
	case s.err != nil:
		return nil, nil, s.err
	case string(request) == "stranger":
		return []byte{0x30, 3, 0x0a, 1, 6}, nil, nil
	}
	return append([]byte("about "), request...), &gateway.OCSPInfo{ThisUpdate: s.info.ThisUpdate, Planned: s.info.Planned, NextUpdate: s.info.NextUpdate, Tag: "abc"}, nil
}

func TestDistribution(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{certs: []*x509.Certificate{cert, cert}, info: gateway.CRLInfo{ThisUpdate: now.Add(-time.Hour), Planned: now.Add(time.Hour), NextUpdate: now.Add(3 * time.Hour), Tag: "abc"}}
	clock := now
	d := &Distribution{
		Publisher: s, Clock: func() time.Time { return clock }, Log: slog.New(slog.DiscardHandler),
		CertsOnly: func(certs ...[]byte) ([]byte, error) { return bytes.Join(certs, nil), nil },
	}
	h := d.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	ask := func(method, path string, header ...string) (*http.Response, string) {
		r := httptest.NewRequest(method, path, nil)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		body, _ := io.ReadAll(rec.Result().Body)
		return rec.Result(), string(body)
	}
	const crl = "/crl/local/ec.crl"
	got, body := ask("GET", crl)
	for key, want := range map[string]string{
		"Content-Type": "application/pkix-crl", "ETag": `"abc"`, "Cache-Control": "public, max-age=3600, must-revalidate, no-transform",
		"Expires": "Sun, 01 Mar 2026 13:00:00 GMT", "Last-Modified": "Sun, 01 Mar 2026 11:00:00 GMT", "Content-Length": "7",
	} {
		if got.Header.Get(key) != want {
			t.Errorf("%s: %q, want %q", key, got.Header.Get(key), want)
		}
	}
	if got.StatusCode != 200 || body != "the CRL" {
		t.Errorf("%d %q", got.StatusCode, body)
	}
	for _, tt := range []struct {
		method, path string
		header       []string
		status       int
		body         string
	}{
		{"HEAD", crl, nil, 200, ""},
		{"GET", crl, []string{"If-None-Match", `"abc"`}, 304, ""},
		{"GET", crl, []string{"If-None-Match", `"abd"`}, 200, "the CRL"},
		{"GET", crl, []string{"If-Modified-Since", "Sun, 01 Mar 2026 11:00:00 GMT"}, 304, ""},
		{"GET", crl, []string{"If-Modified-Since", "Sun, 01 Mar 2026 10:59:59 GMT"}, 200, "the CRL"},
		{"GET", "/ca/local/ec.crt", nil, 200, string(der)},
		{"GET", "/ca/local/ec.p7c", nil, 200, string(der) + string(der)},
	} {
		if got, body := ask(tt.method, tt.path, tt.header...); got.StatusCode != tt.status || body != tt.body {
			t.Errorf("%s %s %v: %d %q", tt.method, tt.path, tt.header, got.StatusCode, body)
		}
	}
	for path, want := range map[string]string{"/ca/local/ec.crt": "application/pkix-cert", "/ca/local/ec.p7c": "application/pkcs7-mime"} {
		if got, _ := ask("GET", path); got.Header.Get("Content-Type") != want || got.Header.Get("Cache-Control") != "public, max-age=3600, must-revalidate, no-transform" || len(got.Header.Get("ETag")) != 66 {
			t.Errorf("%s: %v", path, got.Header)
		}
	}
	for _, path := range []string{"/crl/", "/crl/local", "/crl/local/ec", "/crl/local/ec.crt", "/crl/local/ec.crl/", "/crl/other/ec.crl", "/crl/local/rsa.crl", "/ca/local/ec", "/ca/local/ec.crl", "/ca/local/rsa.crt"} {
		if got, _ := ask("GET", path); got.StatusCode != 404 || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
	if got, _ := ask("POST", crl); got.StatusCode != 405 || got.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", got.StatusCode)
	}
	for _, path := range []string{"/", "/crl", "/ca", "/scep"} {
		if got, _ := ask("GET", path); got.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
	// The next one is overdue: caches come back soon, and never keep one that has ended.
	for after, want := range map[time.Duration]string{2 * time.Hour: "60", 3*time.Hour - 10*time.Second: "10"} {
		clock = now.Add(after)
		if got, _ := ask("GET", crl); got.Header.Get("Cache-Control") != "public, max-age="+want+", must-revalidate, no-transform" {
			t.Errorf("after %s: %s", after, got.Header.Get("Cache-Control"))
		}
	}
	for _, err := range []error{&gateway.Error{Reason: gateway.Unavailable, RetryAfter: 5 * time.Second, Err: errors.New("secret of the CA")}, errors.New("?")} {
		s.err = err
		want := map[bool]string{true: "60", false: "5"}[err.Error() == "?"]
		for _, path := range []string{crl, "/ca/local/ec.crt"} {
			if got, body := ask("GET", path); got.StatusCode != 503 || got.Header.Get("Retry-After") != want || got.Header.Get("Cache-Control") != "no-store" || body != "the CA does not answer now\n" {
				t.Errorf("%s: %d %v %q", path, got.StatusCode, got.Header, body)
			}
		}
	}
}
