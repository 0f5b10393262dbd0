package acme

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func newBackend() backend.Backend {
	c := New(Options{Log: backend.Logger()})
	c.pace = time.Millisecond
	return c
}

func TestMain(m *testing.M) {
	backendtest.Main(m, map[string]func() backend.Backend{"acme": newBackend})
}

// TestConformance runs the suite of the contract, in process and through a plugin process, which is killed.
func TestConformance(t *testing.T) {
	f := newFake(t)
	f.mac = []byte("0123456789abcdef0123456789abcdef")
	backendtest.Run(t, backendtest.Subject{
		New: newBackend, Plugin: "acme", NamedByDNS: true,
		Config:    func(t *testing.T) []byte { return f.config(t) },
		BadConfig: []byte("urll: https://nowhere"),
	})
	for id, o := range f.orders {
		if o.Status == "ready" {
			t.Errorf("order %s was proven and left", id)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(f.dir, "*")); len(left) > 0 {
		t.Errorf("answers to challenges stay: %q", left)
	}
}

// configured is a backend before the fake.
func configured(t *testing.T, f *fake, more ...string) *CA {
	t.Helper()
	c := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	c.pace = time.Millisecond
	if err := c.Configure(t.Context(), f.config(t, more...)); err != nil {
		t.Fatal(err)
	}
	return c
}

// enroll goes through Issue and Poll until there is a certificate or an error.
func enroll(t *testing.T, c *CA, r *backend.IssueRequest) (*backend.Issuance, error) {
	t.Helper()
	a, err := c.Issue(t.Context(), r)
	for n := 0; err == nil && a.Certificate == nil; n++ {
		if n == 10 {
			t.Fatal("ten polls, and no end")
		}
		a, err = c.Poll(t.Context(), r, a.Ticket)
	}
	return a, err
}

// TestIssueIssuesNothing is what Lookup's `never` stands on.
func TestIssueIssuesNothing(t *testing.T) {
	f := newFake(t)
	c, r := configured(t, f), request(t, "one.example.org")
	for range 3 { // whose answers are all lost
		a, err := c.Issue(t.Context(), r)
		if err != nil || a.Certificate != nil || a.Ticket == "" {
			t.Fatalf("%+v, %v", a, err)
		}
		if o, err := c.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	if f.finals != 0 || len(f.orders) != 3 {
		t.Errorf("%d finalizations of %d orders", f.finals, len(f.orders))
	}
	if _, err := enroll(t, c, r); err != nil || f.finals != 1 {
		t.Errorf("%v; %d certificates", err, f.finals)
	}
}

// TestLostAnswers: whichever answer is lost, or comes late, and however often a step is repeated, there is one certificate.
func TestLostAnswers(t *testing.T) {
	for _, at := range []string{"/dir", "/account", "/order", "/order/", "/authz/", "/challenge/", "/finalize/", "/cert/"} {
		for what, drop := range map[string]func(w http.ResponseWriter) bool{
			"dropped": func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) },
			"500":     func(w http.ResponseWriter) bool { w.WriteHeader(500); return true },
			"garbage": func(w http.ResponseWriter) bool { w.Write([]byte("<html>")); return true }, //nolint:errcheck // a test
		} {
			t.Run(strings.Trim(at, "/")+" "+what, func(t *testing.T) {
				f := newFake(t)
				lost := 0
				f.after = func(w http.ResponseWriter, path string) bool {
					if matches := path == at || strings.HasSuffix(at, "/") && strings.HasPrefix(path, at); !matches || lost == 2 {
						return false
					}
					lost++
					return drop(w)
				}
				c, r := configured(t, f), request(t, "lost.example.org")
				ticket := ""
				for n := 0; ; n++ {
					if n == 30 {
						t.Fatal("30 tries, and no certificate")
					}
					var a *backend.Issuance
					var err error
					if ticket == "" {
						a, err = c.Issue(t.Context(), r)
					} else {
						a, err = c.Poll(t.Context(), r, ticket)
					}
					if err != nil {
						if _, later := backend.RetryAfter(err); backend.Definite(err) && !later {
							t.Fatalf("a lost answer refuses: %v", err)
						}
						continue
					}
					if a.Certificate != nil {
						break
					}
					ticket = a.Ticket
				}
				if f.finals != 1 || lost == 0 {
					t.Errorf("%d certificates; %d answers lost", f.finals, lost)
				}
			})
		}
	}
}

