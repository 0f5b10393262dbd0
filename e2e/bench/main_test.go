//go:build bench

// Package bench measures what an enrollment costs the gateway, in one run beside its cryptography and beside other servers, and writes
// docs/performance.md with its plots. `make bench` runs it; `make bench SHORT=1` takes a smaller run and writes it elsewhere.
//
// The load is cmd/muster/simulate's, which knows the protocols and no server. All that is compared takes turns in rounds, so that
// what else the machine does falls on each alike.
package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var (
	binary string // cmd/muster
	tools  string // what .ci/cas built: bin/step-ca, bin/scepserver, bin/estserver
)

func TestMain(m *testing.M) {
	code, err := prepared(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func prepared(m *testing.M) (int, error) {
	if tools = os.Getenv("MUSTER_CAS"); tools == "" {
		return 1, fmt.Errorf("MUSTER_CAS is not set: run `make bench`")
	}
	dir, err := os.MkdirTemp("", "muster-bench-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "muster")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../../cmd/muster")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// scale is how much is done.
type scale struct {
	rounds, each int   // each: enrollments of a round
	stored       []int // certificates
	starts       int
	connections  int
}

func size() scale {
	if testing.Short() {
		return scale{rounds: 4, each: 80, stored: []int{1000, 20_000}, starts: 3, connections: 500}
	}
	return scale{rounds: 12, each: 200, stored: []int{1000, 1_000_000}, starts: 7, connections: 500}
}

// TestBench measures, and writes performance.md and its plots into the folder MUSTER_BENCH_DIR.
func TestBench(t *testing.T) {
	dir := os.Getenv("MUSTER_BENCH_DIR")
	if dir == "" {
		t.Fatal("MUSTER_BENCH_DIR is not set: it is where performance.md goes")
	}
	s := size()
	r := &results{Scale: s, Machine: machine()}
	r.Start, r.Memory = startup(t, s)
	w := stand(t, s)
	r.Loads = w.measure(t, s)
	for _, l := range r.Loads {
		for _, x := range l.Servers {
			if x.PerEnrollment() <= 0 {
				t.Errorf("%s, %s: no CPU was measured", l.Name, x.Name)
			}
		}
	}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("written: %s", filepath.Join(dir, "performance.md"))
}
