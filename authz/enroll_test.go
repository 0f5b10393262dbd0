package authz

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// plant is a gateway on a real store with one CMP endpoint, for stages that have to work together with both.
type plant struct {
	t     *testing.T
	mu    sync.Mutex
	clock time.Time
	store *store.Store
	gw    *gateway.Gateway
	ca    *backendtest.Memory
}

func (p *plant) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clock
}

func (p *plant) later(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock = p.clock.Add(d)
}

func newPlant(t *testing.T, pipeline func(p *plant) gateway.Pipeline) *plant {
	t.Helper()
	return newPlantOn(t, "sqlite:"+filepath.Join(t.TempDir(), "muster.db"), pipeline)
}

// newPlantOn has an EST endpoint beside it, with the same pipeline.
func newPlantOn(t *testing.T, dsn string, pipeline func(p *plant) gateway.Pipeline) *plant {
	t.Helper()
	p := &plant{t: t, clock: noon}
	var err error
	if p.store, err = store.Open(t.Context(), dsn, store.Options{Instance: "test", Clock: p.now, Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.store.Close() }) //nolint:errcheck // the test has what it needs
	if p.gw, err = gateway.New(gateway.Options{Store: p.store, Clock: p.now, Log: quiet(), Metrics: prometheus.NewRegistry()}); err != nil {
		t.Fatal(err)
	}
	p.ca = backendtest.NewMemory(backendtest.MemoryOptions{Seed: t.Name(), Clock: p.now})
	e := &gateway.Endpoint{
		Name: "ran", Protocol: gateway.CMP, Profile: &gateway.Profile{Name: "station", Backend: "ca", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature},
		ConfirmWait: time.Minute,
		Pipelines:   map[gateway.Operation]gateway.Pipeline{gateway.Enroll: pipeline(p)},
	}
	field := *e
	field.Name, field.Protocol = "field", gateway.EST
	if err := p.gw.Swap(t.Context(), &gateway.Runtime{Endpoints: map[string]*gateway.Endpoint{"ran": e, "field": &field}, Backends: map[string]backend.Backend{"ca": p.ca}}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *plant) enter(replace bool, devices ...*gateway.Device) {
	p.t.Helper()
	if _, _, err := p.store.ImportDevices(p.t.Context(), devices, replace, gateway.AuditEvent{Kind: "devices", At: p.now()}, nil); err != nil {
		p.t.Fatal(err)
	}
}

// ask is a request with a key of its own, by the credential.
func (p *plant) ask(c gateway.Credential) *gateway.Request {
	p.t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(newKey(p.t).Public())
	if err != nil {
		p.t.Fatal(err)
	}
	return p.again(&gateway.Request{
		Protocol: gateway.CMP, Endpoint: "ran", Operation: gateway.Enroll, Subject: subject(p.t, "CN=station"), PublicKey: spki,
		POP: gateway.POPSignature, Content: spki, Resume: spki, Credentials: []gateway.Credential{c},
	})
}

// again is the same request, asked anew.
func (p *plant) again(r *gateway.Request) *gateway.Request {
	c := *r
	c.ID, c.Received = gateway.NewID(p.now()), p.now()
	return &c
}

func (p *plant) wants(what string, r *gateway.Request, reason gateway.Reason, detail string) {
	p.t.Helper()
	_, err := p.gw.Enroll(p.t.Context(), r)
	var e *gateway.Error
	if !errors.As(err, &e) || e.Reason != reason || e.Detail != detail {
		p.t.Errorf("%s: %v, want %s: %s", what, err, reason, detail)
	}
}

func (p *plant) gets(what string, r *gateway.Request, repeated bool) *gateway.Result {
	p.t.Helper()
	res, err := p.gw.Enroll(p.t.Context(), r)
	if err != nil || res.Repeated != repeated || res.Certificate == nil {
		p.t.Fatalf("%s: %+v, %v", what, res, err)
	}
	return res
}

// The factory: a vendor's devices enrol once, those that are in the inventory; an answer that got lost locks none out.
func TestFactory(t *testing.T) {
	v := newVendor(t)
	write(t, v.dir, "issuing.pem", pemOf(v.issuing.cert))
	p := newPlant(t, func(p *plant) gateway.Pipeline {
		vendor, err := NewVendorCA(VendorCAConfig{CAs: []string{"root.pem"}, Intermediates: []string{"issuing.pem"}, Vendor: "ACME", Serial: "subject.serialNumber"}, v.dir, quiet(), p.now)
		if err != nil {
			t.Fatal(err)
		}
		inventory, err := NewInventory(InventoryConfig{Kind: "serial"}, p.store, p.now)
		if err != nil {
			t.Fatal(err)
		}
		return gateway.Pipeline{vendor, inventory}
	})
	station := func(name, serial string) *gateway.Device {
		return &gateway.Device{Name: name, Vendor: "ACME", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: serial}}}
	}
	p.enter(false, station("station-1", "SN-bts-1"), station("station-2", "SN-bts-2"))
	signer := func(serial int64, cn string) gateway.Credential {
		return credential(gateway.CredentialSigner, v.issuing.issue(serial, cn, nil))
	}

	one := p.ask(signer(2, "bts-1"))
	first := p.gets("the first time", one, false)
	if got, err := p.store.Transaction(t.Context(), first.Transaction); err != nil || got.Device != "station-1" {
		t.Errorf("%+v, %v", got, err)
	}
	if again := p.gets("the answer got lost", p.again(one), true); !again.Certificate.Equal(first.Certificate) {
		t.Error("another certificate")
	}
	p.wants("with another key", p.ask(one.Credentials[0]), gateway.NotAuthorized, "the device has had its enrollments")
	p.wants("one that is not listed", p.ask(signer(9, "bts-9")), gateway.NotAuthorized, detailUnknown)

	// Nobody confirms: the enrollment is given back. Once somebody has, it is used up.
	two := p.ask(signer(3, "bts-2"))
	two.Confirm, two.WireID = true, "a"
	p.gets("waits to be confirmed", two, false)
	other := p.ask(two.Credentials[0])
	other.Confirm, other.WireID = true, "b"
	p.wants("another key meanwhile", p.again(other), gateway.NotAuthorized, "the device has had its enrollments")
	anew := p.again(two)
	anew.WireID, anew.Content = "c", []byte("another message")
	p.gets("the same wish in a new exchange", anew, true)
	p.later(2 * time.Minute)
	if _, err := p.gw.Work(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.gets("another key, when nobody has confirmed", p.again(other), false)

	// Disabled, it gets nothing more, what it had been given included.
	off := station("station-1", "SN-bts-1")
	off.Disabled = true
	p.enter(true, off)
	p.wants("disabled", p.again(one), gateway.NotAuthorized, detailMayNot)
}

