package serve

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func TestOCSP(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := &shelf{info: gateway.CRLInfo{ThisUpdate: now.Add(-time.Hour), Planned: now.Add(time.Hour), NextUpdate: now.Add(3 * time.Hour)}}
	clock := now
	h := (&Distribution{Publisher: s, Clock: func() time.Time { return clock }, Log: slog.New(slog.DiscardHandler)}).
		Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	ask := func(method, path, body string, header ...string) (*http.Response, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		got, _ := io.ReadAll(rec.Result().Body)
		return rec.Result(), string(got)
	}
	const at = "/ocsp/local/ec"
	request := "\xff\xff\xfe~\xfb\xef\xbe request." // its base64 has slashes and pluses
	plain := base64.StdEncoding.EncodeToString([]byte(request))
	if !strings.Contains(plain, "//") || !strings.Contains(plain, "+") || !strings.HasSuffix(plain, "=") {
		t.Fatal(plain)
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"POST", at, request, 200, "about " + request},
		{"POST", at + "/", request, 200, "about " + request},
		{"GET", at + "/" + url.PathEscape(plain), "", 200, "about " + request},
		{"GET", at + "/" + url.QueryEscape(plain), "", 200, "about " + request},
		{"GET", at + "/" + plain, "", 200, "about " + request},
		{"GET", at + "/" + strings.TrimRight(plain, "="), "", 200, "about " + request},
		{"HEAD", at + "/" + plain, "", 200, ""},
	} {
		got, body := ask(tt.method, tt.path, tt.body)
		if got.StatusCode != tt.status || tt.method != "HEAD" && body != tt.answer {
			t.Errorf("%s %s: %d %q", tt.method, tt.path, got.StatusCode, body)
		}
		// RFC 5019 section 6.2
		for key, want := range map[string]string{
			"Content-Type": "application/ocsp-response", "ETag": `"abc"`, "Cache-Control": "public, max-age=3600, must-revalidate, no-transform",
			"Expires": "Sun, 01 Mar 2026 13:00:00 GMT", "Last-Modified": "Sun, 01 Mar 2026 11:00:00 GMT",
		} {
			if got.Header.Get(key) != want {
				t.Errorf("%s %s: %s: %q, want %q", tt.method, tt.path, key, got.Header.Get(key), want)
			}
		}
	}
	if got, body := ask("GET", at+"/"+plain, "", "If-None-Match", `"abc"`); got.StatusCode != 304 || body != "" {
		t.Errorf("If-None-Match: %d %q", got.StatusCode, body)
	}
	// What is no answer about a certificate is kept by nobody.
	for _, tt := range []struct {
		method, path, body string
		answer             []byte
	}{
		{"POST", at, "stranger", []byte{0x30, 3, 0x0a, 1, 6}},
		{"GET", at + "/" + base64.StdEncoding.EncodeToString([]byte("stranger")), "", []byte{0x30, 3, 0x0a, 1, 6}},
		{"GET", at, "", ocspMalformed}, {"GET", at + "/", "", ocspMalformed}, {"GET", at + "/?", "", ocspMalformed}, {"GET", at + "/a%2", "", ocspMalformed}, {"GET", at + "/!!", "", ocspMalformed},
		{"GET", at + "/" + strings.Repeat("a", 8*gateway.MaxOCSPRequest), "", ocspMalformed},
		{"GET", at + "/" + strings.Repeat("a", 2*gateway.MaxOCSPRequest), "", ocspMalformed},
	} {
		r := &http.Request{Method: tt.method, URL: &url.URL{Path: tt.path}, Body: io.NopCloser(strings.NewReader(tt.body))}
		if u, err := url.Parse(tt.path); err == nil {
			r.URL = u
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		got, body := rec.Result(), rec.Body.Bytes()
		if got.StatusCode != 200 || !bytes.Equal(body, tt.answer) || got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Content-Type") != ocspType {
			t.Errorf("%s %.40s: %d %x %v", tt.method, tt.path, got.StatusCode, body, got.Header)
		}
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/ocsp/other/ec", request, 404}, {"POST", "/ocsp/local/rsa", request, 404}, {"POST", "/ocsp/local", request, 404}, {"POST", "/ocsp/local/", request, 404}, {"GET", "/ocsp/", "", 404},
		{"POST", at + "/" + plain, request, 404}, {"PUT", at, request, 405},
		{"POST", at, strings.Repeat("a", gateway.MaxOCSPRequest+1), 413}, {"POST", "/ocsp", request, http.StatusTeapot},
	} {
		if got, _ := ask(tt.method, tt.path, tt.body); got.StatusCode != tt.status || tt.status < 418 && got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: %d, not %d", tt.method, tt.path, got.StatusCode, tt.status)
		}
	}
	clock = now.Add(3*time.Hour - 10*time.Second)
	if got, _ := ask("POST", at, request); got.Header.Get("Cache-Control") != "public, max-age=10, must-revalidate, no-transform" {
		t.Errorf("near its end: %s", got.Header.Get("Cache-Control"))
	}
	s.err = &gateway.Error{Reason: gateway.Unavailable, RetryAfter: 5 * time.Second, Err: errors.New("secret of the CA")}
	if got, body := ask("POST", at, request); got.StatusCode != 200 || body != string(ocspTryLater) || got.Header.Get("Retry-After") != "5" || got.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the CA is away: %d %x %v", got.StatusCode, body, got.Header)
	}
}
