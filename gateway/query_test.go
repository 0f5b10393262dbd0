package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// queryWorld is a gateway whose requesters enrol as the device that the test says, and ask by what the test says.
type queryWorld struct {
	*world
	device string
	query  gateway.Pipeline
	asks   func(g *gateway.Grant) // what a stage finds, of a request whose requester it knows
	reads  func() error           // before the store is read
	logged bytes.Buffer

	wrapped func(backend.Backend) backend.Backend // nil: the CA as it is
}

type readable struct {
	gateway.Store
	w *queryWorld
}

func (s readable) Certificates(ctx context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	if err := s.w.reads(); err != nil {
		return nil, err
	}
	return s.Store.Certificates(ctx, f)
}

func (s readable) Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	if err := s.w.reads(); err != nil {
		return nil, err
	}
	return s.Store.Certificate(ctx, issuer, serial)
}

func newQueryWorld(t *testing.T) *queryWorld {
	t.Helper()
	w := &queryWorld{reads: func() error { return nil }}
	w.world = newWorld(t, backendtest.FaultPlan{}, func(in *world) {
		in.wrap = func(s gateway.Store) gateway.Store { return readable{s, w} }
		in.logs = &w.logged
	})
	w.query = gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		w.asks(g)
		return gateway.Allowed("")
	})}
	w.put()
	return w
}

// put swaps in the endpoints est and other.
func (w *queryWorld) put() {
	w.t.Helper()
	enroll := gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.NameDevice(w.device)
		return gateway.Allowed("")
	})}
	profile := &gateway.Profile{Name: "device", Backend: "ca", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature}
	rt := &gateway.Runtime{Endpoints: map[string]*gateway.Endpoint{}, Backends: map[string]backend.Backend{"ca": w.ca}}
	if w.wrapped != nil {
		rt.Backends["ca"] = w.wrapped(w.ca)
	}
	for _, name := range []string{"est", "other"} {
		pipelines := map[gateway.Operation]gateway.Pipeline{gateway.Enroll: enroll}
		if w.query != nil {
			pipelines[gateway.Query] = w.query
		}
		rt.Endpoints[name] = &gateway.Endpoint{Name: name, Protocol: gateway.EST, Profile: profile, Pipelines: pipelines}
	}
	if err := w.gw.Swap(w.t.Context(), rt); err != nil {
		w.t.Fatal(err)
	}
}

// has enrols a device ("" for one that no stage knows) at an endpoint.
func (w *queryWorld) has(device, endpoint string, change ...func(*gateway.Request)) *x509.Certificate {
	w.t.Helper()
	w.device = device
	w.clock.add(time.Second) // transactions are listed by their time
	r := w.request("some device")
	r.Endpoint = endpoint
	for _, c := range change {
		c(r)
	}
	return w.mustEnroll(r).Certificate
}

func (w *queryWorld) ask() ([]*x509.Certificate, error) {
	w.t.Helper()
	r := w.request("unused")
	r.Subject, r.PublicKey, r.Content, r.POP, r.Operation = nil, nil, nil, gateway.POPNone, gateway.Query
	res, err := w.gw.Query(w.t.Context(), r)
	if err != nil {
		return nil, err
	}
	if res.Kind != gateway.ResultAnswer || res.Transaction != r.ID {
		w.t.Errorf("result %+v", res)
	}
	return res.Certificates, nil
}

// gets asks, and compares what comes with what has to, in order.
func (w *queryWorld) gets(what string, want ...*x509.Certificate) {
	w.t.Helper()
	certs, err := w.ask()
	if len(want) == 0 {
		if reason(err) != gateway.UnknownCert || certs != nil {
			w.t.Errorf("%s: %d certificates, %v", what, len(certs), err)
		}
		return
	}
	if err != nil || !slices.EqualFunc(certs, want, (*x509.Certificate).Equal) {
		w.t.Errorf("%s: %d certificates, want %d: %v", what, len(certs), len(want), err)
	}
}

func shows(c *x509.Certificate, endpoints ...string) *gateway.Owned {
	return &gateway.Owned{Replaced: gateway.Replaced{Issuer: c.RawIssuer, Serial: c.SerialNumber.Bytes()}, Endpoints: endpoints}
}

