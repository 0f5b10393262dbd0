package exec

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// TestConformance runs the suite of the contract, in process and through a plugin process, which is killed.
func TestConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New: newBackend, Plugin: "exec", BadConfig: []byte("isue: [/bin/true]"), Timeout: 30 * time.Second,
		Config: func(t *testing.T) []byte { return config(t) },
	})
	for _, more := range []string{"idempotency: native", "forms: [pkcs10]\noverrides: [subject, subjectAltName, validity, keyUsage, extKeyUsage]"} {
		t.Run(more, func(t *testing.T) {
			backendtest.Run(t, backendtest.Subject{New: newBackend, Config: func(t *testing.T) []byte { return config(t, more) }})
		})
	}
}

// scripted is a backend whose issue, and every other operation, is a shell's script.
func scripted(t *testing.T, script string, more ...string) *CA {
	t.Helper()
	dir := t.TempDir()
	root, _ := standing(dir)
	chain := filepath.Join(dir, "chain.pem")
	if err := os.WriteFile(chain, []byte(pemOf(root.Raw)), 0o600); err != nil {
		t.Fatal(err)
	}
	argv, err := json.Marshal([]string{"/bin/sh", "-c", script})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, op := range []string{opIssue, opLookup, opPoll, opRevoke, opCRL} {
		lines = append(lines, fmt.Sprintf("%s: %s", op, argv))
	}
	lines = append(lines, fmt.Sprintf("chain: %q", chain), fmt.Sprintf("dir: %q", dir))
	c := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err := c.Configure(t.Context(), []byte(strings.Join(append(lines, more...), "\n"))); err != nil {
		t.Fatal(err)
	}
	return c
}

func request(t *testing.T) *backend.IssueRequest {
	t.Helper()
	_, key := standing(t.TempDir())
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	name := func(tag int, value ...byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: value}
	}
	san, err := asn1.Marshal([]asn1.RawValue{name(2, 'd'), name(1, 'm'), name(6, 'u'), name(7, 192, 0, 2, 1), name(7, make([]byte, 16)...)})
	if err != nil {
		t.Fatal(err)
	}
	return &backend.IssueRequest{ID: "id-1", Device: "device", Template: backend.Template{
		Subject: []byte{0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, 'x'}, PublicKey: spki,
		SubjectAltName: san,
		NotBefore:      time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageDecipherOnly,
	}}
}

// TestWhatAnAnswerProves: only a refusal in words, whole, with exit code 0, is one.
func TestWhatAnAnswerProves(t *testing.T) {
	refusal := func(code string) string {
		return fmt.Sprintf(`echo '{"refused": {"code": "%s", "message": "so it is", "retry_after": 7}}'`, code)
	}
	for what, test := range map[string]struct {
		script   string
		want     codes.Code
		definite bool
	}{
		"invalid":                {refusal("INVALID_ARGUMENT"), codes.InvalidArgument, true},
		"denied":                 {refusal("PERMISSION_DENIED"), codes.PermissionDenied, true},
		"precondition":           {refusal("FAILED_PRECONDITION"), codes.FailedPrecondition, true},
		"unimplemented":          {refusal("UNIMPLEMENTED"), codes.Unimplemented, true},
		"busy":                   {refusal("RESOURCE_EXHAUSTED"), codes.ResourceExhausted, true},
		"exists":                 {refusal("ALREADY_EXISTS"), codes.AlreadyExists, false},
		"a code of its own":      {refusal("NO"), codes.Internal, false},
		"refused and exit 1":     {refusal("INVALID_ARGUMENT") + "; exit 1", codes.Unavailable, false},
		"refused and killed":     {refusal("INVALID_ARGUMENT") + "; kill -9 $$", codes.Unavailable, false},
		"refused, cut short":     {`printf '{"refused": {"code": "INVALID_ARGUMENT"'`, codes.Internal, false},
		"refused and more":       {refusal("INVALID_ARGUMENT") + "; echo x", codes.Internal, false},
		"refused and a ticket":   {`echo '{"refused": {"code": "INVALID_ARGUMENT"}, "ticket": "t"}'`, codes.Internal, false},
		"an unknown key":         {`echo '{"refuse": 1}'`, codes.Internal, false},
		"nothing":                {"exit 0", codes.Internal, false},
		"an empty object":        {"echo '{}'", codes.Internal, false},
		"no certificate":         {`echo '{"certificate": "bm8="}'`, codes.Internal, false},
		"a certificate and more": {`echo '{"certificate": "x", "ticket": "t"}'`, codes.Internal, false},
		"exit 2":                 {"exit 2", codes.Unavailable, false},
		"too much":               {"head -c 2000000 /dev/zero", codes.Unavailable, false},
		"its time is over":       {"sleep 100", codes.Unavailable, false},
	} {
		t.Run(what, func(t *testing.T) {
			c := scripted(t, test.script, map[bool]string{true: "timeout: 100ms"}[what == "its time is over"])
			_, err := c.Issue(t.Context(), request(t))
			if status.Code(err) != test.want || backend.Definite(err) != test.definite {
				t.Errorf("%v: definite %t", err, backend.Definite(err))
			}
			if wait, ok := backend.RetryAfter(err); test.want == codes.ResourceExhausted && (!ok || wait != 7*time.Second) {
				t.Errorf("again after %s", wait)
			}
			// A poll is judged alike; a lookup never refuses by what it is.
			if _, err := c.Poll(t.Context(), request(t), "t"); status.Code(err) != test.want {
				t.Errorf("poll: %v", err)
			}
		})
	}
}