// TestPolledAtOnce: two replicas that poll with one ticket get one certificate.
func TestPolledAtOnce(t *testing.T) {
	f := newFake(t)
	config := f.config(t)
	r := request(t, "twice.example.org")
	replicas := []*CA{New(Options{}), New(Options{})}
	for _, c := range replicas {
		c.pace = time.Millisecond
	}
	for _, c := range replicas {
		if err := c.Configure(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	a, err := replicas[0].Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	certs := make([][]byte, 8)
	for i := range certs {
		all.Go(func() {
			ticket := a.Ticket
			for range 20 {
				got, err := replicas[i%2].Poll(t.Context(), r, ticket)
				switch {
				case err == nil && got.Certificate != nil:
					certs[i] = got.Certificate
					return
				case err == nil:
					ticket = got.Ticket
				}
			}
		})
	}
	all.Wait()
	for _, cert := range certs {
		if !bytes.Equal(cert, certs[0]) || cert == nil {
			t.Error("another certificate, or none")
		}
	}
	if f.finals != 1 || len(f.accounts) != 1 {
		t.Errorf("%d certificates for %d accounts", f.finals, len(f.accounts))
	}
}

// TestAnotherAccount: an order of another key is not given up.
func TestAnotherAccount(t *testing.T) {
	f := newFake(t)
	r := request(t, "other.example.org")
	a, err := configured(t, f).Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := configured(t, f).Poll(t.Context(), r, a.Ticket); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "account-key") {
		t.Error(err)
	}
	for _, ticket := range []string{"", "nonsense", "0 http://elsewhere", "0 https://", "0 https://elsewhere/ x", finalizes} {
		if _, err := configured(t, f).Poll(t.Context(), r, ticket); status.Code(err) != codes.Unavailable {
			t.Errorf("%q: %v", ticket, err)
		}
	}
}

// problemsOf is what each problem at each step means for the gateway.
func TestProblems(t *testing.T) {
	for _, test := range []struct {
		path, kind string
		status     int
		want       codes.Code
	}{
		{"/order", "rateLimited", 429, codes.ResourceExhausted},
		{"/order", "rejectedIdentifier", 400, codes.InvalidArgument},
		{"/order", "unsupportedIdentifier", 400, codes.InvalidArgument},
		{"/order", "malformed", 400, codes.InvalidArgument},
		{"/order", "caa", 403, codes.InvalidArgument},
		{"/order", "unauthorized", 403, codes.PermissionDenied},
		{"/order", "userActionRequired", 403, codes.PermissionDenied},
		{"/order", "accountDoesNotExist", 400, codes.Unavailable},
		{"/order", "serverInternal", 500, codes.Unavailable},
		{"/order", "serverInternal", 503, codes.ResourceExhausted},
		{"/order", "badNonce", 400, codes.Unavailable}, // ten times
		{"/account", "externalAccountRequired", 403, codes.PermissionDenied},
		{"/finalize/", "badCSR", 400, codes.InvalidArgument},
		{"/finalize/", "badPublicKey", 400, codes.InvalidArgument},
		{"/finalize/", "unauthorized", 403, codes.Unavailable},
		{"/finalize/", "caa", 403, codes.Unavailable},
		{"/finalize/", "rateLimited", 429, codes.ResourceExhausted},
		{"/finalize/", "serverInternal", 500, codes.Unavailable},
		{"/challenge/", "malformed", 400, codes.Unavailable},
		{"/authz/", "malformed", 404, codes.Unavailable},
	} {
		t.Run(fmt.Sprint(strings.Trim(test.path, "/"), " ", test.kind, " ", test.status), func(t *testing.T) {
			f := newFake(t)
			f.answer = func(w http.ResponseWriter, r *http.Request, path string) bool {
				if path != test.path && (!strings.HasSuffix(test.path, "/") || !strings.HasPrefix(path, test.path)) {
					return false
				}
				f.mu.Lock()
				f.nonce(w)
				f.mu.Unlock()
				w.Header().Set("Retry-After", "77")
				f.problem(w, test.status, test.kind, "because\nof this")
				return true
			}
			_, err := enroll(t, configured(t, f), request(t, "problem.example.org"))
			if status.Code(err) != test.want || strings.Contains(status.Convert(err).Message(), "\n") || !strings.Contains(err.Error(), "because of this") {
				t.Errorf("%v, and %s is right", err, test.want)
			}
			if wait, ok := backend.RetryAfter(err); ok != (test.want == codes.ResourceExhausted) || ok && wait != 77*time.Second {
				t.Errorf("again after %s, %t", wait, ok)
			}
		})
	}
}

// TestBadNonce: nonces that the CA does not take cost nothing (RFC 8555 section 6.5).
func TestBadNonce(t *testing.T) {
	f := newFake(t)
	n := 0
	f.answer = func(w http.ResponseWriter, r *http.Request, _ string) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if n++; r.Method != http.MethodPost || n%3 == 0 {
			return false
		}
		f.nonce(w)
		f.problem(w, 400, "badNonce", "not this one")
		return true
	}
	if _, err := enroll(t, configured(t, f), request(t, "nonce.example.org")); err != nil || f.finals != 1 {
		t.Errorf("%v; %d certificates", err, f.finals)
	}
}

