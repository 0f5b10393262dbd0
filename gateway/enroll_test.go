package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func TestEnroll(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("device-1")
	res, err := w.gw.Enroll(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if res.Kind != gateway.ResultIssued || res.Transaction != r.ID || !bytes.Equal(res.Certificate.RawSubject, r.Subject) {
		t.Errorf("%+v", res)
	}
	if len(res.Chain) != 2 || res.Certificate.CheckSignatureFrom(res.Chain[0]) != nil {
		t.Errorf("a chain of %d", len(res.Chain))
	}
	if want := w.clock.now().Add(72*time.Hour - time.Second); !res.Certificate.NotAfter.Equal(want) {
		t.Errorf("ends %s, want %s", res.Certificate.NotAfter, want)
	}
	tr, err := w.gw.Explain(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if tr.State != gateway.StateIssued || tr.Requester != "password:factory" || tr.Subject != "CN=device-1" || len(tr.Verdicts) != 1 {
		t.Errorf("%+v", tr)
	}
}

// What an adapter notes stands before the verdicts, whatever becomes of the request, and decides nothing.
func TestNotes(t *testing.T) {
	for name, password := range map[string]string{"issued": "secret", "refused": "guess"} {
		w := newWorld(t, backendtest.FaultPlan{})
		r := w.request("device-1")
		r.Credentials[0].Secret, r.Notes = gateway.Secret(password), []string{"one", strings.Repeat("x", 5000)}
		res, err := w.gw.Enroll(t.Context(), r)
		if (err == nil) != (name == "issued") {
			t.Fatalf("%s: %v, %v", name, res, err)
		}
		tr, err := w.gw.Explain(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(tr.Verdicts) != 3 || tr.Verdicts[0].Note != "one" || tr.Verdicts[0].Stage != string(r.Protocol) ||
			tr.Verdicts[0].Decision != gateway.Allow || len(tr.Verdicts[1].Note) > 4000 || tr.Verdicts[2].Stage == tr.Verdicts[0].Stage {
			t.Errorf("%s: %+v", name, tr.Verdicts)
		}
	}
}

// Each way in which a request is refused before a CA is asked: what the client is told, and whether the store knows of it.
func TestRefused(t *testing.T) {
	deny := always(gateway.Denied(gateway.BadTemplate, "not that name", "the name is taken"))
	for _, c := range []struct {
		name     string
		pipeline gateway.Pipeline
		change   func(*gateway.Request)
		want     gateway.Reason
		stored   bool
	}{
		{"stranger", nil, func(r *gateway.Request) { r.Credentials = nil }, gateway.Unauthenticated, false},
		{"wrong password", nil, func(r *gateway.Request) { r.Credentials[0].Secret = gateway.Secret("x") }, gateway.Unauthenticated, false},
		{"known, but may not", gateway.Pipeline{password{"secret"}, deny}, nil, gateway.BadTemplate, true},
		{"denied before anybody is known", gateway.Pipeline{deny, password{"secret"}}, nil, gateway.BadTemplate, false},
		{"cannot answer", gateway.Pipeline{password{"secret"}, always(gateway.Unanswered(fmt.Errorf("down")))}, nil, gateway.Unavailable, false},
		{"no such endpoint", nil, func(r *gateway.Request) { r.Endpoint = "other" }, gateway.NotAuthorized, false},
		{"endpoint of another protocol", nil, func(r *gateway.Request) { r.Protocol = gateway.SCEP }, gateway.NotAuthorized, false},
		{"operation without a pipeline", nil, func(r *gateway.Request) { r.Operation = gateway.Renew }, gateway.NotAuthorized, false},
		{"revocation, without a pipeline", nil, func(r *gateway.Request) { r.Operation = gateway.Revoke }, gateway.NotAuthorized, false},
		{"another profile", nil, func(r *gateway.Request) { r.Profile = "root-ca" }, gateway.BadTemplate, false},
		{"no key", nil, func(r *gateway.Request) { r.PublicKey = nil }, gateway.BadTemplate, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				if c.pipeline != nil {
					w.enroll = c.pipeline
				}
			})
			r := w.request("device-1")
			if c.change != nil {
				c.change(r)
			}
			res, err := w.gw.Enroll(t.Context(), r)
			if res != nil || reason(err) != c.want {
				t.Fatalf("%v, %v; want %s", res, err, c.want)
			}
			if id := gateway.AsError(err).Transaction; id != r.ID {
				t.Errorf("the error names the transaction %q", id)
			}
			if got := w.state(r.ID) == gateway.StateRefused; got != c.stored {
				t.Errorf("in the store: %v, want %v", got, c.stored)
			}
			tr, err := w.gw.Explain(t.Context(), r.ID)
			if err != nil || tr.Reason != c.want || tr.Note == "" {
				t.Errorf("explain says %+v (%v)", tr, err)
			}
			if n := w.ca.Total(); n != 0 {
				t.Errorf("%d certificates", n)
			}
		})
	}
}