// Of 64 clients at once with one challenge, one gets a certificate; and gets it again, when the challenge is spent and over.
func TestOneChallengeManyClients(t *testing.T) {
	p := newPlant(t, func(p *plant) gateway.Pipeline {
		challenge, err := NewChallenge(ChallengeConfig{Issued: true}, "", NewHashing(1), p.store, p.now)
		if err != nil {
			t.Fatal(err)
		}
		inventory, err := NewInventory(InventoryConfig{}, p.store, p.now)
		if err != nil {
			t.Fatal(err)
		}
		return gateway.Pipeline{challenge, inventory}
	})
	p.enter(false, &gateway.Device{Name: "phone-1", Enrollments: gateway.Unlimited})
	sum := sha256.Sum256([]byte(secret))
	err := p.store.PutChallenge(t.Context(), &gateway.IssuedChallenge{
		ID: hex.EncodeToString(sum[:8]), Hash: sum[:], Endpoint: "ran", Device: "phone-1", Uses: 1, Created: noon, NotAfter: noon.Add(5 * time.Minute), By: "anna",
	}, gateway.AuditEvent{Kind: "challenge", At: noon})
	if err != nil {
		t.Fatal(err)
	}
	challenge := gateway.Credential{Kind: gateway.CredentialChallenge, Secret: gateway.Secret(secret)}
	ca := newCA(t, "nobody's", nil)
	var all []*gateway.Request
	for i := range 64 {
		r := p.ask(challenge) // signed by a certificate of the device's own, as SCEP is
		r.Credentials = append(r.Credentials, credential(gateway.CredentialSigner, ca.issue(int64(i+2), "phone", nil)))
		all = append(all, r)
	}
	var wg sync.WaitGroup
	results, errs := make([]*gateway.Result, len(all)), make([]error, len(all))
	for i, r := range all {
		wg.Go(func() { results[i], errs[i] = p.gw.Enroll(t.Context(), r) })
	}
	wg.Wait()
	winner := -1
	for i, res := range results {
		var e *gateway.Error
		switch {
		case errs[i] == nil && winner < 0 && res.Certificate != nil:
			winner = i
		case errs[i] == nil:
			t.Errorf("a second certificate: %+v", res)
		case !errors.As(errs[i], &e) || e.Reason != gateway.Unauthenticated || e.Detail != "the challenge has been used":
			t.Error(errs[i])
		}
	}
	if winner < 0 || p.ca.Total() != 1 {
		t.Fatalf("winner %d, %d certificates", winner, p.ca.Total())
	}
	p.later(6 * time.Minute)
	if again := p.gets("the answer got lost", p.again(all[winner]), true); !again.Certificate.Equal(results[winner].Certificate) {
		t.Error("another certificate")
	}
	p.wants("another request with the challenge", p.ask(challenge), gateway.Unauthenticated, "a valid challenge is required")
	stranger := p.again(all[winner])
	stranger.Credentials = []gateway.Credential{{Kind: gateway.CredentialChallenge, Secret: gateway.Secret("guessed")}, stranger.Credentials[1]}
	p.wants("the same request without the challenge", stranger, gateway.Unauthenticated, "a valid challenge is required")
}

