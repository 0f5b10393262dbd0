package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// holding holds every request for so many approvers, and lets each device enrol once.
func holding(approvers int) func(*world) {
	return func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
			return gateway.Allowed("", gateway.Claim{Key: "device:" + string(r.Subject), Limit: 1, Lost: "enrolled already"})
		}), stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			v := gateway.Held("somebody has to look")
			v.Terms = gateway.HoldTerms{Approvers: approvers, Expires: 48 * time.Hour}
			return v
		})}
	}
}

func (w *world) approve(id, who string) (*gateway.Transaction, error) {
	return w.gw.Approve(w.t.Context(), id, who, "looks good")
}

func TestApproved(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(2))
	r := w.request("held")
	res := w.mustEnroll(r)
	if res.Kind != gateway.ResultPending || res.RetryAfter != 0 || w.state(r.ID) != gateway.StateHeld || w.memory.Total() != 0 {
		t.Fatalf("%+v, state %s, %d issued", res, w.state(r.ID), w.memory.Total())
	}
	// It asks again: the same, however often, and after a restart too.
	w.restart()
	if again := w.mustEnroll(w.again(r)); again.Kind != gateway.ResultPending || again.Transaction != r.ID {
		t.Errorf("asked again: %+v", again)
	}
	if m, err := w.gw.Messages(t.Context(), r.ID); err != nil || len(m) != 1 {
		t.Errorf("messages %+v, %v", m, err)
	}
	w.clock.add(30 * time.Hour)
	first, err := w.approve(r.ID, "alice")
	if err != nil || first.State != gateway.StateHeld || len(first.Hold.Approvals) != 1 || w.memory.Total() != 0 {
		t.Fatalf("the first of two: %v, %+v", err, first)
	}
	if _, err := w.approve(r.ID, "alice"); !errors.Is(err, gateway.ErrApproved) {
		t.Errorf("the same person again: %v", err)
	}
	w.restart()
	second, err := w.approve(r.ID, "bob")
	if err != nil || second.State != gateway.StateIssued || len(second.Hold.Approvals) != 2 || w.memory.Total() != 1 {
		t.Fatalf("the second: %v, %+v, %d issued", err, second, w.memory.Total())
	}
	// Its time begins with the approval, not when it was asked for.
	if c := second.Certificate; !c.NotBefore.Equal(w.clock.now()) || c.NotAfter.Sub(c.NotBefore) != 72*time.Hour-time.Second {
		t.Errorf("valid from %s to %s, approved at %s", c.NotBefore, c.NotAfter, w.clock.now())
	}
	got := w.mustEnroll(w.again(r))
	if got.Kind != gateway.ResultIssued || !bytes.Equal(got.Certificate.Raw, second.Certificate.DER) || got.Transaction != r.ID {
		t.Errorf("asked after it: %+v", got)
	}
	if _, err := w.approve(r.ID, "carol"); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := w.gw.Deny(t.Context(), r.ID, "carol", ""); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("denied after it was issued: %v", err)
	}
	messages, err := w.gw.Messages(t.Context(), r.ID)
	if err != nil || len(messages) != 2 || messages[0].Kind != "repeat" || messages[0].Note != "pending" || messages[1].Note != "issued" {
		t.Errorf("messages %+v, %v", messages, err)
	}
}

func TestDenied(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	r := w.request("denied")
	w.mustEnroll(r)
	tx, err := w.gw.Deny(t.Context(), r.ID, "alice", "never heard of it")
	if err != nil || tx.State != gateway.StateDenied || tx.Hold.Denied == nil || tx.Hold.Denied.By != "alice" || !strings.Contains(tx.Note, "never heard of it") {
		t.Fatalf("%v, %+v", err, tx)
	}
	for range 2 {
		_, err := w.gw.Enroll(t.Context(), w.again(r))
		if e := gateway.AsError(err); e.Reason != gateway.NotAuthorized || strings.Contains(e.Detail, "heard") || strings.Contains(e.Detail, "alice") {
			t.Errorf("asked again: %v", err)
		}
		w.restart()
	}
	if _, err := w.approve(r.ID, "bob"); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("approved after all: %v", err)
	}
	// The enrollment is not used up, and later the request is judged anew.
	w.clock.add(11 * time.Minute)
	again := w.again(r)
	if res := w.mustEnroll(again); res.Kind != gateway.ResultPending || res.Transaction != again.ID {
		t.Errorf("after the repeat time: %+v", res)
	}
	if w.memory.Total() != 0 {
		t.Errorf("%d issued", w.memory.Total())
	}
}