func TestStrangersAreSummedUp(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.opts.Refusals = 4 })
	var last string
	for range 10 {
		r := w.request("x")
		r.Credentials = nil
		if _, err := w.gw.Enroll(t.Context(), r); err == nil {
			t.Fatal("a stranger was let in")
		}
		last = r.ID
	}
	kept := w.gw.Strangers(100)
	if len(kept) != 4 || kept[0].ID != last {
		t.Errorf("%d are remembered", len(kept))
	}
	w.gw.SumUp(t.Context())
	if n := len(w.transactions()); n != 0 {
		t.Errorf("strangers wrote %d transactions", n)
	}
}

func TestRepeat(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("device-1")
	first, err := w.gw.Enroll(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.gw.Enroll(t.Context(), w.again(r))
	if err != nil || !second.Repeated || second.Transaction != r.ID || !second.Certificate.Equal(first.Certificate) {
		t.Fatalf("%+v, %v", second, err)
	}

	t.Run("not for a stranger", func(t *testing.T) {
		s := w.again(r)
		s.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("guess")}}
		if res, err := w.gw.Enroll(t.Context(), s); reason(err) != gateway.Unauthenticated {
			t.Errorf("%v, %v", res, err)
		}
	})
	for name, change := range map[string]func(*gateway.Request){
		"another requester": func(r *gateway.Request) {
			r.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "other", Secret: gateway.Secret("secret")}}
		},
		"another content": func(r *gateway.Request) { r.Content = []byte("other") },
		"another wire ID": func(r *gateway.Request) { r.WireID = "7" },
		"no content":      func(r *gateway.Request) { r.Content = nil },
	} {
		t.Run(name, func(t *testing.T) {
			other := w.again(r)
			change(other)
			res, err := w.gw.Enroll(t.Context(), other)
			if err != nil || res.Repeated || res.Certificate.Equal(first.Certificate) {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	t.Run("not after its time", func(t *testing.T) {
		w.clock.add(10*time.Minute + time.Second)
		res, err := w.gw.Enroll(t.Context(), w.again(r))
		if err != nil || res.Repeated || res.Certificate.Equal(first.Certificate) {
			t.Errorf("%+v, %v", res, err)
		}
	})
	t.Run("never a revoked one", func(t *testing.T) {
		fresh := w.request("device-2")
		got, err := w.gw.Enroll(t.Context(), fresh)
		if err != nil {
			t.Fatal(err)
		}
		err = w.store.MarkRevoked(t.Context(), &gateway.Revocation{
			Issuer: got.Certificate.RawIssuer, Serial: got.Certificate.SerialNumber.Bytes(), At: w.clock.now(),
			Audit: gateway.AuditEvent{Kind: "revoked", At: w.clock.now()},
		})
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.gw.Enroll(t.Context(), w.again(fresh))
		if err != nil || res.Repeated || res.Certificate.Equal(got.Certificate) {
			t.Errorf("%+v, %v", res, err)
		}
	})
	t.Run("refusals are judged anew", func(t *testing.T) {
		open := false
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			if open {
				return gateway.Allowed("")
			}
			return gateway.Denied(gateway.NotAuthorized, "", "closed")
		})}
		w.swap()
		fresh := w.request("device-3")
		if _, err := w.gw.Enroll(t.Context(), fresh); reason(err) != gateway.NotAuthorized {
			t.Fatal(err)
		}
		open = true
		if _, err := w.gw.Enroll(t.Context(), w.again(fresh)); err != nil {
			t.Error(err)
		}
	})
}

