package authz

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// limiter is a token bucket per source address. Its table is bounded: the source not heard of for longest makes
// room, and starts with a full bucket when it comes back.
type limiter struct {
	burst float64
	every time.Duration // per token
	size  int

	mu     sync.Mutex
	recent *list.List // of *bucket, the latest in front
	table  map[netip.Prefix]*list.Element
}

type bucket struct {
	source netip.Prefix
	tokens float64
	at     time.Time
}

func newLimiter(burst int, every time.Duration, size int) *limiter {
	l := &limiter{burst: float64(burst), every: every, size: size}
	l.reset()
	return l
}

// reset forgets every source.
func (l *limiter) reset() {
	l.recent, l.table = list.New(), make(map[netip.Prefix]*list.Element)
}

// sourceOf is what one limit holds for: an IPv4 address, or the /64 that one IPv6 subscriber has. Requests without
// an address share one bucket.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// take takes a token of the source at a time. When there is none it says how long until there is one.
func (l *limiter) take(a netip.Addr, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(sourceOf(a), now)
	if b.tokens >= 1 {
		b.tokens--
		return 0, true
	}
	return time.Duration((1 - b.tokens) * float64(l.every)), false
}

// giveBack returns a token that was taken for an attempt that succeeded.
func (l *limiter) giveBack(a netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(sourceOf(a), now)
	b.tokens = min(b.tokens+1, l.burst)
}

// bucket returns the source's bucket, filled up to now.
func (l *limiter) bucket(source netip.Prefix, now time.Time) *bucket {
	if e, ok := l.table[source]; ok {
		l.recent.MoveToFront(e)
		b := e.Value.(*bucket)
		if gone := now.Sub(b.at); gone > 0 {
			b.tokens = min(b.tokens+float64(gone)/float64(l.every), l.burst)
			b.at = now
		}
		return b
	}
	if l.recent.Len() >= l.size {
		last := l.recent.Back()
		delete(l.table, last.Value.(*bucket).source)
		l.recent.Remove(last)
	}
	b := &bucket{source: source, tokens: l.burst, at: now}
	l.table[source] = l.recent.PushFront(b)
	return b
}