// TestForgottenAccount: a CA that lost its accounts is told ours again.
func TestForgottenAccount(t *testing.T) {
	f := newFake(t)
	c := configured(t, f)
	if _, err := enroll(t, c, request(t, "before.example.org")); err != nil {
		t.Fatal(err)
	}
	clear(f.accounts)
	if _, err := c.Issue(t.Context(), request(t, "after.example.org")); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if _, err := enroll(t, c, request(t, "after.example.org")); err != nil {
		t.Error(err)
	}
}

func TestInvalidOrder(t *testing.T) {
	f := newFake(t)
	c, r := configured(t, f), request(t, "bad.example.org")
	f.answer = func(_ http.ResponseWriter, _ *http.Request, path string) bool {
		if strings.HasPrefix(path, "/challenge/") { // the web server lost it
			os.RemoveAll(f.dir)    //nolint:errcheck // a test
			os.Mkdir(f.dir, 0o700) //nolint:errcheck // a test
		}
		return false
	}
	_, err := enroll(t, c, r)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "nothing at the token's place") || f.finals != 0 {
		t.Error(err)
	}
}

func TestNoChallenge(t *testing.T) {
	f := newFake(t)
	f.kinds = []string{"tls-alpn-01", dns01}
	if _, err := enroll(t, configured(t, f), request(t, "none.example.org")); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}

func TestDown(t *testing.T) {
	f := newFake(t)
	c := configured(t, f)
	f.server.Close()
	_, err := c.Issue(t.Context(), request(t, "down.example.org"))
	if _, later := backend.RetryAfter(err); !later || !backend.Definite(err) {
		t.Errorf("not asked: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Poll(over, request(t, "down.example.org"), c.running.Load().key.id+" "+f.url("/order/1")); backend.Definite(err) {
		t.Errorf("Poll refuses: %v", err)
	}
}

// TestForeignChain: a certificate that leads elsewhere comes with a chain that did not issue it, which the gateway sees.
func TestForeignChain(t *testing.T) {
	f, other := newFake(t), newFake(t)
	c := configured(t, f)
	if err := os.WriteFile(c.running.Load().config.Chain, toPEM(other.root.Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := enroll(t, c, request(t, "foreign.example.org"))
	if err != nil || !bytes.Equal(a.Chain[0], other.root.Raw) {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := os.Remove(c.running.Load().config.Chain); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll(t, c, request(t, "without.example.org")); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
