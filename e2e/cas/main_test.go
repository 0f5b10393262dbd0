//go:build cas

// Package cas runs the gateway before CAs that are not ours: step-ca, Vault, pebble and others, each a real server. `make backends` gets
// them and runs this; one that is missing is a failure.
package cas

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var (
	binary string // cmd/muster
	tools  string // what .ci/cas fetched: bin/step-ca, bin/pebble, ...
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
		return 1, fmt.Errorf("MUSTER_CAS is not set: run `make backends`")
	}
	dir, err := os.MkdirTemp("", "muster-cas-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "muster")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/muster").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w\n%s", err, out)
	}
	// The tests wait more than they compute, for CAs that take their time.
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		return 1, err
	}
	code := m.Run()
	printTable(os.Stdout)
	return code, nil
}
