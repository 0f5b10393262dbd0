package est

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// What an answer to simpleenroll proves.
func TestAnswers(t *testing.T) {
	for code, want := range map[int]codes.Code{
		400: codes.InvalidArgument, 401: codes.PermissionDenied, 403: codes.PermissionDenied, 404: codes.InvalidArgument, 408: codes.Unavailable,
		429: codes.ResourceExhausted, 500: codes.Unavailable, 502: codes.Unavailable, 503: codes.Unavailable, 202: codes.Unavailable, 204: codes.Unavailable, 307: codes.Unavailable,
	} {
		f := newFakeCA(t)
		f.before = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			if code != 204 {
				w.Write([]byte("the CA's own words\x00")) //nolint:errcheck // the client's loss
			}
			return true
		}
		_, err := f.configured(t).Issue(t.Context(), request("one", time.Time{}))
		if status.Code(err) != want || backend.Definite(err) != (code >= 400 && code < 500 && code != 408) {
			t.Errorf("HTTP %d: %v, definite %t", code, err, backend.Definite(err))
		}
		if code == 400 && !strings.HasSuffix(err.Error(), "the CA's own words") {
			t.Errorf("HTTP %d: %v does not say what the CA said", code, err)
		}
		if strings.Contains(err.Error(), "secret-word") {
			t.Errorf("a secret in %v", err)
		}
	}
}

// What was sent and has no good answer is not known; what was not sent is refused.
func TestUnknownOutcome(t *testing.T) {
	garbage := func(text string) func(http.ResponseWriter, []byte) bool {
		return func(w http.ResponseWriter, _ []byte) bool { _, err := w.Write([]byte(text)); return err == nil }
	}
	for name, after := range map[string]func(http.ResponseWriter, []byte) bool{
		"dropped": func(http.ResponseWriter, []byte) bool { panic(http.ErrAbortHandler) },
		"garbage": garbage("MIIB????"),
		"empty":   garbage(""),
		"no CMS":  garbage("MAMCAQA="),
		"large":   garbage(strings.Repeat("A", maxAnswer+1)),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCA(t)
			c := f.configured(t)
			f.after = after
			if _, err := c.Issue(t.Context(), request("one", time.Time{})); err == nil || backend.Definite(err) {
				t.Errorf("%v: a certificate exists, and this refuses", err)
			}
			if n, posts := f.count(); n != 1 || posts != 1 {
				t.Errorf("%d certificates of %d requests", n, posts)
			}
		})
	}
	t.Run("unreached", func(t *testing.T) {
		f := newFakeCA(t)
		c := f.configured(t)
		c.running.Load().bag.Store(&upstream.Bag{f.issuer, f.root}) // without a connection that stays open
		f.Close()
		if _, err := c.Issue(t.Context(), request("one", time.Time{})); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
			t.Errorf("%v: nobody was asked", err)
		}
		if _, err := c.CACertificates(t.Context()); err == nil {
			t.Error("certificates of a CA that does not answer")
		}
	})
	t.Run("late", func(t *testing.T) {
		f := newFakeCA(t)
		c := f.configured(t)
		over := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		f.after = func(http.ResponseWriter, []byte) bool { cancel(); <-over; return true }
		_, err := c.Issue(ctx, request("one", time.Time{}))
		close(over)
		if err == nil || backend.Definite(err) {
			t.Errorf("%v: a certificate exists", err)
		}
	})
}

