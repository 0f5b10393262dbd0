package serve

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// dialed is a connection that a listener has accepted, or will.
func dialed(t *testing.T, addr string, over *tls.Config) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if over != nil {
		secure := tls.Client(c, over)
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		return secure
	}
	return c
}

// asked sends a request whole and reads the answer.
func asked(t *testing.T, c net.Conn) (body string, last bool) {
	t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(all), res.Close
}

// While a listener drains, whoever is connected is answered, and told to send no more: on a connection kept open, on one that is new, on
// one that nobody has accepted yet, and behind a TLS handshake. http.Server.Shutdown alone answers none of them.
func TestDrainAnswersWhoIsConnected(t *testing.T) {
	ca := newTestCA(t)
	s := NewSet(quiet())
	apply(t, s, map[string]Spec{
		"plain": {Address: "127.0.0.1:0", Handler: says("fine")},
		"tls":   {Address: "127.0.0.1:0", Handler: says("fine"), TLS: policyOf(t, &TLS{}, ca)},
	})
	plain, secure := s.Addrs()["plain"].String(), s.Addrs()["tls"].String()
	trust := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // nothing secret is sent
	all := map[string]net.Conn{"kept": dialed(t, plain, nil), "kept, TLS": dialed(t, secure, trust)}
	for name, c := range all {
		if body, last := asked(t, c); body != "fine" || last {
			t.Errorf("%s, before: %q, the last answer: %v", name, body, last)
		}
	}
	all["new"], all["new, TLS"] = dialed(t, plain, nil), dialed(t, secure, trust)
	servers := []*server{s.servers["plain"], s.servers["tls"]}
	for _, srv := range servers {
		srv.places.idleGrace = time.Minute // however slow this test is
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Drain(context.Background()) }()
	for _, srv := range servers {
		for !srv.draining.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	for name, c := range all {
		if body, last := asked(t, c); body != "fine" || !last {
			t.Errorf("%s: %q, the last answer: %v", name, body, last)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", plain); err == nil {
		c.Close()
		t.Error("connected after the end")
	}
}

// Who was connected by the kernel when the drain began is accepted still; nobody is connected afterwards.
func TestDrainEmptiesTheQueue(t *testing.T) {
	s, err := open("a", Spec{Address: "127.0.0.1:0", Handler: says("fine")}, newGate(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	addr := s.socket.Addr().String()
	var queued []net.Conn
	for range 20 {
		queued = append(queued, dialed(t, addr, nil))
	}
	s.stopConnecting()
	ctx, cancel := context.WithTimeout(t.Context(), lull) // the kernel drops it: there is no refusal to wait for
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "tcp", addr); err == nil {
		c.Close()
		t.Error("the kernel goes on connecting")
	}
	go s.run()
	ended := make(chan error, 1)
	go func() { ended <- s.drain(context.Background()) }()
	for i, c := range queued {
		if body, last := asked(t, c); body != "fine" || !last {
			t.Errorf("%d: %q, the last answer: %v", i, body, last)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What has come in on a quiet connection when it is asked to end is read, in spite of the deadline by which it is woken.
func TestAskedConnectionReadsWhatIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := dialed(t, l.Addr().String(), nil)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	p := newPlaces(bounds{all: 1, each: 1})
	c := newConn(accepted, p, nil)
	p.admit(c)
	quietly := func() {
		c.hears(true)
		c.heard.Store(-int64(time.Hour))
	}
	quietly()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	raw, err := accepted.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Read(func(uintptr) bool { return c != nil }) //nolint:errcheck // what was written has come in: loopback is in order
	p.askQuiet()
	b := make([]byte, 4)
	if n, err := c.Read(b); n != 1 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	// It has sent something: it is not asked again.
	p.askQuiet()
	if c.asked {
		t.Error("asked within a request")
	}
	quietly()
	p.askQuiet()
	if n, err := c.Read(b); n != 0 || err != io.EOF {
		t.Errorf("read %d bytes, %v; nothing was there", n, err)
	}
	// One that has a request under way is left alone.
	quietly()
	p.busy(c)
	p.askQuiet()
	if c.asked {
		t.Error("asked with a request under way")
	}
}
