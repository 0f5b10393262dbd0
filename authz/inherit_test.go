package authz

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// Who has used up his guesses has none after a reload, whatever the limit is then; others have all of theirs.
func TestLimitsOutliveAReload(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	guesser, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, tc := range []struct {
		burst int
		every time.Duration
		size  int
		kept  bool // the very same limiter
	}{{3, time.Minute, 8, true}, {9, time.Minute, 8, false}, {2, time.Minute, 8, false}, {3, time.Hour, 8, false}, {3, time.Minute, 4, false}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			old := newLimiter(3, time.Minute, 8)
			for range 3 {
				if _, ok := old.take(guesser, at); !ok {
					t.Fatal("refused too early")
				}
			}
			if _, ok := old.take(guesser, at); ok {
				t.Fatal("a fourth guess")
			}
			made := newLimiter(tc.burst, tc.every, tc.size)
			next := made.after(old)
			if (next == old) != tc.kept {
				t.Errorf("the same: %v", next == old)
			}
			left := 0
			for range 20 {
				if _, ok := next.take(guesser, at); ok {
					left++
				}
			}
			if left != 0 {
				t.Errorf("%d guesses are left", left)
			}
			if wait, ok := next.take(guesser, at.Add(tc.every)); !ok {
				t.Errorf("no guess after %v: in %v", tc.every, wait)
			}
			for i := range tc.burst {
				if _, ok := next.take(other, at); !ok {
					t.Errorf("somebody else's guess %d is refused", i+1)
				}
			}
		})
	}
}

// A smaller table keeps those heard of last.
func TestInheritedTableIsBounded(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	old := newLimiter(1, time.Minute, 8)
	for i := range 8 {
		old.take(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), at)
	}
	next := newLimiter(1, time.Minute, 3).after(old)
	if next.recent.Len() != 3 || len(next.table) != 3 {
		t.Fatalf("%d, %d", next.recent.Len(), len(next.table))
	}
	for i := range 8 {
		if _, ok := next.table[sourceOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))]; ok != (i >= 5) {
			t.Errorf("%d: %v", i, ok)
		}
	}
}

// Each stage that bounds guesses goes on with the bound of the one before it, and with no other's.
func TestStagesInheritTheirLimits(t *testing.T) {
	limits := func() *limiter { return newLimiter(3, time.Minute, 8) }
	password, device, challenge := &Password{limit: limits()}, &DevicePassword{limit: limits()}, &Challenge{limit: limits()}
	approval := &Approval{strangers: limits(), crowd: limits()}
	p, d, c := &Password{limit: limits()}, &DevicePassword{limit: limits()}, &Challenge{limit: limits()}
	a := &Approval{strangers: limits(), crowd: limits()}
	p.Inherit(device)
	d.Inherit(password)
	c.Inherit(password)
	a.Inherit(password)
	if p.limit == device.limit || d.limit == password.limit || c.limit == password.limit || a.strangers == password.limit {
		t.Error("inherited from another kind of stage")
	}
	p.Inherit(password)
	d.Inherit(device)
	c.Inherit(challenge)
	a.Inherit(approval)
	if p.limit != password.limit || d.limit != device.limit || c.limit != challenge.limit || a.strangers != approval.strangers || a.crowd != approval.crowd {
		t.Error("not inherited")
	}
}
