package gateway_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// Every row that is leased is worked on at once. One that waits for others outlives its lease: another instance then
// takes it too, and a CA that is not native issues twice.
func TestLeasedWorkIsBegunAtOnce(t *testing.T) {
	const rows = 24
	drop := map[int]backendtest.Fault{}
	for i := range rows {
		drop[i+1] = backendtest.FaultDrop
	}
	var mu sync.Mutex
	leased, asked, all := 0, 0, make(chan struct{})
	s := &watched{claimed: func(_ time.Duration, due []gateway.Work) {
		mu.Lock()
		defer mu.Unlock()
		leased, asked, all = len(due), 0, make(chan struct{})
	}}
	w := newWorld(t, backendtest.FaultPlan{ByCall: drop, Lookup: func(int, string) error {
		mu.Lock()
		wait := all
		if asked++; asked == leased {
			close(all)
		}
		mu.Unlock()
		select {
		case <-wait:
		case <-time.After(2 * time.Second):
			t.Errorf("a row was leased that nobody works on")
		}
		return nil
	}}, watch(s), idempotency(backend.IdempotencyLookup))
	for range rows {
		if res, err := w.gw.Enroll(t.Context(), w.request("device")); err != nil || res.Kind != gateway.ResultPending {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	w.clock.add(time.Second)
	for done := 0; done < rows; {
		n, err := w.gw.Work(t.Context())
		if err != nil || n == 0 {
			t.Fatalf("%d rows done, %v", done, err)
		}
		done += n
	}
	if w.ca.Total() != rows {
		t.Errorf("%d certificates", w.ca.Total())
	}
}

// A process that stood still between the lease and the CA does not ask the CA any more: the lease may be another's.
func TestNoCAIsAskedAfterTheDeadline(t *testing.T) {
	const timeout = 30 * time.Millisecond
	slow := true
	stand := func() {
		if slow {
			time.Sleep(timeout + 10*time.Millisecond)
		}
	}
	lookups := 0
	s := &watched{begun: func(*gateway.Beginning) { stand() }, claimed: func(time.Duration, []gateway.Work) { stand() }}
	w := newWorld(t, backendtest.FaultPlan{Lookup: func(int, string) error { lookups++; return nil }}, watch(s),
		idempotency(backend.IdempotencyLookup), func(w *world) { w.opts.IssueTimeout = timeout })
	r := w.request("device-1")
	res, err := w.gw.Enroll(t.Context(), r)
	if err != nil || res.Kind != gateway.ResultPending || w.ca.Calls(r.ID) != 0 {
		t.Errorf("%+v, %v; %d calls", res, err, w.ca.Calls(r.ID))
	}
	if w.work(time.Second); w.ca.Calls(r.ID)+lookups != 0 {
		t.Errorf("the worker asked %d times", w.ca.Calls(r.ID)+lookups)
	}
	slow = false
	w.swapTimeout(5 * time.Second)
	if w.work(time.Minute); w.state(r.ID) != gateway.StateIssued || w.ca.Total() != 1 {
		t.Errorf("%s with %d certificates", w.state(r.ID), w.ca.Total())
	}
}

// swapTimeout starts the gateway anew with another timeout.
func (w *world) swapTimeout(d time.Duration) {
	w.opts.IssueTimeout = d
	w.restart()
}

// A lease lasts for the CA's deadline and for the commit of its answer.
func TestLeaseOutlivesTheCommit(t *testing.T) {
	var leases []time.Duration
	var commit time.Duration
	s := &watched{
		begun:   func(b *gateway.Beginning) { leases = append(leases, b.Lease) },
		claimed: func(lease time.Duration, _ []gateway.Work) { leases = append(leases, lease) },
		settling: func(ctx context.Context) error {
			end, ok := ctx.Deadline()
			if !ok {
				t.Error("a commit without a deadline")
			}
			commit = max(commit, time.Until(end).Round(time.Second))
			return nil
		},
	}
	const timeout = 20 * time.Second
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop}}, watch(s),
		idempotency(backend.IdempotencyLookup), func(w *world) { w.opts.IssueTimeout = timeout })
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil {
		t.Fatal(err)
	}
	w.work(time.Second)
	for _, l := range leases {
		if l <= timeout+commit {
			t.Errorf("a lease of %s; the CA has %s and the commit %s", l, timeout, commit)
		}
	}
	if len(leases) != 2 || commit == 0 {
		t.Errorf("%v, %v", leases, commit)
	}
}

