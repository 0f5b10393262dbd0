package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a start can tell to be wrong by the command line and the configuration leaves nothing behind.
func TestMistypedStartMakesNoFolder(t *testing.T) {
	for name, tc := range map[string]struct {
		args func(dir string) []string
		want string
	}{
		"no such configuration": {func(dir string) []string { return []string{"--config", filepath.Join(dir, "x", "muster.yaml")} }, "no such file"},
		"no address":            {func(string) []string { return []string{"--http", "8080"} }, "--http 8080: want host:port"},
		"no port":               {func(string) []string { return []string{"--https", ":99999"} }, `--https :99999: address: "99999" is not a port`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := launchOn(t, filepath.Join(dir, "data"), tc.args(dir)...)
			select {
			case <-g.exited:
			case <-time.After(30 * time.Second):
				t.Fatalf("runs\n%s", g.stderr)
			}
			if code := g.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(g.stderr.String(), tc.want) {
				t.Errorf("exit code %d, want %q in\n%s", code, tc.want, g.stderr)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A store or a CA that is gone is made anew, since a first start cannot be told from a loss by what is not there; but
// what still is there gives the loss away, and the log tells.
func TestLossesAreTold(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	told := func(lost ...string) (store, roots bool) {
		t.Helper()
		for _, name := range lost {
			if err := os.RemoveAll(filepath.Join(data, name)); err != nil {
				t.Fatal(err)
			}
		}
		g := serveOn(t, data, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
		g.end(syscall.SIGINT)
		log := g.stderr.String()
		return strings.Contains(log, `level=WARN msg="the store is gone`), strings.Contains(log, `level=WARN msg="the roots are not those`)
	}
	for _, c := range []struct {
		when         string
		lost         []string
		store, roots bool
	}{
		{when: "the first start"},
		{when: "the second"},
		{when: "without the store", lost: []string{"muster.db"}, store: true},
		{when: "without the CA", lost: []string{"ca"}, roots: true},
		{when: "once more"},
	} {
		if store, roots := told(c.lost...); store != c.store || roots != c.roots {
			t.Errorf("%s: told of the store: %v, of the roots: %v", c.when, store, roots)
		}
	}
}
