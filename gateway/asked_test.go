package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// asked is a CA that keeps what it was asked. broken says how many calls of Issue break off before anything is signed.
type asked struct {
	backend.Backend
	broken         int
	issues, looked []backend.IssueRequest
}

func (a *asked) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	a.issues = append(a.issues, *r)
	if len(a.issues) <= a.broken {
		return nil, status.Error(codes.Unavailable, "broken off")
	}
	return a.Backend.Issue(ctx, r)
}

func (a *asked) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	a.looked = append(a.looked, *r)
	return a.Backend.Lookup(ctx, r)
}

// askedWorld is a world whose CA keeps what it was asked, and breaks off so many calls of Issue.
func askedWorld(t *testing.T, broken int, s *watched) (*world, *asked) {
	t.Helper()
	w := newWorld(t, backendtest.FaultPlan{}, watch(s), idempotency(backend.IdempotencyLookup))
	a := &asked{Backend: w.memory, broken: broken}
	w.ca = backendtest.Faulty(a, backendtest.FaultPlan{})
	w.swap()
	return w, a
}

// content is all of a request but when it was asked.
func content(t *testing.T, r backend.IssueRequest) []byte {
	t.Helper()
	r.Asked = time.Time{}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Lookup is given what Issue was, and when that was last, also when the worker has asked again and that broke off too.
func TestLookupIsGivenTheIntent(t *testing.T) {
	w, a := askedWorld(t, 2, &watched{})
	r := w.request("device-1")
	first := w.clock.now()
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
		t.Fatalf("%+v, %v", res, err)
	}
	w.work(time.Minute)
	second := w.clock.now()
	if w.state(r.ID) != gateway.StateUnknown || len(a.issues) != 2 {
		t.Fatalf("%s after %d calls of Issue", w.state(r.ID), len(a.issues))
	}
	w.work(time.Minute)
	if w.state(r.ID) != gateway.StateIssued || w.ca.Total() != 1 || len(a.issues) != 3 || len(a.looked) != 2 {
		t.Fatalf("%s after %d calls of Issue and %d of Lookup", w.state(r.ID), len(a.issues), len(a.looked))
	}
	if a.looked[0].ID != r.ID || !bytes.Contains(a.looked[0].Template.PublicKey, r.PublicKey) {
		t.Errorf("Lookup was given %+v", a.looked[0])
	}
	for i, at := range []time.Time{first, second} {
		if got := a.looked[i]; !got.Asked.Equal(at) || !bytes.Equal(content(t, got), content(t, a.issues[i])) {
			t.Errorf("Lookup %d: asked at %v, want %v\n%s, want\n%s", i, got.Asked, at, content(t, got), content(t, a.issues[i]))
		}
	}
}

// A CA is not asked again before it is recorded that it is: the next Lookup would take an older call for the last one.
func TestNoCAIsAskedAgainUnrecorded(t *testing.T) {
	for name, lost := range map[string]bool{"not recorded": false, "recorded, and the answer lost": true} {
		t.Run(name, func(t *testing.T) {
			lame := true
			w, a := askedWorld(t, 1, &watched{fails: func(call string, done bool) error {
				if call == "AskAgain" && done == lost && lame {
					return errLame
				}
				return nil
			}})
			r := w.request("device-1")
			if _, err := w.gw.Enroll(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			w.work(time.Minute)
			if w.state(r.ID) != gateway.StateUnknown || len(a.looked) != 1 || len(a.issues) != 1 {
				t.Errorf("%s after %d calls of Lookup and %d of Issue", w.state(r.ID), len(a.looked), len(a.issues))
			}
			lame = false
			w.work(time.Minute)
			if w.state(r.ID) != gateway.StateIssued || len(a.issues) != 2 || w.ca.Total() != 1 {
				t.Errorf("%s after %d calls of Issue", w.state(r.ID), len(a.issues))
			}
		})
	}
}

// Whoever orders it, and when the worker tries again: a CA is told the certificate that it is to revoke.
func TestRevokeIsGivenTheCertificate(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	var told [][]byte
	w.twist(&twisted{revoke: func(ctx context.Context, r *backend.RevokeRequest) error {
		if told = append(told, r.Certificate); len(told) == 1 {
			return status.Error(codes.Unavailable, "away")
		}
		return w.memory.Revoke(ctx, r)
	}})
	r := w.request("device-1")
	if _, err := w.gw.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || got.Certificate == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	c := got.Certificate
	if _, _, err := w.gw.RevokeCertificate(t.Context(), c.Issuer, c.Serial, 1, "anna", ""); err != nil {
		t.Fatal(err)
	}
	w.work(time.Minute)
	if len(told) != 2 || !w.memory.Revoked(r.ID) {
		t.Fatalf("told %d times", len(told))
	}
	for i, der := range told {
		if len(der) == 0 || !bytes.Equal(der, c.DER) {
			t.Errorf("call %d: %x", i, der)
		}
	}
}
