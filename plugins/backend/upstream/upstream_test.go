package upstream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Where a CA is and who is asking is told wrongly in these ways.
func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		c     Config
		plain bool
		want  string
	}{
		"https":             {Config{URL: "https://ca.example:8443/pki"}, false, ""},
		"http":              {Config{URL: "http://ca.example"}, false, "wants https: what is said"},
		"http where it may": {Config{URL: "http://ca.example"}, true, ""},
		"another scheme":    {Config{URL: "ftp://ca.example"}, true, "wants https"},
		"no host":           {Config{URL: "https:///pki"}, false, "wants https://HOST"},
		"none":              {Config{URL: "ca.example"}, false, "wants https://HOST"},
		"a password":        {Config{URL: "https://u:hidden@ca.example"}, false, "wants https://HOST"},
		"a query":           {Config{URL: "https://ca.example?token=hidden"}, false, "wants https://HOST"},
		"a fragment":        {Config{URL: "https://ca.example#hidden"}, false, "wants https://HOST"},
		"no URL":            {Config{URL: "https://%zz.hidden"}, false, "wants https://HOST"},
		"a key alone":       {Config{URL: "https://ca.example", Key: "a"}, false, "go together"},
		"a cert alone":      {Config{URL: "https://ca.example", Cert: "a"}, false, "go together"},
		"both":              {Config{URL: "https://ca.example", Cert: "a", Key: "b"}, false, ""},
		"an hour":           {Config{URL: "https://ca.example", Timeout: strictyaml.Duration(time.Hour)}, false, "at most 10m"},
		"negative":          {Config{URL: "https://ca.example", Timeout: strictyaml.Duration(-1)}, false, "at most 10m"},
	} {
		err := tc.c.Check(tc.plain)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// A configuration embeds it, with the same strictness and the same keys as if they stood there.
func TestInline(t *testing.T) {
	type file struct {
		Config `yaml:",inline"`
		Role   string `yaml:"role"`
	}
	var f file
	if err := strictyaml.Decode("c.yaml", []byte("url: https://ca.example\nca: a.pem\ntimeout: 30s\nrole: b\n"), &f); err != nil || f.URL != "https://ca.example" || f.CA != "a.pem" || f.Timeout != strictyaml.Duration(30*time.Second) || f.Role != "b" {
		t.Errorf("%+v, %v", f, err)
	}
	for text, want := range map[string]string{"role: b\n": "url", "url: https://a\ntimout: 3s\n": `did you mean "timeout"`} {
		if err := strictyaml.Decode("c.yaml", []byte(text), &f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A secret is its owner's alone, and bounded; what it is stands in no error.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct{ path, want, err string }{
		"whitespace at its ends": {file("a", " \n hidden words\n\n", 0o600), "hidden words", ""},
		"read-only":              {file("b", "hidden", 0o400), "hidden", ""},
		"for the group":          {file("c", "hidden", 0o640), "", "chmod 600"},
		"for others":             {file("d", "hidden", 0o604), "", "chmod 600"},
		"too large":              {file("e", strings.Repeat("hidden", 20000), 0o600), "", "larger than 65536"},
		"missing":                {filepath.Join(dir, "f"), "", "no such file"},
		"a folder":               {dir, "", ""},
	} {
		got, err := Secret(tc.path)
		if tc.want != "" {
			if err != nil || string(got) != tc.want {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			continue
		}
		if err == nil || got != nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// pair makes a certificate and its key, PEM, signed by itself.
func pair(t *testing.T, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func write(t *testing.T, path string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve is a CA behind TLS, and a client's configuration that trusts it.
func serve(t *testing.T, http2 bool, h http.HandlerFunc) (*httptest.Server, *Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = http2
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := write(t, filepath.Join(t.TempDir(), "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	return s, &Config{URL: s.URL + "/", CA: ca}
}

func client(t *testing.T, c *Config) *Client {
	t.Helper()
	got, err := c.New()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func post(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader("a request"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asked is how a call ended: the error's code, and whether it proves that the CA did nothing.
func asked(err error) string {
	s := status.Code(err).String()
	if backend.Definite(err) {
		s += ", definite"
	}
	return s
}

// What an error of Do proves: that nothing was asked, if no connection was there, and else nothing at all.
func TestDo(t *testing.T) {
	const secret = "hidden-token"
	die := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // it is over
		panic(http.ErrAbortHandler)
	}
	for _, http2 := range []bool{false, true} {
		var arrived atomic.Int32
		var answer http.HandlerFunc
		s, config := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			arrived.Add(1)
			answer(w, r)
		})
		c := client(t, config)
		for name, tc := range map[string]struct {
			answer http.HandlerFunc
			limit  int64
			want   string
		}{
			"answered": {func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusCreated)
				io.WriteString(w, "an answer") //nolint:errcheck // the client sees
			}, 9, "OK"},
			"too large": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "an answer") }, 8, "Internal"}, //nolint:errcheck // the client sees
			"dies":      {die, 100, "Unavailable"},
			"cut off": {func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "9")
				io.WriteString(w, "an")
				panic(http.ErrAbortHandler)
			}, 100, "Unavailable"}, //nolint:errcheck // the client sees
			"sends elsewhere": {func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, s.URL+"/elsewhere", http.StatusTemporaryRedirect)
			}, 1000, "OK"},
		} {
			answer = tc.answer
			before := arrived.Load()
			got, err := c.Do(t.Context(), post(t, c.URL("/sign?token="+secret)), tc.limit)
			if asked(err) != tc.want || arrived.Load() != before+1 || err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("HTTP/2 %t, %s: %v (%s), asked %d times", http2, name, err, asked(err), arrived.Load()-before)
			}
			switch {
			case name == "answered" && (got.Status != http.StatusCreated || string(got.Body) != "an answer"):
				t.Errorf("%+v", got)
			case name == "sends elsewhere" && (got.Status != http.StatusTemporaryRedirect || asked(got.Refused("")) != "Unavailable"):
				t.Errorf("%+v, %v", got, got.Refused(""))
			}
		}
		// One that answers late: the client has gone, and does not know.
		waits, gone := make(chan struct{}), make(chan struct{})
		answer = func(w http.ResponseWriter, r *http.Request) { close(waits); <-gone }
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-waits; cancel() }()
		if _, err := c.Do(ctx, post(t, c.URL("/sign?token="+secret)), 10); asked(err) != "Unavailable" || strings.Contains(err.Error(), secret) {
			t.Errorf("HTTP/2 %t, late: %v", http2, err)
		}
		close(gone)
		// Nothing is asked of whom nobody reaches or trusts, nor when the caller has gone before.
		before := arrived.Load()
		stranger, other := pair(t, "another CA")
		_ = other
		config.CA = write(t, filepath.Join(t.TempDir(), "other.pem"), stranger)
		c = client(t, config)
		if _, err := c.Do(t.Context(), post(t, c.URL("/sign?token="+secret)), 10); asked(err) != "ResourceExhausted, definite" || strings.Contains(err.Error(), secret) {
			t.Errorf("not trusted: %v", err)
		}
		if _, err := c.Do(ctx, post(t, c.URL("/sign?token="+secret)), 10); asked(err) != "ResourceExhausted, definite" {
			t.Errorf("cancelled before: %v", err)
		}
		if arrived.Load() != before {
			t.Error("it was asked")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, &Config{URL: "https://" + l.Addr().String()})
	l.Close()
	if _, err := c.Do(t.Context(), post(t, c.URL("/sign?token="+secret)), 10); asked(err) != "ResourceExhausted, definite" || strings.Contains(err.Error(), secret) {
		t.Errorf("nobody listens: %v", err)
	}
	if wait, ok := backend.RetryAfter(NotAsked(errors.New("x"))); !ok || wait != retryUnreached {
		t.Errorf("again in %s", wait)
	}
}

