//go:build reliability

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway/admin"
)

func setting(t *testing.T, name string, def int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestReliability kills the CA's process and the gateway, KILLS times each, while devices enrol; each device sends the same
// request until it has its certificate. Then ledger, gateway and devices have to agree.
func TestReliability(t *testing.T) {
	kills, total := setting(t, "MUSTER_KILLS", 50), setting(t, "MUSTER_ENROLLMENTS", 2000)
	seed := uint64(setting(t, "MUSTER_SEED", int(time.Now().UnixNano())))
	t.Logf("MUSTER_SEED=%d: %d enrollments, %d kills of the CA's process and %d of the gateway", seed, total, kills, kills)
	random := rand.New(rand.NewPCG(seed, 0))

	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	g.stop()
	for _, u := range []struct {
		url  string
		into *string
	}{{g.env["MUSTER_HTTP"], &g.http}, {g.env["MUSTER_HTTPS"], &g.https}} { // the same ports from now on
		parsed, err := url.Parse(u.url)
		if err != nil {
			t.Fatal(err)
		}
		*u.into = parsed.Host
	}
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatal(err)
	}

	// After how many enrollments which process dies.
	type death struct {
		after   int
		gateway bool
	}
	var due []death
	for i, n := range random.Perm(total)[:2*kills] {
		due = append(due, death{after: n, gateway: i%2 == 0})
	}
	slices.SortFunc(due, func(a, b death) int { return a.after - b.after })

	var done, retries atomic.Int64
	type got struct {
		name string
		cert []byte
	}
	certs := make([]got, total)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			client := g.client(nil)
			for i := range next {
				d := newDevice(t, fmt.Sprintf("reliable-%d", i))
				for attempt := 0; ; attempt++ {
					a, err := g.enroll(t.Context(), client, d)
					if err == nil && a.status == http.StatusOK {
						certs[i] = got{fmt.Sprintf("reliable-%d", i), a.cert.Raw}
						break
					}
					if err == nil && a.status != http.StatusAccepted && a.status != http.StatusServiceUnavailable {
						t.Errorf("device %d: %d %s", i, a.status, a.body)
						break
					}
					if attempt == 600 {
						t.Errorf("device %d has no certificate after %d attempts: %v %v", i, attempt, a, err)
						break
					}
					retries.Add(1)
					time.Sleep(50 * time.Millisecond)
				}
				done.Add(1)
			}
		})
	}
	var killed struct{ gateway, plugin int }
	last := 0 // the plugin process killed last
	killer := make(chan struct{})
	go func() {
		defer close(killer)
		for _, d := range due {
			for done.Load() < int64(d.after) {
				time.Sleep(time.Millisecond)
			}
			if !d.gateway {
				// Not the one that was killed before and is not reaped yet, nor one that is only about to be started.
				pid := g.plugin()
				for pid == 0 || pid == last || syscall.Kill(pid, syscall.SIGKILL) != nil {
					time.Sleep(time.Millisecond)
					pid = g.plugin()
				}
				last = pid
				killed.plugin++
				continue
			}
			g.kill()
			killed.gateway++
			g.launch()
			if err := g.ready(); err != nil {
				t.Errorf("after a kill: %v\n%s", err, g.stderr)
				return
			}
		}
	}()
	start := time.Now()
	for i := range total {
		next <- i
		if i%200 == 199 {
			t.Logf("%5d of %d enrolled after %s, %d retries", done.Load(), total, time.Since(start).Round(time.Second), retries.Load())
		}
	}
	close(next)
	wg.Wait()
	<-killer
	if t.Failed() {
		t.FailNow()
	}
	g.settled()
	t.Logf("%d enrolled in %s, %d retries; killed: gateway %d times, plugin %d times",
		total, time.Since(start).Round(time.Second), retries.Load(), killed.gateway, killed.plugin)
	if killed.gateway != kills || killed.plugin != kills {
		t.Errorf("wanted %d kills of each", kills)
	}

	ledger, err := local.ReadLedger(t.Context(), filepath.Join(g.dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	inLedger := map[string][]local.Entry{}
	for _, e := range ledger {
		inLedger[commonName(e.Subject)] = append(inLedger[commonName(e.Subject)], e)
	}
	inStore := map[string][]admin.Transaction{}
	for _, tr := range listing[admin.Transaction](g, "--limit", "1000000") {
		inStore[commonName(tr.Subject)] = append(inStore[commonName(tr.Subject)], tr)
	}
	for _, c := range certs {
		l, s := inLedger[c.name], inStore[c.name]
		if len(l) != 1 || len(s) != 1 || s[0].State != "issued" || l[0].ID != s[0].ID || !bytes.Equal(l[0].Certificate, c.cert) {
			t.Errorf("%s: %d in the ledger, %d in the store %v", c.name, len(l), len(s), s)
		}
	}
	t.Logf("ledger, store and clients agree on %d certificates", len(certs))
}

func commonName(subject string) string {
	_, cn, _ := strings.Cut(subject, "CN=")
	cn, _, _ = strings.Cut(cn, ",")
	return cn
}

// kill ends the gateway as a power cut would.
func (g *instance) kill() {
	g.cmd.Process.Kill() //nolint:errcheck // it may have ended by itself
	<-g.exited
}
