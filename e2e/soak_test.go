//go:build reliability

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// usage is what a gateway takes at one time.
type usage struct {
	rss, goroutines, descriptors, series, store int // KiB, -, -, -, KiB
	plugin                                      int // KiB
}

// usage reads it, from the system and from /metrics.
func (g *instance) usage(t *testing.T) (u usage) {
	t.Helper()
	u.rss, u.descriptors = rss(t, g, "VmRSS"), g.descriptors(t)
	if statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", g.plugin())); err == nil {
		if f := strings.Fields(string(statm)); len(f) > 1 {
			n, _ := strconv.Atoi(f[1])
			u.plugin = n * os.Getpagesize() >> 10
		}
	}
	for _, file := range []string{"muster.db", "muster.db-wal"} {
		if info, err := os.Stat(filepath.Join(g.dir, file)); err == nil {
			u.store += int(info.Size() >> 10)
		}
	}
	res, err := http.Get(g.env["MUSTER_HTTP"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		u.series++
		if n, ok := strings.CutPrefix(s.Text(), "go_goroutines "); ok {
			u.goroutines, _ = strconv.Atoi(n)
		}
	}
	return u
}

// TestSoak runs mixed load for MUSTER_MINUTES: enrollments over all protocols, on connections that are kept and on new ones, renewals, clients
// with wrong passwords, hostile requests, operators, reloads. After a warm-up of a fifth of it memory, goroutines, descriptors and metric
// series stay as they are: the last third of the samples is held against the first one.
func TestSoak(t *testing.T) {
	minutes := setting(t, "MUSTER_MINUTES", 30)
	dir := filepath.Join(t.TempDir(), "data")
	startIn(t, dir).stop()
	configureReliable(t, dir)
	g := startIn(t, dir)
	over := make(chan struct{})
	ended := func() bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	}
	var load sync.WaitGroup
	var enrolled, renewed, refused, hostile, operated, reloads atomic.Int64
	each := func(pause time.Duration, do func(n int) error) {
		load.Go(func() {
			for n := 0; !ended(); n++ {
				if err := do(n); err != nil && !ended() {
					t.Error(err)
				}
				time.Sleep(pause)
			}
		})
	}
	for i := range 6 {
		enroll := g.exactEnroll(i%3, i < 3)
		each(20*time.Millisecond, func(n int) error {
			err := enroll(fmt.Sprintf("soak-%d-%d", i, n), func() bool { return false })
			if errors.Is(err, errNotSent) {
				return nil // idle clients' places are given away: it connects again
			}
			if err == nil {
				enrolled.Add(1)
			}
			return err
		})
	}
	begun := &instance{t: t, dir: g.dir, env: g.env}
	d := newDevice(t, "soak-renews")
	begun.mustEnroll(d)
	each(50*time.Millisecond, func(int) error {
		c := begun.client(d)
		defer c.CloseIdleConnections()
		a, err := begun.post(t.Context(), c, "simplereenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
		if err != nil || a.status != http.StatusOK {
			return fmt.Errorf("renewing: %+v %w", a, err)
		}
		renewed.Add(1)
		return nil
	})
	wrong := begun.client(nil)
	each(100*time.Millisecond, func(n int) error {
		a, err := begun.post(t.Context(), wrong, "simpleenroll", fmt.Sprintf("nobody-%d", n), "wrong", "application/pkcs10", []byte(toBase64(d.csr)))
		if err != nil || a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
			return fmt.Errorf("a wrong password: %+v %w", a, err)
		}
		refused.Add(1)
		return nil
	})
	all := hostiles(t, begun)
	send := map[bool]*stranger{false: {g: begun}, true: {g: begun, tls: true}}
	each(20*time.Millisecond, func(n int) error {
		h := all[n%len(all)]
		if _, err := send[h.tls].sendAll(h.method, h.wire(), max(1, h.answers)); err != nil {
			return fmt.Errorf("%s: no answer: %w", h.name, err)
		}
		hostile.Add(1)
		return nil
	})
	client := begun.admin()
	each(200*time.Millisecond, func(n int) error {
		page, err := client.Transactions(t.Context(), admin.TransactionQuery{Limit: 200})
		if err == nil {
			_, err = client.NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "one-time", NotAfter: new(time.Now().Add(time.Minute))})
		}
		if err == nil && len(page.Transactions) > 0 && page.Transactions[0].Certificate != nil {
			if _, err := client.Revoke(t.Context(), admin.RevokeQuery{Serial: page.Transactions[0].Certificate.Serial}, "superseded", ""); err == nil {
				operated.Add(1)
			}
		}
		operated.Add(2)
		return err
	})
	each(15*time.Second, func(int) error {
		begun.muster("reload")
		reloads.Add(1)
		return nil
	})

	var samples []usage
	for i := range minutes * 6 {
		time.Sleep(10 * time.Second)
		u := g.usage(t)
		samples = append(samples, u)
		fmt.Printf("%4d s: %d enrolled, %d renewed, %d refused, %d hostile, %d by operators, %d reloads; %d MiB and CA %d MiB, %d goroutines, %d descriptors, %d series, store %d MiB\n",
			10*(i+1), enrolled.Load(), renewed.Load(), refused.Load(), hostile.Load(), operated.Load(), reloads.Load(),
			u.rss>>10, u.plugin>>10, u.goroutines, u.descriptors, u.series, u.store>>10)
		if t.Failed() {
			break
		}
	}
	close(over)
	load.Wait()
	for line := range strings.Lines(g.stderr.String()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
			t.Error(line)
		}
	}
	samples = samples[len(samples)/5:]
	third := len(samples) / 3
	if third == 0 {
		t.Fatalf("%d samples are too few", len(samples))
	}
	for _, what := range []struct {
		name    string
		of      func(usage) int
		percent int // more in the last third, and
		beyond  int // that much
	}{
		{"KiB of the gateway", func(u usage) int { return u.rss }, 10, 8 << 10},
		{"KiB of the CA", func(u usage) int { return u.plugin }, 10, 8 << 10},
		{"goroutines", func(u usage) int { return u.goroutines }, 10, 10},
		{"descriptors", func(u usage) int { return u.descriptors }, 10, 10},
		{"series", func(u usage) int { return u.series }, 0, 5},
	} {
		first, last := median(samples[:third], what.of), median(samples[len(samples)-third:], what.of)
		t.Logf("%s: %d in the first third, %d in the last", what.name, first, last)
		if last > first+first*what.percent/100+what.beyond {
			t.Errorf("%s: %d in the first third, %d in the last", what.name, first, last)
		}
	}
	g.stop()
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	found(finding{test: fmt.Sprintf("mixed load for %d minutes: requests", minutes),
		n:     int(enrolled.Load() + renewed.Load() + refused.Load() + hostile.Load() + operated.Load()),
		worst: fmt.Sprintf("%d MiB, %d descriptors", slices.MaxFunc(samples, func(a, b usage) int { return a.rss - b.rss }).rss>>10, samples[len(samples)-1].descriptors)})
}

func median(of []usage, figure func(usage) int) int {
	var all []int
	for _, u := range of {
		all = append(all, figure(u))
	}
	slices.Sort(all)
	return all[len(all)/2]
}
