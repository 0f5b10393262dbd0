package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// world is a gateway on a real store, before a CA that fails as planned, with one endpoint "est".
type world struct {
	t      testing.TB
	clock  *clock
	dsn    string // of the store
	name   string // of the instance
	store  gateway.Store
	close  func()
	memory *backendtest.Memory
	ca     *backendtest.FaultyBackend
	gw     *gateway.Gateway
	opts   gateway.Options
	enroll gateway.Pipeline
	revoke gateway.Pipeline
	desc   func(*backend.Description)
	wrap   func(gateway.Store) gateway.Store
	keep   bool // unconfirmed certificates
	logs   io.Writer
	shape  func(*gateway.Profile)

	rates    map[string]gateway.Rate
	known    map[string]*gateway.Known // CAs that are silent
	offline  map[string]gateway.Offline
	protocol gateway.Protocol           // of the endpoint; EST when ""
	more     map[string]backend.Backend // CAs beside "ca", each with a profile of its name
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// described changes what a backend says of itself.
type described struct {
	backend.Backend
	change func(*backend.Description)
}

func (d described) Describe(ctx context.Context) (*backend.Description, error) {
	got, err := d.Backend.Describe(ctx)
	if err == nil && d.change != nil {
		own := *got
		d.change(&own)
		got = &own
	}
	return got, err
}

func newWorld(t testing.TB, plan backendtest.FaultPlan, change ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}}
	w.dsn, w.name = "sqlite:"+filepath.Join(t.TempDir(), "muster.db"), "test"
	w.memory = backendtest.NewMemory(backendtest.MemoryOptions{Seed: t.Name(), Clock: w.clock.now})
	w.ca = backendtest.Faulty(w.memory, plan)
	w.enroll = gateway.Pipeline{password{"secret"}}
	for _, c := range change {
		c(w)
	}
	w.open()
	t.Cleanup(func() { w.close() })
	return w
}

// open opens the store and makes a new gateway on it, as a start of the process does.
func (w *world) open() {
	w.t.Helper()
	if w.logs == nil {
		w.logs = io.Discard
	}
	log := slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := store.Open(w.t.Context(), w.dsn, store.Options{Instance: w.name, Clock: w.clock.now, Log: log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store, w.close = s, func() { s.Close() } //nolint:errcheck // the test has what it needs
	if w.wrap != nil {
		w.store = w.wrap(s)
	}
	o := w.opts
	o.Store, o.Clock, o.Log, o.Metrics = w.store, w.clock.now, log, prometheus.NewRegistry()
	if w.gw, err = gateway.New(o); err != nil {
		w.t.Fatal(err)
	}
	w.swap()
}

func (w *world) swap() {
	w.t.Helper()
	profile := &gateway.Profile{
		Name: "device", Backend: "ca", Validity: 72 * time.Hour,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}},
	}
	if w.shape != nil {
		w.shape(profile)
	}
	pipelines := map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll}
	if w.revoke != nil {
		pipelines[gateway.Revoke] = w.revoke
	}
	e := &gateway.Endpoint{Name: "est", Protocol: gateway.EST, Profile: profile, KeepUnconfirmed: w.keep, Pipelines: pipelines}
	if w.protocol != "" {
		e.Protocol = w.protocol
	}
	backends := map[string]backend.Backend{"ca": described{w.ca, w.desc}}
	e.Profiles = map[string]*gateway.Profile{}
	for name, b := range w.more {
		own := *profile
		own.Name, own.Backend, own.Standby = name, name, nil
		e.Profiles[name] = &own
		backends[name] = b
	}
	err := w.gw.Swap(w.t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": e}, Backends: backends, Rates: w.rates, Known: w.known, Offline: w.offline,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// restart opens everything again, as after a crash: nothing was said good-bye to.
func (w *world) restart() {
	w.t.Helper()
	w.close()
	w.open()
}

// request makes a request for a name with a new key, by a user whose password is right.
func (w *world) request(name string) *gateway.Request {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: name}.ToRDNSequence())
	if err != nil {
		w.t.Fatal(err)
	}
	return &gateway.Request{
		ID: gateway.NewID(w.clock.now()), Protocol: gateway.EST, Endpoint: "est", Operation: gateway.Enroll,
		Subject: subject, PublicKey: spki, POP: gateway.POPSignature, Received: w.clock.now(), Content: append([]byte(name), spki...),
		Credentials: []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("secret")}},
	}
}

// again is the same request as another message: only the ID differs.
func (w *world) again(r *gateway.Request) *gateway.Request {
	c := *r
	c.ID = gateway.NewID(w.clock.now())
	return &c
}

// password is a stage that identifies by a password.
type password struct{ want string }

func (password) Name() string { return "password" }
func (password) Identifies()  {}
func (p password) Decide(_ context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	c, ok := r.Credential(gateway.CredentialPassword)
	if !ok || string(c.Secret) != p.want {
		return gateway.Denied(gateway.Unauthenticated, "credentials required", "password missing or wrong")
	}
	g.Authenticate(c)
	return gateway.Allowed("")
}

// stage makes a stage of a function.
type stage func(r *gateway.Request, g *gateway.Grant) gateway.Verdict

func (stage) Name() string { return "test" }
func (s stage) Decide(_ context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	return s(r, g)
}

func always(v gateway.Verdict) stage {
	return func(*gateway.Request, *gateway.Grant) gateway.Verdict { return v }
}

// state is the transaction's in the store, "" when it has none.
func (w *world) state(id string) gateway.State {
	w.t.Helper()
	t, err := w.store.Transaction(w.t.Context(), id)
	if errors.Is(err, gateway.ErrNotFound) {
		return ""
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return t.State
}

// work moves the clock on and lets the worker do all that is due.
func (w *world) work(after time.Duration) {
	w.t.Helper()
	w.clock.add(after)
	if _, err := w.gw.Work(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// transactions lists all in the store.
func (w *world) transactions() []*gateway.Transaction {
	w.t.Helper()
	all, err := w.store.Transactions(w.t.Context(), gateway.TransactionFilter{Limit: 10_000})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func reason(err error) gateway.Reason {
	var e *gateway.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
