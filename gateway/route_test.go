package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// moody is a CA that can be told what to do: "" issues; "exhausted" and "not-asked" provably did not; "unavailable" did not, "drop" did,
// neither of which can be told; "refuse" refuses, "lie" certifies another name, "nothing" answers nothing, "hang" has no answer.
type moody struct {
	*backendtest.Memory
	mu     sync.Mutex
	mood   string
	mute   bool // Lookup and CACertificates fail
	down   error
	change func(*backend.Description)
	issues []backend.IssueRequest
}

func (m *moody) is(mood string, mute bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mood, m.mute = mood, mute
}

func (m *moody) calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.issues)
}

var errMute = backend.Refuse(codes.Unavailable, "mute")

func (m *moody) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	m.mu.Lock()
	mood := m.mood
	m.issues = append(m.issues, *r)
	m.mu.Unlock()
	switch mood {
	case "exhausted":
		return nil, backend.Exhausted(time.Second, "not now")
	case "not-asked":
		return nil, backend.NotAsked(errMute)
	case "unavailable":
		return nil, errMute
	case "refuse":
		return nil, backend.Refuse(codes.PermissionDenied, "no")
	case "nothing":
		return &backend.Issuance{}, nil
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "lie":
		lie := *r
		lie.Template.NotAfter = lie.Template.NotAfter.Add(-time.Hour)
		return m.Memory.Issue(ctx, &lie)
	}
	issuance, err := m.Memory.Issue(ctx, r)
	if mood == "drop" && err == nil {
		return nil, errMute
	}
	return issuance, err
}

func (m *moody) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	m.mu.Lock()
	mute := m.mute
	m.mu.Unlock()
	if mute {
		return nil, errMute
	}
	return m.Memory.Lookup(ctx, r)
}

func (m *moody) CACertificates(ctx context.Context) ([]backend.CA, error) {
	m.mu.Lock()
	mute := m.mute
	m.mu.Unlock()
	if mute {
		return nil, errMute
	}
	return m.Memory.CACertificates(ctx)
}

func (m *moody) Healthy() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down
}

func (m *moody) Describe(ctx context.Context) (*backend.Description, error) {
	return described{m.Memory, m.change}.Describe(ctx)
}

// twoRoutes is a world whose profile's CA "corp" has the standby "corp2". "ca" is asked by nobody.
func twoRoutes(t *testing.T, change ...func(w *world, corp, corp2 *moody)) (w *world, corp, corp2 *moody) {
	t.Helper()
	w = newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		made := func(seed string) *moody {
			return &moody{Memory: backendtest.NewMemory(backendtest.MemoryOptions{Seed: t.Name() + seed, Clock: w.clock.now})}
		}
		corp, corp2 = made("1"), made("2")
		w.more = map[string]backend.Backend{"corp": corp, "corp2": corp2}
		w.shape = func(p *gateway.Profile) { p.Backend, p.Standby = "corp", []gateway.Route{{Backend: "corp2"}} }
		for _, c := range change {
			c(w, corp, corp2)
		}
	})
	w.gw.CACertificates(t.Context(), "est") //nolint:errcheck // as Run begins; one that is mute is so
	return w, corp, corp2
}

// withCSR is a request with a PKCS#10 for the name asked, which need not be the one that is granted.
func (w *world) withCSR(granted, asked string) *gateway.Request {
	w.t.Helper()
	r := w.request(granted)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.PublicKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		w.t.Fatal(err)
	}
	q := &x509.CertificateRequest{RawSubject: r.Subject}
	if asked != granted {
		q.RawSubject, q.Subject = nil, pkix.Name{CommonName: asked}
	}
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, q, key); err != nil {
		w.t.Fatal(err)
	}
	r.Content = r.CSR
	return r
}

func atMost(t *testing.T, corp, corp2 *moody, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if n := corp.Issued(id) + corp2.Issued(id); n > 1 {
			t.Errorf("%s has %d certificates in both ledgers", id, n)
		}
	}
}