// A request that was answered late, dropped or by a CA that died is found by asking again, within repeat, and has one certificate.
func TestLookup(t *testing.T) {
	f := newFakeCA(t)
	f.repeat = 10 * time.Minute
	start := time.Now()
	f.now = func() time.Time { return start }
	c := f.configured(t, "repeat: 10m")
	r := request("one", time.Time{})
	if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomeNever {
		t.Errorf("never asked: %s", o.State)
	}
	f.after = func(http.ResponseWriter, []byte) bool { panic(http.ErrAbortHandler) }
	if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
		t.Fatal(err)
	}
	f.after = nil
	r.Asked = start
	o := must(c.Lookup(t.Context(), r))
	if n, _ := f.count(); n != 1 || o.State != backend.OutcomeIssued || !bytes.Equal(o.Issuance.Certificate, f.ledger[0].der) {
		t.Fatalf("%d certificates, %s", n, o.State)
	}
	// Not even when the gateway, begun anew, says later: the dates of the request are from before it.
	r.Asked = start.Add(9 * time.Minute)
	f.now = func() time.Time { return start.Add(9*time.Minute + 31*time.Second) }
	if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomeUnknown {
		t.Errorf("when the CA may have forgotten: %s", o.State)
	}
	r.Asked, r.Template.NotBefore = start, start.Add(time.Hour)
	if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomeUnknown {
		t.Errorf("dates of the future: %s", o.State)
	}
	if n, _ := f.count(); n != 1 {
		t.Errorf("%d certificates", n)
	}
	// No refusal of the second request proves anything of the first.
	f.now = func() time.Time { return start.Add(time.Minute) }
	f.before = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true }
	if _, err := c.Lookup(t.Context(), r); err == nil || backend.Definite(err) {
		t.Errorf("Lookup: %v", err)
	}
}

// 202, and the same request again until it is over.
func TestPoll(t *testing.T) {
	f := newFakeCA(t)
	f.repeat, f.hold = 10*time.Minute, true
	start := time.Now()
	f.now = func() time.Time { return start }
	c := f.configured(t, "repeat: 10m")
	r := request("one", time.Time{})
	a := must(c.Issue(t.Context(), r))
	if a.Ticket == "" || a.RetryAfter != time.Second {
		t.Fatalf("%+v", a)
	}
	f.now = func() time.Time { return start.Add(9 * time.Minute) }
	a = must(c.Poll(t.Context(), r, a.Ticket))
	if a.Certificate != nil || a.Ticket == "" {
		t.Fatalf("%+v", a)
	}
	f.approve()
	f.now = func() time.Time { return start.Add(18 * time.Minute) }
	f.after = func(http.ResponseWriter, []byte) bool { panic(http.ErrAbortHandler) }
	if _, err := c.Poll(t.Context(), r, a.Ticket); err == nil || backend.Definite(err) {
		t.Fatalf("dropped: %v", err)
	}
	f.after = nil
	got := must(c.Poll(t.Context(), r, a.Ticket))
	if n, _ := f.count(); n != 1 || !bytes.Equal(got.Certificate, f.ledger[0].der) {
		t.Fatalf("%d certificates", n)
	}
	// Issued at once after the last 202, and forgotten since: it would be a new request.
	_, before := f.count()
	f.now = func() time.Time { return start.Add(18*time.Minute + 31*time.Second) }
	if _, err := c.Poll(t.Context(), r, a.Ticket); status.Code(err) != codes.Aborted || backend.Definite(err) {
		t.Errorf("%v", err)
	}
	if _, posts := f.count(); posts != before {
		t.Error("asked again when the CA may have forgotten")
	}
	if _, err := c.Poll(t.Context(), r, "nonsense"); err == nil || backend.Definite(err) {
		t.Errorf("%v", err)
	}
}

// A Retry-After beyond what the CA remembers is not waited for.
func TestRetryAfterBeyondRepeat(t *testing.T) {
	f := newFakeCA(t)
	f.before = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(202)
		return true
	}
	if a := must(f.configured(t, "repeat: 10m").Issue(t.Context(), request("one", time.Time{}))); a.RetryAfter != 5*time.Minute {
		t.Errorf("%s", a.RetryAfter)
	}
}

