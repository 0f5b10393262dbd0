package storetest

import (
	"slices"
	"time"
)

var paceTests = []part{
	{"pace", testPace},
	{"pace: refuses nonsense", testPaceNonsense},
	{"pace: after a restart", testPaceRestart},
	{"pace: after a crash", testPaceCrash},
	{"pace: a clock that was wrong", testPaceWrongClock},
	{"pace: another burst", testPaceBurst},
	{"pace: race", testPaceRace},
	{"pace: race of instances", testPaceInstances},
}

const apart = 20 * time.Millisecond

func (e *env) pace(s Store, backend string, burst int, most time.Duration) (time.Duration, bool) {
	e.Helper()
	wait, ok, err := s.Pace(e.ctx(), backend, apart, burst, most)
	e.must(err)
	return wait, ok
}

func (e *env) wantPace(burst int, most, want time.Duration, taken bool) {
	e.Helper()
	if wait, ok := e.pace(e.s, "corp", burst, most); wait != want || ok != taken {
		e.Errorf("wait %v, %v; want %v, %v", wait, ok, want, taken)
	}
}

func testPace(e *env) {
	const most = 50 * time.Millisecond
	for range 2 {
		e.wantPace(3, most, 0, true)
		e.wantPace(3, most, 0, true)
		e.wantPace(3, most, 0, true)
		e.wantPace(3, most, 20*time.Millisecond, true)
		e.wantPace(3, most, 40*time.Millisecond, true)
		for range 3 { // nothing is taken
			e.wantPace(3, most, 60*time.Millisecond, false)
		}
		e.wantPace(3, 0, 60*time.Millisecond, false)
		if wait, ok := e.pace(e.s, "other", 1, most); wait != 0 || !ok {
			e.Errorf("another backend: %v, %v", wait, ok)
		}
		e.clock.Advance(15 * time.Millisecond)
		e.wantPace(3, most, 45*time.Millisecond, true)
		e.clock.Advance(70 * time.Millisecond) // 25 ms after the last turn: one is due since 5 ms
		e.wantPace(3, 0, 0, true)
		e.wantPace(3, 14*time.Millisecond, 15*time.Millisecond, false)
		e.wantPace(3, most, 15*time.Millisecond, true)
		e.clock.Advance(time.Hour) // an hour's rest gives no more than a burst
	}
}

func testPaceNonsense(e *env) {
	for _, c := range []struct {
		backend string
		every   time.Duration
		burst   int
		most    time.Duration
	}{{"corp", 0, 1, 0}, {"corp", time.Nanosecond, 1, 0}, {"corp", time.Second, 0, 0}, {"corp", time.Second, 1, -1}, {"", time.Second, 1, 0},
		{"corp", 24 * time.Hour, 1 << 40, 0}} {
		if _, ok, err := e.s.Pace(e.ctx(), c.backend, c.every, c.burst, c.most); err == nil || ok {
			e.Errorf("%+v is taken", c)
		}
	}
}

// testPaceRestart: who opens the database again goes on where the last one was; SQLite loses a second at most.
func testPaceRestart(e *env) {
	for range 2 {
		for e.taken(e.s) {
		}
		e.must(e.s.Close())
		e.s = e.db.Open(e.T, "one", e.clock.Now)
		if e.taken(e.s) {
			e.Error("a turn more after a restart")
		}
		e.clock.Advance(10*time.Second + time.Second + apart)
		if !e.taken(e.s) {
			e.Error("no turn a second later than without a restart")
		}
	}
}

// taken reports whether there was a turn within 10 s.
func (e *env) taken(s Store) bool {
	e.Helper()
	_, ok := e.pace(s, "corp", 2, 10*time.Second)
	return ok
}

func testPaceCrash(e *env) {
	for e.taken(e.s) {
	}
	e.db.Crash(e.T, e.s)
	again := e.db.Open(e.T, "one", e.clock.Now)
	if e.taken(again) {
		e.Error("a turn more after a crash")
	}
	e.s = again
}

func testPaceWrongClock(e *env) {
	const most = time.Second
	e.clock.Advance(20 * 365 * 24 * time.Hour)
	e.wantPace(2, most, 0, true)
	e.clock.Advance(-20 * 365 * 24 * time.Hour)
	e.wantPace(2, most, 0, true) // as if it were the last of a burst
	e.wantPace(2, most, 20*time.Millisecond, true)
	e.must(e.s.Close()) // what is kept is right again
	e.s = e.db.Open(e.T, "one", e.clock.Now)
	if wait, ok := e.pace(e.s, "corp", 2, 10*time.Second); !ok || wait < 40*time.Millisecond || wait > 2*time.Second {
		e.Errorf("%v, %v", wait, ok)
	}
}

// testPaceBurst: a burst that the configuration made smaller, or larger, counts from now on.
func testPaceBurst(e *env) {
	for range 10 {
		e.wantPace(10, 0, 0, true)
	}
	e.wantPace(1, 0, apart, false)
	e.clock.Advance(apart)
	e.wantPace(1, 0, 0, true)
	e.clock.Advance(time.Hour)
	e.wantPace(1, 0, 0, true)
	e.wantPace(10, 0, apart, false) // what was not saved up is not there
}

func testPaceRace(e *env) {
	e.raceForTurns(e.s)
}

func testPaceInstances(e *env) {
	if !e.db.Shared() {
		return // a file is one process's
	}
	e.raceForTurns(e.s, e.db.Open(e.T, "two", e.clock.Now), e.db.Open(e.T, "three", e.clock.Now))
}

// raceForTurns has many ask at once: each gets a turn of their own.
func (e *env) raceForTurns(stores ...Store) {
	const n, burst = 60, 4
	waits := make([]time.Duration, n)
	for _, err := range together(n, func(i int) error {
		wait, ok, err := stores[i%len(stores)].Pace(e.ctx(), "corp", apart, burst, (n-burst-10)*apart)
		if !ok {
			wait = -1
		}
		waits[i] = wait
		return err
	}) {
		e.must(err)
	}
	slices.Sort(waits)
	for i, wait := range waits {
		want := time.Duration(max(i-10-burst+1, 0)) * apart
		if i < 10 {
			want = -1 // turned away
		}
		if wait != want {
			e.Errorf("turn %d: %v, want %v", i, wait, want)
		}
	}
}
