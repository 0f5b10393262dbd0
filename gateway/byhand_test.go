package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// stuck is a world with a transaction of which the operator has to find out what the CA did. The CA has issued.
func stuck(t *testing.T) (*world, *gateway.Request, *backend.Issuance) {
	t.Helper()
	once := always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1}))
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop}}, idempotency(backend.IdempotencyNone),
		func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, once} })
	r := w.request("device-1")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending || w.state(r.ID) != gateway.StateStuck {
		t.Fatalf("%+v, %v, %s", res, err, w.state(r.ID))
	}
	o, err := w.memory.Lookup(t.Context(), &backend.IssueRequest{ID: r.ID})
	if err != nil || o.State != backend.OutcomeIssued {
		t.Fatal(o, err)
	}
	return w, r, o.Issuance
}

func TestSettledByHand(t *testing.T) {
	t.Run("issued", func(t *testing.T) {
		w, r, found := stuck(t)
		tr, err := w.gw.SettleStuck(t.Context(), r.ID, &backend.Issuance{Certificate: found.Certificate}, "anna", "ticket 4711")
		if err != nil || tr.State != gateway.StateIssued || tr.Note != "found at the CA, says anna: ticket 4711" {
			t.Fatalf("%+v, %v", tr, err)
		}
		if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || !bytes.Equal(res.Certificate.Raw, found.Certificate) || len(res.Chain) != len(found.Chain) {
			t.Errorf("who asks again gets %+v, %v", res, err)
		}
		if w.ca.Total() != 1 {
			t.Errorf("%d certificates", w.ca.Total())
		}
		if _, err := w.gw.SettleStuck(t.Context(), r.ID, nil, "anna", ""); reason(err) != gateway.NotAuthorized || !errors.Is(err, gateway.ErrStale) {
			t.Errorf("settled again: %v", err)
		}
	})
	t.Run("never", func(t *testing.T) {
		w, r, _ := stuck(t)
		tr, err := w.gw.SettleStuck(t.Context(), r.ID, nil, "anna", "not in its database")
		if err != nil || tr.State != gateway.StateFailed || tr.Note == "" {
			t.Fatalf("%+v, %v", tr, err)
		}
		if res, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil || res.Kind != gateway.ResultIssued {
			t.Errorf("the count was not given back: %+v, %v", res, err)
		}
	})
	t.Run("another certificate", func(t *testing.T) {
		w, r, _ := stuck(t)
		other := w.request("device-2")
		tr, err := w.store.Transaction(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		q := *tr.Intent
		q.ID, q.Template.Subject = "elsewhere", other.Subject
		wrong, err := w.memory.Issue(t.Context(), &q)
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string]*backend.Issuance{"another name": wrong, "nothing": {Certificate: []byte("nothing")}} {
			if _, err := w.gw.SettleStuck(t.Context(), r.ID, got, "anna", ""); reason(err) != gateway.BadTemplate {
				t.Errorf("%s: %v", name, err)
			}
		}
		if w.state(r.ID) != gateway.StateStuck || w.memory.Revoked("elsewhere") {
			t.Errorf("%s; revoked: %t", w.state(r.ID), w.memory.Revoked("elsewhere"))
		}
	})
	t.Run("unknown, and waiting", func(t *testing.T) {
		for state, change := range map[gateway.State]func(*twisted){
			gateway.StateUnknown: func(b *twisted) {
				b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
					return nil, errors.New("lost")
				}
				b.lookup = func(context.Context, string) (*backend.Outcome, error) { return nil, errors.New("no answer") }
			},
			gateway.StateWaiting: func(b *twisted) {
				b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
					return &backend.Issuance{Ticket: "t"}, nil
				}
				b.poll = func(context.Context, string) (*backend.Issuance, error) { return nil, errors.New("swept") }
			},
		} {
			w := newWorld(t, backendtest.FaultPlan{})
			b := &twisted{}
			change(b)
			w.twist(b)
			r := w.request("device-1")
			if _, err := w.gw.Enroll(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if w.work(time.Minute); w.state(r.ID) != state {
				t.Fatalf("%s, not %s", w.state(r.ID), state)
			}
			if tr, err := w.gw.SettleStuck(t.Context(), r.ID, nil, "anna", ""); err != nil || tr.State != gateway.StateFailed {
				t.Errorf("%s: %+v, %v", state, tr, err)
			}
			if w.work(time.Hour); w.state(r.ID) != gateway.StateFailed {
				t.Errorf("%s: it is %s", state, w.state(r.ID))
			}
		}
	})
	t.Run("nobody's", func(t *testing.T) {
		w, _, found := stuck(t)
		if _, err := w.gw.SettleStuck(t.Context(), "nobody", found, "anna", ""); reason(err) != gateway.UnknownCert {
			t.Error(err)
		}
	})
}
