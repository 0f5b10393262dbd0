package acme

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// TestSweptOrder: an order that the CA does not know any more ends the request where it was never finalized, and else says what is to be
// done. Not knowing it yet, and a 404 that is not the CA's, are neither.
func TestSweptOrder(t *testing.T) {
	const name = "swept.example.org"
	gone := func(f *fake) { clear(f.orders) }
	plain := func(nonce bool) func(f *fake) {
		return func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ *http.Request, path string) bool {
				if !strings.HasPrefix(path, "/order/") {
					return false
				}
				if nonce {
					f.mu.Lock()
					f.nonce(w)
					f.mu.Unlock()
				}
				w.WriteHeader(http.StatusNotFound)
				io.WriteString(w, "<html>not found") //nolint:errcheck // a test
				return true
			}
		}
	}
	for what, test := range map[string]struct {
		final bool
		asked time.Duration // ago; 0 for never
		lose  func(*fake)
		want  codes.Code
		says  string
	}{
		"never finalized":          {false, 0, gone, codes.FailedPrecondition, "nothing was issued"},
		"never finalized, by then": {false, lag + time.Second, gone, codes.FailedPrecondition, "nothing was issued"},
		"a moment ago":             {false, lag - time.Minute, gone, codes.Unavailable, "no such order"},
		"perhaps finalized":        {true, lag + time.Second, gone, codes.ResourceExhausted, "muster settle"},
		"somebody else's 404":      {false, 0, plain(false), codes.Unavailable, "404"},
		"without a problem":        {false, 0, plain(true), codes.FailedPrecondition, "nothing was issued"},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFake(t)
			c, r := configured(t, f), request(t, name)
			a, err := c.Issue(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if test.final {
				for n := 0; !strings.HasSuffix(a.Ticket, finalizes); n++ {
					if a, err = c.Poll(t.Context(), r, a.Ticket); err != nil || n == 10 || f.finals > 0 {
						t.Fatalf("%+v, %v, %d certificates", a, err, f.finals)
					}
				}
				if _, err := c.Poll(t.Context(), r, a.Ticket); err != nil || f.finals != 1 {
					t.Fatal(err, f.finals)
				}
			}
			test.lose(f)
			if test.asked > 0 {
				r.Asked = time.Now().Add(-test.asked)
			}
			_, err = c.Poll(t.Context(), r, a.Ticket)
			if status.Code(err) != test.want || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, and %s is right", err, test.want)
			}
		})
	}
}

// TestFinalizedUnderATicket: nothing is finalized under a ticket that does not say so.
func TestFinalizedUnderATicket(t *testing.T) {
	f := newFake(t)
	c, r := configured(t, f), request(t, "ticket.example.org")
	first, err := c.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // whose answers are all lost
		a, err := c.Poll(t.Context(), r, first.Ticket)
		if err != nil || a.Certificate != nil || a.Ticket != first.Ticket && a.Ticket != first.Ticket+finalizes || len(a.Ticket) > backend.MaxTicket {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if f.finals != 0 {
		t.Errorf("%d certificates", f.finals)
	}
	if a, err := c.Poll(t.Context(), r, first.Ticket+finalizes); err != nil || a.Certificate == nil || f.finals != 1 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestSaid: what a CA says comes on one line, without what a screen would obey, and cut.
func TestSaid(t *testing.T) {
	f := newFake(t)
	f.answer = func(w http.ResponseWriter, _ *http.Request, path string) bool {
		if path != "/order" {
			return false
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.nonce(w)
		f.problem(w, 400, "malformed", "because\n\x1b]0;\u202e"+strings.Repeat("x", 5000))
		return true
	}
	_, err := configured(t, f).Issue(t.Context(), request(t, "said.example.org"))
	if text := status.Convert(err).Message(); status.Code(err) != codes.InvalidArgument || len(text) > 600 || strings.ContainsAny(text, "\n\x1b\u202e") || !strings.Contains(text, "because") {
		t.Errorf("%q", text)
	}
}

// TestUnconfigured: nothing is done before there is a configuration.
func TestUnconfigured(t *testing.T) {
	c, r := New(Options{}), request(t, "early.example.org")
	_, issue := c.Issue(t.Context(), r)
	_, poll := c.Poll(t.Context(), r, "x https://example.org/")
	_, cas := c.CACertificates(t.Context())
	for _, err := range []error{issue, poll, cas, c.Revoke(t.Context(), &backend.RevokeRequest{Certificate: []byte{1}})} {
		if status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
}
