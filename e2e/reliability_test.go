//go:build reliability

package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// readyWithin is how long a gateway that was killed may take until /readyz says that it is back, its plugin included.
const readyWithin = 2 * time.Second

// death says after how many enrollments which process dies.
type death struct {
	after   int
	gateway bool
}

// TestReliabilityKills kills the CA's process and the gateway, MUSTER_KILLS times each, while MUSTER_ENROLLMENTS devices enrol: one
// in four over EST, one over SCEP with a one-time challenge, two over CMP; each sends the same message until it has its answer. One
// in twenty is held, and approved; one in twenty is revoked. Then ledger, gateway, audit trail and all that clients were told have to agree.
func TestReliabilityKills(t *testing.T) {
	kills, total := setting(t, "MUSTER_KILLS", scaled(1, 100)), setting(t, "MUSTER_ENROLLMENTS", scaled(100, 10000))
	seed := uint64(setting(t, "MUSTER_SEED", int(time.Now().UnixNano())))
	t.Logf("MUSTER_SEED=%d: %d enrollments, %d kills of the CA's process and %d of the gateway", seed, total, kills, kills)
	random := rand.New(rand.NewPCG(seed, 0))

	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	g.stop()
	configureReliable(t, g.dir)
	g.keepAddresses()
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	c := g.crowd(8)
	rest := c.approve()

	var due []death
	for i, n := range random.Perm(total)[:2*kills] {
		due = append(due, death{after: n, gateway: i%2 == 0})
	}
	slices.SortFunc(due, func(a, b death) int { return cmp.Compare(a.after, b.after) })

	var done, retries atomic.Int64
	devices := make([]reliable, total)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				attempts := 0
				d, err := c.enrol(i, func() bool {
					attempts++
					retries.Add(1)
					time.Sleep(50 * time.Millisecond)
					return attempts < 600
				})
				if err != nil {
					t.Errorf("device %d: %v", i, err)
				}
				devices[i] = d
				done.Add(1)
			}
		})
	}
	var killed struct{ gateway, plugin int }
	var slowest time.Duration
	killer := make(chan struct{})
	go func() {
		defer close(killer)
		last := 0 // the plugin process killed last
		for _, d := range due {
			for done.Load() < int64(d.after) {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond) // not always right behind an answer
			if !d.gateway {
				last = g.killPlugin(last)
				killed.plugin++
				continue
			}
			g.kill()
			killed.gateway++
			took, err := g.relaunch()
			if err != nil {
				t.Errorf("after a kill: %v\n%s", err, g.stderr)
				return
			}
			slowest = max(slowest, took)
		}
	}()
	start := time.Now()
	for i := range total {
		next <- i
		if i%500 == 499 {
			t.Logf("%5d of %d enrolled after %s, %d retries", done.Load(), total, time.Since(start).Round(time.Second), retries.Load())
		}
	}
	close(next)
	wg.Wait()
	<-killer
	rest()
	t.Logf("%d enrolled in %s, %d retries; killed: gateway %d times, plugin %d times; ready again within %s",
		total, time.Since(start).Round(time.Second), retries.Load(), killed.gateway, killed.plugin, slowest.Round(time.Millisecond))
	if killed.gateway != kills || killed.plugin != kills {
		t.Errorf("wanted %d kills of each", kills)
	}
	if slowest > readyWithin {
		t.Errorf("after a kill the gateway was ready after %s, want %s", slowest, readyWithin)
	}
	g.settled()
	r := g.revocationsTold(devices)
	lost, twice := g.compare(r, c.heard())
	found(finding{test: "kill -9 of gateway and CA: enrollments", n: total, lost: lost, twice: twice,
		worst: fmt.Sprintf("ready after %.2f s", slowest.Seconds())})
	if t.Failed() {
		return
	}
	g.agree(r, devices)
	// The answers that were lost have left challenges that nobody has; what was spent is as many as have a certificate for it.
	spent, having := 0, 0
	for _, ch := range r.challenges {
		spent += int(ch.Used)
	}
	for i := range total {
		if i%4 == 2 {
			having++
		}
	}
	if spent != having {
		t.Errorf("%d challenges are spent, %d devices have a certificate for one", spent, having)
	}
}

