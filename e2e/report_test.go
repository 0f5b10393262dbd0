package e2e

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"text/tabwriter"
)

// scaled is how many of something a test of reliability takes: few in `make test`, full in `make reliability`, or MUSTER_SCALE percent of
// that, but no less than few.
func scaled(few, full int) int {
	if !long {
		return few
	}
	if percent, err := strconv.Atoi(os.Getenv("MUSTER_SCALE")); err == nil {
		full = full * percent / 100
	}
	return max(few, full)
}

// finding is a line of the table that `make reliability` ends with.
type finding struct {
	test  string // what was done
	n     int    // how often
	lost  int    // acknowledged, and gone
	twice int    // issued, spent or counted more than once
	worst string // the worst cost, with its unit: "ready after 0.8 s", "4.1 ms CPU"; "" for none
}

var findings struct {
	sync.Mutex
	list []finding
}

// found puts a line into the table. A test whose lost or twice is not 0 fails by itself as well.
func found(f finding) {
	findings.Lock()
	defer findings.Unlock()
	findings.list = append(findings.list, f)
}

// tabulate prints the table, nothing when it is empty.
func tabulate(out io.Writer) {
	findings.Lock()
	defer findings.Unlock()
	if len(findings.list) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\ntest\thow many\tlost\ttwice\tworst")
	for _, f := range findings.list {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", f.test, f.n, f.lost, f.twice, f.worst)
	}
	w.Flush()
}
