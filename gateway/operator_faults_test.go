package gateway_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// failing is a store of which one call fails, the nth of those with its name; lost: it is made, and its answer does not come.
type failing struct {
	call string
	nth  int
	lost bool
	hit  bool
}

func (f *failing) fails(call string, done bool) error {
	if call != f.call || done != f.lost {
		return nil
	}
	if f.nth--; f.nth == 0 {
		f.hit = true
		return errLame
	}
	return nil
}

// Whichever call to the store fails, or is lost on its way back: an operator is told that it is not known, never that it is
// done; nothing is half done; and asked again it ends as it would have.
func TestStoreFailsAnOperator(t *testing.T) {
	for _, c := range []struct {
		name  string
		calls []string // that are made, in their order
		do    func(w *world, id string) error
		ends  []gateway.State // of which it is in one when asked once more
	}{
		{"approve", []string{"Transaction", "Device", "Certificate", "Approve", "Transaction"}, func(w *world, id string) error {
			_, err := w.approve(id, "alice")
			return err
		}, []gateway.State{gateway.StateIssued}},
		{"deny", []string{"Transaction", "Deny", "Transaction"}, func(w *world, id string) error {
			_, err := w.gw.Deny(w.t.Context(), id, "alice", "")
			return err
		}, []gateway.State{gateway.StateDenied}},
	} {
		for i, call := range c.calls {
			for _, lost := range []bool{false, true} {
				name := c.name + ", " + call
				if lost {
					name += ", answer lost"
				}
				t.Run(name, func(t *testing.T) {
					var old *x509.Certificate
					s := &watched{}
					w := newWorld(t, backendtest.FaultPlan{}, watch(s))
					old = w.mustEnroll(w.request("old")).Certificate
					w.enter(gateway.Device{Name: "station-1"})
					renewing(&old)(w)
					recognised := w.enroll[1]
					recognising(w)
					w.enroll = slices.Insert(w.enroll, 1, recognised)
					w.swap()
					r := w.request("held")
					w.mustEnroll(r)

					f := &failing{call: call, nth: 1 + count(c.calls[:i], call), lost: lost}
					s.fails = f.fails
					err := c.do(w, r.ID)
					s.fails = nil
					if reason(err) != gateway.Unavailable || !f.hit {
						t.Fatalf("%v, failed %t", err, f.hit)
					}
					committed := slices.Index(c.calls, "Approve")+slices.Index(c.calls, "Deny")+1 < i || lost && (call == "Approve" || call == "Deny")
					if state := w.state(r.ID); committed == (state == gateway.StateHeld) || !committed && w.memory.Total() != 1 {
						t.Errorf("after it: %s, %d issued", state, w.memory.Total())
					}
					if again := c.do(w, r.ID); (again == nil) == committed {
						t.Errorf("once more: %v", again)
					}
					w.work(time.Minute) // what was lost between
					issued := 1
					if c.name == "approve" {
						issued = 2
					}
					if state := w.state(r.ID); !slices.Contains(c.ends, state) || w.memory.Total() != issued {
						t.Errorf("in the end: %s, %d issued", state, w.memory.Total())
					}
				})
			}
		}
	}
}

func count(calls []string, call string) int {
	n := 0
	for _, c := range calls {
		if c == call {
			n++
		}
	}
	return n
}