func TestNobodyApproves(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	r := w.request("forgotten")
	w.mustEnroll(r)
	w.work(47 * time.Hour)
	if s := w.state(r.ID); s != gateway.StateHeld {
		t.Fatalf("an hour before its time: %s", s)
	}
	w.work(61 * time.Minute)
	if s := w.state(r.ID); s != gateway.StateDenied {
		t.Fatalf("after its time: %s", s)
	}
	if _, err := w.approve(r.ID, "alice"); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("approved too late: %v", err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.NotAuthorized {
		t.Errorf("asked again: %v", err)
	}
}

// Whoever decides at the same moment, one decision counts, and one certificate is the most that comes of it.
func TestDecisionsRace(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	for range 8 {
		r := w.request("raced")
		r.Subject = append([]byte(nil), r.Subject...)
		w.enroll[1] = always(gateway.Allowed(""))
		w.swap()
		w.mustEnroll(r)
		before := w.memory.Total()
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := 0
		for i := range 8 {
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					_, err = w.approve(r.ID, "alice")
				} else {
					_, err = w.gw.Deny(t.Context(), r.ID, "bob", "")
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if !errors.Is(err, gateway.ErrStale) && !errors.Is(err, gateway.ErrApproved) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		s, issued := w.state(r.ID), w.memory.Total()-before
		if won != 1 || s == gateway.StateIssued && issued != 1 || s == gateway.StateDenied && issued != 0 || s != gateway.StateIssued && s != gateway.StateDenied {
			t.Errorf("%d decisions counted, %s, %d issued", won, s, issued)
		}
	}
}

// The gateway dies between the approval's commit and the CA: the worker of the next start asks the CA.
func TestApprovedAndLost(t *testing.T) {
	dead := errors.New("dead")
	w := newWorld(t, backendtest.FaultPlan{}, holding(1), func(w *world) {
		w.opts.Crash = func(point string) {
			if point == gateway.CrashAfterIntent {
				panic(dead)
			}
		}
	})
	r := w.request("lost")
	w.mustEnroll(r)
	func() {
		defer func() {
			if p := recover(); p != dead {
				t.Fatalf("%v", p)
			}
		}()
		w.approve(r.ID, "alice") //nolint:errcheck // it dies
	}()
	w.opts.Crash = nil
	w.restart()
	w.work(time.Minute)
	if s := w.state(r.ID); s != gateway.StateIssued || w.memory.Total() != 1 {
		t.Errorf("%s, %d issued", s, w.memory.Total())
	}
}

// What the CA refuses after the approval is failed, and can be asked for again.
func TestApprovedAndRefusedByTheCA(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultRefuse}}, holding(1))
	r := w.request("refused")
	w.mustEnroll(r)
	tx, err := w.approve(r.ID, "alice")
	if err != nil || tx.State != gateway.StateFailed {
		t.Fatalf("%v, %+v", err, tx)
	}
	again := w.again(r)
	if res := w.mustEnroll(again); res.Kind != gateway.ResultPending || res.Transaction != again.ID {
		t.Errorf("asked again: %+v", res)
	}
}

