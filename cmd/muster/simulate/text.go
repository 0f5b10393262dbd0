package simulate

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/muster-pki/muster/cmd/muster/words"
)

const (
	chartRows  = 24
	chartWidth = 40
)

// rowSteps are how many seconds a row of the chart may stand for; beyond them, multiples of the last.
var rowSteps = []int{1, 2, 5, 10, 15, 30, 60, 120, 300, 600}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	what := map[Phase]string{Enroll: "Enrolled", Renew: "Renewed", Revoke: "Revoked"}[r.Phase]
	row(what, "%d of %s in %s (%s keys)", r.Issued, words.Counted(r.Devices, "device"), span(r.Took), r.Keys)
	if r.Issued > 0 {
		row("Rate", "%.1f certificates per second, %d in the best one", r.Rate, r.Best)
	}
	if r.Tries != nil {
		row("Tries", "%s a device", r.Tries.text(plain))
	}
	if r.TurnedAway > 0 {
		row("Turned away", "%s (%s)", words.Counted(r.TurnedAway, "time"), causes(r.Answers))
	}
	if r.Told != nil {
		row("Told to wait", "%s", r.Told.text(span))
	}
	if len(r.Broken) > 0 {
		row("Tried again", "%s", causes(r.Broken))
	}
	if l := r.Latency; l != nil {
		row("Latency", "half within %s, 90 %% within %s, 99 %% within %s, all within %s", millis(l.P50), millis(l.P90), millis(l.P99), millis(l.Max))
	}
	if r.Until != nil {
		row(map[bool]string{false: "Until issued", true: "Until revoked"}[r.Phase == Revoke], "%s after the first try", r.Until.text(span))
	}
	if g := r.Gateway; g != nil {
		row("Its memory", "%s before, %s at most, %s after%s; its plugins %s at most", mega(g.Before), mega(g.Most), mega(g.After), r.verdict(), mega(g.Plugins))
		cpu := fmt.Sprintf("%.1f s with its plugins", g.CPU)
		if r.Issued > 0 {
			cpu += fmt.Sprintf(", %.1f ms a certificate", 1000*g.CPU/float64(r.Issued))
		}
		row("Its CPU", "%s", cpu)
	}
	for i, c := range r.Causes {
		name := ""
		if i == 0 {
			name = "Failed"
		}
		row(name, "%s: %s", words.Counted(c.Times, "device"), words.Plain(c.Cause))
	}
	if r.Left > 0 {
		row("Left", "%s: %s", words.Counted(r.Left, "device"), r.Because)
	}
	tw.Flush()
	if r.Issued+r.TurnedAway > 0 {
		r.chart(w)
	}
	if len(r.Histogram) > 1 {
		r.latencies(w)
	}
}

// latencies draws the histogram.
func (r *Report) latencies(w io.Writer) {
	most := 0
	for _, b := range r.Histogram {
		most = max(most, b.Times)
	}
	fmt.Fprintf(w, "\n%8s  %-*s  %8s\n", "within", chartWidth, "tries that took so long", "tries")
	for _, b := range r.Histogram {
		fmt.Fprintf(w, "%8s  %-*s  %8d\n", millis(b.Within), chartWidth, strings.Repeat("#", (b.Times*chartWidth+most-1)/most), b.Times)
	}
}

// longEnough is how many seconds of a run say whether memory grows.
const longEnough = 20

// verdict says whether the gateway's memory grew.
func (r *Report) verdict() string {
	g := r.Gateway
	switch {
	case r.Took < longEnough:
		return ""
	case g.Flat():
		return fmt.Sprintf(": flat (%s at most in the first half, %s in the second)", mega(g.First), mega(g.Second))
	}
	return fmt.Sprintf(": growing (%s at most in the first half, %s in the second)", mega(g.First), mega(g.Second))
}

// chart draws certificates per second over time, with what else is known of it.
func (r *Report) chart(w io.Writer) {
	step := stepOf(len(r.Seconds))
	type bar struct {
		issued, away float64 // per second
		rss          int64
	}
	var bars []bar
	most := 0.0
	for from := 0; from < len(r.Seconds); from += step {
		to := min(from+step, len(r.Seconds))
		// The last second has only just begun when the run ends.
		long := min(float64(to), max(r.Took, float64(from)+0.1)) - float64(from)
		if to < len(r.Seconds) {
			long = float64(to - from)
		}
		var b bar
		for _, s := range r.Seconds[from:to] {
			b.issued += float64(s.Issued)
			b.away += float64(s.TurnedAway)
			b.rss = max(b.rss, s.RSS)
		}
		long = max(long, 1) // less than a second says nothing of a rate
		b.issued, b.away = b.issued/long, b.away/long
		most = max(most, b.issued)
		bars = append(bars, b)
	}
	ends := "issued/s"
	if r.Phase == Revoke {
		ends = "revoked"
	}
	head := fmt.Sprintf("\n%8s  %-*s  %8s", "time", chartWidth, "certificates per second", ends)
	if r.TurnedAway > 0 {
		head += "  turned away/s"
	}
	if r.Gateway != nil {
		head += "   memory"
	}
	fmt.Fprintln(w, head)
	for i, b := range bars {
		filled := 0
		if most > 0 {
			filled = int(b.issued/most*chartWidth + 0.5)
		}
		line := fmt.Sprintf("%8s  %-*s  %8.1f", span(float64(i*step)), chartWidth, strings.Repeat("#", filled), b.issued)
		if r.TurnedAway > 0 {
			line += fmt.Sprintf("  %13.1f", b.away)
		}
		if r.Gateway != nil {
			known := ""
			if b.rss > 0 {
				known = mega(b.rss)
			}
			line += fmt.Sprintf("  %7s", known)
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

// stepOf is how many seconds a row stands for, so that chartRows suffice.
func stepOf(seconds int) int {
	for _, s := range rowSteps {
		if seconds <= s*chartRows {
			return s
		}
	}
	last := rowSteps[len(rowSteps)-1]
	return (seconds/chartRows/last + 1) * last
}

func (s Spread) text(show func(float64) string) string {
	if s.Min == s.Max {
		return show(s.Min)
	}
	return fmt.Sprintf("%s to %s, half at most %s", show(s.Min), show(s.Max), show(s.Median))
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func millis(ms float64) string {
	if ms >= 10000 {
		return span(ms / 1000)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func mega(bytes int64) string { return fmt.Sprintf("%d MB", (bytes+1<<19)>>20) }

// span is so many seconds, for people.
func span(seconds float64) string {
	switch {
	case seconds > 0 && seconds < 1:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	case seconds < 10 && seconds != float64(int(seconds)):
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	}
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%d:%02d min", int(d.Minutes()), int(d.Seconds())%60)
}

func causes(list []Cause) string {
	var parts []string
	for _, c := range list {
		parts = append(parts, fmt.Sprintf("%s: %d", words.Plain(c.Cause), c.Times))
	}
	return strings.Join(parts, ", ")
}
