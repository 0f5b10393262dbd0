package host_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"gopkg.in/yaml.v3"

	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/plugins/host"
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 1 && os.Getenv(backend.Handshake().MagicCookieKey) != "":
		backend.Serve(newScripted()) // run by its path, as a third party's plugin
		os.Exit(0)
	case len(os.Args) == 3 && os.Args[1] == "host":
		runHost(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "plugin":
		backendtest.Main(m, map[string]func() backend.Backend{"scripted": newScripted, "hop": newHopCA})
	case len(os.Args) == 3 && os.Args[1] == "bare":
		runBare(os.Args[2])
	}
	goleak.VerifyTestMain(m) // a host that is closed leaves no goroutine behind
}

// scripted is a CA that does what the ID of a request says, and otherwise what Memory does.
type scripted struct {
	*backendtest.Memory
	c scriptedConfig
}

type scriptedConfig struct {
	Journal string `yaml:"journal"`
	// Lives gets a line for each Configure.
	Lives string `yaml:"lives"`
	// Broken is a file: while it exists, Configure ends the process.
	Broken string `yaml:"broken"`
	// Version is a file that holds Description.Version.
	Version string `yaml:"version"`
	// FIFO holds an Issue whose ID begins with "wait" until it has been opened and closed for writing.
	FIFO string `yaml:"fifo"`
	// Away is a file: while it exists, the CA does not answer Configure. An empty one is UNAVAILABLE, one that says "refuse" a refusal, one
	// that says "die" ends the process.
	Away string `yaml:"away"`
	// Hang makes Configure never return.
	Hang bool `yaml:"hang"`
}

func newScripted() backend.Backend {
	return &scripted{Memory: backendtest.NewMemory(backendtest.MemoryOptions{Seed: "host"})}
}

func (s *scripted) Validate(_ context.Context, config []byte) error {
	d := yaml.NewDecoder(bytes.NewReader(config))
	d.KnownFields(true)
	if err := d.Decode(&s.c); err != nil && err != io.EOF {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

func (s *scripted) Configure(ctx context.Context, config []byte) error {
	if err := s.Validate(ctx, config); err != nil {
		return err
	}
	if _, err := os.Stat(s.c.Broken); err == nil {
		os.Exit(3)
	}
	if how, err := os.ReadFile(s.c.Away); err == nil {
		switch string(how) {
		case "die":
			os.Exit(3)
		case "refuse":
			return backend.Refuse(codes.FailedPrecondition, "no such profile")
		}
		return backend.Refuse(codes.Unavailable, "the CA is away")
	}
	if s.c.Hang {
		<-make(chan struct{})
	}
	if s.c.Lives != "" {
		f, err := os.OpenFile(s.c.Lives, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(f, "%s\n", config)
	}
	slog.Warn("configured", "answer", 42)
	if s.c.Journal == "" {
		return nil
	}
	return s.Memory.Configure(ctx, []byte("journal: "+strconv.Quote(s.c.Journal)))
}

func (s *scripted) Describe(ctx context.Context) (*backend.Description, error) {
	d, err := s.Memory.Describe(ctx)
	if v, err := os.ReadFile(s.c.Version); err == nil {
		d.Version = string(v)
	}
	return d, err
}

func (s *scripted) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	kind, _, _ := strings.Cut(r.ID, "-")
	if kind == "wait" {
		f, err := os.Open(s.c.FIFO)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if _, err := io.Copy(io.Discard, f); err != nil {
			return nil, err
		}
	}
	a, err := s.Memory.Issue(ctx, r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "die":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return nil, err
		}
		<-make(chan struct{})
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "panic":
		panic("as asked")
	case "garbage":
		a.Certificate = []byte("no certificate")
	case "large":
		a.Certificate = make([]byte, backend.MaxCertificate+1)
	case "huge":
		a.Certificate = make([]byte, backend.MaxMessage+1)
	case "exhausted":
		return nil, backend.Exhausted(7*time.Second, "full")
	case "unable":
		return nil, backend.Unable("no disk")
	case "unavailable":
		return nil, backend.Refuse(codes.Unavailable, "not now")
	case "refuse":
		return nil, backend.Refuse(codes.PermissionDenied, "not this\none")
	case "chatty":
		fmt.Println("on stdout")
		fmt.Fprintln(os.Stderr, "on stderr")
		slog.Info("a line", "id", backend.RequestID(ctx), "secretive", false)
	}
	return a, nil
}

// Lookup of "environment" answers with the names in the process's environment.
func (s *scripted) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if r.ID == "environment" {
		var keys []string
		for _, e := range os.Environ() {
			key, _, _ := strings.Cut(e, "=")
			keys = append(keys, key)
		}
		return nil, backend.Refuse(codes.NotFound, "%s", strings.Join(keys, " "))
	}
	return s.Memory.Lookup(ctx, r)
}

// logBuffer collects log lines.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// config is a Config for the scripted plugin, and what it logs.
func config(t testing.TB, yaml string) (host.Config, *logBuffer) {
	log := &logBuffer{}
	return host.Config{
		Name: "ca", Plugin: "scripted", Config: []byte(yaml), Dir: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(log, nil)),
		Env: []string{"GORACE=atexit_sleep_ms=0"}, // under -race a process would sleep a second at its end
	}, log
}

// start runs a plugin until the test's end.
func start(t testing.TB, c host.Config) *host.Plugin {
	t.Helper()
	p, err := host.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

var (
	day     = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	request = func() func(id string) *backend.IssueRequest {
		subject, err := asn1.Marshal(pkix.Name{CommonName: "device"}.ToRDNSequence())
		if err != nil {
			panic(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(backendtest.NewMemory(backendtest.MemoryOptions{Seed: "device"}).Issuer().PublicKey)
		if err != nil {
			panic(err)
		}
		return func(id string) *backend.IssueRequest {
			return &backend.IssueRequest{ID: id, Template: backend.Template{
				Subject: subject, PublicKey: spki, NotBefore: day, NotAfter: day.Add(24 * time.Hour)}}
		}
	}()
)

// gone reports whether the process has ended; a zombie has. It looks for at most ten seconds.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	for range 2000 {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			return true
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "Z") {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func kill(t *testing.T, p *host.Plugin) int {
	t.Helper()
	pid := p.PID()
	if pid <= 0 {
		t.Fatal("no process to kill")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}
