package backendtest

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/host"
)

// Subject is the backend under test.
type Subject struct {
	// New makes a backend that has not been configured, as a plugin's main does.
	New func() backend.Backend
	// Config is the configuration of a CA of its own, YAML. It is called once for each test, so that none sees
	// another's certificates; t.TempDir gives a place.
	Config func(t *testing.T) []byte
	// BadConfig is a configuration that Validate and Configure refuse; nil when there is none.
	BadConfig []byte
	// Plugin is the name under which Main serves New. The suite runs a second time through a process then; ""
	// leaves that out.
	Plugin string
	// Now dates the templates; nil is time.Now.
	Now func() time.Time
	// Timeout bounds each call; 0 is 10 s.
	Timeout time.Duration
	// NamedByDNS has requests whose common name is their dNSName, as CAs of TLS servers want it.
	NamedByDNS bool
}

// Run tests that a backend keeps the contract of backend.Backend: in process, and through a real plugin process,
// which is then killed while it issues. A backend that passes can be used with nothing but a line of configuration.
func Run(t *testing.T, s Subject) {
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Timeout == 0 {
		s.Timeout = 10 * time.Second
	}
	t.Run("in-process", func(t *testing.T) {
		for _, c := range checks {
			t.Run(c.name, func(t *testing.T) { s.run(t, c, s.inProcess(t)) })
		}
	})
	if s.Plugin == "" {
		return
	}
	t.Run("process", func(t *testing.T) {
		for _, c := range slices.Concat(checks, processChecks) {
			t.Run(c.name, func(t *testing.T) { s.run(t, c, s.process(t)) })
		}
	})
}

// check is one demand of the contract: nil when the backend meets it.
type check struct {
	name string
	test func(ctx context.Context, x *trial) error
}

func (s *Subject) run(t *testing.T, c check, x *trial) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*s.Timeout)
	defer cancel()
	x.subject = s
	if err := x.begin(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.test(ctx, x); err != nil {
		t.Error(err)
	}
}

// inProcess configures a new backend.
func (s *Subject) inProcess(t *testing.T) *trial {
	t.Helper()
	b, config := s.New(), s.Config(t)
	ctx, cancel := context.WithTimeout(t.Context(), s.Timeout)
	defer cancel()
	if err := b.Validate(ctx, config); err != nil {
		t.Fatalf("Validate refuses the configuration: %v", err)
	}
	if err := b.Configure(ctx, config); err != nil {
		t.Fatalf("Configure: %v", err)
	}
	if c, ok := b.(interface{ Close() error }); ok {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	return &trial{b: b}
}

// process starts the backend as a plugin of this test binary.
func (s *Subject) process(t *testing.T) *trial {
	t.Helper()
	c := host.Config{
		Name: "under-test", Plugin: s.Plugin, Config: s.Config(t), Dir: t.TempDir(), CallTimeout: s.Timeout,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Env: []string{"GORACE=atexit_sleep_ms=0"}, // under -race a process would sleep a second at its end
	}
	if err := host.Validate(t.Context(), c); err != nil {
		t.Fatalf("Validate refuses the configuration: %v", err)
	}
	p, err := host.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return &trial{b: p, kill: func() error {
		if pid := p.PID(); pid > 0 { // 0 would be this process and all beside it
			return syscall.Kill(pid, syscall.SIGKILL)
		}
		return nil
	}}
}

// trial is a configured backend under one check.
type trial struct {
	b       backend.Backend
	kill    func() error // nil in process
	subject *Subject
	d       *backend.Description
	cas     []backend.CA
	issuing *x509.Certificate // of the default CA
	serial  int               // of IDs
	tickets sync.Map          // by ID: what the gateway has recorded, and polls with from then on
}

func (x *trial) begin(ctx context.Context) (err error) {
	if x.d, err = x.b.Describe(ctx); err != nil {
		return fmt.Errorf("Describe: %w", err)
	}
	if x.cas, err = x.b.CACertificates(ctx); err != nil {
		return fmt.Errorf("CACertificates: %w", err)
	}
	if len(x.cas) == 0 || len(x.cas[0].Chain) == 0 {
		return fmt.Errorf("CACertificates: no CA with a certificate")
	}
	x.issuing, err = x509.ParseCertificate(x.cas[0].Chain[0])
	return err
}

func (x *trial) can(c backend.Capability) bool { return slices.Contains(x.d.Capabilities, c) }

// issues reports whether the backend takes what the suite can ask for.
func (x *trial) issues() bool {
	return slices.Contains(x.d.Forms, backend.FormTemplate) || slices.Contains(x.d.Forms, backend.FormPKCS10)
}

// sets reports whether the backend certifies the field as the template says.
func (x *trial) sets(f backend.Field) bool {
	return slices.Contains(x.d.Forms, backend.FormTemplate) || slices.Contains(x.d.Overrides, f)
}
