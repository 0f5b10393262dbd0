package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func says(word string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, word) })
}

// apply makes a change that must succeed.
func apply(t *testing.T, s *Set, specs map[string]Spec) {
	t.Helper()
	c, err := s.Prepare(specs)
	if err != nil {
		t.Fatal(err)
	}
	c.Commit(t.Context())
}

func get(t *testing.T, client *http.Client, url string) (string, *http.Response) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), res
}

func drain(t *testing.T, s *Set) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Error(err)
	}
}

func TestSetKeepsWhatDidNotChange(t *testing.T) {
	s := NewSet(quiet())
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("one")}, "b": {Address: "127.0.0.1:0", Handler: says("b")}})
	before := s.Addrs()
	client := &http.Client{Transport: &http.Transport{}}
	if body, _ := get(t, client, "http://"+before["a"].String()); body != "one" {
		t.Errorf("a says %q", body)
	}
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("two")}, "c": {Address: "127.0.0.1:0", Handler: says("c")}})
	after := s.Addrs()
	if after["a"].String() != before["a"].String() || len(after) != 2 {
		t.Errorf("addresses %v, then %v", before, after)
	}
	// The connection that was open is kept and gets the new handler.
	if body, _ := get(t, client, "http://"+after["a"].String()); body != "two" {
		t.Errorf("a says %q after the change", body)
	}
	if body, _ := get(t, client, "http://"+after["c"].String()); body != "c" {
		t.Errorf("c says %q", body)
	}
	client.CloseIdleConnections()
	// Its number is not the same configuration as port 0, and the port is taken.
	if _, err := s.Prepare(map[string]Spec{"a": {Address: before["a"].String(), Handler: says("x")}}); err == nil {
		t.Error("port 0 was taken for its number")
	}
}

func TestSetKeepsARenamedSocket(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	s := NewSet(quiet())
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: addr, Handler: says("one")}})
	apply(t, s, map[string]Spec{"b": {Address: addr, Handler: says("two")}})
	if body, _ := get(t, http.DefaultClient, "http://"+addr); body != "two" || len(s.Addrs()) != 1 {
		t.Errorf("%q, %v", body, s.Addrs())
	}
}

func TestSetChangesNothingOnError(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := NewSet(quiet())
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("one")}})
	_, err = s.Prepare(map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("two")}, "z": {Address: taken.Addr().String(), Handler: says("z")}})
	if err == nil || !strings.Contains(err.Error(), "listener z") {
		t.Fatalf("a taken port: %v", err)
	}
	if body, _ := get(t, http.DefaultClient, "http://"+s.Addrs()["a"].String()); body != "one" {
		t.Errorf("a says %q after a failed change", body)
	}
	c, err := s.Prepare(map[string]Spec{"b": {Address: "127.0.0.1:0", Handler: says("b")}})
	if err != nil {
		t.Fatal(err)
	}
	b := c.Addr("b").String()
	c.Abort()
	if conn, err := net.Dial("tcp", b); err == nil {
		conn.Close()
		t.Error("an aborted listener still accepts")
	}
	if body, _ := get(t, http.DefaultClient, "http://"+s.Addrs()["a"].String()); body != "one" {
		t.Errorf("a says %q after an aborted change", body)
	}
}

func TestSetTurnsTLSOnInPlace(t *testing.T) {
	s := NewSet(quiet())
	defer drain(t, s)
	ca := newTestCA(t)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("plain")}})
	addr := s.Addrs()["a"].String()
	cfg := policyOf(t, &TLS{}, ca)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", TLS: cfg, Handler: says("secret")}})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	body, res := get(t, client, "https://"+addr)
	if body != "secret" || res.Proto != "HTTP/1.1" {
		t.Errorf("%q over %s", body, res.Proto)
	}
	if body, res := get(t, http.DefaultClient, "http://"+addr); res.StatusCode != http.StatusBadRequest || strings.Contains(body, "secret") {
		t.Errorf("HTTP on the TLS listener: %d %q", res.StatusCode, body)
	}
}

