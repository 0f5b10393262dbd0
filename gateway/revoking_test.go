package gateway_test

import (
	"context"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// signer is a stage that knows every message's signer, and whose device it is.
type signer struct{ device string }

func (signer) Name() string { return "signer" }
func (s signer) Decide(_ context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	c, ok := r.Credential(gateway.CredentialSigner)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, "sign it", "not signed")
	}
	g.Authenticate(c)
	if s.device != "" && !g.NameDevice(s.device) {
		return gateway.Denied(gateway.NotAuthorized, "", "another device")
	}
	return gateway.Allowed("seen")
}

// allows is a stage that has judged the certificate itself.
func allows(cert *x509.Certificate) stage {
	return func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
		g.Revokes = &gateway.Replaced{Issuer: cert.RawIssuer, Serial: cert.SerialNumber.Bytes()}
		return gateway.Allowed("its own")
	}
}

// orders is a store of which orders to revoke are seen before they are committed.
type orders struct {
	gateway.Store
	seen   []*gateway.RevocationOrder
	before func()
}

func (s *orders) OrderRevocation(ctx context.Context, o *gateway.RevocationOrder) (int64, error) {
	s.seen = append(s.seen, o)
	if f := s.before; f != nil {
		s.before = nil
		f()
	}
	return s.Store.OrderRevocation(ctx, o)
}

func ordered(s *orders) func(*world) {
	return func(w *world) {
		w.wrap = func(inner gateway.Store) gateway.Store { s.Store = inner; return s }
	}
}

func revokers(p ...gateway.Stage) func(*world) {
	return func(w *world) { w.revoke = p }
}

// rr is a request to revoke a certificate, signed by somebody.
func (w *world) rr(cert *x509.Certificate, message string) *gateway.Request {
	w.t.Helper()
	return &gateway.Request{
		ID: gateway.NewID(w.clock.now()), WireID: "wire-" + message, Protocol: gateway.EST, Endpoint: "est", Operation: gateway.Revoke,
		Target:   &gateway.CertID{Issuer: cert.RawIssuer, Serial: cert.SerialNumber, Reason: 1},
		Received: w.clock.now(), Content: []byte(message), Exchange: []byte("record of " + message),
		Credentials: []gateway.Credential{{Kind: gateway.CredentialSigner, ID: "somebody"}},
	}
}

func TestRevoke(t *testing.T) {
	s := &orders{}
	w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}), ordered(s))
	var told []int
	w.twist(&twisted{revoke: func(ctx context.Context, q *backend.RevokeRequest) error {
		if len(s.seen) == 0 || w.state(s.seen[0].Request.ID) != gateway.StateRevoked {
			t.Error("the CA is told before it is recorded")
		}
		told = append(told, q.Reason)
		return w.memory.Revoke(ctx, q)
	}})
	first := w.request("device-1")
	cert := w.mustEnroll(first).Certificate
	r := w.rr(cert, "a")
	res, err := w.gw.Revoke(t.Context(), r)
	if err != nil || res.Kind != gateway.ResultRevoked || res.Transaction != r.ID || string(res.Exchange) != "record of a" || res.Repeated {
		t.Fatalf("%+v, %v", res, err)
	}
	if !w.revoked(first.ID) || !w.memory.Revoked(first.ID) || len(told) != 1 || told[0] != 1 {
		t.Errorf("here %t, at the CA %t, told %v", w.revoked(first.ID), w.memory.Revoked(first.ID), told)
	}
	// Who asked, and what the stages said, is kept, and the audit trail names him.
	tx, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if tx.State != gateway.StateRevoked || tx.Operation != gateway.Revoke || tx.Requester != "message-signer:somebody" || tx.WireID != "wire-a" ||
		len(tx.Verdicts) != 1 || tx.Verdicts[0].Note != "seen" || tx.Subject != "CN=device-1" || !strings.Contains(tx.Note, first.ID) ||
		!strings.Contains(tx.Note, "keyCompromise") || tx.Certificate != nil || tx.Backend != "ca" {
		t.Errorf("%+v", tx)
	}
	if e := s.seen[0].Audit; e.Kind != "revocation-ordered" || e.Transaction != r.ID || e.Requester != "message-signer:somebody" || e.Serial == "" ||
		e.Operation != gateway.Revoke || e.Actor != "" || !strings.Contains(e.Note, "keyCompromise") {
		t.Errorf("audited: %+v", e)
	}
	// The certificate's own transaction says so.
	heard, err := w.gw.Messages(t.Context(), first.ID)
	if err != nil || len(heard) != 1 || heard[0].Kind != "revocation" || !strings.Contains(heard[0].Note, r.ID) {
		t.Errorf("%+v, %v", heard, err)
	}
	// It is no repeat's answer any more.
	if res, err := w.gw.Enroll(t.Context(), w.again(first)); err != nil || res.Transaction == first.ID {
		t.Errorf("%+v, %v", res, err)
	}
}

