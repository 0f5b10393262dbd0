package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// publisher is a CA whose CRLs and certificates can be told.
type publisher struct {
	backend.Backend
	crl   func(ctx context.Context, issuer string, w io.Writer) error
	cas   func() []backend.CA
	mute  bool // it has no CRLs
	calls atomic.Int64
}

func (p *publisher) Describe(ctx context.Context) (*backend.Description, error) {
	d, err := p.Backend.Describe(ctx)
	if err == nil && p.mute {
		own := *d
		own.Capabilities = nil
		d = &own
	}
	return d, err
}

func (p *publisher) CRL(ctx context.Context, issuer string, w io.Writer) error {
	p.calls.Add(1)
	if p.crl != nil {
		return p.crl(ctx, issuer, w)
	}
	return p.Backend.CRL(ctx, issuer, w)
}

func (p *publisher) CACertificates(ctx context.Context) ([]backend.CA, error) {
	if p.cas != nil {
		return p.cas(), nil
	}
	return p.Backend.CACertificates(ctx)
}

func newPublisher(t *testing.T) (*world, *publisher) {
	t.Helper()
	w := newWorld(t, backendtest.FaultPlan{})
	p := &publisher{Backend: w.memory}
	w.publish(p)
	return w, p
}

// publish puts another CA into the place of the world's.
func (w *world) publish(b backend.Backend) {
	w.t.Helper()
	err := w.gw.Swap(w.t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {
			Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "device", Backend: "ca", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature},
			Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll},
		}},
		Backends: map[string]backend.Backend{"ca": b},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) crl(name string) (gateway.CRLInfo, error) {
	der, info, err := w.gw.CRL(w.t.Context(), "ca", name)
	if err == nil {
		if list, bad := x509.ParseRevocationList(der); bad != nil || !list.NextUpdate.Equal(info.NextUpdate) || list.Number.Cmp(info.Number) != 0 {
			w.t.Errorf("%v: %+v", bad, info)
		}
	}
	return info, err
}

