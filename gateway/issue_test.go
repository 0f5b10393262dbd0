package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// Every way in which an Issue goes wrong: what the client is told, what stands in the books then, and after the worker.
// There is never a second certificate, and never an unknown that is not listed.
func TestFaults(t *testing.T) {
	native, lookup, none := backend.IdempotencyNative, backend.IdempotencyLookup, backend.IdempotencyNone
	const issued, unknown, stuck, failed = gateway.StateIssued, gateway.StateUnknown, gateway.StateStuck, gateway.StateFailed
	for _, c := range []struct {
		fault  backendtest.Fault
		idem   backend.Idempotency
		client string // "issued", "pending" or the reason of refusal
		state  gateway.State
		after  gateway.State // once the worker was at it
		certs  int
	}{
		{backendtest.FaultNone, native, "issued", issued, issued, 1},
		{backendtest.FaultDrop, native, "issued", issued, issued, 1}, // asked again at once, under the same ID
		{backendtest.FaultDrop, lookup, "pending", unknown, issued, 1},
		{backendtest.FaultDrop, none, "pending", stuck, stuck, 1},
		{backendtest.FaultUnavailable, native, "issued", issued, issued, 1},
		{backendtest.FaultUnavailable, lookup, "pending", unknown, issued, 1},
		{backendtest.FaultUnavailable, none, "pending", stuck, stuck, 0},
		{backendtest.FaultNotAsked, native, "issued", issued, issued, 1},
		{backendtest.FaultNotAsked, lookup, "pending", unknown, issued, 1},
		{backendtest.FaultNotAsked, none, "busy", failed, failed, 0}, // the operator could find nothing
		{backendtest.FaultDie, lookup, "pending", unknown, issued, 1},
		{backendtest.FaultDieBefore, lookup, "pending", unknown, issued, 1},
		{backendtest.FaultLate, native, "pending", unknown, issued, 1}, // the deadline passes
		{backendtest.FaultLate, lookup, "pending", unknown, issued, 1},
		{backendtest.FaultRefuse, native, "bad-template", failed, failed, 0},
		{backendtest.FaultExhausted, native, "busy", failed, failed, 0},
		{backendtest.FaultGarbage, native, "internal", failed, failed, 1},
		{backendtest.FaultOtherKey, native, "internal", failed, failed, 1},
		{backendtest.FaultWrongSubject, native, "internal", failed, failed, 1},
		{backendtest.FaultWrongDates, native, "internal", failed, failed, 1},
	} {
		t.Run(fmt.Sprintf("%s,%s", orNone(c.fault), c.idem), func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: c.fault}}, func(w *world) {
				w.desc = func(d *backend.Description) { d.Idempotency = c.idem }
				if c.fault == backendtest.FaultLate {
					w.opts.IssueTimeout = 50 * time.Millisecond // a real deadline: it is the CA's call that ends by it
				}
			})
			r := w.request("device-1")
			res, err := w.gw.Enroll(t.Context(), r)
			got := string(reason(err))
			if err == nil {
				got = string(res.Kind)
			}
			if got != c.client || w.state(r.ID) != c.state {
				t.Errorf("client %s, state %s; want %s, %s", got, w.state(r.ID), c.client, c.state)
			}
			if c.state.Open() {
				listed, err := w.store.Transactions(t.Context(), gateway.TransactionFilter{States: []gateway.State{c.state}})
				if err != nil || len(listed) != 1 {
					t.Errorf("listed as %s: %d (%v)", c.state, len(listed), err)
				}
			}
			w.work(time.Second)
			for range 20 { // the real deadline is the worker's, too, and a busy disk uses it up
				if c.fault == backendtest.FaultLate && w.state(r.ID) != c.after {
					w.work(time.Minute)
				}
			}
			if w.state(r.ID) != c.after || w.ca.Issued(r.ID) != c.certs {
				t.Errorf("after the worker: %s with %d certificates, want %s with %d", w.state(r.ID), w.ca.Issued(r.ID), c.after, c.certs)
			}
			if c.after == issued {
				again, err := w.gw.Enroll(t.Context(), w.again(r))
				if err != nil || !again.Repeated || again.Kind != gateway.ResultIssued || w.ca.Issued(r.ID) != 1 {
					t.Errorf("asking again: %+v, %v", again, err)
				}
			}
		})
	}
}

