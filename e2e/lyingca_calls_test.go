package e2e

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/plugins/host"
)

// lyingHost runs the plugin as the gateway's host does.
type lyingHost struct {
	t      *testing.T
	config host.Config
	spki   []byte
	log    *capture
}

func newLyingHost(t *testing.T) *lyingHost {
	t.Helper()
	dir := t.TempDir()
	plugin, ca := filepath.Join(dir, "plugin"), filepath.Join(dir, "ca")
	if err := os.Mkdir(ca, 0o700); err != nil {
		t.Fatal(err)
	}
	h := &lyingHost{t: t, log: &capture{}, spki: backendtest.NewMemory(backendtest.MemoryOptions{Seed: "device"}).Issuer().RawSubjectPublicKeyInfo}
	h.config = host.Config{
		Name: "lying", Plugin: plugin, SHA256: buildPlugin(t, "lyingca", plugin), Config: fmt.Appendf(nil, "dir: %s\n", ca), Dir: dir,
		Log: slog.New(slog.NewTextHandler(h.log, nil)), StopTimeout: 50 * time.Millisecond,
	}
	return h
}

// with is the host's configuration with a misdeed: of a call, or (call "") of the process before its handshake.
func (h *lyingHost) with(call, does string) host.Config {
	c := h.config
	if call == "" {
		c.Env = []string{"LYING=" + does}
	} else {
		c.Config = fmt.Appendf(bytes.Clone(c.Config), "does: {%s: %s}\n", call, does)
	}
	c.StartTimeout = 30 * time.Second
	if does == "hang" || does == "silent" {
		c.StartTimeout = time.Second
	}
	return c
}

func (h *lyingHost) request(name string) *backend.IssueRequest {
	subject, err := asn1.Marshal(pkix.Name{CommonName: name}.ToRDNSequence())
	if err != nil {
		h.t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	return &backend.IssueRequest{ID: name, Template: backend.Template{Subject: subject, PublicKey: h.spki, NotBefore: now, NotAfter: now.Add(time.Hour)}}
}

// calls makes every call that a gateway makes of a running plugin.
func (h *lyingHost) calls(p *host.Plugin) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"CACertificates": func(ctx context.Context) error { _, err := p.CACertificates(ctx); return err },
		"Issue":          func(ctx context.Context) error { _, err := p.Issue(ctx, h.request("true-1")); return err },
		"Lookup":         func(ctx context.Context) error { _, err := p.Lookup(ctx, h.request("true-1")); return err },
		"Revoke": func(ctx context.Context) error {
			return p.Revoke(ctx, &backend.RevokeRequest{Issuer: []byte{0x30, 0}, Serial: []byte{1}})
		},
		"CRL": func(ctx context.Context) error { return p.CRL(ctx, "lying", io.Discard) },
	}
}

// start runs a plugin for as long as use does.
func (h *lyingHost) start(c host.Config, use func(p *host.Plugin)) {
	h.t.Helper()
	p, err := host.Start(h.t.Context(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			h.t.Error(err)
		}
	}()
	use(p)
}

// refused wants a start that fails with an error that a log can hold.
func (h *lyingHost) refused(what string, err error) {
	h.t.Helper()
	if err == nil || len(err.Error()) > 64<<10 || strings.ContainsAny(err.Error(), "\x1b\x00\x07") {
		h.t.Errorf("%s: %.300v", what, err)
	}
}

// starts are misdeeds of a plugin that never comes into service.
func (h *lyingHost) starts(does ...string) {
	for _, d := range does {
		call, misdeed, _ := strings.Cut(d, " ")
		if call == "Validate" {
			h.refused(d, host.Validate(h.t.Context(), h.with(call, misdeed)))
			continue
		}
		if call == "process" {
			call = ""
		}
		p, err := host.Start(h.t.Context(), h.with(call, misdeed))
		if h.refused(d, err); p != nil {
			h.t.Fatalf("%s: it runs", d)
		}
	}
}

