package console

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// noon is now: certificates of connections are checked against the machine's own time too.
var noon = time.Now().Truncate(time.Second)

// source is what the API reads: a store and a gateway.
type source struct {
	admin.Store   // none of what follows
	admin.Gateway // likewise
	mu            sync.Mutex
	transactions  []*gateway.Transaction // newest first
	devices       []*gateway.Device
	certificates  []*gateway.Certificate
	events        []string // what was done, by whom
	err           error
	slow          chan struct{} // an import waits for it
}

func (s *source) did(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

func (s *source) Transactions(_ context.Context, f gateway.TransactionFilter) (out []*gateway.Transaction, err error) {
	for _, t := range s.transactions {
		if (len(f.States) == 0 || slices.Contains(f.States, t.State)) && (f.Device == "" || f.Device == t.Device) && (f.Before == "" || t.ID < f.Before) && len(out) < f.Limit {
			out = append(out, t)
		}
	}
	return out, s.err
}

func (s *source) Explain(_ context.Context, id string) (*gateway.Transaction, error) {
	for _, t := range s.transactions {
		if t.ID == id {
			return t, nil
		}
	}
	return nil, gateway.ErrNotFound
}

func (s *source) Strangers(int) []*gateway.Transaction                        { return nil }
func (s *source) Ready(context.Context) error                                 { return nil }
func (s *source) Messages(context.Context, string) ([]gateway.Message, error) { return nil, nil }
func (s *source) Uses(context.Context, []string) (map[string]int64, error)    { return nil, nil }
func (s *source) UsesUnder(context.Context, string) (map[string]int64, error) { return nil, nil }
func (s *source) Endings(_ context.Context, _ time.Time, _ time.Duration, n int) ([]int64, error) {
	out := make([]int64, n)
	out[0] = 3
	return out, nil
}

func (s *source) Tallies(_ context.Context, from, _ time.Time) ([]gateway.Tally, error) {
	return []gateway.Tally{{Protocol: gateway.EST, State: gateway.StateIssued, Count: 41}, {Protocol: gateway.CMP, State: gateway.StateRefused, Count: int64(from.Hour() % 2)}}, nil
}

func (s *source) Certificate(_ context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	for _, c := range s.certificates {
		if bytes.Equal(c.Serial, serial) && bytes.Equal(c.Issuer, issuer) {
			return c, nil
		}
	}
	return nil, gateway.ErrNotFound
}

func (s *source) Certificates(context.Context, gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	return s.certificates, s.err
}

func (s *source) Device(_ context.Context, _, value string) (*gateway.Device, error) {
	for _, d := range s.devices {
		if d.Name == value {
			return d, nil
		}
	}
	return nil, gateway.ErrNotFound
}

func (s *source) Devices(context.Context, gateway.DeviceFilter) ([]*gateway.Device, error) {
	return s.devices, s.err
}

func (s *source) ImportDevices(ctx context.Context, all []*gateway.Device, _ bool, e gateway.AuditEvent, progress func(int)) (int, int, error) {
	if s.slow != nil {
		progress(1)
		select {
		case <-s.slow:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
	for _, d := range all {
		if d.Name == "stands" {
			return 0, 0, &gateway.DeviceConflictError{Conflicts: []gateway.DeviceConflict{{Index: 0, Why: "device stands stands already"}}}
		}
	}
	s.did("%s %d by %s", e.Kind, len(all), e.Actor)
	return len(all), 0, nil
}

func (s *source) FreeClaims(_ context.Context, _ []string, e gateway.AuditEvent) error {
	s.did("%s by %s", e.Kind, e.Actor)
	return nil
}

func (s *source) decided(what, id, actor, reason string) (*gateway.Transaction, error) {
	s.did("%s by %s: %s", what, actor, reason)
	return s.Explain(context.Background(), id)
}

func (s *source) Approve(_ context.Context, id, actor, reason string) (*gateway.Transaction, error) {
	return s.decided("approve", id, actor, reason)
}

func (s *source) Deny(_ context.Context, id, actor, reason string) (*gateway.Transaction, error) {
	return s.decided("deny", id, actor, reason)
}

func (s *source) RevokeCertificate(_ context.Context, _, serial []byte, _ int, actor, note string) (*gateway.Certificate, gateway.Told, error) {
	s.did("revoke by %s: %s", actor, note)
	return s.certificates[0], gateway.ToldCA, nil
}

// authority is a CA of operators' certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign makes a certificate; the first is the authority's own.
func (a *authority) sign(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	k := key(t)
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	c.NotBefore, c.NotAfter = noon.Add(-time.Hour), noon.Add(48*time.Hour)
	parent := a.cert
	if parent == nil {
		parent, a.key = c, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		a.cert = leaf
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

func newAuthority(t testing.TB) *authority {
	a := &authority{}
	a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Operators"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// world is a console over TLS.
type world struct {
	*testing.T
	source    *source
	server    *admin.Server
	operators *authority
	serving   tls.Certificate
	sessions  *Sessions
	url       string
	dir       string
	log       bytes.Buffer
	clock     struct {
		sync.Mutex
		ahead time.Duration
	}
	handler struct {
		sync.Mutex
		http.Handler
	}
}

func (w *world) now() time.Time {
	w.clock.Lock()
	defer w.clock.Unlock()
	return noon.Add(w.clock.ahead)
}

func (w *world) later(d time.Duration) {
	w.clock.Lock()
	defer w.clock.Unlock()
	w.clock.ahead += d
}

func newWorld(t *testing.T, settle func(*admin.RemoteConfig)) *world {
	t.Helper()
	w := &world{T: t, source: &source{}, operators: newAuthority(t), dir: t.TempDir()}
	own := &authority{}
	w.serving = own.sign(t, &x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	w.put("operators.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.operators.cert.Raw}))
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	var err error
	w.server, err = admin.New(admin.Config{
		Store: w.source, Gateway: w.source, Backends: func(context.Context) []admin.Backend {
			return []admin.Backend{{Name: "local", Plugin: "local", Breaker: "closed"}}
		},
		CAs: func(context.Context) []admin.BackendCAs {
			return []admin.BackendCAs{{Backend: "gone", Err: errors.New("no answer")}}
		},
		CRL: func(context.Context, string, string) ([]byte, error) { return nil, gateway.ErrNotFound }, Sealer: func() admin.Sealer { return nil },
		TakesSecrets: func(string) error { return nil }, TakesChallenges: func(string, string) error { return nil },
		ProcessCMP:    func(context.Context, string, []byte) ([]byte, error) { return nil, gateway.ErrNotFound },
		Configuration: func() admin.Configuration { return admin.Configuration{File: "muster.yaml", SHA256: "ab"} },
		Pipelines: func() []admin.PipelineDrawing {
			return []admin.PipelineDrawing{{Endpoint: "ran", Protocol: "CMP", Drawing: "Endpoint ran\n  └─ names\n"}}
		},
		Reload: func(context.Context, string) (*admin.Reload, error) { return nil, errors.New("none") }, Started: func() bool { return true },
		Metrics: prometheus.NewRegistry(), Version: "v1.2.3", Instance: "a", Clock: w.now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.sessions, err = NewSessions(w.now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.sessions.Close)
	w.configure(settle)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.handler.Lock()
		h := w.handler.Handler
		w.handler.Unlock()
		h.ServeHTTP(rw, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{w.serving}, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

func (w *world) put(name string, data []byte) {
	w.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o600); err != nil {
		w.Fatal(err)
	}
}

// configure puts another configuration into force; people stay signed in.
func (w *world) configure(settle func(*admin.RemoteConfig)) {
	w.Helper()
	c := &admin.RemoteConfig{
		Address: "127.0.0.1:0", ClientCA: "operators.pem", Console: &admin.ConsoleConfig{},
		Certificates: map[string]string{"CN=alice,O=Ops": "admin", "CN=bob,O=Ops": "approver", "CN=victor,O=Ops": "viewer"},
	}
	if settle != nil {
		settle(c)
	}
	access, err := admin.NewAccess(c, w.dir, func() *x509.Certificate { return w.serving.Leaf })
	if err != nil {
		w.Fatal(err)
	}
	k, err := New(Config{
		API: w.server, Access: access, Settings: c.Console, Dir: w.dir, Sessions: w.sessions, Version: "v1.2.3", Clock: w.now, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Account: func(t *admin.Transaction, _ time.Time) Account {
			return Account{Summary: "This is " + t.Subject, Sections: []Section{{Rows: []Row{{Label: "Subject", Value: t.Subject}}}, {Title: "Stages", Rows: []Row{{Label: "deny", Value: "names", Note: "too long", Depth: 1, Verdict: true}}}}}
		},
		ReadDevices: readDevices, Plain: plain,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.handler.Lock()
	defer w.handler.Unlock()
	w.handler.Handler = k.Handler(w.server.Remote(access))
}