func orNone(f backendtest.Fault) string {
	if f == backendtest.FaultNone {
		return "none"
	}
	return string(f)
}

// What a CA certified otherwise than granted is revoked, and never handed out.
func TestMismatchIsRevoked(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultWrongSubject}})
	r := w.request("device-1")
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Internal {
		t.Fatal(err)
	}
	w.work(time.Second)
	if !w.memory.Revoked(r.ID) {
		t.Error("the certificate was not revoked")
	}
	// The device is not to blame: its next try is a new request.
	if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || res.Repeated {
		t.Errorf("%+v, %v", res, err)
	}
}

// A definite refusal gives back what the request had claimed.
func TestRefusalReleasesClaims(t *testing.T) {
	once := always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1}))
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultRefuse}}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, once}
	})
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.BadTemplate {
		t.Fatal(err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil {
		t.Errorf("the claim was not given back: %v", err)
	}
}

// A CA that stays away: the transaction stays listed, is tried again ever more slowly, and is settled in the end.
func TestUnknownUntilTheCAIsBack(t *testing.T) {
	away := true
	w := newWorld(t, backendtest.FaultPlan{
		ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop},
		Lookup: func(int, string) error {
			if away {
				return backend.Refuse(codes.Unavailable, "away")
			}
			return nil
		},
	}, func(w *world) {
		w.desc = func(d *backend.Description) { d.Idempotency = backend.IdempotencyLookup }
	})
	r := w.request("device-1")
	for i := range 5 {
		res, err := w.gw.Enroll(t.Context(), w.again(r))
		if err != nil || res.Kind != gateway.ResultPending {
			t.Fatalf("try %d: %+v, %v", i, res, err)
		}
		w.work(time.Minute)
	}
	all := w.transactions()
	if len(all) != 1 || all[0].State != gateway.StateUnknown {
		t.Fatalf("%d transactions, %+v", len(all), all)
	}
	away = false
	w.work(time.Minute)
	if s := w.state(all[0].ID); s != gateway.StateIssued || w.ca.Total() != 1 {
		t.Errorf("%s, %d certificates", s, w.ca.Total())
	}
}

// TestCrash stops the process at each named point and starts it again: the same request then ends with one certificate.
func TestCrash(t *testing.T) {
	for _, point := range gateway.CrashPoints {
		t.Run(point, func(t *testing.T) {
			crash := point
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.opts.Crash = func(at string) {
					if at == crash {
						crash = ""
						panic("crash at " + at)
					}
				}
			})
			r := w.request("device-1")
			func() {
				defer func() {
					if recover() == nil {
						t.Fatal("the point was not passed")
					}
				}()
				w.gw.Enroll(t.Context(), r) //nolint:errcheck // it does not return
			}()
			w.restart()
			w.work(time.Millisecond)
			again, err := w.gw.Enroll(t.Context(), w.again(r))
			if err != nil || again.Kind != gateway.ResultIssued {
				t.Fatalf("asking again: %+v, %v", again, err)
			}
			if n := len(w.transactions()); n != 1 || w.ca.Total() != 1 {
				t.Errorf("%d transactions, %d certificates", n, w.ca.Total())
			}
			if fresh := point == gateway.CrashBeforeIntent; again.Repeated == fresh {
				t.Errorf("repeated: %v", again.Repeated)
			}
		})
	}
}

// lame is a store of which one method fails.
type lame struct {
	gateway.Store
	method string
}

var errLame = errors.New("disk full")

func (l *lame) Repeat(ctx context.Context, k gateway.RepeatKey, now time.Time) (*gateway.Transaction, error) {
	if l.method == "Repeat" {
		return nil, errLame
	}
	return l.Store.Repeat(ctx, k, now)
}