// The same message gets the same answer, also where the certificate that proves who asks is the one that it revoked; within
// the endpoint's time, from the same signer only. Another message is told that it is revoked.
func TestRevokeAgain(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	cert := w.mustEnroll(w.request("device-1")).Certificate
	w.revoke = gateway.Pipeline{signer{}, stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		if c, err := w.store.Certificate(t.Context(), cert.RawIssuer, cert.SerialNumber.Bytes()); err != nil || !c.RevokedAt.IsZero() {
			return gateway.Denied(gateway.Revoked, "revoked", "the signer is revoked")
		}
		return allows(cert)(r, g)
	})}
	w.swap()
	r := w.rr(cert, "a")
	if _, err := w.gw.Revoke(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	late := &gateway.Error{Reason: gateway.BadTime}
	again := w.again(r)
	again.OnlyRepeat = late
	if res, err := w.gw.Revoke(t.Context(), again); err != nil || !res.Repeated || res.Transaction != r.ID || string(res.Exchange) != "record of a" {
		t.Errorf("the same message: %+v, %v", res, err)
	}
	other := w.again(r)
	other.Credentials = []gateway.Credential{{Kind: gateway.CredentialSigner, ID: "another"}}
	for name, q := range map[string]*gateway.Request{"another message": w.rr(cert, "b"), "another signer": other} {
		if res, err := w.gw.Revoke(t.Context(), q); reason(err) != gateway.Revoked {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	fresh := w.rr(cert, "c")
	fresh.OnlyRepeat = late
	if res, err := w.gw.Revoke(t.Context(), fresh); reason(err) != gateway.BadTime {
		t.Errorf("a message that comes too late: %+v, %v", res, err)
	}
	w.clock.add(11 * time.Minute)
	if res, err := w.gw.Revoke(t.Context(), w.again(r)); reason(err) != gateway.Revoked {
		t.Errorf("after the time of repeats: %+v, %v", res, err)
	}
}

// Two that come at once: of equal messages both are accepted, of others one.
func TestRevokeAtOnce(t *testing.T) {
	for _, equal := range []bool{true, false} {
		s := &orders{}
		w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}), ordered(s))
		cert := w.mustEnroll(w.request("device-1")).Certificate
		r := w.rr(cert, "a")
		q := w.rr(cert, "b")
		if equal {
			q = w.again(r)
		}
		s.before = func() {
			if _, err := w.gw.Revoke(t.Context(), q); err != nil {
				t.Error(err)
			}
		}
		res, err := w.gw.Revoke(t.Context(), r)
		if equal && (err != nil || res.Transaction != q.ID || !res.Repeated) || !equal && reason(err) != gateway.Revoked {
			t.Errorf("equal %t: %+v, %v", equal, res, err)
		}
		if want := map[bool]gateway.State{false: gateway.StateRefused}[equal]; w.state(r.ID) != want {
			t.Errorf("equal %t: the second is %q, want %q", equal, w.state(r.ID), want)
		}
	}
}