// Which refusals of a poll are about the request: those in words or by a PKI response, but for some statuses. Others are about us, or of
// who stands before the CA; what it holds still stands.
func TestPollRefusals(t *testing.T) {
	type answer struct {
		code  int
		media string
	}
	for a, refuses := range map[answer]bool{
		{400, "text/plain; charset=utf-8"}: true, {403, "text/plain"}: true, {400, "application/pkcs7-mime; smime-type=CMC-response"}: true,
		{400, "text/html"}: false, {403, "text/html"}: false, {400, ""}: false, {403, "x/;"}: false,
		{401, "text/plain"}: false, {404, "text/plain"}: false, {405, "text/plain"}: false, {410, "text/plain"}: false, {421, "text/plain"}: false,
		{408, "text/plain"}: false, {429, "text/plain"}: false, {500, "text/plain"}: false, {503, "text/plain"}: false,
	} {
		f := newFakeCA(t)
		f.hold = true
		c := f.configured(t, "repeat: 10m")
		r := request("one", time.Time{})
		held := must(c.Issue(t.Context(), r))
		f.before = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header()["Content-Type"] = []string{a.media}
			w.WriteHeader(a.code)
			return true
		}
		_, err := c.Poll(t.Context(), r, held.Ticket)
		got := status.Code(err) == codes.InvalidArgument || status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.FailedPrecondition
		if err == nil || got != refuses {
			t.Errorf("HTTP %d %s: %v", a.code, a.media, err)
		}
	}
}

// What the CA would certify otherwise than the template is refused before it is asked.
func TestTemplate(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	other := request("other", time.Time{})
	for what, change := range map[string]func(*backend.IssueRequest){
		"subject": func(r *backend.IssueRequest) { r.Template.Subject = other.Template.Subject },
		"SAN":     func(r *backend.IssueRequest) { r.Template.SubjectAltName = nil },
		"key":     func(r *backend.IssueRequest) { r.Template.PublicKey = other.Template.PublicKey },
		"CSR":     func(r *backend.IssueRequest) { r.CSR = nil },
		"issuer":  func(r *backend.IssueRequest) { r.Issuer = "ec" },
	} {
		r := request("one", time.Time{})
		change(r)
		if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("another %s: %v", what, err)
		}
	}
	if _, posts := f.count(); posts != 0 {
		t.Errorf("the CA was asked %d times", posts)
	}
}

// The RA's certificate that has expired is refused here, and a poll with it refuses nothing.
func TestExpiredRA(t *testing.T) {
	f := newFakeCA(t)
	f.hold = true
	dir := t.TempDir()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	cert := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(9), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, f.issuer, key.Public(), f.key))
	files := map[string][]byte{
		"ra.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), "ra.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}),
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := f.configured(t, "repeat: 30d", "cert: "+filepath.Join(dir, "ra.pem"), "key: "+filepath.Join(dir, "ra.key"))
	r := request("one", time.Time{})
	a := must(c.Issue(t.Context(), r))
	f.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Issue: %v", err)
	}
	if _, err := c.Poll(t.Context(), r, a.Ticket); err == nil || backend.Definite(err) {
		t.Errorf("Poll: %v", err)
	}
	// One that is younger than a request is perhaps not who the CA knows as its client.
	f.now, r.Asked = time.Now, time.Now()
	r.Template.NotBefore = time.Now().Add(-2 * time.Hour)
	_, before := f.count()
	o := must(c.Lookup(t.Context(), r))
	if _, posts := f.count(); o.State != backend.OutcomeUnknown || posts != before {
		t.Errorf("Lookup by another certificate: %s, %d times", o.State, posts-before)
	}
	r.Template.NotBefore = time.Now()
	if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomePending {
		t.Errorf("Lookup: %s", o.State)
	}
}

func TestLabelAndWrongPassword(t *testing.T) {
	f := newFakeCA(t)
	f.label = "factory"
	if _, err := f.configured(t, "label: factory").Issue(t.Context(), request("one", time.Time{})); err != nil {
		t.Error(err)
	}
	c := f.configured(t, "label: factory")
	f.auth = "Basic other"
	if _, err := c.Issue(t.Context(), request("two", time.Time{})); status.Code(err) != codes.PermissionDenied || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// A CA that nobody can ask what became of a request is asked over a connection of its own: none that waits, and may be closed meanwhile.
func TestConnectionOfItsOwn(t *testing.T) {
	for lines, own := range map[string]bool{"": true, "repeat: 10m": false} {
		f := newFakeCA(t)
		var closes bool
		f.before = func(_ http.ResponseWriter, r *http.Request) bool { closes = r.Close; return false }
		if _, err := f.configured(t, lines).Issue(t.Context(), request("one", time.Time{})); err != nil || closes != own {
			t.Errorf("%q: %v, its own %t", lines, err, closes)
		}
	}
}
