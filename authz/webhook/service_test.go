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
	"net/http"
	"net/http/httptest"
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
	return a, s.Ask(t.Context(), "", "key-1", question{hidden}, &a, asking)
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
	old := newPeer(t, true, says("application/json", goodReply))
	c, dir := trusting(t, old)
	s := made(t, c, dir)
	s.client.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS13
	old.TLS.MaxVersion = tls.VersionTLS12
	if _, err := s.test(t); err == nil || !strings.Contains(err.Error(), "tls: ") {
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
		errs <- s.Ask(t.Context(), "", "k", question{hidden}, &a, asking)
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
	s.turns = newTurns(9)
	if _, err := s.test(t); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A question has bounds too.
func TestQuestionSize(t *testing.T) {
	p := newPeer(t, false, says("application/json", goodReply))
	s := made(t, Config{URL: p.URL}, "")
	var a reply
	if err := s.Ask(t.Context(), "", "k", question{strings.Repeat("x", maxQuestion)}, &a, asking); err == nil || !strings.Contains(err.Error(), "1048576 are sent") || len(p.requests()) != 0 {
		t.Errorf("%.200v", err)
	}
	if err := s.Ask(t.Context(), "", "k", func() {}, &a, asking); err == nil {
		t.Error("a question that cannot be encoded")
	}
}