// routeOf is the note of the last verdict that another CA is asked, "" for none.
func (w *world) routeOf(id string) (note string) {
	w.t.Helper()
	t, err := w.store.Transaction(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, j := range t.Verdicts {
		if j.Stage == "route" {
			note = j.Note
		}
	}
	return note
}

func (w *world) backendOf(id string) string {
	w.t.Helper()
	t, err := w.store.Transaction(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return t.Backend
}

// What provably did not reach the CA goes to the standby at once, in the same request; from the fifth on the CA is not even asked.
// What may have reached it stays, and only what comes later goes to the standby. A refusal is an answer.
func TestStandby(t *testing.T) {
	for _, mood := range []string{"exhausted", "not-asked", "unavailable", "drop", "nothing", "lie", "refuse"} {
		t.Run(mood, func(t *testing.T) {
			w, corp, corp2 := twoRoutes(t)
			corp.is(mood, true)
			var ids []string
			for i := range 12 {
				r := w.request("device")
				ids = append(ids, r.ID)
				res, err := w.gw.Enroll(t.Context(), r)
				free := mood == "exhausted" || mood == "not-asked" || i >= gateway.BreakerTrips
				switch {
				case mood == "unavailable" || mood == "drop": // asked twice in one request
					free = i >= (gateway.BreakerTrips+1)/2
				}
				switch {
				case mood == "refuse":
					if reason(err) != gateway.NotAuthorized {
						t.Fatalf("%d: %+v, %v", i, res, err)
					}
				case free:
					if err != nil || res.Kind != gateway.ResultIssued || w.backendOf(r.ID) != "corp2" {
						t.Fatalf("%d: %+v, %v", i, res, err)
					}
					if note := w.routeOf(r.ID); !strings.Contains(note, "corp cannot be asked: ") || !strings.HasSuffix(note, ": standby corp2") {
						t.Fatalf("%q", note)
					}
				case mood == "lie":
					if err == nil {
						t.Fatalf("%d: %+v", i, res)
					}
				default:
					if err != nil || res.Kind != gateway.ResultPending || w.backendOf(r.ID) != "corp" {
						t.Fatalf("%d: %+v, %v", i, res, err)
					}
				}
			}
			if n := corp.calls(); mood == "refuse" && (n != 12 || corp2.calls() != 0) || mood != "refuse" && n > gateway.BreakerTrips+1 {
				t.Errorf("%d calls of the CA, %d of the standby", n, corp2.calls())
			}
			for range 5 { // what it did is not known: nothing moves
				w.work(time.Minute)
			}
			corp.is("", false)
			for range 5 {
				w.work(time.Minute)
			}
			for _, id := range ids {
				want := gateway.StateIssued
				if s := w.state(id); s != want && (mood == "drop" || mood == "unavailable" || mood == "nothing") {
					t.Errorf("%s: %s", id, s)
				}
			}
			if mood == "drop" {
				if n := corp.Total(); n != (gateway.BreakerTrips+1)/2 {
					t.Errorf("%d of the CA's own", n)
				}
			}
			atMost(t, corp, corp2, ids...)
		})
	}
}

// A request of which it is not known whether the CA has certified it stays there, however long that takes, and so do its repeats.
func TestUnknownNeverMoves(t *testing.T) {
	w, corp, corp2 := twoRoutes(t)
	corp.is("drop", true)
	r := w.request("device")
	for range 3 { // the breaker opens
		if _, err := w.gw.Enroll(t.Context(), w.request("other")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := w.gw.Breaker("corp"); s != "open" {
		t.Fatalf("the breaker is %s", s)
	}
	for range 20 {
		w.work(time.Minute)
		if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || res.Kind != gateway.ResultPending {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	corp.is("drop", false) // it tells what it did, and goes on dropping
	w.work(time.Minute)
	res, err := w.gw.Enroll(t.Context(), w.again(r))
	if err != nil || res.Kind != gateway.ResultIssued || w.backendOf(res.Transaction) != "corp" {
		t.Fatalf("%+v, %v", res, err)
	}
	if corp2.Issued(res.Transaction) != 0 {
		t.Error("the standby has certified it too")
	}
}

// What the CA says that it never issued goes to the standby while the CA is not to be asked, and stays with it otherwise.
func TestNeverMoves(t *testing.T) {
	for _, open := range []bool{true, false} {
		w, corp, corp2 := twoRoutes(t)
		corp.is("unavailable", false)
		var ids []string
		for range map[bool]int{true: 3, false: 2}[open] {
			r := w.request("device")
			ids = append(ids, r.ID)
			if _, err := w.gw.Enroll(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if !open {
			corp.is("", false)
		}
		w.work(time.Second)
		for _, id := range ids {
			want := map[bool]string{true: "corp2", false: "corp"}[open]
			if w.state(id) != gateway.StateIssued || w.backendOf(id) != want || (w.routeOf(id) != "") != open {
				t.Errorf("open %v: %s at %s, %q", open, w.state(id), w.backendOf(id), w.routeOf(id))
			}
		}
		atMost(t, corp, corp2, ids...)
	}
}

// A CA whose plugin does not run is not asked, and one that keeps no record is left only where it provably was not.
func TestStandbyOfACAWithoutRecord(t *testing.T) {
	none := func(d *backend.Description) { d.Idempotency = backend.IdempotencyNone }
	w, corp, corp2 := twoRoutes(t, func(_ *world, corp, _ *moody) { corp.change = none })
	corp.is("not-asked", true)
	if res, err := w.gw.Enroll(t.Context(), w.request("device")); err != nil || res.Kind != gateway.ResultIssued {
		t.Errorf("%+v, %v", res, err)
	}
	corp.is("unavailable", true)
	r := w.request("device")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending || w.state(r.ID) != gateway.StateStuck {
		t.Errorf("%+v, %v; %s", res, err, w.state(r.ID))
	}
	asked := corp.calls()
	corp.mu.Lock()
	corp.down = errors.New("the plugin does not run")
	corp.mu.Unlock()
	r = w.request("device")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || w.backendOf(r.ID) != "corp2" || corp.calls() != asked {
		t.Errorf("%+v, %v", res, err)
	}
	for range 5 {
		w.work(time.Minute)
	}
	if corp2.Total() != 2 {
		t.Errorf("%d by the standby", corp2.Total())
	}
}

// Where no CA can be asked, the first is, as if there were no standby: its clients are told what they always were.
func TestNoCACanBeAsked(t *testing.T) {
	w, corp, corp2 := twoRoutes(t)
	corp.is("exhausted", true)
	corp2.is("exhausted", true)
	for i := range 12 {
		if _, err := w.gw.Enroll(t.Context(), w.request("device")); reason(err) != gateway.Busy {
			t.Fatalf("%d: %v", i, err)
		}
	}
	for _, name := range []string{"corp", "corp2"} {
		if w.gw.Fault(name) == nil {
			t.Errorf("%s is said to be well", name)
		}
	}
	corp.is("", false)
	if res, err := w.gw.Enroll(t.Context(), w.request("device")); err != nil || res.Kind != gateway.ResultIssued || w.gw.Fault("corp") != nil {
		t.Errorf("%+v, %v", res, err)
	}
}

// The PKCS#10 of a request is recorded for the CA that takes nothing else, and the other one does not see it.
func TestStandbyThatTakesPKCS10(t *testing.T) {
	only := func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }
	w, corp, corp2 := twoRoutes(t, func(_ *world, _, corp2 *moody) { corp2.change = only })
	r := w.withCSR("device", "device")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || corp.issues[0].CSR != nil {
		t.Fatalf("%+v, %v", res, err)
	}
	corp.is("exhausted", false)
	r = w.withCSR("device", "device")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || !bytes.Equal(corp2.issues[0].CSR, r.CSR) {
		t.Fatalf("%+v, %v", res, err)
	}
	r = w.withCSR("device", "device-9") // what it cannot certify as it is granted stays where it is
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Busy || corp2.calls() != 1 {
		t.Errorf("%v", err)
	}
	for range 2 {
		w.gw.Enroll(t.Context(), w.withCSR("device", "device-9")) //nolint:errcheck // the breaker opens
	}
	for range 3 {
		if _, err := w.gw.Enroll(t.Context(), w.withCSR("device", "device-9")); reason(err) != gateway.Busy && reason(err) != gateway.Unavailable {
			t.Errorf("%v", err)
		}
	}
}

// An endpoint hands out the certificates of all CAs of its profile.
func TestCertificatesOfStandbys(t *testing.T) {
	w, corp, corp2 := twoRoutes(t)
	got, err := w.gw.CACertificates(t.Context(), "est")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*moody{corp, corp2} {
		if !slices.ContainsFunc(got, m.Issuer().Equal) || !slices.ContainsFunc(got, m.Root().Equal) {
			t.Errorf("%d certificates, not all", len(got))
		}
	}
	if !got[0].Equal(corp.Issuer()) {
		t.Error("the profile's own CA is not the first")
	}
}

// A CA that has never told its certificates, since it went down right after the gateway began, keeps nobody from the standby.
func TestStandbyOfACAThatWasNeverReached(t *testing.T) {
	w, corp, _ := twoRoutes(t, func(w *world, corp, _ *moody) {
		corp.is("exhausted", true)
		shape := w.shape
		w.shape = func(p *gateway.Profile) { shape(p); p.Linter = fine{} }
	})
	r := w.request("device")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || w.backendOf(r.ID) != "corp2" || corp.calls() != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// fine is a Linter that finds nothing.
type fine struct{}

func (fine) Before(*backend.Template, *x509.Certificate) error { return nil }
func (fine) After(*x509.Certificate) error                     { return nil }
