//go:build bench

package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// results are what a run has found.
type results struct {
	Scale   scale
	Machine string
	Start   []float64 // milliseconds
	Memory  memory
	Loads   []*load
}

func median(list []float64) float64 { return quantile(list, 0.5) }

func quantile(list []float64, part float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}

// thousands groups digits by three.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func millis(us float64) string {
	if us < 1000 {
		return fmt.Sprintf("%.2f", us/1000)
	}
	return fmt.Sprintf("%.1f", us/1000)
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/1e6) }

func (s *served) ours() bool { return strings.HasPrefix(s.Name, "muster") }

// ratio is what a server takes to the operations in its work, round by round, and the middle of it.
func (l *load) ratio(s *served) float64 {
	var list []float64
	for i := range s.Used {
		list = append(list, s.Used[i]/l.Crypto[i])
	}
	return median(list)
}

// toPeer is what our least stored SQLite gateway takes to the peer, round by round.
func (l *load) toPeer(peer *served) float64 {
	var list []float64
	for i := range peer.Used {
		list = append(list, l.Servers[0].Used[i]/peer.Used[i])
	}
	return median(list)
}

// write makes performance.md and the plots that it shows.
func (r *results) write(dir string) error {
	plots := filepath.Join(dir, "performance")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	for _, l := range r.Loads {
		if err := os.WriteFile(filepath.Join(plots, l.file()), []byte(l.plot().svg()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "performance.md"), []byte(r.text()), 0o644)
}

func (l *load) file() string {
	return strings.Trim(strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ReplaceAll(strings.ToLower(l.Name), ", ", "-")), "-") + ".svg"
}

func (l *load) plot() *bars {
	p := &bars{title: l.Name + ": processor time of the server for one enrollment", unit: "milliseconds, user and system; dark: the sum of its cryptographic operations"}
	crypto := median(l.Crypto)
	for _, s := range l.Servers {
		said := fmt.Sprintf("%s ms, %.2f ×", millis(s.PerEnrollment()), l.ratio(s))
		p.rows = append(p.rows, bar{s.Name, s.PerEnrollment(), crypto, said, !s.ours()})
	}
	return p
}

func (r *results) text() string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# What an enrollment costs\n")
	say("Written by `make bench` on %s, with %s and %s; not by hand. What the numbers are made of stands in [architecture.md](architecture.md).\n",
		time.Now().UTC().Format("2 January 2006"), r.Machine, runtime.Version())
	say("| | the gateway | of it cryptography | ratio | a second |\n|---|---|---|---|---|")
	for _, l := range r.Loads {
		s := l.Servers[0]
		say("| %s | %s ms | %s ms | **%.2f** | %.0f |", l.Name, millis(s.PerEnrollment()), millis(median(l.Crypto)), l.ratio(s), median(s.Rate))
	}
	say("\nStart to ready: %.0f ms (the middle of %d starts, %.0f to %.0f). Memory: %s idle and %s its CA process; %s both with %d TLS connections open.\n",
		median(r.Start), len(r.Start), slices.Min(r.Start), slices.Max(r.Start), megabytes(r.Memory.Idle), megabytes(r.Memory.Plugins), megabytes(r.Memory.Connected), r.Scale.connections)
	for _, l := range r.Loads {
		say("## %s\n\n![%s](performance/%s)\n", l.Name, l.Name, l.file())
		say("| server | CPU | ratio to the operations | lowest and highest round | enrollments a second | half within | 99 %% within |\n|---|---|---|---|---|---|---|")
		for _, s := range l.Servers {
			cpu := millis(s.PerEnrollment()) + " ms"
			if store := median(s.Store); store > 0 {
				cpu += " and PostgreSQL's " + millis(store)
			}
			say("| %s | %s | %.2f | %s to %s ms | %.0f | %.0f ms | %.0f ms |", s.Name, cpu, l.ratio(s), millis(slices.Min(s.Used)), millis(slices.Max(s.Used)), median(s.Rate),
				median(s.Took), quantile(s.Took, 0.99))
		}
		for _, s := range l.Servers {
			if !s.ours() {
				say("\nThe gateway with SQLite takes %.2f times what %s takes.", l.toPeer(s), s.Name)
			}
		}
		say("")
	}
	say(strings.TrimSpace(howMeasured), r.Scale.rounds, thousands(r.Scale.each), clients)
	return b.String()
}

const howMeasured = `
## How it is measured

* ` + "`make bench`" + ` builds the gateway as it is shipped, and takes step-ca, scepserver and estserver as ` + "`.ci/cas`" + ` builds them. A gateway is one of ` + "`muster serve`" + `, with its default
  stages and lints, but with an RSA-2048 CA, as its peers have. Everything is durable: SQLite with synchronous=FULL, PostgreSQL with fsync, both on this machine's disk.
* %d rounds of %s enrollments by %d clients; in each round every server has its turn, in another order each time, and the operations are measured too: so what else the machine does falls on all.
  A number is the middle of the rounds, and a ratio the middle of the rounds' ratios. A round before them is not counted.
* CPU is user and system time of the gateway and its CA process (` + "`/proc/PID/task/*/schedstat`" + `), as the kernel counts it. PostgreSQL's own stands beside it.
* The operations are run on one thread, with nothing between them, by the Go library that the servers use. EST: a signature made and three verified (the request's, and the certificate's in CA and
  gateway); with a handshake an agreement (X25519MLKEM768) and a signature more. CMP: the same as EST and four MACs of 500 iterations. SCEP: one envelope opened, one sealed, two signatures made (the certificate's, the
  answer's), four verified. What a peer leaves out, such as a second look at the certificate, is in the sum all the same.
* The clients make their keys before, and their messages meanwhile, on the same processors as the server: enrollments a second are those of both together, and say how the servers compare, not what
  one of them could do alone.
* Stored certificates are copies of the row of a first one in the store and in the CA's ledger, with keys, names and serial numbers of their own; what no index has is cut short.
* What the peers do not do: estserver's CA keeps no record and asks nobody; scepserver keeps certificates as files, without a journal; step-ca records each once, in one process. None lints.
`

func TestPlot(t *testing.T) {
	p := &bars{title: `a <b>`, unit: "ms", rows: []bar{{"x & y", 10, 4, "10 ms", false}, {"peer", 5, 9, "5 ms", true}}}
	got := p.svg()
	for _, want := range []string{"a &lt;b&gt;", "x &amp; y", `width="380.0"`, `width="152.0"`, `width="190.0"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Count(got, `width="190.0"`) != 2 { // no part is larger than its whole
		t.Error("a part is larger than its whole")
	}
	if math.IsNaN(quantile(nil, 0.5)) || median([]float64{3, 1, 2}) != 2 || thousands(1_000_000) != "1,000,000" || thousands(20) != "20" {
		t.Error("numbers")
	}
}