// What Lookup fails with says nothing about what was issued, whatever its code: nothing is given up, no claim given back.
func TestLookupRefuses(t *testing.T) {
	for _, failure := range []error{
		backend.Refuse(codes.PermissionDenied, "the token has expired"), backend.Refuse(codes.Unimplemented, "no look-up"),
		backend.Refuse(codes.InvalidArgument, "what?"), backend.Exhausted(time.Second, "busy"),
	} {
		t.Run(failure.Error(), func(t *testing.T) {
			fail := failure
			crash := gateway.CrashAfterIssue
			once := always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1}))
			w := newWorld(t, backendtest.FaultPlan{Lookup: func(int, string) error { return fail }}, func(w *world) {
				w.enroll = gateway.Pipeline{password{"secret"}, once}
				w.opts.Crash = func(at string) {
					if at == crash {
						crash = ""
						panic(at)
					}
				}
			})
			r := w.request("device-1")
			func() {
				defer func() { recover() }() //nolint:errcheck // the crash
				w.gw.Enroll(t.Context(), r)  //nolint:errcheck // it does not return
			}()
			w.restart()
			if w.work(time.Second); w.state(r.ID) != gateway.StateUnknown {
				t.Errorf("%s, want unknown", w.state(r.ID))
			}
			fail = nil
			if w.work(time.Minute); w.state(r.ID) != gateway.StateIssued || w.ca.Total() != 1 {
				t.Errorf("%s with %d certificates", w.state(r.ID), w.ca.Total())
			}
			if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.NotAuthorized {
				t.Errorf("the claim was given back: %v", err)
			}
		})
	}
}

// What a CA answers to Poll: only a refusal of the request ends the wait; that the CA is busy, or cannot poll just now, does not.
func TestPoll(t *testing.T) {
	for _, c := range []struct {
		name  string
		poll  error
		state gateway.State
	}{
		{"busy", backend.Exhausted(7*time.Second, "busy"), gateway.StateWaiting},
		{"not implemented", backend.Refuse(codes.Unimplemented, "no tickets here"), gateway.StateWaiting},
		{"away", backend.Refuse(codes.Unavailable, "away"), gateway.StateWaiting},
		{"refused", backend.Refuse(codes.PermissionDenied, "the officer said no"), gateway.StateFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			once := always(gateway.Allowed("", gateway.Claim{Key: "device:1", Limit: 1}))
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll = gateway.Pipeline{password{"secret"}, once} })
			failure := c.poll
			var asked *backend.IssueRequest
			w.twist(&twisted{
				issue: func(_ context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
					asked = r
					return &backend.Issuance{Ticket: "7", RetryAfter: time.Second}, nil
				},
				poll: func(ctx context.Context, ticket string) (*backend.Issuance, error) {
					if failure != nil || ticket != "7" {
						return nil, failure
					}
					return w.memory.Issue(ctx, asked)
				},
			})
			r := w.request("device-1")
			if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending || w.state(r.ID) != gateway.StateWaiting {
				t.Fatalf("%+v, %v, %s", res, err, w.state(r.ID))
			}
			w.work(2 * time.Second)
			if got := w.state(r.ID); got != c.state {
				t.Fatalf("%s after the first poll, want %s", got, c.state)
			}
			failure = nil
			w.work(time.Minute)
			if c.state == gateway.StateWaiting && w.state(r.ID) != gateway.StateIssued {
				t.Errorf("%s in the end", w.state(r.ID))
			}
			// The claim of what is refused is given back, that of what is issued is not.
			if _, err := w.gw.Enroll(t.Context(), w.request("device-2")); (err == nil) != (c.state == gateway.StateFailed) {
				t.Errorf("the claim: %v", err)
			}
		})
	}
}

// Work whose outcome could not be recorded is not done: it is put off, and says why.
func TestWorkThatCannotBeRecorded(t *testing.T) {
	var down atomic.Bool
	var notes []string
	s := &watched{
		settling: func(context.Context) error {
			if down.Load() {
				return errLame
			}
			return nil
		},
		postpone: func(_ gateway.Work, note string) { notes = append(notes, note) },
	}
	w := newWorld(t, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultDrop}}, watch(s), idempotency(backend.IdempotencyLookup))
	r := w.request("device-1")
	if _, err := w.gw.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	if w.work(time.Second); len(notes) != 1 || w.state(r.ID) != gateway.StateUnknown {
		t.Errorf("put off: %q, %s", notes, w.state(r.ID))
	}
	down.Store(false)
	if w.work(2 * time.Second); w.state(r.ID) != gateway.StateIssued || w.ca.Total() != 1 {
		t.Errorf("%s", w.state(r.ID))
	}
}

// A transaction whose backend was taken out of the configuration is listed as unknown, and settled when it is back.
func TestBackendIsGone(t *testing.T) {
	crash := gateway.CrashAfterIssue
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.opts.Crash = func(at string) {
			if at == crash {
				crash = ""
				panic(at)
			}
		}
	})
	r := w.request("device-1")
	func() {
		defer func() { recover() }() //nolint:errcheck // the crash
		w.gw.Enroll(t.Context(), r)  //nolint:errcheck // it does not return
	}()
	w.restart()
	other := &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "p", Backend: "other"}}},
		Backends:  map[string]backend.Backend{"other": w.memory},
	}
	if err := w.gw.Swap(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.work(time.Minute)
	if s := w.state(r.ID); s != gateway.StateUnknown {
		t.Errorf("%s, want unknown", s)
	}
	w.swap()
	if w.work(time.Minute); w.state(r.ID) != gateway.StateIssued || w.ca.Total() != 1 {
		t.Errorf("%s", w.state(r.ID))
	}
}
