package gateway

import (
	"math/rand/v2"
	"time"
)

const (
	// lineMost is how far ahead somebody is told to come back at most.
	lineMost = time.Hour
	// lineSeats is how many of those who were told are remembered, the latest.
	lineSeats = 1 << 14
	// lineStretch is how many times the rate's step the places may lie apart: so many replicas are told of, no more.
	lineStretch = 64
)

// line spreads those who are turned away: each is told a time, one step after the one before, as if they stood in a line. Nobody does:
// it is one time, which the clock catches up with. So it shrinks by itself when nobody comes, and who never comes back has cost a turn
// that somebody else finds free.
//
// Those who come back too early would lengthen it each time, a few impatient ones to its end for all others. So the last 16,384 who were
// told are remembered, by a hash, in a table of fixed size, and told the same time again. Who came in time and was turned away again,
// since others came between, is told a new time.
type line struct {
	promised time.Time     // to the last one in it
	last     time.Time     // the turn that this process got last, with somebody waiting before it; zero after a rest
	apart    time.Duration // between two turns of this process: other replicas have those between
	seats    []seated      // nil until somebody is turned away
}

// seated is one who was told when to come back.
type seated struct {
	who uint64
	due int64 // Unix time in microseconds
}

// got takes down a turn of this process that lies ahead.
func (l *line) got(turn time.Time, every time.Duration) {
	if step := turn.Sub(l.last); !l.last.IsZero() && step > 0 && step <= lineStretch*every {
		l.apart += (step - l.apart) / 8
	}
	l.last = turn
}

// rested takes down that nobody waits: what lies between the turns before and after says nothing of other replicas.
func (l *line) rested() { l.last = time.Time{} }

// promise is in how long somebody may come back, at the earliest soonest from now.
func (l *line) promise(who uint64, now time.Time, soonest, every time.Duration) time.Duration {
	if l.seats == nil {
		l.seats = make([]seated, lineSeats)
	}
	seat := &l.seats[who%lineSeats]
	if left := time.UnixMicro(seat.due).Sub(now); who != 0 && seat.who == who && left > 0 && left <= lineMost {
		return min(left+rand.N(time.Second), lineMost)
	}
	if l.promised.Sub(now) > lineMost { // the clock went back
		l.promised = now
	}
	if first := now.Add(min(soonest, lineMost)); l.promised.Before(first) {
		l.promised = first
	}
	l.promised = l.promised.Add(max(every, min(l.apart, lineStretch*every)))
	in := l.promised.Sub(now)
	if in >= lineMost {
		// The line goes on beyond: they come back within the last quarter, and most of them are told once more.
		l.promised = now.Add(lineMost)
		in = lineMost - rand.N(lineMost/4)
	} else {
		in = min(max(around(in), soonest), lineMost)
	}
	*seat = seated{who, now.Add(in).UnixMicro()}
	return in
}

// around is a time up to a tenth shorter, and up to a second longer, since many clients' clocks have no more than seconds. Clients add
// to what they are told: were ours longer as well, the last ones would come so late that the CA had nothing to do.
func around(d time.Duration) time.Duration { return d - d/10 + rand.N(d/10+time.Second) }