// A call has its time, answer included.
func TestTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: DefaultTimeout, 3 * time.Minute: 3 * time.Minute} {
		if got := client(t, &Config{URL: "https://a", Timeout: strictyaml.Duration(timeout)}).http.Timeout; got != want {
			t.Errorf("%s: %s", timeout, got)
		}
	}
}

// A status tells what the CA did, as far as it is the CA's; its words are cut, on one line.
func TestRefused(t *testing.T) {
	for code, want := range map[int]string{
		400: "InvalidArgument, definite", 401: "PermissionDenied, definite", 403: "PermissionDenied, definite", 404: "InvalidArgument, definite",
		408: "Unavailable", 422: "InvalidArgument, definite", 429: "ResourceExhausted, definite",
		200: "Unavailable", 204: "Unavailable", 302: "Unavailable", 500: "Unavailable", 502: "Unavailable", 503: "Unavailable", 504: "Unavailable",
	} {
		a := &Answer{Status: code, Header: http.Header{}}
		err := a.Refused("  no\r\n\x1b[31mway\u2028 ")
		if asked(err) != want || !strings.HasSuffix(err.Error(), ": no [31mway") {
			t.Errorf("%d: %q (%s), want %s", code, err, asked(err), want)
		}
	}
	long := (&Answer{Status: 400}).Refused(strings.Repeat("\u00e9", 5000)).Error()
	if len(long) > maxSaid+100 || !strings.HasSuffix(long, "...") {
		t.Errorf("%d bytes", len(long))
	}
	if got := (&Answer{Status: 418}).Refused(" ").Error(); !strings.HasSuffix(got, "HTTP 418") {
		t.Error(got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 5 * time.Second, "soon": 5 * time.Second, "30": 30 * time.Second, "0": time.Second, "-3": time.Second, "99999999": time.Hour, "99999999999999999999": 5 * time.Second,
		"Sun, 01 Mar 2026 12:02:00 GMT": 2 * time.Minute, "Sun, 01 Mar 2026 11:00:00 GMT": time.Second, "Mon, 02 Mar 2026 12:00:00 GMT": time.Hour,
	} {
		a := &Answer{Status: 429, Header: http.Header{"Retry-After": {text}}}
		if got := a.RetryAfter(5*time.Second, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	a := &Answer{Status: 429, Header: http.Header{"Retry-After": {"30"}}}
	if wait, ok := backend.RetryAfter(a.Refused("")); !ok || wait != 30*time.Second {
		t.Errorf("%s", wait)
	}
}

// A client certificate that is replaced on disk is used from the next connection on, and one that others may read is not.
func TestClientCertificate(t *testing.T) {
	var seen atomic.Value
	_, config := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		name := ""
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		seen.Store(name)
	})
	dir := t.TempDir()
	config.Cert, config.Key = filepath.Join(dir, "ra.pem"), filepath.Join(dir, "ra.key")
	if _, err := config.New(); err == nil || !strings.Contains(err.Error(), "key: ") {
		t.Errorf("no files: %v", err)
	}
	place := func(name string) (key []byte) {
		cert, key := pair(t, name)
		write(t, config.Cert, cert)
		write(t, config.Key, key)
		return key
	}
	key := place("first")
	c := client(t, config)
	ask := func() error {
		_, err := c.Do(t.Context(), post(t, c.URL("/")), 10)
		return err
	}
	for _, name := range []string{"first", "second"} {
		if name != "first" {
			key = place(name)
		}
		if err := ask(); err != nil || seen.Load() != name {
			t.Errorf("%v, seen %v, want %s", err, seen.Load(), name)
		}
	}
	hides := func(err error) bool { return !bytes.Contains([]byte(err.Error()), key[40:80]) }
	if err := os.Chmod(config.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ask(); asked(err) != "ResourceExhausted, definite" || !strings.Contains(err.Error(), "chmod 600") || !hides(err) {
		t.Errorf("for all to read: %v", err)
	}
	if _, err := config.New(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("for all to read: %v", err)
	}
	if err := os.Chmod(config.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	_, other := pair(t, "other")
	write(t, config.Key, other)
	if err := ask(); asked(err) != "ResourceExhausted, definite" || !hides(err) {
		t.Errorf("another's key: %v", err)
	}
	for text, want := range map[string]string{"": "has no PEM certificate", "missing": "ca: "} {
		own := &Config{URL: "https://a", CA: filepath.Join(dir, text+"ca.pem")}
		if text == "" {
			write(t, own.CA, []byte("none"))
		}
		if _, err := own.New(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
