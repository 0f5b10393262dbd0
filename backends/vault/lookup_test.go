package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// hangUp ends a connection without an answer.
func hangUp(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = c.Close()
	}
}

// TestCrashPoints: wherever the answer is lost, what the gateway makes of Issue and Lookup leads to one certificate, and `never` is not said
// before nothing can be on its way any more.
func TestCrashPoints(t *testing.T) {
	for name, test := range map[string]struct {
		fault  func(w http.ResponseWriter, sign func() map[string]any) bool
		issued bool // there is a certificate
		code   codes.Code
	}{
		"the connection ends before it is certified": {func(w http.ResponseWriter, _ func() map[string]any) bool { hangUp(w); return true }, false, codes.Unavailable},
		"the connection ends after it was certified": {func(w http.ResponseWriter, sign func() map[string]any) bool { sign(); hangUp(w); return true }, true, codes.Unavailable},
		"500 before it is certified": {func(w http.ResponseWriter, _ func() map[string]any) bool {
			http.Error(w, `{"errors":["internal error"]}`, http.StatusInternalServerError)
			return true
		}, false, codes.Unavailable},
		"500 after it was certified": {func(w http.ResponseWriter, sign func() map[string]any) bool {
			sign()
			http.Error(w, `{"errors":["1 error occurred: * internal error"]}`, http.StatusInternalServerError)
			return true
		}, true, codes.Unavailable},
		"503 of something before it, after it was certified": {func(w http.ResponseWriter, sign func() map[string]any) bool {
			sign()
			http.Error(w, "upstream unavailable", http.StatusServiceUnavailable)
			return true
		}, true, codes.Unavailable},
		"the storage is sealed while it is written": {func(w http.ResponseWriter, sign func() map[string]any) bool {
			sign()
			http.Error(w, `{"errors":["1 error occurred:\n\t* unable to store certificate locally: Vault is sealed\n\n"]}`, http.StatusServiceUnavailable)
			return true
		}, true, codes.Unavailable},
		"an answer that is none": {func(w http.ResponseWriter, sign func() map[string]any) bool {
			sign()
			fmt.Fprint(w, "<html>")
			return true
		}, true, codes.Internal},
		"an answer without a certificate": {func(w http.ResponseWriter, sign func() map[string]any) bool {
			sign()
			fmt.Fprint(w, `{"data":{}}`)
			return true
		}, true, codes.Internal},
		"an answer without end": {func(w http.ResponseWriter, sign func() map[string]any) bool {
			sign()
			_, _ = w.Write(bytes.Repeat([]byte{' '}, maxAnswer+1))
			return true
		}, true, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := newFake(t), new(clock)
			ca := started(t, f.config(t, ""), c)
			r, _ := asked(t, "one", x509.CertificateRequest{})
			f.fault = test.fault
			_, err := ca.Issue(t.Context(), r)
			if status.Code(err) != test.code || backend.Definite(err) {
				t.Fatalf("%v, not %s", err, test.code)
			}
			r.Asked = c.now()
			f.fault = nil
			ca = started(t, f.config(t, ""), c) // a plugin that knows nothing
			o, err := ca.Lookup(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if test.issued {
				if o.State != backend.OutcomeIssued {
					t.Fatalf("%s, and it was certified", o.State)
				}
			} else {
				if o.State != backend.OutcomeUnknown {
					t.Fatalf("%s at once: the call may be under way", o.State)
				}
				c.forward(defaultSettle - time.Second)
				if o, err = ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeUnknown {
					t.Fatalf("%+v, %v before it has settled", o, err)
				}
				c.forward(2 * time.Second)
				if o, err = ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
					t.Fatalf("%+v, %v, not never", o, err)
				}
				if _, err := ca.Issue(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			if f.signed != 1 {
				t.Errorf("%d certificates", f.signed)
			}
		})
	}
}

// TestLateAnswer: a call that its caller gave up is certified later, and found.
func TestLateAnswer(t *testing.T) {
	f, c := newFake(t), new(clock)
	ca := started(t, f.config(t, ""), c)
	r, _ := asked(t, "one", x509.CertificateRequest{})
	arrived, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.fault = func(_ http.ResponseWriter, sign func() map[string]any) bool {
		close(arrived)
		<-release
		sign()
		close(done)
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := ca.Issue(ctx, r); err == nil || backend.Definite(err) {
		t.Fatalf("%v, not an unknown outcome", err)
	}
	r.Asked = c.now()
	if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeUnknown {
		t.Fatalf("%+v, %v", o, err)
	}
	close(release)
	<-done
	c.forward(3 * time.Second)
	if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeIssued {
		t.Fatalf("%+v, %v", o, err)
	}
}

// TestUnreached: who was not asked is told so, and may come again.
func TestUnreached(t *testing.T) {
	f := newFake(t)
	ca := started(t, f.config(t, ""), new(clock))
	r, _ := asked(t, "one", x509.CertificateRequest{})
	f.sealed = true
	_, err := ca.Issue(t.Context(), r)
	if after, ok := backend.RetryAfter(err); !ok || after != retrySealed || !backend.Definite(err) {
		t.Errorf("sealed: %v", err)
	}
	f.sealed = false
	f.fault = func(w http.ResponseWriter, _ func() map[string]any) bool {
		w.Header().Set("Location", "https://other.example.org/")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
		t.Errorf("a standby: %v", err)
	}
	f.Close()
	ca = New(Options{}) // without a connection that it had
	if err := ca.Configure(t.Context(), []byte(f.config(t, ""))); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestOtherCertificatesOfTheKey: a device that keeps its key has many certificates with it.
func TestOtherCertificatesOfTheKey(t *testing.T) {
	f, c := newFake(t), new(clock)
	issue := func(r *backend.IssueRequest) { // by a gateway that is gone
		t.Helper()
		if _, err := started(t, f.config(t, ""), c).Issue(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	state := func(r *backend.IssueRequest, want backend.OutcomeState) {
		t.Helper()
		r.Asked = c.now().Add(-2 * defaultSettle)
		o, err := started(t, f.config(t, ""), c).Lookup(t.Context(), r)
		if want == backend.OutcomeUnknown && err != nil && strings.Contains(err.Error(), "unknown: ") {
			return
		}
		if err != nil || o.State != want {
			t.Errorf("%+v, %v, not %s", o, err, want)
		}
	}
	first, key := asked(t, "first", x509.CertificateRequest{})
	issue(first)
	renewal := askedFor(t, "renewal", x509.CertificateRequest{}, key)
	renewal.Template.NotAfter = first.Template.NotAfter.Add(time.Hour)
	state(renewal, backend.OutcomeNever)
	issue(renewal)
	state(renewal, backend.OutcomeIssued)
	state(first, backend.OutcomeIssued)

	names := askedFor(t, "names", x509.CertificateRequest{DNSNames: []string{"a.example"}}, key)
	names.Template.NotAfter = first.Template.NotAfter
	state(names, backend.OutcomeUnknown)

	later := askedFor(t, "later", x509.CertificateRequest{}, key)
	later.Template.NotAfter = first.Template.NotAfter
	later.Template.NotBefore = first.Template.NotBefore.Add(2 * time.Hour)
	state(later, backend.OutcomeUnknown) // the first one's, most likely

	twin := askedFor(t, "twin", x509.CertificateRequest{}, key)
	twin.Template = first.Template
	issue(twin)
	state(twin, backend.OutcomeUnknown) // two certificates that could be it

	cut, _ := asked(t, "cut", x509.CertificateRequest{})
	cut.Template.NotAfter = f.issuers["devices"].cert.NotAfter
	issue(cut)
	cut.Template.NotAfter = cut.Template.NotAfter.Add(time.Hour) // the issuer's leaf_not_after_behavior is truncate
	state(cut, backend.OutcomeUnknown)
}

// TestOwnRequests: a process knows for which request it issued: another one of the same content does not get its certificate.
func TestOwnRequests(t *testing.T) {
	f, c := newFake(t), new(clock)
	ca := started(t, f.config(t, ""), c)
	first, key := asked(t, "first", x509.CertificateRequest{})
	if _, err := ca.Issue(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	twin := askedFor(t, "twin", x509.CertificateRequest{}, key)
	twin.Template = first.Template
	twin.Asked = c.now().Add(-2 * defaultSettle)
	if o, err := ca.Lookup(t.Context(), twin); err != nil || o.State != backend.OutcomeNever {
		t.Errorf("%+v, %v", o, err)
	}
	if f.reads != 0 {
		t.Errorf("%d certificates were read that this process has issued", f.reads)
	}
}

// TestStock: each certificate is read once, and the list is asked for once when many requests are looked for; beyond the limit, and when a
// certificate cannot be read, nothing is said.
func TestStock(t *testing.T) {
	for what, paged := range map[string]bool{"vault": false, "openbao": true} {
		t.Run(what, func(t *testing.T) {
			f, c := newFake(t), new(clock)
			f.paged = paged
			der := f.issuers["other"].cert.Raw
			const many = 250
			for i := range many {
				f.certs[fmt.Sprintf("%02x-%02x-%02x", byte(i), byte(i>>8), 1)] = der
			}
			ca := started(t, f.config(t, ""), c)
			ca.open.Load().inventory.page = 100
			r, _ := asked(t, "one", x509.CertificateRequest{})
			r.Asked = c.now()
			c.forward(2 * defaultSettle)
			o, err := ca.Lookup(t.Context(), r)
			if err != nil || o.State != backend.OutcomeNever || f.reads != many {
				t.Fatalf("%+v, %v after %d reads", o, err, f.reads)
			}
			before := f.lists
			for range 3 {
				if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
					t.Fatalf("%+v, %v", o, err)
				}
			}
			if f.reads != many || f.lists != before {
				t.Errorf("%d reads, %d lists more", f.reads-many, f.lists-before)
			}
			// What another gateway issues is found with one read more, in a new list.
			if _, err := started(t, f.config(t, ""), c).Issue(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			c.forward(fresh)
			if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeIssued || f.reads > many+2 {
				t.Errorf("%+v, %v after %d reads", o, err, f.reads)
			}
			small := started(t, f.config(t, "lookup-limit: 250"), c)
			if o, err := small.Lookup(t.Context(), r); err == nil {
				t.Errorf("%+v beyond the limit", o)
			}
			denies := func(path string) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.denies = path
			}
			denies("pki/cert/")
			if o, err := started(t, f.config(t, ""), c).Lookup(t.Context(), r); err == nil {
				t.Errorf("%+v without reading", o)
			}
			denies("pki/certs")
			if o, err := started(t, f.config(t, ""), c).Lookup(t.Context(), r); err == nil {
				t.Errorf("%+v without a list", o)
			}
		})
	}
}

// TestRolesThatHide: under a role that stores nothing, or sets the end, nothing is ever said; at the start it is refused.
func TestRolesThatHide(t *testing.T) {
	f := newFake(t)
	f.roles["devices"] = map[string]any{"no_store": false}
	config := f.config(t, "role: devices\nsign: role\n")
	ca := started(t, config, new(clock))
	r, _ := asked(t, "one", x509.CertificateRequest{})
	r.Asked = time.Now().Add(-2 * defaultSettle)
	for _, hides := range []map[string]any{{"no_store": true}, {"not_after": "2030-01-01T00:00:00Z"}} {
		f.roles["devices"] = hides
		if o, err := ca.Lookup(t.Context(), r); err == nil || !strings.Contains(err.Error(), "unknown: role devices has") {
			t.Errorf("%v: %+v, %v", hides, o, err)
		}
		if err := New(Options{}).Configure(t.Context(), []byte(config)); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%v: %v, not FAILED_PRECONDITION", hides, err)
		}
	}
	none := started(t, f.config(t, "role: devices\nlookup: none\n"), new(clock))
	if d, err := none.Describe(t.Context()); err != nil || d.Idempotency != backend.IdempotencyNone {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := none.Lookup(t.Context(), r); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v, not UNIMPLEMENTED", err)
	}
	// A role that dates back further is known after the start.
	f.roles["devices"] = map[string]any{"not_before_duration": 7200}
	back := started(t, f.config(t, "role: devices\n"), new(clock))
	r, _ = asked(t, "back", x509.CertificateRequest{})
	r.Template.NotBefore = time.Now().Add(-2 * time.Hour)
	if _, err := back.Issue(t.Context(), r); err != nil {
		t.Error(err)
	}
}