// One device, which may enrol once, asks at two endpoints of two protocols, 16 times at once, each time with another key and
// under another of its names: it gets one certificate.
func TestOneDeviceAtTwoEndpoints(t *testing.T) {
	c := pgtest.Start(t, pgtest.Volatile)
	for name, dsn := range map[string]string{"SQLite": "sqlite:" + filepath.Join(t.TempDir(), "muster.db"), "PostgreSQL": c.DSN(c.NewDatabase(t))} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t)
			write(t, v.dir, "issuing.pem", pemOf(v.issuing.cert))
			p := newPlantOn(t, dsn, func(p *plant) gateway.Pipeline {
				vendor, err := NewVendorCA(VendorCAConfig{CAs: []string{"root.pem"}, Intermediates: []string{"issuing.pem"}, Serial: "subject.serialNumber"}, v.dir, quiet(), p.now)
				if err != nil {
					t.Fatal(err)
				}
				inventory, err := NewInventory(InventoryConfig{}, p.store, p.now)
				if err != nil {
					t.Fatal(err)
				}
				return gateway.Pipeline{gateway.AnyOf(gateway.Pipeline{vendor, inventory}), inventory}
			})
			for round := range 4 {
				names := []string{fmt.Sprintf("SN-first-%d", round), fmt.Sprintf("SN-second-%d", round)}
				p.enter(false, &gateway.Device{Name: fmt.Sprintf("twin-%d", round), Identifiers: []gateway.DeviceID{
					{Kind: "serial", Value: names[0]}, {Kind: "ae-id", Value: names[1]},
				}})
				before := p.ca.Total()
				var all []*gateway.Request
				for i := range 16 {
					leaf := v.issuing.issue(int64(100*round+i+2), names[i/2%2][3:], nil)
					r := p.ask(credential(gateway.CredentialSigner, leaf))
					if i%2 == 1 {
						r.Protocol, r.Endpoint, r.Credentials[0].Kind = gateway.EST, "field", gateway.CredentialTLS
					}
					all = append(all, r)
				}
				var wg sync.WaitGroup
				errs := make([]error, len(all))
				for i, r := range all {
					wg.Go(func() { _, errs[i] = p.gw.Enroll(t.Context(), r) })
				}
				wg.Wait()
				got := 0
				for _, err := range errs {
					var e *gateway.Error
					switch {
					case err == nil:
						got++
					case !errors.As(err, &e) || e.Reason != gateway.NotAuthorized || e.Detail != "the device has had its enrollments":
						t.Error(err)
					}
				}
				if issued := p.ca.Total() - before; got != 1 || issued != 1 {
					t.Fatalf("%d got a certificate, %d were issued", got, issued)
				}
			}
		})
	}
}
