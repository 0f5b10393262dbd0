package gateway

import (
	"testing"
	"time"
)

// TestLine: each is told a place of their own; who comes too early is told the same again, and lengthens nothing.
func TestLine(t *testing.T) {
	const every = 100 * time.Millisecond
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	within := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want-want/10 || got > want+time.Second {
			t.Errorf("%s: %v, want %v, or a tenth less", what, got, want)
		}
	}
	var l line
	for i := range uint64(1000) {
		within("one after the other", l.promise(i+1, now, 0, every), time.Duration(i+1)*every)
	}
	first := l.promise(5000, now, 0, every)
	for range 10_000 {
		if got := l.promise(5000, now, 0, every); got < first || got > first+time.Second {
			t.Fatalf("the same one again: %v, first %v", got, first)
		}
	}
	within("after an impatient one", l.promise(5001, now, 0, every), 1002*every)
	now = now.Add(90 * time.Second)
	within("the line shrinks", l.promise(5002, now, 0, every), 1003*every-90*time.Second)
	now = now.Add(time.Hour)
	within("nobody is in it", l.promise(5003, now, 0, every), every)
	for range 100 {
		if got := l.promise(5004, now, 10*time.Minute, every); got < 10*time.Minute {
			t.Errorf("told to come back in %v, and no turn can be within 10 minutes", got)
		}
		l = line{}
	}
	for i := range uint64(50_000) {
		if got := l.promise(10_000+i, now, 0, every); got > time.Hour {
			t.Fatalf("told to come back in %v", got)
		}
	}
	if got := l.promise(9, now, 0, every); got < 45*time.Minute || got > time.Hour {
		t.Errorf("at the end: %v", got)
	}
	now = now.Add(-30 * 24 * time.Hour) // the clock went back
	within("nobody is in it", l.promise(10, now, 0, every), every)
}

// TestLineOfReplicas: a process that gets every third turn has its line move so slowly.
func TestLineOfReplicas(t *testing.T) {
	const every = 100 * time.Millisecond
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var l line
	for i := range 100 {
		l.got(now.Add(time.Duration(3*i)*every), every)
	}
	one, hundred := time.Duration(0), time.Duration(0)
	for i := range uint64(100) {
		if hundred = l.promise(i+1, now, 0, every); i == 0 {
			one = hundred
		}
	}
	if one > 2*time.Second || hundred < 26*time.Second || hundred > 31*time.Second {
		t.Errorf("%v to %v", one, hundred)
	}
	// A rest is no other replica's turns.
	l = line{}
	l.got(now, every)
	l.rested()
	l.got(now.Add(50*every), every)
	if l.apart != 0 {
		t.Errorf("%v apart", l.apart)
	}
}
