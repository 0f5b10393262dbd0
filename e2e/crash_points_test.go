package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// crashTests says for each crash point which test here kills a process there.
var crashTests = map[string]string{
	"gateway.before-intent":     "TestCrashPoints",
	"gateway.after-intent":      "TestCrashPoints",
	"gateway.after-issue":       "TestCrashPoints",
	"gateway.after-settle":      "TestCrashPoints",
	"gateway.after-conclude":    "TestCMPCrashPoints",
	"gateway.before-reroute":    "TestStandbyCrashPoints",
	"gateway.after-reroute":     "TestStandbyCrashPoints",
	"gateway.rollover-ordered":  "TestCrashInARekey",
	"gateway.rollover-done":     "TestCrashInARekey",
	"gateway.rollover-recorded": "TestCrashInARekey",
	"ca.before-sign":            "TestCrashPoints",
	"ca.after-sign":             "TestCrashPoints",
	"ca.after-ledger":           "TestCrashPoints",
	"ca.before-rollover":        "TestCrashInARekey",
	"ca.mid-rollover":           "TestCrashInARekey",
	"ca.after-rollover":         "TestCrashInARekey",
	"ca.rollover-ledger":        "TestCrashInARekey",
	"muster.own-made":           "TestCrashInARekey",
}

// TestCrashPointsAreCovered: each crash point that the sources name has a test that kills there, and that test exists.
func TestCrashPointsAreCovered(t *testing.T) {
	declared := regexp.MustCompile(`(?m)^\s*[cC]rash[A-Z]\w*\s*=\s*"([a-z]+\.[a-z-]+)"`)
	inSource := map[string]bool{}
	tests := ""
	walk := func(dir string, read func(path, text string)) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			read(file, string(b))
		}
	}
	for _, dir := range []string{"../gateway", "../backends/local", "../cmd/muster"} {
		walk(dir, func(file, text string) {
			if strings.HasSuffix(file, "_test.go") {
				return
			}
			for _, m := range declared.FindAllStringSubmatch(text, -1) {
				inSource[m[1]] = true
				if crashTests[m[1]] == "" {
					t.Errorf("%s: no test kills a process at %s", file, m[1])
				}
			}
		})
	}
	walk(".", func(_, text string) { tests += text })
	for point, test := range crashTests {
		if !inSource[point] {
			t.Errorf("%s is no crash point", point)
		}
		if !strings.Contains(tests, "\nfunc "+test+"(t *testing.T)") {
			t.Errorf("%s: there is no %s", point, test)
		}
	}
}
