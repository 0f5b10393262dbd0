package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/protocols/cms"
)

// vouching counts how often a CA signs, may refuse, and may lack a capability.
type vouching struct {
	*backendtest.Memory
	asked int
	err   error
	lacks backend.Capability
}

func (v *vouching) Describe(ctx context.Context) (*backend.Description, error) {
	d, err := v.Memory.Describe(ctx)
	d.Capabilities = slices.DeleteFunc(d.Capabilities, func(c backend.Capability) bool { return c == v.lacks })
	return d, err
}

func newVouchingWorld(t *testing.T, lacks backend.Capability) (*world, *vouching) {
	w := newWorld(t, backendtest.FaultPlan{})
	v := &vouching{Memory: w.memory, lacks: lacks}
	w.vouches(v)
	return w, v
}

// vouches swaps in a CA, for the endpoint est.
func (w *world) vouches(v *vouching) {
	t := w.t
	t.Helper()
	err := w.gw.Swap(t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {
			Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "device", Backend: "ca", Validity: time.Hour, KeyUsage: x509.KeyUsageDigitalSignature},
			Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll},
		}},
		Backends: map[string]backend.Backend{"ca": v},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (v *vouching) SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error) {
	if v.asked++; v.err != nil {
		return nil, v.err
	}
	return v.Memory.SignCMS(ctx, issuer, content)
}

// RFC 8894 sections 4.7 and 4.7.1: what a CA has announced, and its signature over that, which is asked for once an hour whoever
// asks how often.
func TestAnnounced(t *testing.T) {
	w, v := newVouchingWorld(t, "")
	ctx := t.Context()
	if next, err := w.gw.Announced(ctx, "est"); err != nil || next != nil {
		t.Fatalf("before: %v, %v", next, err)
	}
	q := &backend.RolloverRequest{ID: "a", Kind: backend.RolloverRekey, Announce: true}
	made, err := w.gw.Rollover(ctx, "ca", q, "ops")
	if err != nil || len(made.Next) != 2 {
		t.Fatalf("%+v, %v", made, err)
	}
	next, err := w.gw.Announced(ctx, "est")
	if err != nil || len(next) != 2 || !bytes.Equal(next[0].Raw, made.Next[0]) {
		t.Fatalf("%v, %v", next, err)
	}
	content, err := cms.CertsOnly(made.Next...)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for range 5 {
		der, err := w.gw.SignAnnounced(ctx, "est", content)
		if err != nil || len(der) == 0 || first != nil && !bytes.Equal(der, first) {
			t.Fatalf("%x, %v", der, err)
		}
		first = der
	}
	if v.asked != 1 {
		t.Errorf("the CA was asked %d times", v.asked)
	}
	w.clock.add(2 * time.Hour)
	if _, err := w.gw.SignAnnounced(ctx, "est", content); err != nil || v.asked != 2 {
		t.Errorf("after two hours: asked %d times, %v", v.asked, err)
	}
	other, err := cms.CertsOnly(made.Next[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		err    error
		reason gateway.Reason
	}{{errors.New("away"), gateway.Unavailable}, {backend.Refuse(codes.InvalidArgument, "no"), gateway.Internal}} {
		v.err = x.err
		w.clock.add(time.Minute)
		if _, err := w.gw.SignAnnounced(ctx, "est", other); reason(err) != x.reason {
			t.Errorf("%v: %v", x.err, err)
		}
	}
	v.err = nil
	for _, err := range []error{
		func() error { _, err := w.gw.Announced(ctx, "nowhere"); return err }(),
		func() error { _, err := w.gw.SignAnnounced(ctx, "nowhere", content); return err }(),
	} {
		if reason(err) != gateway.NotAuthorized {
			t.Errorf("no endpoint: %v", err)
		}
	}
	if _, err := w.gw.Rollover(ctx, "ca", &backend.RolloverRequest{ID: "b", Kind: backend.RolloverRekey}, "ops"); err != nil {
		t.Fatal(err)
	}
	if next, err := w.gw.Announced(ctx, "est"); err != nil || next != nil {
		t.Errorf("in force: %v, %v", next, err)
	}
}

// A reload that puts another plugin in the CA's place has that one asked, also where the one before did not answer.
func TestAnnouncedAfterAReload(t *testing.T) {
	w, away := newVouchingWorld(t, "")
	made, err := w.gw.Rollover(t.Context(), "ca", &backend.RolloverRequest{ID: "a", Kind: backend.RolloverRekey, Announce: true}, "ops")
	if err != nil {
		t.Fatal(err)
	}
	content, err := cms.CertsOnly(made.Next...)
	if err != nil {
		t.Fatal(err)
	}
	away.err = errors.New("stopped")
	if _, err := w.gw.SignAnnounced(t.Context(), "est", content); reason(err) != gateway.Unavailable {
		t.Fatal(err)
	}
	again := &vouching{Memory: w.memory}
	w.vouches(again)
	w.clock.add(time.Minute)
	if _, err := w.gw.SignAnnounced(t.Context(), "est", content); err != nil || again.asked != 1 || away.asked != 1 {
		t.Errorf("asked %d times, the one before %d times: %v", again.asked, away.asked, err)
	}
}

// A CA that does not vouch for what it announces announces it to nobody; one that cannot announce is not asked to: it would change over.
func TestAnnouncedIsByCapability(t *testing.T) {
	q := &backend.RolloverRequest{ID: "a", Kind: backend.RolloverRekey, Announce: true}
	w, _ := newVouchingWorld(t, backend.CapAnnounce)
	if _, err := w.gw.Rollover(t.Context(), "ca", q, "ops"); reason(err) != gateway.Unsupported {
		t.Errorf("a CA without announcements: %v", err)
	}
	if cas, err := w.memory.CACertificates(t.Context()); err != nil || len(cas[0].Rollover) != 0 || len(cas[0].Next) != 0 {
		t.Errorf("it changed over: %v", err)
	}
	w, _ = newVouchingWorld(t, backend.CapSignCMS)
	if _, err := w.memory.Rollover(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if next, err := w.gw.Announced(t.Context(), "est"); err != nil || next != nil {
		t.Errorf("a CA that does not sign: %v, %v", next, err)
	}
	if _, err := w.gw.SignAnnounced(t.Context(), "est", nil); reason(err) != gateway.Unsupported {
		t.Errorf("a CA that does not sign: %v", err)
	}
}
