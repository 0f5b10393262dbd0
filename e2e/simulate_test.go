package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/cmd/muster/simulate"
)

// simulated is what `muster simulate --json` prints.
type simulated struct {
	Enroll, Renew, Revoke *simulate.Report
	Good                  bool
}

// simulate runs `muster simulate` against this gateway.
func (g *instance) simulate(args ...string) (s simulated, code int) {
	g.t.Helper()
	out, code := g.run(g.dir, "sh", append([]string{"-c", `exec "$@" 2>simulate.err`, "sh", binary, "simulate"}, append(args, "--json")...)...)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		said, _ := os.ReadFile(filepath.Join(g.dir, "simulate.err"))
		g.t.Fatalf("muster simulate %s: %v, exit %d\n%s%s", strings.Join(args, " "), err, code, out, said)
	}
	return s, code
}

// Devices enrol and renew over each protocol, with nothing said but the gateway's data directory, and each gets both certificates.
func TestSimulate(t *testing.T) {
	t.Parallel()
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	for _, protocol := range []string{"est", "cmp", "scep"} {
		t.Run(protocol, func(t *testing.T) {
			prefix := "storm-" + protocol + "-"
			s, code := g.simulate("storm", "--data", g.dir, "--protocol", protocol, "--devices", "50", "--subject", "CN="+prefix+"{{n}}")
			if code != 0 || !s.Good || s.Enroll.Issued != 50 || s.Renew.Issued != 50 || s.Renew.Failed != 0 {
				t.Fatalf("exit %d: %+v %+v", code, s.Enroll, s.Renew)
			}
			if u := s.Renew.Gateway; u == nil || u.PID != g.cmd.Process.Pid || u.Most < 10<<20 || u.Plugins < 5<<20 {
				t.Errorf("the gateway's memory: %+v", u)
			}
			serials := map[string]bool{}
			for _, c := range listing[struct{ Subject, Serial string }](g, "certificates") {
				if strings.Contains(c.Subject, prefix) {
					serials[c.Serial] = true
				}
			}
			if len(serials) != 100 {
				t.Errorf("%d certificates of 50 devices that enrolled and renewed", len(serials))
			}
		})
	}
}

// What is kept between two commands renews; another fleet in the same directory is not overwritten.
func TestSimulateKeepsDevices(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	fleet := filepath.Join(t.TempDir(), "fleet")
	s, code := g.simulate("enroll", "--data", g.dir, "--devices", "5", "--keys", "RSA-2048", "--state", fleet)
	if code != 0 || s.Enroll.Issued != 5 || s.Renew != nil {
		t.Fatalf("exit %d: %+v", code, s.Enroll)
	}
	for range 2 {
		if s, code = g.simulate("renew", "--data", g.dir, "--state", fleet); code != 0 || s.Enroll != nil || s.Renew.Issued != 5 || s.Renew.Keys != "RSA-2048" {
			t.Fatalf("exit %d: %+v", code, s.Renew)
		}
	}
	if out, code := g.run(g.dir, binary, "simulate", "storm", "--data", g.dir, "--devices", "6", "--state", fleet); code != 1 || !strings.Contains(out, "has 5 devices") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// Devices that enrolled over CMP, so many a second, revoke their certificates over connections that stay open; then they have none.
func TestSimulateRevokes(t *testing.T) {
	t.Parallel()
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	fleet := filepath.Join(t.TempDir(), "fleet")
	of := []string{"--data", g.dir, "--protocol", "cmp", "--state", fleet, "--keep-connections"}
	s, code := g.simulate(append([]string{"enroll", "--devices", "6", "--rate", "60", "--subject", "CN=revoked-{{n}}"}, of...)...)
	if code != 0 || s.Enroll.Issued != 6 || len(s.Enroll.Histogram) == 0 {
		t.Fatalf("exit %d: %+v", code, s.Enroll)
	}
	if s, code = g.simulate(append([]string{"revoke"}, of...)...); code != 0 || s.Enroll != nil || s.Renew != nil || s.Revoke.Issued != 6 {
		t.Fatalf("exit %d: %+v", code, s.Revoke)
	}
	for n := range 6 {
		if entries := g.ledger(fmt.Sprintf("revoked-%06d", n+1)); len(entries) != 1 || entries[0].RevokedAt.IsZero() {
			t.Errorf("device %d: %+v", n+1, entries)
		}
	}
	if s, code = g.simulate(append([]string{"revoke"}, of...)...); code != 1 || s.Revoke.Failed != 6 {
		t.Errorf("exit %d: %+v", code, s.Revoke)
	}
}

// A wrong password: exit code 1, and the report says why, and tries no more than a few.
func TestSimulateWrongPassword(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := g.run(g.dir, binary, "simulate", "storm", "--data", g.dir, "--devices", "500", "--concurrency", "4", "--user", g.env["MUSTER_EST_USER"], "--password-file", password)
	for _, want := range []string{"Enrolled    0 of 500 devices", "HTTP 401: user name or password is wrong", "every device before was refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != 1 || strings.Contains(out, "Renewed") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
