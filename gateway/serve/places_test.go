package serve

import (
	"bufio"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// holding answers /hold when it is released, and what else comes at once, after its body.
type holding struct {
	began chan struct{}
	end   chan struct{}
	once  sync.Once
}

func newHolding() *holding {
	return &holding{began: make(chan struct{}, 100), end: make(chan struct{})}
}

func (h *holding) release() { h.once.Do(func() { close(h.end) }) }

func (h *holding) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/hold" {
		if r.ContentLength > 0 {
			h.began <- struct{}{}
		}
		io.Copy(io.Discard, r.Body)
		return
	}
	h.began <- struct{}{}
	io.Copy(io.Discard, r.Body)
	<-h.end
}

// ask opens a connection from 127.0.0.1 and sends a request for path.
func ask(t *testing.T, addr, path string) net.Conn {
	t.Helper()
	return from(t, "127.0.0.1", addr, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
}

// from opens a connection from an address of this host and sends what is given.
func from(t *testing.T, source, addr, send string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, send)
	return c
}

func answered(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	return err == nil && res.StatusCode == http.StatusOK
}

// closed reports whether the gateway has closed the connection without an answer.
func closed(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return n == 0 && err != nil && !(ok && timeout.Timeout())
}

// open waits until the listener has n connections.
func (s *Set) await(t *testing.T, n int) {
	t.Helper()
	for range 10_000 {
		if s.servers["a"].places.usage().open == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%+v, want %d open", s.servers["a"].places.usage(), n)
}

// Whoever waits longest for its client gives up its place; a request under way never does.
func TestANewClientGetsThePlaceOfTheLongestIdle(t *testing.T) {
	var mu sync.Mutex
	var log strings.Builder
	s := NewSet(slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil)))
	h := newHolding()
	defer drain(t, s)
	defer h.release()
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 3, PerAddress: 3, Handler: h}})
	addr := s.Addrs()["a"].String()
	held := ask(t, addr, "/hold")
	<-h.began
	first := ask(t, addr, "/")
	if !answered(first) {
		t.Fatal("the first is not answered")
	}
	second := from(t, "127.0.0.1", addr, "GET / HT") // a header that never ends
	s.await(t, 3)
	third := from(t, "127.0.0.2", addr, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx") // a body that never ends
	<-h.began
	if !closed(first) {
		t.Error("the connection that waited longest is still open")
	}
	if fourth := ask(t, addr, "/"); !answered(fourth) || !closed(second) {
		t.Error("who sends a header for ever keeps its place")
	}
	if fifth := from(t, "127.0.0.2", addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); !answered(fifth) {
		t.Error("the fifth is not answered")
	}
	_ = third
	h.release()
	if !answered(held) {
		t.Error("a request under way gave up its place")
	}
	mu.Lock()
	defer mu.Unlock()
	if got := log.String(); strings.Count(got, "are closed for new ones") != 1 {
		t.Errorf("the log: %s", got)
	}
}

// Nobody gives up a place while all have a request under way: the next client waits, and is served when one of them is answered.
func TestNewClientsWaitForRequestsUnderWay(t *testing.T) {
	told := make(chan string, 10)
	s := NewSet(slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		told <- string(p)
		return len(p), nil
	}), nil)))
	h := newHolding()
	defer drain(t, s)
	defer h.release()
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 2, PerAddress: 9, Handler: h}})
	addr := s.Addrs()["a"].String()
	var under []net.Conn
	for range 2 {
		under = append(under, ask(t, addr, "/hold"))
		<-h.began
	}
	next := ask(t, addr, "/hold") // it is connected
	for said := ""; !strings.Contains(said, "have a request under way"); {
		select {
		case said = <-told:
			if strings.Contains(said, "have a request under way") && !strings.Contains(said, "listener=a connections=2") {
				t.Errorf("the log: %s", said)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the log does not say that clients wait")
		}
	}
	if u := s.servers["a"].places.usage(); u.open != 2 || u.evicted != 0 || len(h.began) != 0 {
		t.Errorf("%+v, %d more began", u, len(h.began))
	}
	h.release()
	for _, c := range append(under, next) {
		if !answered(c) {
			t.Error("a request is not answered")
		}
	}
}