// misbehaves has a running plugin's call fail, while another CA of the same host goes on, and the plugin comes back.
func (h *lyingHost) misbehaves(honest *host.Plugin, does ...string) {
	for _, d := range does {
		call, misdeed, _ := strings.Cut(d, " ")
		h.start(h.with(call, misdeed), func(p *host.Plugin) {
			ctx, cancel := context.WithCancel(h.t.Context())
			defer cancel()
			answer := make(chan error, 1)
			go func() { answer <- h.calls(p)[call](ctx) }()
			for i := range 3 {
				if _, err := honest.Issue(h.t.Context(), h.request(fmt.Sprintf("true-%s-%s-%d", call, misdeed, i))); err != nil {
					h.t.Errorf("%s: another CA: %v", d, err)
				}
			}
			if misdeed == "hang" || misdeed == "drip" {
				cancel() // whoever waits, waits no longer than he wants
			}
			err := <-answer
			if h.refused(d, err); backend.Definite(err) {
				h.t.Errorf("%s: %v refuses for good", d, err)
			}
			if misdeed == "crash" || misdeed == "panic" {
				if _, err := p.Describe(h.t.Context()); err != nil {
					h.t.Error(err)
				}
				for i := 0; p.Restarts() == 0 && i < 3000; i++ {
					time.Sleep(10 * time.Millisecond)
				}
				if p.Restarts() == 0 {
					h.t.Errorf("%s: it is not started again", d)
				}
			}
		})
	}
}

// answers are lies that the host itself finds out: none is a certificate, and none refuses for good.
func (h *lyingHost) answers(names ...string) {
	h.t.Setenv("GATEWAYS_SECRET", "hidden")
	h.start(h.config, func(p *host.Plugin) {
		for _, name := range names {
			got, err := p.Issue(h.t.Context(), h.request(name+"-1"))
			if h.refused(name, err); backend.Definite(err) || got != nil {
				h.t.Errorf("%s: %v, %v", name, got, err)
			}
			if err != nil && strings.Contains(err.Error(), "hidden") && name != "environ" {
				h.t.Errorf("%s: %v", name, err)
			}
			if err := p.Healthy(); err != nil {
				h.t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// floods has it write a million lines: the log has some thousand of them.
func (h *lyingHost) floods() {
	h.log = &capture{}
	c := h.config
	c.Log = slog.New(slog.NewTextHandler(h.log, nil))
	h.start(c, func(p *host.Plugin) {
		if _, err := p.Issue(h.t.Context(), h.request("flood-1")); err != nil {
			h.t.Error(err)
		}
	})
	if log := h.log.String(); strings.Count(log, "again and again") < 5000 || len(log) > 4<<20 {
		h.t.Errorf("%d bytes of log", len(log))
	}
}

// unharmed runs misdeeds and checks that the host is afterwards as it was before.
func (h *lyingHost) unharmed(misdeeds func()) {
	h.t.Helper()
	measure := func() (goroutines, files int, heap uint64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			h.t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(open), m.HeapAlloc
	}
	goroutines, files, heap := measure()
	misdeeds()
	var g, f int
	var m uint64
	for range 500 { // what was killed is waited for by others
		if g, f, m = measure(); g <= goroutines && f <= files && m < heap+16<<20 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Errorf("%d goroutines, %d descriptors and %d bytes are %d, %d and %d", goroutines, files, heap, g, f, m)
}

// A plugin that hangs, dies, shouts, floods and answers nonsense, at every call: the host is as it was, and other CAs go on.
func TestLyingPlugin(t *testing.T) {
	h := newLyingHost(t)
	h.start(h.config, func(honest *host.Plugin) {
		h.unharmed(func() {
			h.starts("process exit", "process stdout", "process outside", "Configure crash", "Configure hang", "Describe shout")
			h.misbehaves(honest, "Issue hang", "Issue crash", "Lookup shout", "Revoke panic", "CRL endless", "CRL unending", "CACertificates hang")
			h.answers("garbage", "trailing", "huge", "neither", "shout")
			h.floods()
		})
	})
}
