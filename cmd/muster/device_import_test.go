package main

import (
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	now := received
	run := func(width int) string {
		var out strings.Builder
		p := &progress{w: &out, width: width, now: func() time.Time { return now }}
		for done := 0; done <= 1000; done++ {
			p.show(done, 1000)
			now = now.Add(20 * time.Millisecond)
		}
		p.end()
		return out.String()
	}
	if got := run(0); got != "250 of 1000 devices\n500 of 1000 devices\n750 of 1000 devices\n1000 of 1000 devices\n" {
		t.Errorf("without a terminal: %q", got)
	}
	drawn := strings.Split(run(40), "\r")
	if len(drawn) != 1+201+2 || drawn[101] != "[########         ] 500 of 1000 devices" {
		t.Errorf("on a terminal: %d, %q", len(drawn), drawn[101])
	}
	for _, d := range drawn {
		if len(d) > 40 {
			t.Errorf("wider than the terminal: %q", d)
		}
	}
	if last := drawn[len(drawn)-2]; strings.TrimSpace(last) != "" || len(last) != 39 {
		t.Errorf("the bar stays: %q", last)
	}
}
