package serve

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
)

// How many connections a socket may have open changes while it is: another socket could not be opened beside it.
func TestSetChangesTheLimitOfAnOpenSocket(t *testing.T) {
	s := NewSet(quiet())
	h := newHolding()
	defer drain(t, s)
	defer h.release()
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 1, PerAddress: 9, Handler: h}})
	addr := s.Addrs()["a"].String()
	ask(t, addr, "/hold")
	<-h.began
	second := ask(t, addr, "/")
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 2, PerAddress: 9, Handler: h}})
	if !answered(second) {
		t.Error("a connection that waited is not accepted under a higher limit")
	}
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Connections: 1, PerAddress: 9, Handler: h}})
	io.WriteString(second, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if !answered(second) {
		t.Error("an open connection does not outlive a lower limit")
	}
	if u := s.servers["a"].places.usage(); u.all != 1 || u.open != 2 {
		t.Errorf("%+v under the lower limit", u)
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
