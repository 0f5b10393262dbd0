//go:build reliability

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// Of the devices of a run, some are held first, and some are revoked when they have their certificate.
func isHeld(i int) bool    { return i%20 == 4 || i%20 == 7 || i%20 == 14 }
func isRevoked(i int) bool { return i%20 == 2 || i%20 == 9 || i%20 == 14 }

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

// operators approve whatever is held, two at once, until the function that is returned is called. A gateway that is down is
// asked again.
func (g *instance) operators() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
				}
				out, code := g.run(g.dir, binary, "ls", "--json", "--limit", "1000", "--state", "held", "--data", g.dir)
				var rows []admin.Transaction
				if code != 0 || json.Unmarshal([]byte(out), &rows) != nil {
					continue
				}
				for _, tx := range rows {
					g.run(g.dir, binary, "approve", tx.ID, "--reason", "it is on the list", "--data", g.dir)
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

// revoke has a certificate revoked, however often it takes. What a gateway that dies did not answer may have been done.
func (g *instance) revoke(serial string, retry func() bool) error {
	for {
		out, code := g.run(g.dir, binary, "revoke", serial, "--reason", "cessationOfOperation", "--data", g.dir)
		if code == 0 {
			return nil
		}
		if !retry() {
			return fmt.Errorf("not revoked: %s", out)
		}
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
		if !maps.Equal(told[id], want) {
			g.t.Errorf("%s: the audit trail tells of %v, want %v", d.name, told[id], want)
		}
	}
}
