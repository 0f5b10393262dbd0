package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	hidden    = "the-challenge-4711"
	signedBy  = "sixteen bytes or more of a secret"
	bearer    = "a.bearer-token"
	goodReply = `{"allow":true,"reason":"known","list":[{"a":1},{"a":2}]}`
)

type reply struct {
	Allow  *bool           `json:"allow"`
	Reason string          `json:"reason"`
	List   json.RawMessage `json:"list"`
}

type question struct {
	Challenge string `json:"challenge"`
}

// peer is an operator's service.
type peer struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []*http.Request
	bodies []string
	answer func(n int, w http.ResponseWriter, r *http.Request) // n: which one it is, from 0
}

func newPeer(t *testing.T, secure bool, answer func(n int, w http.ResponseWriter, r *http.Request)) *peer {
	t.Helper()
	p := &peer{answer: answer}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		n := len(p.asked)
		p.asked, p.bodies = append(p.asked, r), append(p.bodies, string(body))
		p.mu.Unlock()
		p.answer(n, w, r)
	})
	p.Server = httptest.NewUnstartedServer(handler)
	p.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	if secure {
		p.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func (p *peer) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *peer) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bodies
}

func says(kind, text string) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, text)
	}
}

func file(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// trusting is the configuration of a service at a peer with TLS.
func trusting(t *testing.T, p *peer) (Config, string) {
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	return Config{URL: p.URL + "/validate?tenant=1", CA: file(t, dir, "ca.pem", ca)}, dir
}

func made(t *testing.T, c Config, dir string) *Service {
	t.Helper()
	s, err := New(c, dir)
	if err != nil {
		t.Fatal(err)
	}
	s.pause = func(context.Context, time.Duration) error { return nil }
	return s
}

func (s *Service) test(t *testing.T) (reply, error) {
	t.Helper()
	var a reply
	return a, s.Ask(t.Context(), "key-1", question{hidden}, &a, asking)
}

func asking() bool { return true }

// A question has all that the documentation says, and the answer is read.
func TestAsk(t *testing.T) {
	p := newPeer(t, true, says("application/json; charset=utf-8", goodReply))
	c, dir := trusting(t, p)
	c.TokenFile, c.SecretFile = file(t, dir, "token", []byte(bearer+"\n")), file(t, dir, "secret", []byte(signedBy+"\r\n"))
	key, err := x509.MarshalPKCS8PrivateKey(p.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c.Cert, c.Key = c.CA, file(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	s := made(t, c, dir)
	a, err := s.test(t)
	if err != nil || a.Allow == nil || !*a.Allow || a.Reason != "known" || string(a.List) != `[{"a":1},{"a":2}]` {
		t.Fatalf("%+v, %v", a, err)
	}
	r := p.requests()[0]
	mac := hmac.New(sha256.New, []byte(signedBy))
	mac.Write([]byte(p.said()[0]))
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json", "Authorization": "Bearer " + bearer, "Idempotency-Key": "key-1",
		"Muster-Signature": "sha256=" + hex.EncodeToString(mac.Sum(nil)),
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if r.Method != "POST" || r.URL.String() != "/validate?tenant=1" || p.said()[0] != `{"challenge":"`+hidden+`"}` {
		t.Errorf("%s %s %s", r.Method, r.URL, p.said()[0])
	}
	if len(r.TLS.PeerCertificates) != 1 || r.TLS.Version < tls.VersionTLS12 {
		t.Error("no client certificate came")
	}
	if s.Host() != "127.0.0.1" {
		t.Error(s.Host())
	}
	if text := fmt.Sprintf("%v %+v %#v", s.secret, s.token, s.secret); strings.Contains(text, signedBy) || strings.Contains(text, bearer) {
		t.Error("a secret is printed")
	}
}

// Without the settings nothing of theirs is sent.
func TestAskPlain(t *testing.T) {
	p := newPeer(t, false, says("application/json", `{"allow":false}`))
	a, err := made(t, Config{URL: p.URL}, "").test(t)
	if err != nil || a.Allow == nil || *a.Allow {
		t.Fatalf("%+v, %v", a, err)
	}
	if h := p.requests()[0].Header; h.Get("Authorization") != "" || h.Get("Muster-Signature") != "" {
		t.Error(h)
	}
}

// Whatever is no definite answer is an error, which says what it was and nothing that was said.
func TestNoAnswer(t *testing.T) {
	status := func(code int) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			fmt.Fprint(w, goodReply)
		}
	}
	type row struct {
		answer func(int, http.ResponseWriter, *http.Request)
		want   string
		times  int
	}
	rows := map[string]row{
		"no content": {status(204), "answered 204, not 200", 1},
		"created":    {status(201), "answered 201", 1},
		"forbidden":  {status(403), "answered 403", 1},
		"broken off": {func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{")
		}, "broke off", 2},
		"hung up": {func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", 2},
		"no type": {says("", goodReply), "not application/json", 1},
		"text":    {says("text/plain", goodReply), "not application/json", 1},
		"encoded": {func(n int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			says("application/json", goodReply)(n, w, r)
		}, "Content-Encoding", 1},
		"too large": {says("application/json", `{"reason":"`+strings.Repeat("x", maxAnswer)+`"}`), "larger than 65536", 1},
		"long headers": {func(n int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			says("application/json", goodReply)(n, w, r)
		}, "header", 2},
		"empty": {says("application/json", ""), "not one JSON object", 1},
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		rows[fmt.Sprint(code)] = row{status(code), fmt.Sprintf("answered %d: redirections are not followed", code), 1}
	}
	for _, code := range []int{429, 500, 502, 503, 504} {
		rows[fmt.Sprint(code)] = row{status(code), fmt.Sprintf("answered %d, not 200 (asked 2 times)", code), 2}
	}
	for name, tt := range rows {
		p := newPeer(t, false, tt.answer)
		_, err := made(t, Config{URL: p.URL + "/p?secret-query"}, "").test(t)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "webhook "+p.URL+"/p: ") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(p.requests()) != tt.times || p.said()[0] != p.said()[len(p.said())-1] || p.requests()[0].Header.Get("Idempotency-Key") != p.requests()[tt.times-1].Header.Get("Idempotency-Key") {
			t.Errorf("%s: asked %d times: %q", name, len(p.requests()), p.said())
		}
		if strings.Contains(err.Error(), hidden) || strings.Contains(err.Error(), "secret-query") || strings.Contains(err.Error(), "known") {
			t.Errorf("%s: the error says too much: %v", name, err)
		}
	}
}

// A repetition that fares better counts; how many there are, and how long they wait, is bounded.
func TestRetries(t *testing.T) {
	fails := func(times int) func(int, http.ResponseWriter, *http.Request) {
		return func(n int, w http.ResponseWriter, r *http.Request) {
			if n < times {
				w.WriteHeader(503)
				return
			}
			says("application/json", goodReply)(n, w, r)
		}
	}
	for _, tt := range []struct {
		retries, fails, asked int
		ok                    bool
	}{{0, 0, 1, true}, {0, 1, 1, false}, {1, 1, 2, true}, {1, 2, 2, false}, {3, 3, 4, true}, {3, 9, 4, false}} {
		p := newPeer(t, false, fails(tt.fails))
		s := made(t, Config{URL: p.URL, Retries: &tt.retries}, "")
		var waited []time.Duration
		s.pause = func(_ context.Context, d time.Duration) error { waited = append(waited, d); return nil }
		if _, err := s.test(t); (err == nil) != tt.ok || len(p.requests()) != tt.asked || len(waited) != tt.asked-1 {
			t.Errorf("%+v: %v, asked %d times, waited %v", tt, err, len(p.requests()), waited)
		}
		for i, d := range waited {
			if d != firstPause<<i {
				t.Errorf("%+v: waited %v", tt, waited)
			}
		}
	}
	// There is none when the time is over.
	p := newPeer(t, false, fails(9))
	s := made(t, Config{URL: p.URL}, "")
	s.pause = func(context.Context, time.Duration) error { return context.DeadlineExceeded }
	if _, err := s.test(t); err == nil || len(p.requests()) != 1 {
		t.Errorf("%v, asked %d times", err, len(p.requests()))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if pause(gone, time.Hour) == nil || pause(t.Context(), 1) != nil {
		t.Error("pause")
	}
}

// What comes back may hold what was asked, in a place where no HTTP client looks for it: an error does not quote it.
func TestErrorsQuoteNothing(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	for what, said := range map[string]string{
		"no HTTP": hidden + "\r\n\r\n", "a status": "HTTP/1.1 " + hidden + " x\r\n\r\n", "a version": "HTTP/" + hidden + " 200 OK\r\n\r\n",
		"a header line": "HTTP/1.1 200 OK\r\n" + hidden + "\r\n\r\n", "a length": head + "Content-Length: " + hidden + "\r\n\r\n",
		"an encoding": head + "Transfer-Encoding: " + hidden + "\r\n\r\n", "a chunk": head + "Transfer-Encoding: chunked\r\n\r\n" + hidden + "\r\n\r\n",
		"a trailer": head + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + hidden + "\r\n\r\n",
	} {
		p := newPeer(t, false, func(_ int, w http.ResponseWriter, _ *http.Request) {
			c, out, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = out.WriteString(said)
			_ = out.Flush()
		})
		if _, err := made(t, Config{URL: p.URL}, "").test(t); err == nil || strings.Contains(err.Error(), hidden) || !strings.Contains(err.Error(), "not HTTP") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What an operator can act on is said.
	plain := newPeer(t, false, says("application/json", goodReply))
	c := Config{URL: strings.Replace(plain.URL, "http:", "https:", 1)}
	if _, err := made(t, c, "").test(t); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Error(err)
	}
	plain.Close()
	if _, err := made(t, Config{URL: plain.URL}, "").test(t); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

// A question that may have been heard is put again as often as the configuration says, also where a connection is used again, which
// net/http repeats by itself what bears an Idempotency-Key on.
func TestNoRetriesBehindOnesBack(t *testing.T) {
	p := newPeer(t, false, func(n int, w http.ResponseWriter, r *http.Request) {
		if n > 0 {
			panic(http.ErrAbortHandler)
		}
		says("application/json", goodReply)(n, w, r)
	})
	none := 0
	s := made(t, Config{URL: p.URL, Retries: &none}, "")
	if _, err := s.test(t); err != nil {
		t.Fatal(err)
	}
	if _, err := s.test(t); err == nil || len(p.requests()) != 2 {
		t.Errorf("%v, asked %d times", err, len(p.requests()))
	}
}

// The time-out is the configured one, and covers the wait for a turn, of which there are as many as configured.
func TestTimeoutAndTurns(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	p := newPeer(t, false, func(n int, w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
		says("application/json", goodReply)(n, w, r)
	})
	s := made(t, Config{URL: p.URL, Concurrency: 1, Timeout: 7e9}, "")
	var limit time.Duration
	end := make(chan context.CancelCauseFunc, 2)
	s.deadline = func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
		limit = d
		ctx, cancel := context.WithCancelCause(ctx)
		end <- cancel
		return ctx, func() { cancel(nil) }
	}
	errs := make(chan error)
	ask := func() {
		var a reply
		errs <- s.Ask(t.Context(), "k", question{hidden}, &a, asking)
	}
	go ask()
	<-entered
	<-end
	if limit != 7*time.Second {
		t.Errorf("%v", limit)
	}
	go ask()
	(<-end)(context.DeadlineExceeded)
	if err := <-errs; err == nil || !strings.Contains(err.Error(), "no turn came in time, 1 questions are under way") || len(p.requests()) != 1 {
		t.Errorf("%v, asked %d times", err, len(p.requests()))
	}
	close(release)
	if err := <-errs; err != nil {
		t.Error(err)
	}
	go ask() // the turn is given back
	<-entered
	if err := <-errs; err != nil {
		t.Error(err)
	}
	// A service that does not answer.
	block := make(chan struct{})
	defer close(block)
	slow := newPeer(t, false, func(int, http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-block })
	s = made(t, Config{URL: slow.URL}, "")
	s.deadline = func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
		limit = d
		ctx, cancel := context.WithDeadline(ctx, time.Now().Add(time.Hour))
		go func() { <-entered; cancel() }()
		return ctx, cancel
	}
	if _, err := s.test(t); err == nil || !errors.Is(err, context.Canceled) || limit != 5*time.Second {
		t.Errorf("%v, %v", err, limit)
	}
	s.deadline = func(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
		return context.WithDeadline(ctx, time.Now().Add(-1))
	}
	s.turns = make(chan struct{}, 9)
	if _, err := s.test(t); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A name leads into the operator's own network by leave only; an address in the URL is the operator's word.
func TestAddresses(t *testing.T) {
	p := newPeer(t, true, says("application/json", goodReply))
	c, dir := trusting(t, p)
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	for _, tt := range []struct {
		host    string
		leads   []string
		private bool
		want    string // "": it is connected to
	}{
		{"example.com", []string{"192.0.2.1"}, false, ""},
		{"example.com", []string{"2001:db8::1"}, false, ""},
		{"example.com", []string{"127.0.0.1"}, false, "127.0.0.1, a private one: say `private: true`"},
		{"example.com", []string{"127.0.0.1"}, true, ""},
		{"example.com", []string{"192.0.2.1", "10.0.0.1"}, false, "10.0.0.1, a private one"},
		{"example.com", []string{"10.0.0.1"}, true, ""},
		{"example.com", []string{"172.16.0.1"}, false, "private"}, {"example.com", []string{"192.168.1.1"}, false, "private"},
		{"example.com", []string{"169.254.169.254"}, false, "private"}, {"example.com", []string{"100.64.0.1"}, false, "private"},
		{"example.com", []string{"0.1.2.3"}, false, "private"}, {"example.com", []string{"64:ff9b::a00:1"}, false, "private"},
		{"example.com", []string{"::1"}, false, "private"}, {"example.com", []string{"fd00::1"}, false, "private"}, {"example.com", []string{"fe80::1%eth0"}, false, "private"},
		{"example.com", []string{"::ffff:10.0.0.1"}, false, "private"}, {"example.com", []string{"::7f00:1"}, false, "private"},
		{"example.com", []string{"2002:7f00:1::"}, false, "private"}, {"example.com", []string{"fec0::1"}, false, "private"},
		{"example.com", []string{"198.18.0.1"}, false, "private"}, {"example.com", []string{"192.0.0.1"}, false, "private"}, {"example.com", []string{"255.255.255.255"}, false, "private"},
		{"example.com", []string{"0.0.0.0"}, true, "leads to 0.0.0.0"}, {"example.com", []string{"::"}, true, "leads to ::"},
		{"example.com", []string{"224.0.0.1"}, true, "leads to 224.0.0.1"}, {"example.com", []string{"ff02::1"}, true, "leads to ff02::1"},
		{"example.com", nil, true, "no address"},
		{"localhost", []string{"127.0.0.1", "::1"}, false, ""},
		{"localhost", []string{"192.0.2.1"}, true, "localhost is 192.0.2.1"},
		{"127.0.0.1", nil, false, ""},
	} {
		c.URL, c.Private = "https://"+tt.host+":"+port, tt.private
		s := made(t, c, dir)
		s.client.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
		s.lookup = func(_ context.Context, _, host string) (ips []netip.Addr, err error) {
			if host != tt.host {
				t.Errorf("%s was looked up", host)
			}
			for _, ip := range tt.leads {
				ips = append(ips, netip.MustParseAddr(ip))
			}
			return ips, nil
		}
		s.pause = func(context.Context, time.Duration) error {
			if len(tt.leads) > 0 {
				t.Errorf("%s %v: asked again", tt.host, tt.leads) // which changes nothing
			}
			return nil
		}
		connected := 0
		s.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
			connected++
			return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
		}
		_, err := s.test(t)
		if tt.want == "" && (err != nil || connected != 1) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || connected != 0) {
			t.Errorf("%s %v, private %v: %v, connected %d times", tt.host, tt.leads, tt.private, err, connected)
		}
	}
	// Further addresses are tried.
	c.URL = "https://example.com:" + port
	s := made(t, c, dir)
	s.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil
	}
	s.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.0.2.1:") {
			return nil, errors.New("refused")
		}
		return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
	}
	if _, err := s.test(t); err != nil {
		t.Error(err)
	}
	// The name has to be the certificate's.
	c.URL = "https://elsewhere.test:" + port
	bad := made(t, c, dir)
	bad.lookup, bad.connect = s.lookup, s.connect
	if _, err := bad.test(t); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another's certificate: %v", err)
	}
	// And the certificate one of the CA's that is configured.
	c.URL, c.CA = p.URL, ""
	if _, err := made(t, c, dir).test(t); err == nil || !strings.Contains(err.Error(), "certificate") || len(p.requests()) == 0 {
		t.Errorf("the system's CAs: %v", err)
	}
}

