//go:build reliability

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Of the devices of a run, some are held first, and some are revoked when they have their certificate.
func isHeld(i int) bool    { return i%60 == 4 || i%60 == 7 || i%60 == 44 }
func isRevoked(i int) bool { return i%60 == 2 || i%60 == 9 || i%60 == 44 }

// withHeld adds to the quickstart's configuration an EST and a CMP endpoint that hold what the first two of it allow.
func withHeld(t *testing.T, config string) string {
	t.Helper()
	for _, name := range []string{"devices", "cmp"} {
		begin := strings.Index(config, "\n  "+name+":")
		if begin < 0 {
			t.Fatalf("the quickstart's configuration has no endpoint %s", name)
		}
		begin++
		end := begin + strings.Index(config[begin:], "\n\n") + 1
		block := strings.Replace(config[begin:end], "  "+name+":", "  held-"+name+":", 1)
		var lines []string
		for _, line := range strings.Split(block, "\n") {
			if strings.Contains(line, "default: true") {
				continue
			}
			if strings.HasPrefix(line, "    renew:") {
				lines = append(lines, "      - approval: {approvers: 1}")
			}
			lines = append(lines, line)
		}
		held := strings.Join(lines, "\n")
		if !strings.Contains(held, "approval") {
			t.Fatalf("nothing to hold in\n%s", block)
		}
		config = config[:end] + "\n" + held + config[end:]
	}
	return config
}

// reliableWait is for how long a certificate waits for its certConf: longer than a gateway takes to come back.
const reliableWait = 30 * time.Second

// configureReliable gives a data directory that a first start has filled the endpoints that hold, one with one-time challenges,
// and a short time to confirm.
func configureReliable(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, "muster.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	short := strings.Replace(string(text), "protocol: cmp\n", "protocol: cmp\n    cmp: {confirm-wait: "+reliableWait.String()+"}\n", 1)
	if short == string(text) {
		t.Fatal("the quickstart's configuration has no cmp endpoint")
	}
	if err := os.WriteFile(file, []byte(withHeld(t, short)+oneTime), 0o600); err != nil {
		t.Fatal(err)
	}
}

// auditTells checks the audit trail of a gateway that has ended, and that it tells of every device what was done with it, each once.
func (g *instance) auditTells(of map[string]reliable) {
	g.t.Helper()
	told := g.auditTrail()
	for id, d := range of {
		want := map[string]int{"issued": 1}
		if d.held {
			want["held"], want["approved"] = 1, 1
		}
		if d.silent {
			want["unconfirmed"], want["revoked"] = 1, 1
		} else if d.cmp {
			want["confirmed"] = 1
		}
		if d.revoked {
			want["revocation-ordered"], want["revoked"] = 1, 1
		}
		if d.cmp && told[id]["resumed"] == 1 { // it began anew, as some do
			want["resumed"] = 1
		}
		if !maps.Equal(told[id], want) {
			g.t.Errorf("%s: the audit trail tells of %v, want %v", d.name, told[id], want)
		}
	}
}