// A challenge that is spent does not keep the device from the certificate that it bought.
func TestRepeatAfterTheClaimIsSpent(t *testing.T) {
	once := always(gateway.Allowed("", gateway.Claim{Key: "challenge:1", Limit: 1, Lost: "spent"}))
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, once} })
	r := w.request("device-1")
	if _, err := w.gw.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || !res.Repeated {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("device-2")); reason(err) != gateway.NotAuthorized {
		t.Errorf("a spent challenge: %v", err)
	}
}

func TestOneClaimManyRacers(t *testing.T) {
	once := always(gateway.Allowed("", gateway.Claim{Key: "challenge:1", Limit: 1, Lost: "spent"}))
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, once} })
	issued := race(w, 64, func(i int) *gateway.Request { return w.request(fmt.Sprint("device-", i)) })
	if len(issued) != 1 || w.ca.Total() != 1 {
		t.Errorf("%d answers, %d certificates", len(issued), w.ca.Total())
	}
}

func TestOneRequestManyTimesAtOnce(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := w.request("device-1")
	issued := race(w, 16, func(int) *gateway.Request { return w.again(r) })
	if len(issued) != 16 || w.ca.Total() != 1 || len(w.transactions()) != 1 {
		t.Fatalf("%d answers, %d certificates, %d transactions", len(issued), w.ca.Total(), len(w.transactions()))
	}
	for _, res := range issued {
		if !res.Certificate.Equal(issued[0].Certificate) {
			t.Error("two certificates")
		}
	}
}

// race enrols n requests at once and returns the results with a certificate.
func race(w *world, n int, request func(int) *gateway.Request) (issued []*gateway.Result) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		r := request(i)
		wg.Go(func() {
			res, err := w.gw.Enroll(w.t.Context(), r)
			if err != nil || res.Kind != gateway.ResultIssued {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			issued = append(issued, res)
		})
	}
	wg.Wait()
	return issued
}

func TestHeld(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Held("a person decides"))}
	})
	r := w.request("device-1")
	res, err := w.gw.Enroll(t.Context(), r)
	if err != nil || res.Kind != gateway.ResultPending || w.state(r.ID) != gateway.StateHeld {
		t.Fatalf("%+v, %v, %s", res, err, w.state(r.ID))
	}
	again, err := w.gw.Enroll(t.Context(), w.again(r))
	if err != nil || again.Kind != gateway.ResultPending || again.Transaction != r.ID {
		t.Errorf("%+v, %v", again, err)
	}
	if w.work(time.Hour); w.ca.Total() != 0 || w.state(r.ID) != gateway.StateHeld {
		t.Errorf("the worker issued what is held")
	}
}

func TestBusy(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultLate}, Release: release}, func(w *world) { w.opts.MaxInFlight = 1 })
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil {
			t.Error(err)
		}
	})
	for w.ca.Total() == 0 { // until the first one is at the CA
		time.Sleep(time.Millisecond)
	}
	_, err := w.gw.Enroll(t.Context(), w.request("device-2"))
	if e := gateway.AsError(err); e.Reason != gateway.Busy || e.RetryAfter == 0 {
		t.Errorf("%v", err)
	}
	close(release)
	wg.Wait()
}

// Whoever hangs up has not found the gateway failing: strangers can do so as often as they like.
func TestHungUp(t *testing.T) {
	var log strings.Builder
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.logs = &log })
	for _, tt := range []struct {
		gone  bool
		level string
		note  string
	}{{true, "level=INFO", "the client hung up"}, {false, "level=ERROR", "the store"}} {
		log.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		if tt.gone {
			cancel()
		}
		e := w.gw.Reject(ctx, w.request("bts-1"), &gateway.Error{Reason: gateway.Unavailable, Err: errors.New("the store")})
		cancel()
		if e.Reason != gateway.Unavailable || !strings.Contains(log.String(), tt.level) || !strings.Contains(log.String(), tt.note) {
			t.Errorf("gone %v: %v, %s", tt.gone, e, log.String())
		}
	}
}