// A CRL is fetched once a minute, however many ask, at once after a revocation, and when half of its time is over.
func TestCRLIsKept(t *testing.T) {
	w, p := newPublisher(t)
	first, err := w.crl("ec")
	if err != nil || !first.Planned.Equal(first.ThisUpdate.Add(12*time.Hour)) || !first.Signer.Equal(w.memory.Issuer()) || len(first.Tag) != 64 {
		t.Fatalf("%+v, %v", first, err)
	}
	for range 20 {
		if _, err := w.crl("ec"); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.calls.Load(); n != 1 {
		t.Errorf("%d calls for 21 who ask", n)
	}
	w.clock.add(61 * time.Second)
	if again, err := w.crl("ec"); err != nil || p.calls.Load() != 2 || !again.ThisUpdate.After(first.ThisUpdate) {
		t.Errorf("after a minute: %d calls, %+v, %v", p.calls.Load(), again, err)
	}
	// A revocation through the gateway.
	r := w.request("device-1")
	res, err := w.gw.Enroll(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.gw.RevokeCertificate(t.Context(), res.Certificate.RawIssuer, res.Certificate.SerialNumber.Bytes(), 0, "op", ""); err != nil {
		t.Fatal(err)
	}
	w.work(time.Second)
	der, _, err := w.gw.CRL(t.Context(), "ca", "ec")
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil || len(list.RevokedCertificateEntries) != 1 || p.calls.Load() != 3 {
		t.Errorf("after a revocation: %d calls, %v, %v", p.calls.Load(), list, err)
	}
}

// When the CA does not answer, the last CRL is served until it ends, and not a second longer.
func TestCRLOfACAThatIsAway(t *testing.T) {
	w, p := newPublisher(t)
	first, err := w.crl("ec")
	if err != nil {
		t.Fatal(err)
	}
	away := errors.New("away")
	p.crl = func(context.Context, string, io.Writer) error { return away }
	w.clock.add(23 * time.Hour)
	if last, err := w.crl("ec"); err != nil || last.Tag != first.Tag {
		t.Errorf("the last good one: %+v, %v", last, err)
	}
	w.clock.add(time.Hour)
	_, err = w.crl("ec")
	if reason(err) != gateway.Unavailable || !errors.Is(err, away) {
		t.Errorf("one that has ended: %v", err)
	}
	// Those who ask then do not have the CA asked each time.
	before := p.calls.Load()
	for range 10 {
		if _, err := w.crl("ec"); reason(err) != gateway.Unavailable {
			t.Error(err)
		}
	}
	if n := p.calls.Load() - before; n > 1 {
		t.Errorf("%d calls for 10 who ask", n)
	}
	p.crl = nil
	w.clock.add(6 * time.Second)
	if _, err := w.crl("ec"); err != nil {
		t.Errorf("and back: %v", err)
	}
}

// What a CA gives is checked before it is handed out.
func TestCRLIsChecked(t *testing.T) {
	w, p := newPublisher(t)
	memory := func(clock time.Duration, seed string) []byte {
		m := backendtest.NewMemory(backendtest.MemoryOptions{Seed: seed, Clock: func() time.Time { return w.clock.now().Add(clock) }})
		var b bytes.Buffer
		if err := m.CRL(t.Context(), "ec", &b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	good := memory(0, t.Name())
	for name, tt := range map[string]struct {
		der  []byte
		want string
	}{
		"of another CA with the same name": {memory(0, "another"), "signed by none"},
		"in the future":                    {memory(10*time.Minute, t.Name()), "in the future"},
		"ended":                            {memory(-25*time.Hour, t.Name()), "ended"},
		"nothing":                          {nil, "CRL"},
		"a remnant":                        {append(bytes.Clone(good), 0), "CRL"},
		"another signature":                {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "signed by none"},
		"too large":                        {make([]byte, backend.MaxCRL+1), "larger than"},
	} {
		p.crl = func(_ context.Context, _ string, out io.Writer) error { _, err := out.Write(tt.der); return err }
		w.publish(p)
		if _, err := w.crl("ec"); reason(err) != gateway.Unavailable || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An older one does not take a newer one's place.
	p.crl = nil
	w.publish(p)
	first, err := w.crl("ec")
	if err != nil {
		t.Fatal(err)
	}
	old := memory(-time.Hour, t.Name())
	p.crl = func(_ context.Context, _ string, out io.Writer) error { _, err := out.Write(old); return err }
	w.clock.add(2 * time.Minute)
	if now, err := w.crl("ec"); err != nil || now.Tag != first.Tag {
		t.Errorf("an older one: %+v, %v", now, err)
	}
}

// Names that no CA gives cost the CA nothing.
func TestCRLNames(t *testing.T) {
	w, p := newPublisher(t)
	for _, name := range []string{"", "rsa", "../ec", "EC"} {
		if _, err := w.crl(name); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := w.gw.Issuers(t.Context(), "ca", name); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("issuer %q: %v", name, err)
		}
	}
	if _, _, err := w.gw.CRL(t.Context(), "other", "ec"); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("another backend: %v", err)
	}
	p.mute = true
	w.publish(p)
	if _, err := w.crl("ec"); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("a backend without CRLs: %v", err)
	}
	if n := p.calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// After a change of keys: the earlier key's CRL has a name of its own, and by that its certificate is found.
func TestIssuersDuringRollover(t *testing.T) {
	w, p := newPublisher(t)
	next := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "next", Clock: w.clock.now})
	p.cas = func() []backend.CA {
		return []backend.CA{{Name: "ec", Chain: [][]byte{next.Issuer().Raw, next.Root().Raw}, Rollover: [][]byte{w.memory.Issuer().Raw, w.memory.Root().Raw}, CRLs: []string{"ec.2", "ec.1"}}}
	}
	p.crl = func(ctx context.Context, name string, out io.Writer) error {
		switch name {
		case "ec", "ec.2":
			return next.CRL(ctx, "ec", out)
		case "ec.1":
			return w.memory.CRL(ctx, "ec", out)
		}
		return backend.Refuse(codes.NotFound, "no such CRL")
	}
	w.publish(p)
	for name, first := range map[string]*x509.Certificate{"ec": next.Issuer(), "ec.2": next.Issuer(), "ec.1": w.memory.Issuer()} {
		certs, err := w.gw.Issuers(t.Context(), "ca", name)
		if err != nil || len(certs) != 2 || !certs[0].Equal(first) {
			t.Errorf("%s: %v, %v", name, certs, err)
		}
		if info, err := w.crl(name); err != nil || !info.Signer.Equal(first) {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
	ca, err := w.gw.Authority(t.Context(), "est")
	if err != nil || len(ca.Chain) != 2 || len(ca.Rollover) != 2 || !ca.Chain[0].Equal(next.Issuer()) {
		t.Errorf("%+v, %v", ca, err)
	}
	if all, err := w.gw.CACertificates(t.Context(), "est"); err != nil || len(all) != 4 || !all[0].Equal(next.Issuer()) || !all[3].Equal(w.memory.Root()) {
		t.Errorf("%v, %v", all, err)
	}
}

// An endpoint's CRLs are those of its CA, one of each key, and all of them or none.
func TestCRLsOfAnEndpoint(t *testing.T) {
	w, p := newPublisher(t)
	if list, err := w.gw.CRLs(t.Context(), "est"); err != nil || len(list) != 1 || !list[0].Info.Signer.Equal(w.memory.Issuer()) {
		t.Errorf("%d CRLs, %v", len(list), err)
	}
	asked := p.calls.Load()
	if list, err := w.gw.CRLs(t.Context(), "est"); err != nil || len(list) != 1 || p.calls.Load() != asked {
		t.Errorf("again: %d CRLs, %v, %d calls more", len(list), err, p.calls.Load()-asked)
	}
	if _, err := w.gw.CRLs(t.Context(), "nowhere"); reason(err) != gateway.NotAuthorized {
		t.Errorf("no such endpoint: %v", err)
	}

	if _, err := w.memory.Rollover(t.Context(), &backend.RolloverRequest{ID: "1", Kind: backend.RolloverRekey}); err != nil {
		t.Fatal(err)
	}
	w.publish(p)
	list, err := w.gw.CRLs(t.Context(), "est")
	if err != nil || len(list) != 2 || !list[0].Info.Signer.Equal(w.memory.Issuer()) {
		t.Errorf("of two keys: %d CRLs, %v", len(list), err)
	}
	last := p.calls.Load() // the earlier key's CRL comes last, and is the one that fails
	p.crl = func(ctx context.Context, name string, to io.Writer) error {
		if name != "ec" {
			return errors.New("away")
		}
		return p.Backend.CRL(ctx, name, to)
	}
	w.publish(p)
	if list, err := w.gw.CRLs(t.Context(), "est"); reason(err) != gateway.Unavailable || list != nil || p.calls.Load() < last+2 {
		t.Errorf("one away: %d CRLs, %v", len(list), err)
	}
	p.mute = true
	w.publish(p)
	if list, err := w.gw.CRLs(t.Context(), "est"); err != nil || len(list) != 0 {
		t.Errorf("none published: %d CRLs, %v", len(list), err)
	}
}