// agree checks that each device has the one certificate of its one transaction, in the state that it left it in.
func (g *instance) agree(r *records, devices []reliable) {
	g.t.Helper()
	byID := map[string]reliable{}
	for _, d := range devices {
		l, s := r.ledger[d.name], slices.DeleteFunc(slices.Clone(r.store[d.name]), func(tx admin.Transaction) bool { return tx.State == "refused" })
		state := "issued"
		if d.silent {
			state = "rejected"
		}
		if len(l) != 1 || len(s) != 1 || s[0].State != state || l[0].ID != s[0].ID || !bytes.Equal(l[0].Certificate, d.cert) {
			g.t.Errorf("%s: %d in the ledger, %d in the store %+v, want one that is %s", d.name, len(l), len(s), s, state)
		} else if revoked := d.silent || d.revoked; l[0].RevokedAt.IsZero() == revoked || (s[0].Certificate.RevokedAt == nil) == revoked {
			g.t.Errorf("%s is %s, in the store revoked at %v, in the ledger at %v", d.name, state, s[0].Certificate.RevokedAt, l[0].RevokedAt)
		} else if (s[0].Hold != nil) != d.held || d.held && len(s[0].Hold.Approvals) != 1 {
			g.t.Errorf("%s was held: %+v", d.name, s[0].Hold)
		} else {
			byID[s[0].ID] = d
		}
	}
	g.stop()
	g.auditTells(byID)
	g.t.Logf("ledger, store, audit trail and clients agree on %d certificates", len(byID))
}

// revocationsTold waits until the CA has been told of all that is revoked or was never confirmed, and reads the records.
func (g *instance) revocationsTold(devices []reliable) *records {
	g.t.Helper()
	until := time.Now().Add(reliableWait + 30*time.Second)
	for {
		r := g.records()
		open := slices.ContainsFunc(devices, func(d reliable) bool {
			return (d.silent || d.revoked) && slices.ContainsFunc(r.ledger[d.name], func(e local.Entry) bool { return e.RevokedAt.IsZero() })
		})
		if !open || time.Now().After(until) {
			return r
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// keepAddresses has the instance use, from its next start on, the ports that it was given.
func (g *instance) keepAddresses() {
	g.t.Helper()
	for from, into := range map[string]*string{g.env["MUSTER_HTTP"]: &g.http, g.env["MUSTER_HTTPS"]: &g.https} {
		parsed, err := url.Parse(from)
		if err != nil {
			g.t.Fatal(err)
		}
		*into = parsed.Host
	}
}

// kill ends the gateway at once: nothing is flushed, nobody told.
func (g *instance) kill() {
	g.cmd.Process.Kill() //nolint:errcheck // it may have ended by itself
	<-g.exited
}

// killPlugin kills the CA's process and returns its ID: not the one that was killed before and is not reaped yet, nor one that is
// only about to be started.
func (g *instance) killPlugin(last int) int {
	for {
		if pid := g.plugin(); pid != 0 && pid != last && syscall.Kill(pid, syscall.SIGKILL) == nil {
			return pid
		}
		time.Sleep(time.Millisecond)
	}
}

// relaunch starts the gateway again at its addresses, and says how long it took until /readyz answered 200.
func (g *instance) relaunch(extra ...string) (time.Duration, error) {
	begun := time.Now()
	g.launch(extra...)
	for time.Since(begun) < 30*time.Second {
		if res, err := http.Get("http://" + g.http + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return time.Since(begun), nil
			}
		}
		select {
		case <-g.exited:
			return 0, fmt.Errorf("the gateway ended: %s", g.cmd.ProcessState)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return 0, fmt.Errorf("the gateway was not ready in time")
}
