package simulate

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// maxCauses is how many different causes are kept apart: texts come from the gateway.
const maxCauses = 32

// otherCause stands for the causes beyond them.
const otherCause = "other causes"

// maxTold bounds what devices are told to wait, in seconds, as it is counted.
const maxTold = 24 * 60 * 60

// second is what happened within one.
type second struct {
	issued, away int
	rss          int64 // the gateway's last one in it, in bytes; 0: not known
}

// tally counts what happens in a run. It grows with its length and with what is different, not with tries.
type tally struct {
	issued, failed, away int
	left                 int // without a certificate when the run ended before its time
	leftBecause          string
	seconds              []second
	aways                map[string]int
	causes, breaks       map[string]int
	told                 map[int]int // seconds, how often
	recent               time.Duration
	samples              []sampled
}

type sampled struct {
	at time.Duration
	Sample
}

func newTally() tally {
	return tally{aways: map[string]int{}, causes: map[string]int{}, breaks: map[string]int{}, told: map[int]int{}}
}

func (t *tally) second(at time.Duration) *second {
	n := int(at / time.Second)
	for len(t.seconds) <= n {
		t.seconds = append(t.seconds, second{})
	}
	return &t.seconds[n]
}

func (t *tally) certified(at, took time.Duration) {
	t.issued++
	t.second(at).issued++
	if t.recent == 0 {
		t.recent = took
	}
	t.recent += (took - t.recent) / 16
}

func (t *tally) turnedAway(at time.Duration, answer string, after time.Duration) {
	t.away++
	t.second(at).away++
	count(t.aways, answer)
	if after > 0 {
		t.told[min(int(math.Ceil(after.Seconds())), maxTold)]++
	}
}

func (t *tally) failure(cause string) {
	t.failed++
	count(t.causes, cause)
}

func (t *tally) broke(why string) { count(t.breaks, why) }

func (t *tally) sampled(at time.Duration, s Sample) {
	t.samples = append(t.samples, sampled{at, s})
	t.second(at).rss = s.RSS
}

// lastSecond is how many certificates the last whole second had.
func (t *tally) lastSecond(now time.Duration) int {
	if n := int(now/time.Second) - 1; n >= 0 && n < len(t.seconds) {
		return t.seconds[n].issued
	}
	return 0
}

func count(in map[string]int, key string) {
	if _, ok := in[key]; !ok && len(in) >= maxCauses {
		key = otherCause
	}
	in[key]++
}

// counted lists a map by how often, the most first.
func counted(m map[string]int) []Cause {
	var list []Cause
	for _, cause := range slices.Sorted(maps.Keys(m)) {
		list = append(list, Cause{cause, m[cause]})
	}
	slices.SortStableFunc(list, func(a, b Cause) int { return cmp.Compare(b.Times, a.Times) })
	return list
}