// The same of an order to revoke: when it is known here, the CA comes to know it.
func TestStoreFailsARevocation(t *testing.T) {
	calls := []string{"Certificate", "Transaction", "OrderRevocation", "Transaction", "MarkRevoked", "Certificate"}
	for i, call := range calls {
		for _, lost := range []bool{false, true} {
			name := call
			if lost {
				name += ", answer lost"
			}
			t.Run(name, func(t *testing.T) {
				s := &watched{}
				w := newWorld(t, backendtest.FaultPlan{}, watch(s))
				r := w.request("revoked")
				cert := w.mustEnroll(r).Certificate
				revoke := func() (done gateway.Told, err error) {
					_, done, err = w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, cert.SerialNumber.Bytes(), 1, "alice", "stolen")
					return done, err
				}
				f := &failing{call: call, nth: 1 + count(calls[:i], call), lost: lost}
				s.fails = f.fails
				done, err := revoke()
				s.fails = nil
				if !f.hit || err == nil && (done == gateway.ToldCA || i < 3) || err != nil && reason(err) != gateway.Unavailable {
					t.Fatalf("told %d, %v, failed %t", done, err, f.hit)
				}
				ordered := i > 2 || i == 2 && lost
				if w.revoked(r.ID) != ordered {
					t.Errorf("after it: revoked %t, want %t", w.revoked(r.ID), ordered)
				}
				if _, err := revoke(); err != nil {
					t.Errorf("once more: %v", err)
				}
				w.work(time.Minute)
				if !w.revoked(r.ID) || !w.memory.Revoked(r.ID) {
					t.Errorf("in the end: here %t, at the CA %t", w.revoked(r.ID), w.memory.Revoked(r.ID))
				}
			})
		}
	}
}

// Who polls is told to come back, and nothing else.
func TestStoreFailsAPoll(t *testing.T) {
	for i, call := range []string{"AskedUnder", "Transaction"} {
		t.Run(call, func(t *testing.T) {
			s := &watched{}
			w := newWorld(t, backendtest.FaultPlan{}, watch(s), holding(1))
			r := w.request("polling")
			r.WireID, r.Credentials = "0", append(r.Credentials, gateway.Credential{Kind: gateway.CredentialKey, ID: "a"})
			w.mustEnroll(r)
			q := w.again(r)
			q.Operation = gateway.Query
			s.fails = (&failing{call: call, nth: 1}).fails
			if res, err := w.gw.Poll(t.Context(), q); reason(err) != gateway.Unavailable {
				t.Errorf("%d: %+v, %v", i, res, err)
			}
		})
	}
}

// A hold that could not be committed is none, and one of which that is not known is found again: there is one of it.
func TestStoreFailsAHold(t *testing.T) {
	for name, lost := range map[string]bool{"not committed": false, "answer lost": true} {
		t.Run(name, func(t *testing.T) {
			s := &watched{}
			w := newWorld(t, backendtest.FaultPlan{}, watch(s), holding(1))
			r := w.request("held")
			s.fails = (&failing{call: "Begin", nth: 1, lost: lost}).fails
			if res, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unavailable {
				t.Fatalf("%+v, %v", res, err)
			}
			s.fails = nil
			again := w.again(r)
			res := w.mustEnroll(again)
			want := again.ID
			if lost {
				want = r.ID
			}
			if res.Kind != gateway.ResultPending || res.Transaction != want || len(w.transactions()) != 1 {
				t.Errorf("%+v, %d transactions", res, len(w.transactions()))
			}
			w.can(want, gateway.StateIssued)
		})
	}
}

// An operator revokes what the device has not confirmed yet: it is too late to confirm it, its enrollment is given back, and
// the CA is told the operator's reason.
func TestRevokedWhileUnconfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, once)
	var told []int
	w.twist(&twisted{revoke: func(ctx context.Context, q *backend.RevokeRequest) error {
		told = append(told, q.Reason)
		return w.memory.Revoke(ctx, q)
	}})
	r := w.exchange(w.request("device-1"), "a")
	cert := w.mustEnroll(r).Certificate
	if _, done, err := w.gw.RevokeCertificate(t.Context(), cert.RawIssuer, cert.SerialNumber.Bytes(), 1, "alice", "stolen"); err != nil || done != gateway.ToldCA {
		t.Fatalf("told %d, %v", done, err)
	}
	if _, err := w.confirm(r.ID, true); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("confirmed afterwards: %v", err)
	}
	w.work(time.Hour) // there is no time-out left
	if s := w.state(r.ID); s != gateway.StateRejected || !w.memory.Revoked(r.ID) || !slices.Equal(told, []int{1}) {
		t.Errorf("%s, the CA was told %v", s, told)
	}
	if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || res.Transaction == r.ID {
		t.Errorf("the same message again: %+v, %v", res, err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.exchange(w.request("device-1"), "c")); reason(err) != gateway.NotAuthorized {
		t.Errorf("a second enrollment beside it: %v", err)
	}
}