func (l *lame) Begin(ctx context.Context, b *gateway.Beginning) (int64, error) {
	if l.method == "Begin" {
		return 0, errLame
	}
	return l.Store.Begin(ctx, b)
}

func (l *lame) Settle(ctx context.Context, s *gateway.Settlement) error {
	if l.method == "Settle" {
		return errLame
	}
	return l.Store.Settle(ctx, s)
}

func (l *lame) Refuse(ctx context.Context, t *gateway.Transaction, e gateway.AuditEvent) error {
	if l.method == "Refuse" {
		return errLame
	}
	return l.Store.Refuse(ctx, t, e)
}

// A store that cannot answer means no certificate: neither asked for before the intent stands, nor handed out before
// the outcome does.
func TestStoreFails(t *testing.T) {
	deny := always(gateway.Denied(gateway.NotAuthorized, "", "no"))
	for _, c := range []struct {
		method   string
		pipeline gateway.Pipeline
		want     string
		certs    int
	}{
		{"Repeat", gateway.Pipeline{password{"secret"}}, "unavailable", 0},
		{"Begin", gateway.Pipeline{password{"secret"}}, "unavailable", 0},
		{"Settle", gateway.Pipeline{password{"secret"}}, "pending", 1},
		{"Refuse", gateway.Pipeline{password{"secret"}, deny}, "not-authorized", 0},
	} {
		t.Run(c.method, func(t *testing.T) {
			l := &lame{method: c.method}
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.enroll = c.pipeline
				w.wrap = func(s gateway.Store) gateway.Store { l.Store = s; return l }
			})
			r := w.request("device-1")
			res, err := w.gw.Enroll(t.Context(), r)
			got := string(reason(err))
			if err == nil {
				got = string(res.Kind)
			}
			if got != c.want || w.ca.Total() != c.certs {
				t.Errorf("client %s with %d certificates, want %s with %d", got, w.ca.Total(), c.want, c.certs)
			}
			if c.method != "Settle" {
				return
			}
			// The disk is back: whoever holds the lease next finds the outcome.
			l.method = ""
			w.work(time.Minute)
			if s := w.state(r.ID); s != gateway.StateIssued || w.ca.Total() != 1 {
				t.Errorf("%s, %d certificates", s, w.ca.Total())
			}
		})
	}
}

func TestSwapRefusesWhatCannotRun(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	good := &gateway.Endpoint{Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "p", Backend: "ca"}}
	for name, change := range map[string]func(*gateway.Endpoint){
		"unknown backend": func(e *gateway.Endpoint) { e.Profile = &gateway.Profile{Name: "p", Backend: "none"} },
		"no profile":      func(e *gateway.Endpoint) { e.Profile = nil },
		"empty pipeline":  func(e *gateway.Endpoint) { e.Pipelines = map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {}} },
		"another name":    func(e *gateway.Endpoint) { e.Name = "other" },
	} {
		e := *good
		change(&e)
		rt := &gateway.Runtime{Endpoints: map[string]*gateway.Endpoint{"est": &e}, Backends: map[string]backend.Backend{"ca": w.ca}}
		if err := w.gw.Swap(t.Context(), rt); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if res, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil || res.Kind != gateway.ResultIssued {
		t.Errorf("a refused swap changed the running one: %+v, %v", res, err)
	}
}

// A stage that never answers ends with the gateway's own deadline, however patient the client is: nothing is issued.
func TestStageHangs(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.opts.CheckTimeout = 20 * time.Millisecond // a real deadline: it is what ends the stage
		w.enroll = gateway.Pipeline{password{"secret"}, hanging{}}
	})
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.Unavailable || w.ca.Total() != 0 {
		t.Errorf("%v, %d certificates", err, w.ca.Total())
	}
}

// hanging is a stage whose look-up lasts as long as it is let.
type hanging struct{}

func (hanging) Name() string { return "hanging" }
func (hanging) Decide(ctx context.Context, _ *gateway.Request, _ *gateway.Grant) gateway.Verdict {
	<-ctx.Done()
	return gateway.Unanswered(ctx.Err())
}