// The victim test: nobody is told of another's certificates, and of its own a device is told those that are in force.
func TestQueryTellsADeviceOfItsOwn(t *testing.T) {
	w := newQueryWorld(t)
	first, victim := w.has("device-a", "est"), w.has("device-b", "est")
	elsewhere, second := w.has("device-a", "other"), w.has("device-a", "est")
	lone, lonely := w.has("", "est"), w.has("", "est") // of one requester, as all here are
	w.has("device-a", "est", func(r *gateway.Request) { r.Confirm, r.WireID = true, "waits" })
	stored := len(w.transactions())

	as := func(device string, owned *gateway.Owned) {
		w.asks = func(g *gateway.Grant) {
			if device != "" {
				g.NameDevice(device)
			}
			g.Owned = owned
		}
	}
	as("device-a", nil)
	w.gets("the device, by its name", second, first)
	as("device-b", nil)
	w.gets("the other device", victim)
	as("device-a", shows(first, "est"))
	w.gets("the device, by its certificate", second, first)
	as("device-a", shows(first, "est", "other"))
	w.gets("the same, of two endpoints", second, elsewhere, first)
	as("device-a", shows(first, "other"))
	w.gets("the same, of the other", elsewhere)
	as("", shows(lone, "est"))
	w.gets("no device: the certificate that is shown", lone)
	as("", shows(lonely, "est"))
	w.gets("the other one", lonely)
	if now := len(w.transactions()); now != stored || strings.Count(w.logged.String(), "operation=query decision=answer") != 7 {
		t.Errorf("%d transactions, before %d; the log:\n%s", now, stored, w.logged.String())
	}

	as("device-c", nil)
	w.gets("a device without certificates")
	as("", nil)
	w.gets("neither device nor certificate")
	as("", shows(lone, "other"))
	w.gets("of another endpoint")
	as("", shows(victim, "est"))
	w.gets("a device's certificate, without its name")
	gone := shows(lone, "est")
	gone.Serial = []byte{9}
	as("", gone)
	w.gets("a certificate that is not there")

	for _, c := range []*x509.Certificate{first, lone} {
		if _, _, err := w.gw.RevokeCertificate(t.Context(), c.RawIssuer, c.SerialNumber.Bytes(), 1, "op", ""); err != nil {
			t.Fatal(err)
		}
	}
	as("device-a", nil)
	w.gets("without what is revoked", second)
	as("", shows(lone, "est"))
	w.gets("revoked itself")
	w.clock.add(73 * time.Hour)
	as("device-a", nil)
	w.gets("past their end")
	as("", shows(lonely, "est"))
	w.gets("past its end itself")
}

// The answer is bounded: the newest 16, found in front of or behind those of other endpoints.
func TestQueryIsBounded(t *testing.T) {
	w := newQueryWorld(t)
	var all []*x509.Certificate
	for range 18 {
		all = append(all, w.has("device-a", "est"))
	}
	for range 101 {
		w.has("device-a", "other")
	}
	slices.Reverse(all)
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a") }
	w.gets("the newest", all[:16]...)
}

func TestQueryRefuses(t *testing.T) {
	w := newQueryWorld(t)
	mine := w.has("device-a", "est")
	known := stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.NameDevice("device-a")
		return gateway.Allowed("")
	})
	with := func(v gateway.Verdict) gateway.Pipeline {
		return gateway.Pipeline{password{"secret"}, known, always(v)}
	}
	for name, c := range map[string]struct {
		pipeline gateway.Pipeline
		reason   gateway.Reason
		stored   bool // for explain, since it is known who asked
	}{
		"no pipeline":  {nil, gateway.NotAuthorized, false},
		"denied":       {with(gateway.Denied(gateway.Revoked, "no", "no")), gateway.Revoked, true},
		"a stranger":   {gateway.Pipeline{password{"another"}, known}, gateway.Unauthenticated, false},
		"nobody's":     {gateway.Pipeline{known}, gateway.NotAuthorized, false},
		"held":         {with(gateway.Held("wait")), gateway.NotAuthorized, true},
		"counted":      {with(gateway.Allowed("", gateway.Claim{Key: "k", Limit: 1})), gateway.NotAuthorized, true},
		"not answered": {with(gateway.Unanswered(errors.New("away"))), gateway.Unavailable, false},
		"an RA's": {gateway.Pipeline{password{"secret"}, known, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Vouch()
			return gateway.Allowed("")
		})}, gateway.NotAuthorized, true},
		"to be passed on": {gateway.Pipeline{password{"secret"}, known, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Forward = "ca"
			return gateway.Allowed("")
		})}, gateway.Unsupported, true},
	} {
		w.query = c.pipeline
		w.put()
		before := len(w.transactions())
		certs, err := w.ask()
		if reason(err) != c.reason || certs != nil || (len(w.transactions()) == before+1) != c.stored {
			t.Errorf("%s: %v; %d transactions more", name, err, len(w.transactions())-before)
		}
		for _, crl := range []bool{false, true} { // RFC 8894 sections 4.5 and 4.6
			if res, err := w.askFor(mine.RawIssuer, mine.SerialNumber, crl); res != nil || reason(err) != c.reason {
				t.Errorf("%s, for one, of CRLs %t: %v", name, crl, err)
			}
		}
	}

	w.query = gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		w.asks(g)
		return gateway.Allowed("")
	})}
	w.put()
	w.reads = func() error { return errors.New("disk") }
	for what, asks := range map[string]func(*gateway.Grant){
		"by name":        func(g *gateway.Grant) { g.NameDevice("device-a") },
		"by certificate": func(g *gateway.Grant) { g.Owned = shows(mine, "est") },
	} {
		w.asks = asks
		if _, err := w.ask(); reason(err) != gateway.Unavailable {
			t.Errorf("the store is away, %s: %v", what, err)
		}
	}
	for name, change := range map[string]func(*gateway.Request){
		"no such endpoint": func(r *gateway.Request) { r.Endpoint = "nowhere" },
		"another protocol": func(r *gateway.Request) { r.Protocol = gateway.CMP },
		"another request":  func(r *gateway.Request) { r.Operation = gateway.Enroll },
	} {
		r := w.request("x")
		r.Operation = gateway.Query
		change(r)
		if res, err := w.gw.Query(t.Context(), r); res != nil || reason(err) != gateway.NotAuthorized && reason(err) != gateway.Unsupported {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	// Nor is a query an enrollment.
	r := w.request("x")
	r.Operation = gateway.Query
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unsupported {
		t.Errorf("enrolled by a query: %v", err)
	}
}
