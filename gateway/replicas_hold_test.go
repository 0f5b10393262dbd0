package gateway_test

import (
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// heldAtTwo is a request that is held, and two replicas whose clocks stand a minute before its time is over.
func heldAtTwo(t *testing.T, c *pgtest.Cluster) (one, two *world, id string) {
	t.Helper()
	one, two = replicas(t, c, backendtest.FaultPlan{}, backend.IdempotencyNative)
	holding(1)(one)
	two.enroll = one.enroll
	one.swap()
	two.swap()
	r := one.request("held")
	one.mustEnroll(r)
	one.clock.add(48*time.Hour - time.Minute)
	two.clock = &clock{at: one.clock.now()} // its own from now on
	two.restart()
	return one, two, r.ID
}

// A person approves at one replica what the worker of another gives up: the first commit counts.
func TestHoldEndsAtTwoReplicas(t *testing.T) {
	c := pgtest.Shared(t)
	t.Run("expired before the approval's commit", func(t *testing.T) {
		one, two, id := heldAtTwo(t, c)
		one.opts.Crash = func(point string) {
			if point == gateway.CrashBeforeIntent {
				two.work(time.Minute)
			}
		}
		one.restart()
		if _, err := one.approve(id, "alice"); !errors.Is(err, gateway.ErrStale) {
			t.Errorf("approved: %v", err)
		}
		if s := one.state(id); s != gateway.StateDenied || one.memory.Total() != 0 {
			t.Errorf("%s, %d issued", s, one.memory.Total())
		}
	})
	t.Run("approved under the worker's lease", func(t *testing.T) {
		one, two, id := heldAtTwo(t, c)
		s, claimed := &watched{}, 0
		s.claimed = func(_ time.Duration, due []gateway.Work) {
			if claimed += len(due); len(due) == 1 { // by the clock of the first there is a minute left
				one.can(id, gateway.StateIssued)
			}
		}
		watch(s)(two)
		two.restart()
		two.work(time.Minute)
		if state := two.state(id); claimed != 1 || state != gateway.StateIssued || one.memory.Total() != 1 {
			t.Errorf("%d rows were due, %s, %d issued", claimed, state, one.memory.Total())
		}
		two.work(time.Hour)
		if state := two.state(id); state != gateway.StateIssued || one.memory.Total() != 1 || two.revoked(id) {
			t.Errorf("later: %s, %d issued", state, one.memory.Total())
		}
	})
	// The first replica dies when the approval is recorded; the second asks the CA, when the lease has ended.
	t.Run("taken over", func(t *testing.T) {
		one, two, id := heldAtTwo(t, c)
		dead := errors.New("dead")
		one.opts.Crash = func(point string) {
			if point == gateway.CrashAfterIntent {
				panic(dead)
			}
		}
		one.restart()
		func() {
			defer func() {
				if p := recover(); p != dead {
					t.Fatalf("%v", p)
				}
			}()
			one.approve(id, "alice") //nolint:errcheck // it dies
		}()
		if _, err := two.approve(id, "bob"); !errors.Is(err, gateway.ErrStale) {
			t.Errorf("approved at the second: %v", err)
		}
		if two.work(0); two.state(id) != gateway.StateIssuing || one.memory.Total() != 0 {
			t.Errorf("within the lease: %s", two.state(id))
		}
		if two.work(time.Minute); two.state(id) != gateway.StateIssued || one.memory.Total() != 1 {
			t.Errorf("after it: %s, %d issued", two.state(id), one.memory.Total())
		}
	})
}
