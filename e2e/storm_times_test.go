package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// timedCA is a built e2e/timedca.
type timedCA struct {
	t       testing.TB
	program string
	sum     string
}

func buildTimedCA(t testing.TB) *timedCA {
	t.Helper()
	c := &timedCA{t: t, program: filepath.Join(t.TempDir(), "timedca")}
	c.sum = buildPlugin(t, "timedca", c.program)
	return c
}

// times are when the CA with the folder was asked to issue, in order.
func (c *timedCA) times(dir string) (all []time.Time) {
	c.t.Helper()
	text, err := os.ReadFile(dir + ".times")
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, time.Unix(0, n))
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

// bounded is the rate, at the CA, in every window of so many seconds: a burst, and as many as the rate gives in it and in late, which
// is by how much an order may be late on its way to the CA. It returns what the worst had of each.
func bounded(t testing.TB, times []time.Time, rate, burst int, late time.Duration) string {
	t.Helper()
	var said strings.Builder
	for _, window := range []time.Duration{0, 100 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 30 * time.Second, time.Hour} {
		worst, first := 0, 0
		for i := range times {
			for times[i].Sub(times[first]) > window {
				first++
			}
			worst = max(worst, i-first+1)
		}
		fmt.Fprintf(&said, "%d in %v, ", worst, window)
		span := min(window, times[len(times)-1].Sub(times[0])) + late
		if most := float64(burst) + span.Seconds()*float64(rate); float64(worst) > most {
			t.Errorf("the CA was asked %d times within %v: at most %.0f are %d per second and a burst of %d", worst, window, most, rate, burst)
		}
	}
	return strings.TrimSuffix(said.String(), ", ")
}

// TestPaceAtTheCA: 160 devices at once, and what the CA saw of them: the rate in each window, and all of them.
func TestPaceAtTheCA(t *testing.T) {
	t.Parallel()
	ca, dir := buildTimedCA(t), filepath.Join(t.TempDir(), "ca")
	plugin := fmt.Sprintf("plugin: %s, sha256: %s, rate: {issued: 40, per: 1s, burst: 4}, config: {dir: %s}}", ca.program, ca.sum, dir)
	g := configured(t, strings.Replace(onLocalCA, "plugin: local, config: {dir: ca}}", plugin, 1)+fmt.Sprintf(pacedEndpoints, sha256Hex(pacedSecret)), "factory.secret", pacedSecret)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(pacedSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s, code := g.simulate("enroll", "--url", g.env["MUSTER_HTTPS"]+"/.well-known/est", "--ca", filepath.Join(dir, "roots.pem"), "--user", "factory",
		"--password-file", password, "--devices", "160", "--concurrency", "160")
	if code != 0 || s.Enroll.Issued != 160 {
		t.Fatalf("exit %d: %+v", code, s.Enroll)
	}
	times := slices.DeleteFunc(ca.times(dir), began.After) // the gateway's own certificates
	if len(times) != 160 {
		t.Errorf("the CA was asked %d times", len(times))
	}
	t.Log(bounded(t, times, 40, 4, time.Second/2))
	if took := times[len(times)-1].Sub(times[0]); took < 3400*time.Millisecond {
		t.Errorf("all within %v", took)
	}
}