// A body that does not arrive is no request under way.
func TestASlowBodyGivesUpItsPlace(t *testing.T) {
	s := NewSet(quiet())
	h := newHolding()
	defer drain(t, s)
	defer h.release()
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 2, PerAddress: 2, Handler: h}})
	addr := s.Addrs()["a"].String()
	whole := from(t, "127.0.0.1", addr, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	<-h.began
	slow := from(t, "127.0.0.1", addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
	<-h.began
	srv := s.servers["a"]
	for range 10_000 { // until its body is awaited
		srv.places.mu.Lock()
		waiting := srv.places.waiting.Len()
		srv.places.mu.Unlock()
		if waiting == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if next := ask(t, addr, "/"); !answered(next) || !closed(slow) {
		t.Error("a slow body keeps its place")
	}
	h.release()
	if !answered(whole) {
		t.Error("a request whose body has arrived gave up its place")
	}
}

func TestOneAddressHasNotAllConnections(t *testing.T) {
	s := NewSet(quiet())
	h := newHolding()
	defer drain(t, s)
	defer h.release()
	spec := Spec{Address: "127.0.0.1:0", Connections: 8, PerAddress: 2, Handler: h, Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.3/32")}}
	apply(t, s, map[string]Spec{"a": spec})
	addr := s.Addrs()["a"].String()
	other := ask(t, addr, "/")
	if !answered(other) {
		t.Fatal("not answered")
	}
	first := from(t, "127.0.0.2", addr, "")
	s.await(t, 2)
	from(t, "127.0.0.2", addr, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
	<-h.began
	from(t, "127.0.0.2", addr, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
	<-h.began
	if !closed(first) {
		t.Error("an address has more connections than it may")
	}
	if c := from(t, "127.0.0.2", addr, ""); !closed(c) {
		t.Error("an address whose requests are all under way has one more")
	}
	for range 3 {
		from(t, "127.0.0.3", addr, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
		<-h.began
	}
	io.WriteString(other, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if !answered(other) {
		t.Error("another address has lost its connection")
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{`muster_connections{listener="a"} 6`, `{limit="connections",listener="a"} 0`, `{limit="per-address",listener="a"} 2`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
	h.release()
}

func TestSources(t *testing.T) {
	for peer, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := sourceOf(netip.MustParseAddr(peer)); got.String() != want {
			t.Errorf("%s counts as %s, want %s", peer, got, want)
		}
	}
}

// A source with many handshakes waiting has no more turns than one with a single one.
func TestGateTakesTurnsBySource(t *testing.T) {
	g := newGate()
	g.free = 0
	one, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	order := make(chan string, 4)
	enter := func(source netip.Addr, name string, waiting int) {
		go func() { g.enter(source); order <- name }()
		for {
			g.mu.Lock()
			n := len(g.queue[source])
			g.mu.Unlock()
			if n == waiting {
				return
			}
		}
	}
	enter(one, "flood 1", 1)
	enter(one, "flood 2", 2)
	enter(one, "flood 3", 3)
	enter(other, "honest", 1)
	for i, want := range []string{"flood 1", "honest", "flood 2", "flood 3"} {
		g.leave()
		if got := <-order; got != want {
			t.Errorf("turn %d is %s, want %s", i, got, want)
		}
	}
	if g.leave(); g.free != 1 || len(g.queue) != 0 || len(g.turns) != 0 {
		t.Errorf("%+v when nobody is left", g)
	}
}

// Handshakes that end well, fail, stall or are closed all give their turn back.
func TestHandshakesGiveTheirTurnBack(t *testing.T) {
	s := NewSet(quiet())
	ca := newTestCA(t)
	s.gate.free = 1
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", TLS: policyOf(t, &TLS{}, ca), Handler: says("x"), PerAddress: 100}})
	addr := s.Addrs()["a"].String()
	for i := range 20 {
		switch i % 4 {
		case 0:
			from(t, "127.0.0.1", addr, "\x16\x03\x01\x02\x00\x01") // a beginning
		case 1:
			from(t, "127.0.0.1", addr, "GET / HTTP/1.1\r\n\r\n")
		case 2:
			c := tls.Client(from(t, "127.0.0.1", addr, ""), &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS11})
			if c.Handshake() == nil {
				t.Error("TLS 1.1 was spoken")
			}
		case 3:
			c := tls.Client(from(t, "127.0.0.1", addr, ""), &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"})
			if err := c.Handshake(); err != nil { // and no request
				t.Fatal(err)
			}
			c.Close()
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}}, Timeout: 20 * time.Second}
		if body, _ := get(t, client, "https://"+addr); body != "x" {
			t.Fatalf("after %d: %q", i, body)
		}
		client.CloseIdleConnections()
	}
	drain(t, s)
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if s.gate.free != 1 || len(s.gate.turns) != 0 {
		t.Errorf("%d turns free of 1", s.gate.free)
	}
}
