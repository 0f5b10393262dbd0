package gateway_test

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// A refusal on the second asking says nothing about the first, whose answer was lost: the certificate is found.
func TestRefusalAfterALostAnswer(t *testing.T) {
	for _, second := range []backendtest.Fault{backendtest.FaultRefuse, backendtest.FaultExhausted} {
		t.Run(string(second), func(t *testing.T) {
			once := always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1}))
			w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop, 2: second}},
				func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, once} })
			r := w.request("device-1")
			res, err := w.gw.Enroll(t.Context(), r)
			if err != nil || res.Kind != gateway.ResultPending {
				t.Errorf("%+v, %v", res, err)
			}
			w.work(time.Second)
			if w.state(r.ID) != gateway.StateIssued || w.ca.Total() != 1 {
				t.Errorf("%s with %d certificates", w.state(r.ID), w.ca.Total())
			}
			if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.NotAuthorized {
				t.Errorf("the claim of an issued certificate was given back: %v", err)
			}
		})
	}
}

// A CA whose code panics, or answers nothing at all, has said nothing: the outcome is unknown, and no process ends.
func TestPanicsOfACA(t *testing.T) {
	for name, broken := range map[string]func(*twisted){
		"issue panics": func(b *twisted) {
			b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) { panic("boom") }
		},
		"issue answers nothing": func(b *twisted) {
			b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) { return nil, nil }
		},
		"lookup panics": func(b *twisted) {
			b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
				return nil, errors.New("lost")
			}
			b.lookup = func(context.Context, string) (*backend.Outcome, error) { panic("boom") }
		},
		"lookup answers nothing": func(b *twisted) {
			b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
				return nil, errors.New("lost")
			}
			b.lookup = func(context.Context, string) (*backend.Outcome, error) { return nil, nil }
		},
		"lookup has no certificate": func(b *twisted) {
			b.issue = func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
				return nil, errors.New("lost")
			}
			b.lookup = func(context.Context, string) (*backend.Outcome, error) {
				return &backend.Outcome{State: backend.OutcomeIssued}, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{})
			b := &twisted{}
			broken(b)
			w.twist(b)
			r := w.request("device-1")
			if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
				t.Fatalf("%+v, %v", res, err)
			}
			w.work(time.Second)
			if s := w.state(r.ID); s != gateway.StateUnknown {
				t.Errorf("%s", s)
			}
			b.issue, b.lookup = nil, nil
			w.work(time.Minute)
			if s := w.state(r.ID); s != gateway.StateIssued || w.memory.Total() != 1 {
				t.Errorf("%s with %d certificates once the CA is well", s, w.memory.Total())
			}
		})
	}
	t.Run("revoke panics", func(t *testing.T) {
		w := newWorld(t, backendtest.FaultPlan{})
		b := &twisted{
			issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
				other := *r
				other.Template.NotAfter = r.Template.NotAfter.Add(-time.Hour)
				return w.memory.Issue(ctx, &other)
			},
			revoke: func(context.Context, *backend.RevokeRequest) error { panic("boom") },
		}
		w.twist(b)
		r := w.request("device-1")
		if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Internal {
			t.Fatal(err)
		}
		w.work(time.Second)
		b.revoke = nil
		if w.work(time.Minute); !w.memory.Revoked(r.ID) {
			t.Error("not revoked")
		}
	})
}

// A commit that fails once is tried again: with a CA that keeps no record by ID nobody else could find the outcome.
func TestSettleIsTriedAgain(t *testing.T) {
	failures := 1
	s := &watched{settling: func(context.Context) error {
		if failures--; failures >= 0 {
			return errors.New("connection reset")
		}
		return nil
	}}
	w := newWorld(t, backendtest.FaultPlan{}, watch(s), idempotency(backend.IdempotencyNone))
	r := w.request("device-1")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultIssued || w.state(r.ID) != gateway.StateIssued {
		t.Errorf("%+v, %v, %s", res, err, w.state(r.ID))
	}
}

// A store that cannot be read while a twin's outcome is looked up is unavailable, not broken.
func TestTwinCannotBeRead(t *testing.T) {
	s := &watched{reading: func() error { return errLame }}
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.wrap = func(inner gateway.Store) gateway.Store { s.Store = twin{inner}; return s }
	})
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.Unavailable {
		t.Errorf("%v", err)
	}
}

// A granted critical extension has to be critical.
func TestCriticalityIsCompared(t *testing.T) {
	extension := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Extensions = []pkix.Extension{extension}
			return gateway.Allowed("")
		})}
	})
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil {
		t.Fatal(err)
	}
	w.twist(&twisted{issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
		weak := *r
		weak.Template.Extensions = []pkix.Extension{{Id: extension.Id, Value: extension.Value}}
		return w.memory.Issue(ctx, &weak)
	}})
	if res, err := w.gw.Enroll(t.Context(), w.request("device-2")); reason(err) != gateway.Internal {
		t.Errorf("%+v, %v", res, err)
	}
}

// A CA that answers with the certificate of another transaction: that one stays what it is, and nobody else gets it,
// whether it would fit or not.
func TestCertificateOfAnotherTransaction(t *testing.T) {
	for name, same := range map[string]bool{"it fits": true, "it does not fit": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{})
			first := w.request("device-1")
			got, err := w.gw.Enroll(t.Context(), first)
			if err != nil {
				t.Fatal(err)
			}
			w.twist(&twisted{issue: func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
				o, err := w.memory.Lookup(ctx, &backend.IssueRequest{ID: first.ID})
				return o.Issuance, err
			}})
			second := w.request("device-2")
			if same {
				second = w.again(first)
			}
			second.Content = []byte("another request")
			if res, err := w.gw.Enroll(t.Context(), second); reason(err) != gateway.Internal {
				t.Errorf("%+v, %v", res, err)
			}
			w.work(time.Minute)
			if w.state(second.ID) != gateway.StateFailed || w.memory.Revoked(first.ID) {
				t.Errorf("the second is %s; the first revoked: %v", w.state(second.ID), w.memory.Revoked(first.ID))
			}
			again, err := w.gw.Enroll(t.Context(), w.again(first))
			if err != nil || !again.Repeated || !again.Certificate.Equal(got.Certificate) {
				t.Errorf("the first one asks again: %+v, %v", again, err)
			}
		})
	}
}
