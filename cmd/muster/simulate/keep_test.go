package simulate

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// Requests share a connection that stays open; one that the server has closed meanwhile is made anew, and one that shows a certificate has its own.
func TestKeptConnections(t *testing.T) {
	d := one(t, P256)
	cert := certificate(d)
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { certsOnly(w, cert) }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	target := Target{URL: s.URL + "/.well-known/est", Roots: rootsOf(s), Timeout: 10 * time.Second}
	ask := func(e *EST, d Device, want int32) {
		t.Helper()
		if a := e.Ask(t.Context(), d); a.Cert == nil {
			t.Fatalf("%+v", a)
		}
		if n := connections.Load(); n != want {
			t.Errorf("%d connections, want %d", n, want)
		}
	}
	own := estOf(t, target)
	ask(own, d, 1)
	ask(own, d, 2)
	target.Keep = true
	kept := estOf(t, target)
	ask(kept, d, 3)
	ask(kept, d, 3)
	s.CloseClientConnections()
	ask(kept, d, 4)
	ask(kept, d, 4)
	d.Cert = cert
	ask(kept, d, 5)
	ask(kept, d, 6)
}
