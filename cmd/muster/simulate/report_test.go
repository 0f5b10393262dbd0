package simulate

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A storm against a CA that is bound to 4 a second, as it is printed.
func TestReportAsPrinted(t *testing.T) {
	r := &Report{
		Phase: Renew, Devices: 100, Keys: P256, Issued: 98, Failed: 1, Causes: []Cause{{"HTTP 403: no\x1b[2J", 1}}, Left: 1, Because: causeInterrupted,
		Took: 24.5, Rate: 4, Best: 5, Tries: &Spread{1, 3, 7}, TurnedAway: 200, Answers: []Cause{{"503", 150}, {"202", 50}}, Broken: []Cause{{"connection reset", 2}},
		Told: &Spread{1, 12, 130}, Latency: &Latency{8, 20, 31, 12000}, Until: &Spread{0.02, 11.2, 24}, Seconds: make([]Second, 25),
		Gateway: &Usage{Before: 60 << 20, Most: 72 << 20, After: 70 << 20, Plugins: 40 << 20, CPU: 0.98, First: 72 << 20, Second: 71 << 20},
	}
	for i := range r.Seconds {
		r.Seconds[i] = Second{4, 8, 70 << 20}
	}
	r.Seconds[24] = Second{2, 0, 0}
	var out strings.Builder
	r.Text(&out)
	want := `Renewed       98 of 100 devices in 24 s (P-256 keys)
Rate          4.0 certificates per second, 5 in the best one
Tries         1 to 7, half at most 3 a device
Turned away   200 times (503: 150, 202: 50)
Told to wait  1 s to 2:10 min, half at most 12 s
Tried again   connection reset: 2
Latency       half within 8 ms, 90 % within 20 ms, 99 % within 31 ms, all within 12 s
Until issued  20 ms to 24 s, half at most 11 s after the first try
Its memory    60 MB before, 72 MB at most, 70 MB after: flat (72 MB at most in the first half, 71 MB in the second); its plugins 40 MB at most
Its CPU       1.0 s with its plugins, 10.0 ms a certificate
Failed        1 device: HTTP 403: no\x1b[2J
Left          1 device: the run was interrupted

    time  certificates per second                   issued/s  turned away/s   memory
     0 s  ########################################       4.0            8.0    70 MB
     2 s  ########################################       4.0            8.0    70 MB
     4 s  ########################################       4.0            8.0    70 MB
     6 s  ########################################       4.0            8.0    70 MB
     8 s  ########################################       4.0            8.0    70 MB
    10 s  ########################################       4.0            8.0    70 MB
    12 s  ########################################       4.0            8.0    70 MB
    14 s  ########################################       4.0            8.0    70 MB
    16 s  ########################################       4.0            8.0    70 MB
    18 s  ########################################       4.0            8.0    70 MB
    20 s  ########################################       4.0            8.0    70 MB
    22 s  ########################################       4.0            8.0    70 MB
    24 s  ####################                           2.0            0.0
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestMemoryThatGrows(t *testing.T) {
	tally := newTally()
	for i := range 40 {
		at := time.Duration(i) * time.Second
		tally.sampled(at, Sample{PID: 7, RSS: int64(60+i) << 20, CPU: at})
	}
	u := tally.usage()
	if u.Flat() || u.First != 79<<20 || u.Second != 99<<20 || u.Before != 60<<20 || u.CPU != 39 {
		t.Errorf("%+v", u)
	}
	if v := (&Report{Took: 40, Gateway: u}).verdict(); !strings.HasPrefix(v, ": growing") {
		t.Error(v)
	}
	if v := (&Report{Took: longEnough - 1, Gateway: u}).verdict(); v != "" {
		t.Errorf("a short run says %q", v)
	}
	if (&Usage{First: 100, Second: 110}).Flat() != true {
		t.Error("a tenth is not flat")
	}
}

func TestRowsFitTheChart(t *testing.T) {
	for seconds, want := range map[int]int{1: 1, 24: 1, 25: 2, 48: 2, 121: 10, 3600: 300, 14400: 600, 14401: 1200, 90000: 4200} {
		got := stepOf(seconds)
		if got != want || (seconds+got-1)/got > chartRows {
			t.Errorf("%d seconds: a row is %d, want %d", seconds, got, want)
		}
	}
}

// What is different is counted within bounds: texts come from the gateway.
func TestCausesAreBounded(t *testing.T) {
	m := map[string]int{}
	for i := range 1000 {
		count(m, strings.Repeat("x", i))
	}
	if len(m) != maxCauses+1 || m[otherCause] != 1000-maxCauses || counted(m)[0].Cause != otherCause {
		t.Errorf("%d causes: %v", len(m), counted(m)[0])
	}
}

func TestQuantiles(t *testing.T) {
	sorted := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for part, want := range map[float64]float64{0.5: 5, 0.9: 9, 0.99: 10, 0.01: 1} {
		if got := quantile(sorted, part); got != want {
			t.Errorf("%v: %v, want %v", part, got, want)
		}
	}
	told := newTally()
	for _, s := range []int{5, 1, 1, 9, 5} {
		told.told[s]++
	}
	if got := told.toldSpread(); *got != (Spread{1, 5, 9}) {
		t.Errorf("%+v", got)
	}
}

func TestHistogram(t *testing.T) {
	if got := histogram([]float64{0.4, 1, 4, 4.5, 5, 19, 90, 100, 101}); !slices.Equal(got, []Bucket{{1, 2}, {2, 0}, {3, 0}, {5, 3}, {7, 0}, {10, 0}, {20, 1}, {30, 0}, {50, 0}, {70, 0}, {100, 2}, {200, 1}}) {
		t.Errorf("%v", got)
	}
	if got := histogram([]float64{60}); !slices.Equal(got, []Bucket{{70, 1}}) {
		t.Errorf("leading buckets: %v", got)
	}
	if got := histogram(nil); got != nil {
		t.Errorf("of nothing: %v", got)
	}
	var out strings.Builder
	(&Report{Histogram: []Bucket{{5, 1}, {7, 80}, {10, 0}, {20, 40}}}).latencies(&out)
	want := `
  within  tries that took so long                      tries
    5 ms  #                                                1
    7 ms  ########################################        80
   10 ms                                                   0
   20 ms  ####################                            40
`
	if out.String() != want {
		t.Errorf("printed\n%s", out.String())
	}
}

// A revoked certificate is none to go on with.
func TestRevokedDevicesHaveNone(t *testing.T) {
	f := fleetOf(t, 2)
	s := &script{answer: issues}
	play(t, f, Enroll, s, usual, Watch{})
	f.devices[1].cert = nil
	s = &script{answer: func(d Device, _ int) Answer {
		if !d.Revoke {
			t.Error("asked for something else")
		}
		return Answer{Cert: d.Cert}
	}}
	r := play(t, f, Revoke, s, usual, Watch{})
	if r.Issued != 1 || r.Failed != 1 || r.Causes[0].Cause != "has no certificate to revoke" || f.Certified() != 0 {
		t.Errorf("%+v", r)
	}
}
