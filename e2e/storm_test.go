//go:build reliability

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
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

// lateAtCA is by how much an order to issue may be late between gate and CA, where 512 requests and the simulator share its processors.
const lateAtCA = 300 * time.Millisecond

// TestStorm has MUSTER_DEVICES devices renew in the same second while the CA may be asked for MUSTER_RATE certificates per second. In
// the end each has its own; the CA was asked at the rate all along, and not much below it; the gateway's memory is flat. Enrolling them,
// before, has no such bound. MUSTER_PROTOCOL is "est" by default.
func TestStorm(t *testing.T) {
	devices, rate := setting(t, "MUSTER_DEVICES", 20_000), setting(t, "MUSTER_RATE", 100)
	protocol := cmp.Or(os.Getenv("MUSTER_PROTOCOL"), "est")
	dir, fleet, ca := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "fleet"), buildTimedCA(t)
	g := startIn(t, dir)
	if s, code := g.simulateFor("enroll", "--data", dir, "--protocol", protocol, "--state", fleet, "--devices", strconv.Itoa(devices)); code != 0 || !s.Good {
		t.Fatalf("enrolling: exit %d", code)
	}
	g.stop()
	edited(t, dir, "      dir: ca ", "      dir: "+filepath.Join(dir, "ca")+" ") // a third party's plugin does not know the folder
	edited(t, dir, "    plugin: local\n", fmt.Sprintf("    plugin: %s\n    sha256: %s\n    rate: {issued: %d, per: 1s}\n", ca.program, ca.sum, rate))
	g = startIn(t, dir)
	began := time.Now()
	s, code := g.simulateFor("renew", "--data", dir, "--protocol", protocol, "--state", fleet, "--concurrency", "512", "--give-up", "24h")
	if s.Renew == nil || s.Renew.Latency == nil {
		t.Fatalf("exit %d: %+v", code, s.Renew)
	}
	s.Renew.Text(os.Stdout)
	if code != 0 || !s.Good || s.Renew.Issued != devices {
		t.Errorf("exit %d: %d of %d have renewed", code, s.Renew.Issued, devices)
	}
	times := slices.DeleteFunc(ca.times(filepath.Join(dir, "ca")), began.After) // the gateway's own certificates
	if len(times) != devices {
		t.Errorf("the CA was asked %d times for %d devices", len(times), devices)
	}
	t.Logf("the CA was asked at most %s", bounded(t, times, rate, defaultBurst(rate), lateAtCA))
	took, least := times[len(times)-1].Sub(times[0]), time.Duration(devices)*time.Second/time.Duration(rate)
	t.Logf("it took %v of %v at the rate", took.Round(time.Second/10), least)
	if protocol == "est" && took > least+least/10+10*time.Second { // CMP tells no client when to come
		t.Errorf("the CA was left idle: it took %v, of %v at the rate", took, least)
	}
	if u := s.Renew.Gateway; u == nil || !u.Flat() {
		t.Errorf("the gateway's memory: %+v", u)
	}
}

// defaultBurst is what a backend's rate has where nothing else is said.
func defaultBurst(rate int) int { return max(rate/10, 1) }