func TestDrainWaitsThenCuts(t *testing.T) {
	for _, patient := range []bool{true, false} {
		s := NewSet(quiet())
		began, finish := make(chan struct{}), make(chan struct{})
		apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(began)
			select {
			case <-finish:
				io.WriteString(w, "done")
			case <-r.Context().Done():
			}
		})}})
		addr := s.Addrs()["a"].String()
		answer := make(chan string, 1)
		go func() {
			res, err := http.Get("http://" + addr)
			if err != nil {
				answer <- "cut"
				return
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			answer <- string(body)
		}()
		<-began
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Drain(ctx) }()
		// Draining has begun once nobody new is let in.
		for {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				break
			}
			c.Close()
		}
		if patient {
			close(finish)
			if err, got := <-ended, <-answer; err != nil || got != "done" {
				t.Errorf("drained with %v, the client got %q", err, got)
			}
		} else {
			cancel()
			if err, got := <-ended, <-answer; !errors.Is(err, context.Canceled) || got != "cut" {
				t.Errorf("cut with %v, the client got %q", err, got)
			}
		}
		cancel()
	}
}

func TestPanicEndsOneConnectionAndIsLogged(t *testing.T) {
	var mu sync.Mutex
	var log strings.Builder
	s := NewSet(slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil)))
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("ouch")
		}
		io.WriteString(w, "fine")
	})}})
	url := "http://" + s.Addrs()["a"].String()
	if res, err := http.Get(url + "/panic"); err == nil {
		res.Body.Close()
		t.Error("a panic was answered")
	}
	if body, _ := get(t, http.DefaultClient, url); body != "fine" {
		t.Errorf("afterwards: %q", body)
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(log.String(), "ouch") {
		t.Errorf("the log does not tell: %s", &log)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestHealth(t *testing.T) {
	var failing error
	s := NewSet(quiet())
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: Health(func(context.Context) error { return failing }, quiet(), says("next"))}})
	url := "http://" + s.Addrs()["a"].String()
	check := func(path string, status int, body string) {
		t.Helper()
		if got, res := get(t, http.DefaultClient, url+path); res.StatusCode != status || got != body {
			t.Errorf("%s: %d %q, want %d %q", path, res.StatusCode, got, status, body)
		}
	}
	check("/healthz", 200, "ok\n")
	check("/readyz", 200, "ok\n")
	check("/other", 200, "next")
	failing = errors.New("the disk is full")
	check("/healthz", 200, "ok\n")
	check("/readyz", 503, "not ready\n")
	failing = errors.Join(&NotReady{"requests cannot be recorded", failing}, &NotReady{"a CA cannot issue", failing}, &NotReady{"a CA cannot issue", failing})
	check("/readyz", 503, "not ready: requests cannot be recorded; a CA cannot issue\n")
	failing = &NotReady{"it is stopping", ErrStopping}
	check("/readyz", 503, "not ready: it is stopping\n")
	res, err := http.Post(url+"/readyz", "", nil)
	if err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", res, err)
	}
}

func TestListenerCheck(t *testing.T) {
	for _, tc := range []struct {
		l    Listener
		want string
	}{
		{Listener{Address: "127.0.0.1:8080"}, ""},
		{Listener{Address: ":0", TLS: &TLS{}}, ""},
		{Listener{Address: "[::1]:8443", TLS: &TLS{Min: "1.2", Max: "1.3"}}, ""},
		{Listener{Address: "127.0.0.1"}, "host:port"},
		{Listener{Address: "127.0.0.1:99999"}, "not a port"},
		{Listener{Address: "*:80"}, "every interface"},
		{Listener{Address: ":80", Connections: -1}, "negative"},
		{Listener{Address: ":80", TLS: &TLS{Cert: "x"}}, "belong together"},
		{Listener{Address: ":80", TLS: &TLS{Key: "x"}}, "belong together"},
		{Listener{Address: ":80", TLS: &TLS{Min: "1.1"}}, "tls.min must be"},
		{Listener{Address: ":80", TLS: &TLS{Max: "2"}}, "tls.max must be"},
		{Listener{Address: ":80", TLS: &TLS{Min: "1.3", Max: "1.2"}}, "above"},
		{Listener{Address: ":80", TLS: &TLS{Min: "1.3", Suites: []string{"ECDHE_ECDSA_AES_128_CBC_SHA256"}}}, "TLS 1.2's"},
		{Listener{Address: ":80", TLS: &TLS{Suites: []string{"TLS_RSA_WITH_RC4_128_SHA"}}}, "is not a TLS 1.2 suite"},
		{Listener{Address: ":80", TLS: &TLS{Max: "1.2", Suites: []string{"ECDHE_RSA_AES_128_GCM_SHA256"}}}, "tls.suites: none of them works with the gateway's own"},
		{Listener{Address: ":80", TLS: &TLS{Suites: []string{"ECDHE_RSA_AES_128_GCM_SHA256"}}}, ""},
		{Listener{Address: ":80", TLS: &TLS{Max: "1.2", Suites: []string{"ECDHE_RSA_AES_128_GCM_SHA256", "ECDHE_ECDSA_AES_128_GCM_SHA256"}}}, ""},
		{Listener{Address: ":80", TLS: &TLS{Cert: "x", Key: "x", Max: "1.2", Suites: []string{"ECDHE_RSA_AES_128_GCM_SHA256"}}}, ""},
		{Listener{Address: ":80", TLS: &TLS{Suites: []string{"TLS_RSA_WITH_AES_128_GCM_SHA256"}}}, "is not a TLS 1.2 suite"},
		{Listener{Address: ":80", TLS: &TLS{Suites: []string{"ECDHE_ECDSA_AES_128_CBC_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"}}}, "stands twice"},
	} {
		err := tc.l.Check()
		if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.l, err, tc.want)
		}
	}
}

