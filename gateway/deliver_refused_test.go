package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// What the CA refuses gives back what the first key was counted for; its certificate is revoked.
func TestBareKeyRefusedAgain(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	w.twist(&twisted{issue: func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
		return nil, status.Error(codes.InvalidArgument, "no")
	}})
	again := w.again(r)
	if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.BadTemplate || w.state(again.ID) != gateway.StateFailed {
		t.Errorf("%v, %s", err, w.state(again.ID))
	}
	w.work(0)
	if !w.revoked(first.Transaction) || !w.memory.Revoked(first.Transaction) || w.used(r) != 0 {
		t.Errorf("revoked %t, %d uses", w.revoked(first.Transaction), w.used(r))
	}
	w.twist(&twisted{})
	last := w.gets(w.again(r), s)
	w.onlyValid(last.Transaction)
	if judged != 2 || w.used(r) != 1 {
		t.Errorf("judged %d times, %d uses", judged, w.used(r))
	}
}

// However often somebody asks: an enrollment costs ten keys.
func TestBareKeyTooOften(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	var last *gateway.Result
	for range 10 {
		last = w.gets(w.again(r), s)
	}
	again := w.again(r)
	if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.NotAuthorized || len(s.keys) != 10 {
		t.Errorf("%v, %d keys", err, len(s.keys))
	}
	if text := w.explained(again.ID); w.state(again.ID) != gateway.StateRefused || !strings.Contains(text, "10 keys were made for one enrollment") {
		t.Errorf("%s: %s", w.state(again.ID), text)
	}
	w.work(0)
	w.onlyValid(last.Transaction)
}

// What cannot be superseded is not given as it is.
func TestBareKeyWithoutRevocation(t *testing.T) {
	judged, revokes := 0, false
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) {
		w.desc = func(d *backend.Description) {
			if !revokes {
				d.Capabilities = slices.DeleteFunc(slices.Clone(d.Capabilities), func(c backend.Capability) bool { return c == backend.CapRevoke })
			}
		}
	})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unsupported || len(s.keys) != 0 || w.state(r.ID) != gateway.StateRefused {
		t.Errorf("%v, %d keys", err, len(s.keys))
	}
	revokes = true
	w.swap()
	first := w.gets(w.again(r), s)
	revokes = false
	w.swap()
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.DuplicateCert || len(s.keys) != 1 {
		t.Errorf("%v, %d keys", err, len(s.keys))
	}
	w.onlyValid(first.Transaction)
}

// What was allowed is made again only while it would be issued: the device counts still, the profile is the same CA's.
func TestBareKeyStands(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			d, err := w.store.Device(w.t.Context(), "name", "station-1")
			if err != nil {
				return gateway.Unanswered(err)
			}
			g.Inventory = d
			return gateway.Allowed("")
		}), making("P-256")}
	})
	w.enter(gateway.Device{Name: "station-1"})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	for name, c := range map[string]struct{ change, back func() }{
		"disabled": {func() { w.enter(gateway.Device{Name: "station-1", Disabled: true}) }, func() { w.enter(gateway.Device{Name: "station-1"}) }},
		"another CA of that backend": {
			func() { w.shape = func(p *gateway.Profile) { p.Issuer = "other" }; w.swap() }, func() { w.shape = nil; w.swap() },
		},
	} {
		c.change()
		again := w.again(r)
		if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.NotAuthorized || strings.Contains(gateway.AsError(err).Detail, "station-1") {
			t.Errorf("%s: %v", name, err)
		}
		if tx, err := w.store.Transaction(t.Context(), again.ID); err != nil || tx.State != gateway.StateRefused || tx.Requester != "password:factory" {
			t.Errorf("%s: %+v, %v", name, tx, err)
		}
		w.onlyValid(first.Transaction)
		c.back()
	}
	last := w.gets(w.again(r), s)
	w.work(0)
	w.onlyValid(last.Transaction)
}

// A CA that took PKCS#10 takes templates now: it is not asked with a request that has the first key.
func TestBareKeyNoLongerForCSR(t *testing.T) {
	judged, form := 0, backend.FormPKCS10
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) {
		w.desc = func(d *backend.Description) { d.Forms = []backend.Form{form} }
	})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	w.gets(r, s)
	form = backend.FormTemplate
	w.swap()
	res := w.gets(w.again(r), s)
	if tx, err := w.store.Transaction(t.Context(), res.Transaction); err != nil || tx.Intent.CSR != nil {
		t.Errorf("%x, %v", tx.Intent.CSR, err)
	}
}

// A key that cannot be made as it travels leaves what was given before.
func TestBareKeyNotSealed(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	s.err = errors.New("no")
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.Internal {
		t.Error(err)
	}
	w.onlyValid(first.Transaction)
	if _, err := w.gw.Enroll(t.Context(), w.exchange(w.bare("device-2", &bareSeal{}), "wire")); reason(err) != gateway.Unsupported {
		t.Errorf("in an exchange that confirms: %v", err)
	}
	resumed := w.bare("device-3", &bareSeal{})
	resumed.Resume = []byte("a key for device-3, in whatever exchange")
	if _, err := w.gw.Enroll(t.Context(), resumed); reason(err) != gateway.Unsupported {
		t.Errorf("in an exchange that goes on: %v", err)
	}
}

// A CA that takes PKCS#10 only gets one signed with each key.
func TestBareKeyForCSR(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) {
		w.desc = func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }
	})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	for range 2 {
		res := w.gets(w.again(r), s)
		tx, err := w.store.Transaction(t.Context(), res.Transaction)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := pkix.ParseCSR(tx.Intent.CSR)
		if err != nil || csr.CheckSignature() != nil || !bytes.Equal(csr.PublicKey, res.Certificate.RawSubjectPublicKeyInfo) || !bytes.Equal(csr.Subject, res.Certificate.RawSubject) {
			t.Errorf("%+v, %v", csr, err)
		}
	}
}
