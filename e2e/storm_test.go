//go:build reliability

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// simulateFor is simulate for as long as it takes, with its progress on our standard error.
func (g *instance) simulateFor(args ...string) (s simulated, code int) {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), binary, append([]string{"simulate"}, append(args, "--json")...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if json.Unmarshal(out, &s) != nil {
		g.t.Fatalf("muster simulate: %v\n%s", err, out)
	}
	return s, cmd.ProcessState.ExitCode()
}

// stormWindow is over how many seconds the rate is looked at.
const stormWindow = 30

// TestStorm has MUSTER_DEVICES devices renew in the same second while the CA may be asked for MUSTER_RATE certificates per second. In
// the end each has its own, the rate was kept all along, and the gateway's memory is flat. Enrolling them, before, has no such bound.
func TestStorm(t *testing.T) {
	devices, rate := setting(t, "MUSTER_DEVICES", 20_000), setting(t, "MUSTER_RATE", 100)
	dir, fleet := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "fleet")
	g := startIn(t, dir)
	if s, code := g.simulateFor("enroll", "--data", dir, "--state", fleet, "--devices", strconv.Itoa(devices)); code != 0 || !s.Good {
		t.Fatalf("enrolling: exit %d", code)
	}
	g.stop()
	edited(t, dir, "    plugin: local\n", fmt.Sprintf("    plugin: local\n    rate: {issued: %d, per: 1s}\n", rate))
	g = startIn(t, dir)
	s, code := g.simulateFor("renew", "--data", dir, "--state", fleet, "--concurrency", "512", "--give-up", "24h")
	if s.Renew == nil || s.Renew.Latency == nil {
		t.Fatalf("exit %d: %+v", code, s.Renew)
	}
	s.Renew.Text(os.Stdout)
	if code != 0 || !s.Good || s.Renew.Issued != devices {
		t.Errorf("exit %d: %d of %d have renewed", code, s.Renew.Issued, devices)
	}
	// What is counted is answers. A turn that came late is answered late, so that a second may have more of them than turns: but never
	// are there more than turns since the beginning, nor more in a window than in one that is longer by the slowest answer.
	late := s.Renew.Latency.Max / 1000
	sum, window := 0, 0
	for i, second := range s.Renew.Seconds {
		sum, window = sum+second.Issued, window+second.Issued
		if i >= stormWindow {
			window -= s.Renew.Seconds[i-stormWindow].Issued
		}
		if sum > rate*(i+1)+1 {
			t.Errorf("%d certificates in the first %d seconds: more than %d per second", sum, i+1, rate)
		}
		if float64(window) > float64(rate)*(stormWindow+late)+1 {
			t.Errorf("%d certificates in the %d seconds until %d: more than %d per second", window, stormWindow, i+1, rate)
		}
	}
	if u := s.Renew.Gateway; u == nil || !u.Flat() {
		t.Errorf("the gateway's memory: %+v", u)
	}
}
