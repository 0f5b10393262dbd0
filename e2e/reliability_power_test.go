//go:build reliability

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pids are those of the gateway and its CA's process, as long as they run.
func (g *instance) pids() []string {
	all := []string{strconv.Itoa(g.cmd.Process.Pid)}
	if pid := g.plugin(); pid != 0 {
		all = append(all, strconv.Itoa(pid))
	}
	return all
}

// wish is an EST device's request, and the certificate that it was given; nil while it was not.
type wish struct {
	d    *device
	name string
	cert []byte
}

// wishes are those of devices whose answers get lost in the cut.
type wishes struct {
	mu  sync.Mutex
	all []*wish
}

// newest copies the last ones, some of which are answered and some not.
func (w *wishes) newest(n int) (some []wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.all[max(0, len(w.all)-n):] {
		some = append(some, *one)
	}
	return some
}

// TestReliabilityPowerCut cuts the power under load: copies of the disk are taken as they would be found, and started from. All that a client
// was told before the cut is there, nothing is there twice, and who asks again gets the certificate that was made.
func TestReliabilityPowerCut(t *testing.T) {
	cuts := setting(t, "MUSTER_CUTS", scaled(2, 20))
	seed := uint64(setting(t, "MUSTER_SEED", int(time.Now().UnixNano())))
	t.Logf("MUSTER_SEED=%d: %d cuts", seed, cuts)
	random := rand.New(rand.NewPCG(seed, 0))

	d := newDisk(t, "192")
	g := startIn(t, filepath.Join(d.dir, "data"))
	g.stop()
	configureReliable(t, g.dir)
	g.keepAddresses()
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	c, lost := g.crowd(4), &wishes{}
	rest := c.approve()
	var over, looking atomic.Bool
	pause := func() { // between two devices, while what a cut left is looked at
		for looking.Load() && !over.Load() {
			time.Sleep(5 * time.Millisecond)
		}
	}
	var next atomic.Int64
	retry := func() bool { time.Sleep(20 * time.Millisecond); return !over.Load() }
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ; !over.Load(); pause() {
				if _, err := c.enrol(int(next.Add(1)), retry); err != nil && !over.Load() {
					t.Errorf("a device: %v", err)
					return
				}
			}
		})
	}
	for k := range 2 {
		wg.Go(func() {
			for i := 0; !over.Load(); i++ {
				pause()
				w := &wish{name: fmt.Sprintf("reliable-lost-%d-%d", k, i)}
				w.d = newDevice(t, w.name)
				lost.mu.Lock()
				lost.all = append(lost.all, w)
				lost.mu.Unlock()
				if a, err := c.g.enroll(t.Context(), c.http, w.d); err == nil && a.cert != nil {
					c.given(w.name, a.cert.Raw)
					lost.mu.Lock()
					w.cert = a.cert.Raw
					lost.mu.Unlock()
				}
			}
		})
	}
	told, gone, twice := 0, 0, 0
	var slowest time.Duration
	for i := range cuts {
		time.Sleep(time.Duration(500+random.IntN(1000)) * time.Millisecond)
		var heard []promise
		var asked []wish
		copied := d.cut(func() []string { heard, asked = c.heard(), lost.newest(8); return g.pids() })
		told += len(heard)
		begun := time.Now()
		looking.Store(true)
		l, tw, took := powerUp(t, copied, heard, asked)
		t.Logf("cut %d: %d promises, ready after %s, checked in %s", i, len(heard), took.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
		looking.Store(false)
		gone, twice, slowest = gone+l, twice+tw, max(slowest, took)
		if t.Failed() {
			break
		}
	}
	over.Store(true)
	wg.Wait()
	rest()
	t.Logf("%d cuts: %d promises held against what they left; ready again within %s", cuts, told, slowest.Round(time.Millisecond))
	found(finding{test: "power cuts under load", n: cuts, lost: gone, twice: twice, worst: fmt.Sprintf("ready after %.2f s", slowest.Seconds())})
}

// spareAddress is one at which nobody listens now.
func spareAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// powerUp starts a gateway on what a cut left, and holds that against what clients were told before.
func powerUp(t *testing.T, d *disk, heard []promise, asked []wish) (lost, twice int, took time.Duration) {
	t.Helper()
	d.mount()
	g := &instance{t: t, dir: filepath.Join(d.dir, "data"), http: spareAddress(t), https: "127.0.0.1:0"}
	t.Cleanup(func() { g.stop() })
	took, err := g.relaunch()
	if err == nil {
		err = g.ready()
	}
	if err != nil {
		t.Fatalf("after a cut: %v\n%s", err, g.stderr)
	}
	g.settled()
	client := g.client(nil)
	for _, w := range asked { // their answers were lost in the cut
		a, err := g.enroll(t.Context(), client, w.d)
		if err != nil || a.status != http.StatusOK || w.cert != nil && !bytes.Equal(w.cert, a.cert.Raw) {
			t.Errorf("%s asks again: %v %v, the certificate that it had: %t", w.name, a, err, w.cert != nil)
		} else {
			heard = append(heard, promise{what: toldCertificate, name: w.name, cert: a.cert.Raw})
		}
	}
	lost, twice = g.compare(g.records(), heard)
	g.stop()
	g.auditTrail() // verifies it
	d.unmount()
	d.check()
	return lost, twice, took
}

// TestReliabilityPowerCutFirstStart cuts the power in the first moments of a first start: what is left is either nothing, from which the next
// start is a first one, or enough for a gateway that devices can use.
func TestReliabilityPowerCutFirstStart(t *testing.T) {
	const each = 4
	starts := max(setting(t, "MUSTER_CUTS", scaled(2, 20))/10, 1)
	var slowest time.Duration
	for s := range starts {
		d := newDisk(t, "64")
		g := launch(t, filepath.Join(d.dir, "data"))
		var left []*disk
		for i := range each {
			time.Sleep(time.Duration(20+60*i+15*s) * time.Millisecond)
			left = append(left, d.cut(g.pids))
		}
		g.stop()
		d.unmount()
		for i, c := range left {
			c.mount()
			// Twice: what the first of them made has to last.
			for range 2 {
				again := &instance{t: t, dir: filepath.Join(c.dir, "data"), http: spareAddress(t), https: "127.0.0.1:0"}
				t.Cleanup(func() { again.stop() })
				took, err := again.relaunch()
				if err == nil {
					err = again.ready()
				}
				if err != nil {
					t.Fatalf("start %d, cut %d: %v\n%s", s, i, err, again.stderr)
				}
				slowest = max(slowest, took)
				dev := again.cmpDevice(fmt.Sprintf("reliable-%d", s))
				if err := dev.enroll(); err != nil {
					t.Errorf("start %d, cut %d: over CMP: %v", s, i, err)
				}
				again.mustEnroll(newDevice(t, fmt.Sprintf("reliable-est-%d", s)))
				if _, err := again.scepRA(); err != nil {
					t.Errorf("start %d, cut %d: SCEP: %v", s, i, err)
				}
				again.stop()
			}
			c.unmount()
			c.check()
		}
	}
	found(finding{test: "power cuts in a first start", n: starts * each, worst: fmt.Sprintf("ready after %.2f s", slowest.Seconds())})
}