func TestRevokeRefused(t *testing.T) {
	hold := always(gateway.Held("ask somebody"))
	for name, c := range map[string]struct {
		revoke gateway.Pipeline
		change func(w *world, r *gateway.Request, first *gateway.Request)
		desc   func(*backend.Description)
		want   gateway.Reason
		stored bool // a refusal by name
		note   string
	}{
		"no pipeline": {want: gateway.NotAuthorized},
		"not a revocation": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Operation = gateway.Renew },
			want: gateway.Unsupported},
		"no target": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target = nil }, want: gateway.UnknownCert},
		"serial 0": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target.Serial = new(big.Int) },
			want: gateway.UnknownCert},
		"negative serial": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target.Serial = new(big.Int).Neg(r.Target.Serial) },
			want: gateway.UnknownCert},
		"a stranger":              {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Credentials = nil }, want: gateway.Unauthenticated},
		"stages that know nobody": {revoke: gateway.Pipeline{always(gateway.Allowed(""))}, want: gateway.NotAuthorized},
		"a stage denies":          {revoke: gateway.Pipeline{signer{}, always(gateway.Denied(gateway.NotAuthorized, "no", "no"))}, want: gateway.NotAuthorized, stored: true},
		"a stage holds":           {revoke: gateway.Pipeline{signer{}, hold}, want: gateway.NotAuthorized, stored: true},
		"a stage cannot answer": {revoke: gateway.Pipeline{signer{}, always(gateway.Unanswered(errors.New("down")))},
			want: gateway.Unavailable},
		"unknown serial": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target.Serial = big.NewInt(4711) },
			want: gateway.UnknownCert, stored: true},
		"another issuer": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target.Issuer = []byte{0x30, 0} },
			want: gateway.UnknownCert, stored: true},
		"another device's": {revoke: gateway.Pipeline{signer{"device-2"}}, want: gateway.NotAuthorized, stored: true},
		"a stage allowed another": {revoke: gateway.Pipeline{signer{"device-2"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Revokes = &gateway.Replaced{Issuer: []byte{0x30, 0}, Serial: []byte{1}}
			return gateway.Allowed("")
		})}, want: gateway.NotAuthorized, stored: true},
		"hold of a certificate": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target.Reason = 6 },
			want: gateway.NotAuthorized, stored: true},
		"revive": {revoke: gateway.Pipeline{signer{}}, change: func(_ *world, r, _ *gateway.Request) { r.Target.Reason = 8 },
			want: gateway.NotAuthorized, stored: true},
		"an operator was faster": {revoke: gateway.Pipeline{signer{}}, change: func(w *world, r, _ *gateway.Request) {
			if _, _, err := w.gw.RevokeCertificate(w.t.Context(), r.Target.Issuer, r.Target.Serial.Bytes(), 1, "alice", ""); err != nil {
				w.t.Fatal(err)
			}
		}, want: gateway.Revoked, stored: true, note: "was revoked at"},
		"a CA that cannot": {revoke: gateway.Pipeline{signer{}}, desc: func(d *backend.Description) { d.Capabilities = nil }, want: gateway.Unsupported, stored: true},
		"a claim that is used up": {revoke: gateway.Pipeline{signer{}, always(gateway.Allowed("", gateway.Claim{Key: "rr", Limit: 0}))},
			want: gateway.NotAuthorized, stored: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &orders{}
			w := newWorld(t, backendtest.FaultPlan{}, revokers(c.revoke...), ordered(s), func(w *world) { w.desc = c.desc })
			first := w.request("device-1")
			cert := w.mustEnroll(first).Certificate
			r := w.rr(cert, "a")
			if c.change != nil {
				c.change(w, r, first)
			}
			before := w.revoked(first.ID)
			res, err := w.gw.Revoke(t.Context(), r)
			if reason(err) != c.want {
				t.Fatalf("%+v, %v, want %s", res, err, c.want)
			}
			if w.revoked(first.ID) != before || w.memory.Revoked(first.ID) != before {
				t.Error("it is revoked")
			}
			want := gateway.State("")
			if c.stored {
				want = gateway.StateRefused
			}
			if got := w.state(r.ID); got != want {
				t.Errorf("the request is %q, want %q", got, want)
			}
			if c.note != "" {
				if tx, err := w.store.Transaction(t.Context(), r.ID); err != nil || !strings.Contains(tx.Note, c.note) {
					t.Errorf("%+v, %v, want the note %q", tx, err, c.note)
				}
			}
		})
	}
}

// Whom no stage tied to a device is an RA of this endpoint, and knows nothing of the others; a stage that has judged the
// certificate itself goes further.
func TestRevokeOfAnotherEndpoint(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}))
	first := w.request("device-1")
	cert := w.mustEnroll(first).Certificate
	other := func(p gateway.Pipeline) {
		w.reload(func(rt *gateway.Runtime, profile *gateway.Profile) {
			rt.Endpoints["other"] = &gateway.Endpoint{Name: "other", Protocol: gateway.EST, Profile: profile,
				Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Revoke: p}}
		})
	}
	other(gateway.Pipeline{signer{}})
	r := w.rr(cert, "a")
	r.Endpoint = "other"
	if _, err := w.gw.Revoke(t.Context(), r); reason(err) != gateway.UnknownCert || w.revoked(first.ID) {
		t.Errorf("%v", err)
	}
	other(gateway.Pipeline{signer{}, allows(cert)})
	r = w.again(r)
	if _, err := w.gw.Revoke(t.Context(), r); err != nil || !w.revoked(first.ID) {
		t.Errorf("%v", err)
	}
}

// What is not confirmed yet is rejected by it; a claim of the revocation is spent.
func TestRevokeUnconfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, once, revokers(signer{}, always(gateway.Allowed("", gateway.Claim{Key: "rr", Limit: 1}))))
	r := w.exchange(w.request("device-1"), "a")
	cert := w.mustEnroll(r).Certificate
	if _, err := w.gw.Revoke(t.Context(), w.rr(cert, "a")); err != nil {
		t.Fatal(err)
	}
	if s := w.state(r.ID); s != gateway.StateRejected {
		t.Errorf("the transaction is %s", s)
	}
	cert = w.mustEnroll(w.exchange(w.request("device-1"), "b")).Certificate
	if _, err := w.gw.Revoke(t.Context(), w.rr(cert, "b")); reason(err) != gateway.NotAuthorized {
		t.Errorf("the claim is not spent: %v", err)
	}
}

