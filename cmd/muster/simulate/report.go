package simulate

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Report is what came of a run.
type Report struct {
	Phase      Phase    `json:"phase"`
	Devices    int      `json:"devices"`
	Keys       string   `json:"keys"`
	Issued     int      `json:"issued"`
	Failed     int      `json:"failed"`
	Left       int      `json:"left"` // neither, when the run ended before its time
	Because    string   `json:"left_because,omitempty"`
	Causes     []Cause  `json:"causes,omitempty"` // of those that failed
	Took       float64  `json:"took_s"`
	Rate       float64  `json:"per_second"` // certificates, over the whole run
	Best       int      `json:"best_second"`
	Tries      *Spread  `json:"tries,omitempty"` // of a device that asked
	TurnedAway int      `json:"turned_away"`
	Answers    []Cause  `json:"turned_away_by,omitempty"`
	Broken     []Cause  `json:"broken,omitempty"` // tries without an answer, made again
	Told       *Spread  `json:"told_to_wait_s,omitempty"`
	Latency    *Latency `json:"latency_ms,omitempty"`
	Histogram  []Bucket `json:"latency_histogram,omitempty"`
	Until      *Spread  `json:"until_certificate_s,omitempty"` // from a device's first try on
	Seconds    []Second `json:"seconds"`
	Gateway    *Usage   `json:"gateway,omitempty"` // when it runs on this machine
}

// Cause is something with how often it was.
type Cause struct {
	Cause string `json:"cause"`
	Times int    `json:"times"`
}

// Spread is how something is spread.
type Spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// Latency is how long the tries took that got a certificate, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Bucket is how many tries took no longer, and longer than the one before it.
type Bucket struct {
	Within float64 `json:"within_ms"`
	Times  int     `json:"times"`
}

// histogram counts sorted milliseconds into buckets, of which each is half as long again as the one before or a little more: 1, 2, 3, 5, 7, 10, 20 and so on.
func histogram(sorted []float64) (out []Bucket) {
	within := 1.0
	for steps := []float64{2, 1.5, 5. / 3, 1.4, 10. / 7}; len(sorted) > 0; steps = append(steps[1:], steps[0]) {
		n := 0
		for n < len(sorted) && sorted[n] <= within+1e-6 {
			n++
		}
		if n > 0 || len(out) > 0 {
			out = append(out, Bucket{math.Round(within), n})
		}
		sorted = sorted[n:]
		within *= steps[0]
	}
	return out
}

// Second is one second of a run.
type Second struct {
	Issued     int   `json:"issued"`
	TurnedAway int   `json:"turned_away"`
	RSS        int64 `json:"gateway_rss,omitempty"` // bytes
}

// Usage is what the gateway's process used meanwhile; its plugins' resident memory stands beside it.
type Usage struct {
	PID     int     `json:"pid"`
	Before  int64   `json:"rss_before"` // bytes
	Most    int64   `json:"rss_most"`
	After   int64   `json:"rss_after"`
	Plugins int64   `json:"plugins_rss_most"`
	CPU     float64 `json:"cpu_s"` // with its plugins
	First   int64   `json:"rss_most_first_half"`
	Second  int64   `json:"rss_most_second_half"`
}

// Flat reports whether the second half of the run took no more than a tenth above the first half's most memory.
func (u *Usage) Flat() bool { return u.Second <= u.First+u.First/10 }

// Sample is what the gateway uses at one time.
type Sample struct {
	PID     int
	RSS     int64         // bytes
	Plugins int64         // bytes, all of them
	CPU     time.Duration // since it started, with its plugins
}

// Good reports whether every device has its certificate.
func (r *Report) Good() bool { return r.Issued == r.Devices }

func (r *run) report() *Report {
	t, took := &r.tally, time.Since(r.begun)
	out := &Report{
		Phase: r.phase, Devices: len(r.fleet.devices), Keys: r.fleet.Keys(), Issued: t.issued, Failed: t.failed, Causes: counted(t.causes), Took: took.Seconds(),
		Left: t.left, Because: t.leftBecause, TurnedAway: t.away, Answers: counted(t.aways), Broken: counted(t.breaks), Told: t.toldSpread(), Gateway: t.usage(),
	}
	if took > 0 {
		out.Rate = float64(t.issued) / took.Seconds()
	}
	for _, s := range t.seconds {
		out.Best = max(out.Best, s.issued)
		out.Seconds = append(out.Seconds, Second{s.issued, s.away, s.rss})
	}
	var tries, until, latency []float64
	for i := range r.fleet.devices {
		d := &r.fleet.devices[i]
		if d.tries > 0 {
			tries = append(tries, float64(d.tries))
		}
		if d.fate == certified {
			until = append(until, d.until.Seconds())
			latency = append(latency, float64(d.latency)/float64(time.Millisecond))
		}
	}
	out.Tries = spreadOf(tries)
	out.Until = spreadOf(until)
	if slices.Sort(latency); len(latency) > 0 {
		out.Latency = &Latency{quantile(latency, 0.5), quantile(latency, 0.9), quantile(latency, 0.99), latency[len(latency)-1]}
		out.Histogram = histogram(latency)
	}
	return out
}

// spreadOf sorts the values; nil without any.
func spreadOf(values []float64) *Spread {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	return &Spread{values[0], quantile(values, 0.5), values[len(values)-1]}
}

// quantile is the smallest of sorted values that so large a part of them does not exceed.
func quantile(sorted []float64, part float64) float64 {
	return sorted[max(min(int(part*float64(len(sorted))+0.999999)-1, len(sorted)-1), 0)]
}

func (t *tally) toldSpread() *Spread {
	total := 0
	for _, n := range t.told {
		total += n
	}
	if total == 0 {
		return nil
	}
	all := slices.Sorted(maps.Keys(t.told))
	out, seen := &Spread{Min: float64(all[0]), Max: float64(all[len(all)-1])}, 0
	for _, s := range all {
		if seen += t.told[s]; 2*seen >= total {
			out.Median = float64(s)
			break
		}
	}
	return out
}

func (t *tally) usage() *Usage {
	if len(t.samples) == 0 {
		return nil
	}
	first, last := t.samples[0], t.samples[len(t.samples)-1]
	u := &Usage{PID: last.PID, Before: first.RSS, After: last.RSS, CPU: (last.CPU - first.CPU).Seconds()}
	for _, s := range t.samples {
		u.Most, u.Plugins = max(u.Most, s.RSS), max(u.Plugins, s.Plugins)
		if 2*s.at < last.at {
			u.First = max(u.First, s.RSS)
		} else {
			u.Second = max(u.Second, s.RSS)
		}
	}
	return u
}
