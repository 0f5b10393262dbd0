package gateway

import (
	"fmt"
	"testing"
	"time"
)

// What is alike is counted by itself, within a minute, and without growing.
func TestLooping(t *testing.T) {
	var l looping
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := alike{"device", "est", Enroll, "key", BadAlgorithm}
	want := func(a alike, want int) {
		t.Helper()
		if got := l.note(a, now); got != want {
			t.Errorf("%+v: %d, want %d", a, got, want)
		}
	}
	want(a, 1)
	want(a, 2)
	for _, other := range []alike{
		{"other", "est", Enroll, "key", BadAlgorithm}, {"device", "cmp", Enroll, "key", BadAlgorithm}, {"device", "est", Renew, "key", BadAlgorithm},
		{"device", "est", Enroll, "names", BadAlgorithm}, {"device", "est", Enroll, "key", BadTemplate},
	} {
		want(other, 1)
	}
	now = now.Add(alikeFor - 1)
	want(a, 3)
	now = now.Add(1)
	want(a, 1)
	now = now.Add(-time.Hour) // the clock was set back
	want(a, 1)
	for i := range 2 * maxLooping {
		want(alike{requester: fmt.Sprint(i)}, 1)
	}
	if len(l.counts) != maxLooping {
		t.Errorf("%d are counted", len(l.counts))
	}
	want(a, 2)
	want(alike{requester: "beyond"}, 1)
	want(alike{requester: "beyond"}, 1)
}