// TestNotStarted: a program that is gone did nothing.
func TestNotStarted(t *testing.T) {
	c := scripted(t, "exit 0")
	c.config.Issue[0] = "/no/such/program"
	_, err := c.Issue(t.Context(), request(t))
	if _, later := backend.RetryAfter(err); !later || !backend.Definite(err) {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Issue(over, request(t)); err == nil || backend.Definite(err) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// TestNeverWaits: `never` is not believed while a run that another gateway began may go on.
func TestNeverWaits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := scripted(t, `echo '{"state": "never"}'`, "timeout: 10s")
	c.o.Clock = func() time.Time { return now }
	r := request(t)
	for _, test := range []struct {
		ago  time.Duration
		want backend.OutcomeState
	}{{0, backend.OutcomeUnknown}, {19 * time.Second, backend.OutcomeUnknown}, {21 * time.Second, backend.OutcomeNever}} {
		r.Asked = now.Add(-test.ago)
		if o, err := c.Lookup(t.Context(), r); err != nil || o.State != test.want {
			t.Errorf("after %s: %+v, %v", test.ago, o, err)
		}
	}
	c.config.Idempotency = backend.IdempotencyNative
	r.Asked = now
	if o, err := c.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
		t.Errorf("native: %+v, %v", o, err)
	}
}

func TestLookupSays(t *testing.T) {
	for script, want := range map[string]backend.OutcomeState{
		`{"state": "unknown"}`:                backend.OutcomeUnknown,
		`{"state": "pending", "ticket": "t"}`: backend.OutcomePending,
		`{"state": "pending"}`:                "",
		`{"state": "issued", "ticket": "t"}`:  "",
		`{"state": "never", "ticket": "t"}`:   "",
		`{"state": "maybe"}`:                  "",
		`{}`:                                  "",
	} {
		o, err := scripted(t, "echo '"+script+"'").Lookup(t.Context(), request(t))
		if want == "" && err == nil || want != "" && (err != nil || o.State != want) {
			t.Errorf("%s: %+v, %v", script, o, err)
		}
	}
}