// No proxy of the environment is told anything.
func TestNoProxy(t *testing.T) {
	s := made(t, Config{URL: "https://example.com"}, "")
	if s.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy")
	}
}

// An answer has one meaning, or none.
func TestDecode(t *testing.T) {
	for text, want := range map[string]error{
		`{"allow":true}`: nil, ` {"allow":true} ` + "\n": nil, goodReply: nil, `{}`: nil, `{"allow":null}`: nil,
		`{"list":{"Allow":1,"deep":[[[[[1]]]]]}}`: nil,
		``:                                  errForm,
		`true`:                              errForm,
		`[{"allow":true}]`:                  errForm,
		`{"allow":true`:                     errForm,
		`{"allow":true}{}`:                  errForm,
		`{"allow":true}x`:                   errForm,
		`{"allow":true}}`:                   errForm,
		`{"allow":"true"}`:                  errForm,
		`{"allow":1}`:                       errForm,
		`{"allow":true,}`:                   errForm,
		`{'allow':true}`:                    errForm,
		`{"reason":1}`:                      errForm,
		`{"allow":true,"more":1}`:           errUnknown,
		`{"Allow":true}`:                    errUnknown,
		`{"ALLOW":true}`:                    errUnknown,
		`{"allow":false,"allow":true}`:      errTwice,
		`{"allow":false,"\u0061llow":true}`: errTwice,
		`{"list":{"a":1,"a":2}}`:            errTwice,
		`{"list":[[[[[[[[1]]]]]]]]}`:        errDepth,
		`{"list":` + strings.Repeat("[", 30000) + `}`: errDepth,
		"{\"allow\":true,\"reason\":\"\xff\"}":        errText,
	} {
		var a reply
		if err := decode([]byte(text), &a); !errors.Is(err, want) || (err != nil) != (want != nil) {
			t.Errorf("%.80s: %v, want %v", text, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(goodReply))
	f.Add([]byte(`{"list":[[{"a":{}}]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b reply
		if decode(data, &a) != nil {
			return
		}
		// What is taken, any other reader takes for the same.
		if err := json.Unmarshal(data, &b); err != nil || (a.Allow == nil) != (b.Allow == nil) || a.Allow != nil && *a.Allow != *b.Allow {
			t.Errorf("%q: %v", data, err)
		}
	})
}

// A question has bounds too.
func TestQuestionSize(t *testing.T) {
	p := newPeer(t, false, says("application/json", goodReply))
	s := made(t, Config{URL: p.URL}, "")
	var a reply
	if err := s.Ask(t.Context(), "k", question{strings.Repeat("x", maxQuestion)}, &a, asking); err == nil || !strings.Contains(err.Error(), "1048576 are sent") || len(p.requests()) != 0 {
		t.Errorf("%.200v", err)
	}
	if err := s.Ask(t.Context(), "k", func() {}, &a, asking); err == nil {
		t.Error("a question that cannot be encoded")
	}
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	file(t, dir, "short", []byte("fifteen bytes.."))
	file(t, dir, "spaced", []byte("a token"))
	file(t, dir, "empty", nil)
	file(t, dir, "long", []byte(strings.Repeat("x", 1025)))
	file(t, dir, "good", []byte(signedBy))
	file(t, dir, "open", []byte(signedBy))
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	retries := func(n int) *int { return &n }
	const at = "https://example.com/"
	for want, c := range map[string]Config{
		"url: where the service is":           {},
		"url: not a URL":                      {URL: "https://example.com:x" + hidden},
		"url: want https":                     {URL: "ftp://example.com"},
		"url: want https://HOST":              {URL: "https:///validate"},
		"url: no user":                        {URL: "https://u:" + hidden + "@example.com"},
		"url: no fragment":                    {URL: at + "#x"},
		"url: http is for loopback":           {URL: "http://192.0.2.1/"},
		"url: http is for loopback addresses": {URL: "http://localhost.example.com/"},
		"ca, cert and key are for https":      {URL: "http://127.0.0.1/", CA: "good"},
		"ca: stat":                            {URL: at, CA: "absent"},
		"ca: good: no certificate":            {URL: at, CA: "good"},
		"cert and key belong":                 {URL: at, Cert: "good"},
		"cert, key:":                          {URL: at, Cert: "good", Key: "good"},
		"key: open has mode 0644":             {URL: at, Cert: "good", Key: "open"},
		"token-file: open has mode":           {URL: at, TokenFile: "open"},
		"token-file: empty has 0 bytes":       {URL: at, TokenFile: "empty"},
		"token-file: a token is printable":    {URL: at, TokenFile: "spaced"},
		"secret-file: short has 15 bytes":     {URL: at, SecretFile: "short"},
		"secret-file: long has 1025 bytes":    {URL: at, SecretFile: "long"},
		"secret-file: open has mode":          {URL: at, SecretFile: "open"},
		"timeout:":                            {URL: at, Timeout: 99e6},
		"timeout: 100ms to 30s":               {URL: at, Timeout: 31e9},
		"retries: 0 to 3":                     {URL: at, Retries: retries(4)},
		"retries:":                            {URL: at, Retries: retries(-1)},
		"concurrency: 1 to 256":               {URL: at, Concurrency: 257},
		"concurrency:":                        {URL: at, Concurrency: -1},
	} {
		if s, err := New(c, dir); s != nil || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), hidden) || strings.Contains(err.Error(), signedBy) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	for _, u := range []string{"http://127.0.0.1:9/x", "http://[::1]:9/x", "http://localhost/x", "http://127.8.0.1/", "https://192.168.0.1/", at + "?a=b"} {
		if _, err := New(Config{URL: u}, dir); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}
