package gateway

import (
	"testing"
	"time"
)

// Nobody is told to come back later than in a day, nor at once.
func TestFreed(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	claim := Claim{Until: now.Add(1000 * time.Hour)}
	for _, c := range []struct {
		free           time.Time
		shortest, most time.Duration
	}{
		{now.Add(999 * time.Hour), latestFree, latestFree + maxFreeSpread},
		{now.Add(10 * time.Minute), 10 * time.Minute, 11 * time.Minute},
		{now.Add(100 * time.Millisecond), soonestFree, soonestFree},
		{now.Add(-time.Hour), soonestFree, soonestFree},
		{time.Time{}, unknownFreeing, unknownFreeing + maxFreeSpread},
	} {
		if got := (&ClaimLostError{Claim: claim, Free: c.free}).freed("id", now); got < c.shortest || got > c.most || got%time.Second != 0 {
			t.Errorf("free at %s: %v, want %v to %v", c.free, got, c.shortest, c.most)
		}
	}
}

func TestSpread(t *testing.T) {
	ends := map[time.Duration]bool{}
	for i := range 200 {
		s := spread("x", string(rune('a'+i)), 3*time.Second)
		if s < 0 || s > 3*time.Second || s%time.Second != 0 || s != spread("x", string(rune('a'+i)), 3*time.Second) {
			t.Errorf("%v", s)
		}
		ends[s] = true
	}
	if len(ends) != 4 || spread("x", "a", 0) != 0 || spread("x", "a", 999*time.Millisecond) != 0 {
		t.Errorf("%v", ends)
	}
}

// A held request counts for as long as the latest certificate that may come of it.
func TestEndsLatest(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ends := now.Add(10 * time.Hour)
	held := &HoldRecord{Until: now.Add(100 * time.Hour)}
	for what, c := range map[string]struct {
		t     Transaction
		later time.Duration
	}{
		"issued at once":       {Transaction{}, 0},
		"held":                 {Transaction{Hold: held}, 100 * time.Hour},
		"held, dates as asked": {Transaction{Hold: &HoldRecord{Until: held.Until, Basis: Basis{Fixed: true}}}, 0},
		"held, key to come":    {Transaction{Hold: held, Delivery: &Delivery{}}, 120 * time.Hour},
	} {
		c.t.Updated = now
		if got := c.t.endsLatest(&Grant{NotAfter: ends}, 20*time.Hour); !got.Equal(ends.Add(c.later)) {
			t.Errorf("%s: %s", what, got)
		}
	}
}
