package ejbca

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// TestSaid: what EJBCA repeats of an enrollment comes without the end entity's password and the token, on one line, cut.
func TestSaid(t *testing.T) {
	f := newFakeCA(t)
	f.token = "secret-word"
	c := f.configured(t)
	var password string
	repeat := func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusBadRequest, "Wrong: "+password+" of "+r.Header.Get("Authorization")+"\n\x1b]0;\u202e"+strings.Repeat("x", 5000))
	}
	f.after = func(w http.ResponseWriter, r *http.Request, i *issued) bool {
		password = i.password
		f.ledger = nil // rolled back
		repeat(w, r)
		return true
	}
	_, err := c.Issue(t.Context(), request("one"))
	text := status.Convert(err).Message()
	if !backend.Definite(err) || password == "" || strings.Contains(text, password) || strings.Contains(text, "secret-word") || !strings.Contains(text, "Wrong: [hidden] of Bearer [hidden]") ||
		strings.ContainsAny(text, "\n\x1b\u202e") || len(text) > 600 {
		t.Errorf("%q", text)
	}
	// Revocation: an answer that is not Refused's.
	known := must(c.running.Load().authority(t.Context(), true))
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, r.Header.Get("Authorization")+"\x1b"+strings.Repeat("x", 5000))
	})
	err = c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: known.chain[0].RawSubject, Serial: []byte{1}})
	if text := err.Error(); strings.Contains(text, "secret-word") || strings.Contains(text, "\x1b") || len(text) > 700 {
		t.Errorf("%q", text)
	}
}

// TestConnectionOfItsOwn: an enrollment goes over no connection that waited, which EJBCA may be closing: whether it arrived would not be
// known for as long as a call may be under way.
func TestConnectionOfItsOwn(t *testing.T) {
	f := newFakeCA(t)
	var mu sync.Mutex
	seen := map[string]string{}
	inner := f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if before, used := seen[r.RemoteAddr]; used && r.Method == http.MethodPost {
			t.Errorf("%s over the connection of %s", r.URL.Path, before)
		}
		seen[r.RemoteAddr] = r.URL.Path
		mu.Unlock()
		inner.ServeHTTP(w, r)
	})
	c := f.configured(t)
	for n := range 4 {
		if _, err := c.Issue(t.Context(), request(fmt.Sprintf("device-%d", n))); err != nil {
			t.Fatal(err)
		}
	}
}