// A CA that does not answer delays nothing: it is told later.
func TestRevokeWhileTheCAIsDown(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}))
	down := true
	w.twist(&twisted{revoke: func(ctx context.Context, q *backend.RevokeRequest) error {
		if down {
			return errors.New("down")
		}
		return w.memory.Revoke(ctx, q)
	}})
	first := w.request("device-1")
	cert := w.mustEnroll(first).Certificate
	if _, err := w.gw.Revoke(t.Context(), w.rr(cert, "a")); err != nil {
		t.Fatal(err)
	}
	if !w.revoked(first.ID) || w.memory.Revoked(first.ID) {
		t.Errorf("here %t, at the CA %t", w.revoked(first.ID), w.memory.Revoked(first.ID))
	}
	down = false
	w.work(time.Minute)
	if !w.memory.Revoked(first.ID) {
		t.Error("the CA was not told")
	}
}

// Whichever call to the store fails, or is lost on its way back: nobody is told that a certificate is revoked that is not, and the same
// message asked again ends it.
func TestStoreFailsARequestToRevoke(t *testing.T) {
	calls := []string{"Certificate", "OrderRevocation", "Transaction", "MarkRevoked"}
	for i, call := range calls {
		for _, lost := range []bool{false, true} {
			s := &watched{}
			w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}), watch(s))
			first := w.request("device-1")
			cert := w.mustEnroll(first).Certificate
			r := w.rr(cert, "a")
			f := &failing{call: call, nth: 1, lost: lost}
			s.fails = f.fails
			res, err := w.gw.Revoke(t.Context(), r)
			s.fails = nil
			if !f.hit || i < 2 && reason(err) != gateway.Unavailable || i >= 2 && (err != nil || res.Kind != gateway.ResultRevoked) {
				t.Fatalf("%s, lost %t: %+v, %v, failed %t", call, lost, res, err, f.hit)
			}
			if w.revoked(first.ID) != (i > 1 || i == 1 && lost) {
				t.Errorf("%s, lost %t: revoked %t", call, lost, w.revoked(first.ID))
			}
			if res, err := w.gw.Revoke(t.Context(), w.again(r)); err != nil || res.Kind != gateway.ResultRevoked {
				t.Errorf("%s, lost %t: once more: %+v, %v", call, lost, res, err)
			}
			w.work(time.Minute)
			if !w.revoked(first.ID) || !w.memory.Revoked(first.ID) {
				t.Errorf("%s, lost %t: in the end here %t, at the CA %t", call, lost, w.revoked(first.ID), w.memory.Revoked(first.ID))
			}
		}
	}
}

// What its requester has rejected is as good as revoked, though the CA has not been told yet.
func TestRevokeRejected(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}))
	r := w.exchange(w.request("device-1"), "a")
	cert := w.mustEnroll(r).Certificate
	if _, err := w.confirm(r.ID, false); err != nil {
		t.Fatal(err)
	}
	if res, err := w.gw.Revoke(t.Context(), w.rr(cert, "a")); reason(err) != gateway.Revoked {
		t.Errorf("%+v, %v", res, err)
	}
}

// The same message by two ways: the stages of the one that is slower see the certificate revoked, and it is accepted like the other.
func TestRevokeAtOnceBeforeTheStages(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	cert := w.mustEnroll(w.request("device-1")).Certificate
	r := w.rr(cert, "a")
	q := w.again(r)
	first := true
	w.revoke = gateway.Pipeline{signer{}, stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		if !first {
			return allows(cert)(r, g)
		}
		first = false
		if _, err := w.gw.Revoke(t.Context(), q); err != nil {
			t.Error(err)
		}
		return gateway.Denied(gateway.Revoked, "revoked", "revoked meanwhile")
	})}
	w.swap()
	if res, err := w.gw.Revoke(t.Context(), r); err != nil || !res.Repeated || res.Transaction != q.ID {
		t.Errorf("%+v, %v", res, err)
	}
}

// Nobody gets an answer again by a credential that is only claimed.
func TestRevokeAgainByNobody(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, revokers(password{"secret"}))
	cert := w.mustEnroll(w.request("device-1")).Certificate
	r := w.rr(cert, "a")
	r.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("secret")}}
	if _, err := w.gw.Revoke(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wrong := w.again(r)
	wrong.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("wrong")}}
	if res, err := w.gw.Revoke(t.Context(), wrong); reason(err) != gateway.Unauthenticated {
		t.Errorf("%+v, %v", res, err)
	}
}