func TestTLSPolicy(t *testing.T) {
	ca := newTestCA(t)
	client := ca.issue(t, "device")
	stranger := newTestCA(t).issue(t, "stranger")
	s := NewSet(quiet())
	defer drain(t, s)
	seen := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
		}
	})
	specs := map[string]Spec{}
	for name, l := range map[string]*TLS{
		"plain": {}, "modern": {Min: "1.3"}, "old": {Max: "1.2"}, "mef": {Max: "1.2", Suites: []string{"ECDHE_ECDSA_AES_128_CBC_SHA256"}},
	} {
		specs[name] = Spec{Address: "127.0.0.1:0", TLS: policyOf(t, l, ca), Handler: seen}
	}
	apply(t, s, specs)
	for _, tc := range []struct {
		name     string
		listener string
		cfg      *tls.Config
		version  uint16
		suite    uint16
		peer     string
		fails    bool
	}{
		{name: "default", listener: "plain", version: tls.VersionTLS13},
		{name: "1.2 where both are spoken", listener: "plain", cfg: &tls.Config{MaxVersion: tls.VersionTLS12}, version: tls.VersionTLS12},
		{name: "1.1 nowhere", listener: "plain", cfg: &tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}, fails: true},
		{name: "1.2 at a 1.3 listener", listener: "modern", cfg: &tls.Config{MaxVersion: tls.VersionTLS12}, fails: true},
		{name: "1.3 at a 1.2 listener", listener: "old", cfg: &tls.Config{MinVersion: tls.VersionTLS13}, fails: true},
		{name: "CBC is off unless asked for", listener: "old", cfg: &tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}}, fails: true},
		{name: "oneM2M's suite", listener: "mef", cfg: &tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}, NextProtos: []string{"h2", "http/1.1"}}, version: tls.VersionTLS12, suite: tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256},
		{name: "client certificate", listener: "plain", cfg: &tls.Config{Certificates: []tls.Certificate{client}}, version: tls.VersionTLS13, peer: "device"},
		// Not in the list of CAs: a client that sends it all the same is heard, and judged by the endpoint.
		{name: "unknown CA", listener: "plain", cfg: &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }}, version: tls.VersionTLS13, peer: "stranger"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := tc.cfg.Clone()
			if cfg == nil {
				cfg = &tls.Config{}
			}
			cfg.RootCAs = ca.pool()
			hc := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}}
			defer hc.CloseIdleConnections()
			res, err := hc.Get("https://" + s.Addrs()[tc.listener].String())
			if tc.fails {
				if err == nil {
					t.Fatalf("connected with %s", tls.VersionName(res.TLS.Version))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if res.TLS.Version != tc.version || tc.suite != 0 && res.TLS.CipherSuite != tc.suite || string(body) != tc.peer || res.Proto != "HTTP/1.1" {
				t.Errorf("%s %s, peer %q, %s", tls.VersionName(res.TLS.Version), tls.CipherSuiteName(res.TLS.CipherSuite), body, res.Proto)
			}
		})
	}

	var named [][]byte
	cfg := &tls.Config{RootCAs: ca.pool(), GetClientCertificate: func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		named = i.AcceptableCAs
		return &tls.Certificate{}, nil
	}}
	conn, err := tls.Dial("tcp", s.Addrs()["plain"].String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if len(named) != 1 || string(named[0]) != string(ca.cert.RawSubject) {
		t.Errorf("the server names %d CAs", len(named))
	}
}

func policyOf(t *testing.T, l *TLS, ca *testCA) *tls.Config {
	t.Helper()
	own := ca.issue(t, "server")
	cfg, err := l.Policy(t.TempDir(), func() *tls.Certificate { return &own }, []*x509.Certificate{ca.cert}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