func TestPollAfterARequest(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1))
	signer := func(id string) gateway.Credential {
		return gateway.Credential{Kind: gateway.CredentialSigner, ID: id}
	}
	r := w.request("polling")
	r.WireID = "wire-1"
	r.Credentials = append(r.Credentials, signer("mine"))
	w.mustEnroll(r)
	poll := func(wireID string, creds ...gateway.Credential) (*gateway.Result, error) {
		return w.gw.Poll(t.Context(), &gateway.Request{
			ID: gateway.NewID(w.clock.now()), WireID: wireID, Protocol: gateway.EST, Endpoint: "est", Operation: gateway.Query,
			Received: w.clock.now(), Credentials: creds,
		})
	}
	if res, err := poll("wire-1", signer("mine")); err != nil || res.Kind != gateway.ResultPending || res.Transaction != r.ID {
		t.Errorf("held: %+v, %v", res, err)
	}
	// A stranger and a wire ID that nobody has used are told the same. A password proves nobody here.
	_, unknown := poll("wire-2", signer("mine"))
	for name, creds := range map[string][]gateway.Credential{"stranger": {signer("other")}, "nobody": nil, "password": {r.Credentials[0]}} {
		_, err := poll("wire-1", creds...)
		if reason(err) != gateway.UnknownCert || gateway.AsError(err).Detail != gateway.AsError(unknown).Detail {
			t.Errorf("%s: %v, not %v", name, err, unknown)
		}
	}
	if _, err := w.approve(r.ID, "alice"); err != nil {
		t.Fatal(err)
	}
	res, err := poll("wire-1", signer("mine"))
	if err != nil || res.Kind != gateway.ResultIssued || res.Certificate == nil {
		t.Fatalf("issued: %+v, %v", res, err)
	}
	if _, _, err := w.gw.RevokeCertificate(t.Context(), res.Certificate.RawIssuer, res.Certificate.SerialNumber.Bytes(), 1, "alice", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := poll("wire-1", signer("mine")); reason(err) != gateway.Revoked {
		t.Errorf("revoked: %v", err)
	}
	other := w.request("denied")
	other.WireID, other.Credentials = "wire-3", r.Credentials
	w.mustEnroll(other)
	if _, err := w.gw.Deny(t.Context(), other.ID, "alice", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := poll("wire-3", signer("mine")); reason(err) != gateway.NotAuthorized {
		t.Errorf("denied: %v", err)
	}
}

func TestRevokeCertificate(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("revoked")
	cert := w.mustEnroll(r).Certificate
	serial := cert.SerialNumber.Bytes()
	down := true
	var told *backend.RevokeRequest
	w.twist(&twisted{revoke: func(ctx context.Context, q *backend.RevokeRequest) error {
		if down {
			return status.Error(codes.Unavailable, "down")
		}
		told = q
		return w.memory.Revoke(ctx, q)
	}})
	c, done, err := w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, serial, 1, "alice", "stolen")
	if err != nil || done != gateway.ToldLater || c.RevokedAt.IsZero() || c.Revocation != 1 {
		t.Fatalf("with the CA down: told %d, %v, %+v", done, err, c)
	}
	// It counts here at once, and the same request gets another.
	if res := w.mustEnroll(w.again(r)); bytes.Equal(res.Certificate.Raw, cert.Raw) {
		t.Error("a revoked certificate was given again")
	}
	at := w.clock.now()
	down = false
	w.work(time.Minute)
	if told == nil || told.Reason != 1 || !told.At.Equal(at) {
		t.Errorf("the CA was told %+v", told)
	}
	if _, done, err := w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, serial, 4, "bob", ""); err != nil || done != gateway.ToldCA {
		t.Errorf("again: told %d, %v", done, err)
	}
	if c, _ := w.store.Certificate(t.Context(), cert.RawIssuer, serial); c.Revocation != 1 {
		t.Errorf("the second revocation changed the reason to %d", c.Revocation)
	}
	if _, _, err := w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, []byte{1, 2, 3}, 0, "alice", ""); reason(err) != gateway.UnknownCert {
		t.Errorf("one that is not ours: %v", err)
	}
}
