package host_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

func TestAnswers(t *testing.T) {
	c, _ := config(t, "")
	var mu sync.Mutex
	called := map[codes.Code]int{}
	c.OnCall = func(name, method string, code codes.Code, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if name == "ca" && method == "Issue" && took >= 0 {
			called[code]++
		}
	}
	p := start(t, c)
	pid := p.PID()
	for _, c := range []struct {
		id       string
		code     codes.Code
		definite bool
		text     string
	}{
		{"good-1", codes.OK, false, ""},
		{"garbage-1", codes.Internal, false, "ca: Issue answered certificate: x509"},
		{"large-1", codes.Internal, false, "65537 bytes, more than 65536"},
		{"huge-1", codes.ResourceExhausted, false, "larger than max"},
		{"panic-1", codes.Internal, false, "ca: Issue panicked"},
		{"exhausted-1", codes.ResourceExhausted, true, "ca: full"},
		{"refuse-1", codes.PermissionDenied, true, "ca: not this one"},
		{"good-2", codes.OK, false, ""},
	} {
		_, err := p.Issue(t.Context(), request(c.id))
		if status.Code(err) != c.code || backend.Definite(err) != c.definite {
			t.Errorf("%s: %v, definite %t; not %s, %t", c.id, err, backend.Definite(err), c.code, c.definite)
		}
		if c.text != "" && !strings.Contains(status.Convert(err).Message(), c.text) {
			t.Errorf("%s: %v does not say %q", c.id, err, c.text)
		}
		if c.id == "exhausted-1" {
			if d, ok := backend.RetryAfter(err); !ok || d != 7*time.Second {
				t.Errorf("RetryInfo is lost: %v, %t", d, ok)
			}
		}
	}
	if p.PID() != pid || p.Restarts() != 0 || p.Healthy() != nil {
		t.Error("the plugin did not live through its answers")
	}
	mu.Lock()
	defer mu.Unlock()
	if called[codes.OK] != 2 || called[codes.Internal] != 3 || called[codes.ResourceExhausted] != 2 || called[codes.PermissionDenied] != 1 {
		t.Errorf("OnCall counted %v", called)
	}
}

// TestUnable: a CA that says that it can issue nothing is not healthy until an Issue has another end, or nobody asked it for a while.
func TestUnable(t *testing.T) {
	c, _ := config(t, "")
	now := time.Now()
	c.Clock = func() time.Time { return now }
	p := start(t, c)
	for _, step := range []struct {
		id   string
		well bool
	}{{"good-1", true}, {"unavailable-1", true}, {"unable-1", false}, {"unavailable-2", false}, {"refuse-1", true}, {"unable-2", false}, {"good-2", true}, {"unable-3", false}} {
		_, _ = p.Issue(t.Context(), request(step.id))
		if err := p.Healthy(); (err == nil) != step.well || err != nil && !strings.Contains(err.Error(), "no disk") {
			t.Errorf("after %s: %v", step.id, err)
		}
	}
	now = now.Add(time.Minute)
	if err := p.Healthy(); err != nil {
		t.Errorf("nobody asked for a minute: %v", err)
	}
}