// TestQuestion is the schema's half that a script reads.
func TestQuestion(t *testing.T) {
	c := scripted(t, `cat >asked; echo "$PWD $SECRET $HOME $0" >env; echo '{"ticket": "t-1", "retry_after": 9}'`, "env: {SECRET: /file}")
	r := request(t)
	a, err := c.Issue(t.Context(), r)
	if err != nil || a.Ticket != "t-1" || a.RetryAfter != 9*time.Second {
		t.Fatalf("%+v, %v", a, err)
	}
	r.Asked = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if _, err := c.Poll(t.Context(), r, a.Ticket); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.config.Dir, "asked"))
	if err != nil {
		t.Fatal(err)
	}
	var q question
	if err := json.Unmarshal(text, &q); err != nil {
		t.Fatal(err)
	}
	p := q.Template
	if q.Version != 1 || q.Operation != "poll" || q.ID != "id-1" || q.Device != "device" || q.Ticket != "t-1" || q.Asked != "2026-01-02T03:04:05Z" {
		t.Errorf("%s", text)
	}
	if p.Subject != "CN=x" || !bytes.Equal(p.SubjectDER, r.Template.Subject) || !slices.Equal(p.DNS, []string{"d"}) || !slices.Equal(p.Email, []string{"m"}) ||
		!slices.Equal(p.URI, []string{"u"}) || !slices.Equal(p.IP, []string{"192.0.2.1", "::"}) || len(p.Extensions) != 2 ||
		!bytes.Equal(p.Extensions[1].Value, []byte{3, 3, 7, 0x80, 0x80}) || !p.Extensions[1].Critical {
		t.Errorf("%s", text)
	}
	if env, _ := os.ReadFile(filepath.Join(c.config.Dir, "env")); string(env) != c.config.Dir+" /file  /bin/sh\n" {
		t.Errorf("%s", env)
	}
}

func TestBusy(t *testing.T) {
	c := scripted(t, "exit 0", "concurrent: 1")
	c.slots <- struct{}{}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(10*time.Millisecond))
	defer cancel()
	if _, err := c.Issue(ctx, request(t)); err == nil {
		t.Error("it ran")
	}
}

func TestRevokeSays(t *testing.T) {
	r := &backend.RevokeRequest{Issuer: []byte{0x30, 0}, Serial: []byte{0x0a, 0xbc}, Reason: 0}
	for script, want := range map[string]codes.Code{
		`grep -q '"serial":"0ABC"' && echo '{"revoked": true}'`: codes.OK,
		`grep -q '"reason":0' && echo '{"revoked": true}'`:      codes.OK,
		`echo '{}'`: codes.Internal,
		`echo '{"refused": {"code": "NOT_FOUND"}}'`: codes.NotFound,
		`exit 1`: codes.Unavailable,
	} {
		if err := scripted(t, script).Revoke(t.Context(), r); status.Code(err) != want {
			t.Errorf("%s: %v", script, err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	good := "issue: [/bin/true]\nchain: /c.pem\n"
	for _, test := range []struct{ config, want string }{
		{"", "issue"},
		{"issue: [openssl]\nchain: /c", `config:1: issue: "openssl" is not an absolute path`},
		{"issue: []\nchain: /c", "issue"},
		{"issue: [/bin/true]", "chain: required"},
		{good + "ca: [/bin/true]", "leave one"},
		{good + "isue: [/x]", `did you mean "issue"`},
		{good + "lookup: [x]", "config:3: lookup"},
		{good + "forms: [pkcs1]", `did you mean "pkcs10"`},
		{good + "forms: [pkcs10]\noverrides: [subjekt]", `did you mean "subject"`},
		{good + "overrides: [subject]", "leave it out"},
		{good + "decides: [all]", "decides"},
		{good + "idempotency: native", "lookup"},
		{good + "idempotency: none", "lookup or native"},
		{good + "timeout: 1h", "10m"},
		{good + "concurrent: 1000", "256"},
		{good + "dir: here", "absolute"},
		{good + "env: {\"A=B\": c}", "variable"},
	} {
		err := New(Options{}).Validate(t.Context(), []byte(test.config))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.config, err)
		}
	}
	if err := New(Options{}).Configure(t.Context(), []byte("issue: [/no/such]\nchain: /c")); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "issue: ") {
		t.Error(err)
	}
	c, err := parseConfig([]byte(good))
	if err != nil || c.Idempotency != backend.IdempotencyNone || c.Forms[0] != backend.FormTemplate {
		t.Errorf("%+v, %v", c, err)
	}
}
