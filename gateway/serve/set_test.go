package serve

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// How many connections a socket may have open changes while it is: another socket could not be opened beside it.
func TestSetChangesTheLimitOfAnOpenSocket(t *testing.T) {
	s := NewSet(quiet())
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 1, Handler: says("x")}})
	addr := s.Addrs()["a"].String()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return c
	}
	answered := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		return err == nil
	}
	first := dial()
	if !answered(first) {
		t.Fatal("the first connection is not answered")
	}
	second := dial()
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 2, Handler: says("x")}})
	if !answered(second) {
		t.Error("a connection that waited is not accepted under a higher limit")
	}
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 1, Handler: says("x")}})
	io.WriteString(first, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if !answered(first) {
		t.Error("an open connection does not outlive a lower limit")
	}
	srv := s.servers["a"]
	if srv.slots.take() {
		t.Error("the lower limit does not hold")
	}
}

// What was opened without TLS is not answered once the address has it, and the other way round.
func TestSetLeavesNoConnectionWithoutTLS(t *testing.T) {
	s := NewSet(quiet())
	defer drain(t, s)
	ca := newTestCA(t)
	cfg := policyOf(t, &TLS{}, ca)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("open")}})
	addr := s.Addrs()["a"].String()
	client := func() *http.Client {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	plain, private := client(), client()
	if body, _ := get(t, plain, "http://"+addr); body != "open" {
		t.Fatal(body)
	}
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", TLS: cfg, Handler: says("secret")}})
	if body, res := get(t, plain, "http://"+addr); res.StatusCode != http.StatusMisdirectedRequest || !res.Close || strings.Contains(body, "secret") {
		t.Errorf("the plain connection: %d %q", res.StatusCode, body)
	}
	if body, _ := get(t, private, "https://"+addr); body != "secret" {
		t.Error(body)
	}
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("open")}})
	if body, res := get(t, private, "https://"+addr); res.StatusCode != http.StatusMisdirectedRequest || !res.Close {
		t.Errorf("the TLS connection: %d %q", res.StatusCode, body)
	}
	if body, _ := get(t, plain, "http://"+addr); body != "open" {
		t.Error(body)
	}
}