func TestEveryCallGoesThrough(t *testing.T) {
	c, _ := config(t, "")
	p := start(t, c)
	ctx := t.Context()
	if _, err := p.Issue(ctx, request("a")); err != nil {
		t.Fatal(err)
	}
	if o, err := p.Lookup(ctx, &backend.IssueRequest{ID: "a"}); err != nil || o.State != backend.OutcomeIssued {
		t.Error(o, err)
	}
	if cas, err := p.CACertificates(ctx); err != nil || len(cas) != 1 || len(cas[0].Chain) != 2 {
		t.Error(cas, err)
	}
	if err := p.Revoke(ctx, &backend.RevokeRequest{Issuer: []byte{0x30, 0}, Serial: []byte{1}}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	var crl strings.Builder
	if err := p.CRL(ctx, "ec", &crl); err != nil || crl.Len() == 0 {
		t.Error(crl.Len(), err)
	}
	full := errors.New("disk full")
	if err := p.CRL(ctx, "ec", failing{full}); !errors.Is(err, full) {
		t.Errorf("the writer's own error is lost: %v", err)
	}
	_, poll := p.Poll(ctx, &backend.IssueRequest{ID: "a"}, "ticket")
	if _, err := p.SignCMS(ctx, "", []byte("x")); status.Code(err) != codes.FailedPrecondition { // it has announced nothing
		t.Error(err)
	}
	if der, err := p.OCSP(ctx, "", []byte("x")); err != nil || len(der) != 5 {
		t.Error(der, err)
	}
	_, exchange := p.Exchange(ctx, "a", []byte{0x30, 0})
	for _, err := range []error{poll, exchange} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%v, not UNIMPLEMENTED", err)
		}
	}
	roll := &backend.RolloverRequest{ID: "roll", Issuer: "ec", Kind: backend.RolloverRekey}
	if ca, err := p.Rollover(ctx, roll); err != nil || ca.Name != "ec" || len(ca.Rollover) != 1 {
		t.Error(ca, err)
	}
	if err := p.Configure(ctx, nil); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if err := p.Validate(ctx, []byte("lifes: x")); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if d, err := p.Describe(ctx); err != nil || d.Name != "memory" || d.Idempotency != backend.IdempotencyNative {
		t.Error(d, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestDeadline(t *testing.T) {
	c, _ := config(t, "")
	c.CallTimeout = time.Second
	p := start(t, c)
	if _, err := p.Issue(context.Background(), request("hang-1")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call without a deadline ends with %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Issue(ctx, request("hang-2")); status.Code(err) != codes.Canceled {
		t.Errorf("a cancelled call ends with %v", err)
	}
	if o, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "hang-1"}); err != nil || o.State != backend.OutcomeIssued {
		t.Error("the late call was not what it pretends to be", o, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HOST_SECRET", "hidden")
	t.Setenv("TZ", "UTC")
	c, _ := config(t, "")
	c.Env = append(c.Env, "CA_PROXY=here")
	p := start(t, c)
	_, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "environment"})
	words := strings.Fields(status.Convert(err).Message())[1:]
	allowed := "PATH HOME TMPDIR TZ SSL_CERT_FILE SSL_CERT_DIR GODEBUG GORACE CA_PROXY"
	for _, w := range words {
		if !strings.HasPrefix(w, "PLUGIN_") && !strings.HasPrefix(w, "MUSTER_PLUGIN") && !strings.Contains(" "+allowed+" ", " "+w+" ") {
			t.Errorf("the plugin sees %s", w)
		}
	}
	if s := strings.Join(words, " "); !strings.Contains(s, "TZ") || !strings.Contains(s, "CA_PROXY") {
		t.Errorf("the plugin does not see what it should: %s", s)
	}
}

func TestLog(t *testing.T) {
	c, log := config(t, "")
	p := start(t, c)
	if _, err := p.Issue(t.Context(), request("chatty-1")); err != nil {
		t.Fatal(err)
	}
	pid := p.PID()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !gone(t, pid) {
		t.Error("the plugin lives on")
	}
	for _, line := range []string{
		`level=INFO msg="plugin started" plugin=ca`,
		`level=WARN msg=configured plugin=ca answer=42`,
		`level=INFO msg="a line" plugin=ca id=chatty-1 secretive=false`,
		`level=INFO msg="plugin stopped" plugin=ca status="exit status 0"`,
	} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log lacks %s:\n%s", line, log)
		}
	}
}

func TestSignalsAreIgnored(t *testing.T) {
	c, _ := config(t, "")
	p := start(t, c)
	pid := p.PID()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "a"}); err != nil {
			t.Errorf("after %s: %v", s, err)
		}
	}
	if p.PID() != pid {
		t.Error("a signal ended the plugin")
	}
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid == syscall.Getpgrp() {
		t.Error("the plugin is in the host's process group", err)
	}
}

func TestClose(t *testing.T) {
	fifo := t.TempDir() + "/fifo"
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		drains bool
	}{{"drains", true}, {"is cut short", false}} {
		t.Run(c.name, func(t *testing.T) {
			cfg, _ := config(t, "fifo: "+fifo)
			cfg.StopTimeout = 50 * time.Millisecond
			if c.drains {
				cfg.StopTimeout = 10 * time.Second
			}
			p := start(t, cfg)
			pid := p.PID()
			answered := make(chan error, 1)
			go func() {
				_, err := p.Issue(t.Context(), request("wait-1"))
				answered <- err
			}()
			hold, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns when the plugin waits
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			closed := make(chan error, 1)
			go func() { closed <- p.Close(ctx) }()
			for p.Healthy() == nil {
				time.Sleep(time.Millisecond)
			}
			if _, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "a"}); status.Code(err) != codes.Unavailable {
				t.Errorf("a call after Close: %v", err)
			}
			impatient := errors.New("impatient")
			if !c.drains {
				cancel(impatient)
				if err := <-closed; !errors.Is(err, impatient) {
					t.Errorf("Close: %v", err)
				}
				if err := <-answered; status.Code(err) != codes.Unavailable {
					t.Errorf("the call cut off: %v", err)
				}
			}
			if err := hold.Close(); err != nil {
				t.Fatal(err)
			}
			if c.drains {
				if err := <-answered; err != nil {
					t.Errorf("the call under way: %v", err)
				}
				if err := <-closed; err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			if !gone(t, pid) {
				t.Error("the plugin lives on")
			}
			if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) != 1 {
				t.Errorf("Close leaves %v, %v beside the lock", left, err)
			}
		})
	}
}
