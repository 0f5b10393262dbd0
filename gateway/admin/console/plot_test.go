package console

import (
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// A chart has each request once, in its step and its outcome, and nothing outside its frame.
func TestCharts(t *testing.T) {
	from := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	o := &admin.Overview{From: from, Step: 3600, Steps: 24, Ends: from, EndStep: 7 * 86400, Ending: []int64{2, 0, 12345}, Requests: []admin.OverviewCount{
		{From: from, Protocol: "est", State: "issued", Count: 5}, {From: from, Protocol: "est", State: "held", Count: 1}, {From: from, Protocol: "est", State: "refused", Count: 2},
		{From: from.Add(23 * time.Hour), Protocol: "est", State: "refused", Count: 4, Remembered: true}, {From: from.Add(23 * time.Hour), Protocol: "cmp", State: "failed", Count: 1_000_000},
		{From: from.Add(24 * time.Hour), Protocol: "est", State: "issued", Count: 100}, {From: from.Add(-48 * time.Hour), Protocol: "est", State: "issued", Count: 100},
	}}
	all := charts(o)
	if len(all) != 2 || all[0].Title != "CMP" || all[1].Title != "EST" {
		t.Fatalf("%+v", all)
	}
	if want := "EST: 12 requests, 5 issued, 1 waiting, 2 refused, 4 refused, not authenticated"; all[1].Label != want || all[1].Total != 12 {
		t.Errorf("%s", all[1].Label)
	}
	if n := len(all[1].Bars); n != 4 || all[1].Bars[3].Says != "03-01 23:00: 4 refused, not authenticated" {
		t.Errorf("%+v", all[1].Bars)
	}
	if len(all[1].Rows) != 2 || strings.Join(all[1].Rows[0], " ") != "03-01 00:00 5 1 2 0" {
		t.Errorf("%q", all[1].Rows)
	}
	ends := endings(o)
	if ends.Total != 12347 || ends.Label != "12347 certificates end within 3 weeks, 2 of them in the first week" || len(endings(&admin.Overview{}).Bars) != 0 {
		t.Errorf("%+v", ends)
	}
	for _, c := range append(all, ends) {
		for _, b := range c.Bars {
			if b.H < 1 || b.Y < plotTop-0.5 || b.Y+b.H > plotTop+plotHeight+0.01 || b.X < plotLeft || b.X+b.W > plotLeft+plotWidth {
				t.Errorf("%s: %+v is outside", c.Title, b)
			}
		}
		if len(c.Levels) < 2 || len(c.Levels) > 7 || len(c.Ticks) > 6 {
			t.Errorf("%s: %d levels, %d ticks", c.Title, len(c.Levels), len(c.Ticks))
		}
	}
}

// Levels are round, and the highest bar is below the last.
func TestLevels(t *testing.T) {
	for most, want := range map[int64]string{0: "0 1", 1: "0 1", 4: "0 1 2 3 4", 5: "0 2 4 6", 17: "0 5 10 15 20", 99: "0 50 100", 12345: "0 5000 10k 15k", 2_500_000: "0 1M 2M 3M", 40_000_000: "0 10M 20M 30M 40M"} {
		all, top := levels(most)
		var words []string
		for _, l := range all {
			words = append(words, l.Text)
		}
		if got := strings.Join(words, " "); got != want || top < most {
			t.Errorf("%d: %s, want %s", most, got, want)
		}
	}
}
