package gateway

import (
	"sync"
	"time"
)

const (
	keptAlike  = 5           // refusals alike that are recorded in the time
	alikeFor   = time.Minute // from the first of them on
	maxLooping = 4096        // different ones that are counted in it; what comes beyond is recorded
)

// looping counts refusals that say the same of the same requester, so that a device which asks again and again costs the store no
// more than a few rows a minute. The others are counted and kept in memory as those of strangers are.
type looping struct {
	mu     sync.Mutex
	since  time.Time
	counts map[alike]int
}

// alike is what refusals have in common that are the same to an operator.
type alike struct {
	requester, endpoint string
	operation           Operation
	stage               string
	reason              Reason
}

// note counts a refusal, and says how many alike there are by now, this one included.
func (l *looping) note(a alike, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if passed := now.Sub(l.since); l.counts == nil || passed >= alikeFor || passed < 0 {
		l.since, l.counts = now, map[alike]int{}
	}
	if _, known := l.counts[a]; !known && len(l.counts) >= maxLooping {
		return 1
	}
	l.counts[a]++
	return l.counts[a]
}
