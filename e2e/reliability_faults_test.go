package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// wronged is one request, and what its client got.
type wronged struct {
	name, fault string
	client      insistent
	cert        *x509.Certificate // nil: it was told to come back
	err         error
}

// listed are the transactions in a state, by common name.
func (g *faulty) listed(states string) map[string][]admin.Transaction {
	g.t.Helper()
	by := map[string][]admin.Transaction{}
	for _, tr := range listing[admin.Transaction](g.instance, "--state", states, "--limit", "1000000") {
		_, name, _ := strings.Cut(tr.Subject, "CN=")
		name, _, _ = strings.Cut(name, ",")
		by[name] = append(by[name], tr)
	}
	return by
}

// storm has n clients meet a fault, so many at once and of all protocols, and returns them as they stand.
func (g *faulty) storm(fault string, n, atOnce int) []*wronged {
	g.t.Helper()
	all := make([]*wronged, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				w := &wronged{fault: fault, name: fmt.Sprintf("%s-%s-%d", fault, []string{"est", "cmp", "scep"}[i%3], i)}
				w.client = g.clients.make(i, w.name)
				w.cert, w.err = fiveTimes(g.t.Context(), w.client, i/3)
				all[i] = w
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	wg.Wait()
	return all
}

// ends has every client that was told to come back go on as its protocol says until it has its certificate, and all confirm.
func (g *faulty) ends(all []*wronged, within time.Duration) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), within)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, w := range all {
		wg.Go(func() {
			for w.err == nil {
				slots <- struct{}{}
				if w.cert == nil || w.isCMP() { // which asks once more, since what it took last may have been said before
					w.cert, w.err = w.client.goOn(ctx)
				}
				if w.err == nil && w.cert != nil {
					w.err = w.client.took(ctx)
					<-slots
					return
				}
				<-slots
				select {
				case <-ctx.Done():
					w.err = fmt.Errorf("no certificate in time")
				case <-time.After(300 * time.Millisecond):
				}
			}
		})
	}
	wg.Wait()
}

func (w *wronged) isCMP() bool { _, ok := w.client.(*cmpInsists); return ok }

// agree checks that each request has one certificate in the ledger, in the store and with its client, and counts what is not so.
func (g *faulty) agree(all []*wronged) (lost, twice int) {
	g.t.Helper()
	ledger, store := g.signed(), g.listed("issued")
	for _, w := range all {
		l, s := ledger[w.name], store[w.name]
		if len(l) > 1 || len(s) > 1 {
			twice++
		}
		if w.err != nil || w.cert == nil || len(l) == 0 || len(s) == 0 {
			lost++
		}
		if w.err != nil || w.cert == nil || len(l) != 1 || len(s) != 1 || !bytes.Equal(l[0], w.cert.Raw) {
			g.t.Errorf("%s: %v; %d in the ledger, %d issued in the store", w.name, w.err, len(l), len(s))
		}
	}
	return lost, twice
}

// honest has one device after another enrol over EST until the function that is returned is called, which tells how long each took.
func (g *faulty) honest() (stop func() []time.Duration) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	var took []time.Duration
	c := g.client(nil)
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			client, start := &estInsists{g: g.instance, http: c, d: newDevice(g.t, fmt.Sprintf("ok-est-%d", i)), lost: &g.clients.lost}, time.Now()
			for {
				cert, err := client.send(g.t.Context())
				if err != nil {
					g.t.Errorf("an honest device: %v", err)
					return
				}
				if cert != nil || time.Since(start) > 10*time.Second {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			took = append(took, time.Since(start))
		}
	})
	return func() []time.Duration {
		close(done)
		wg.Wait()
		slices.Sort(took)
		return took
	}
}

// TestReliabilityFaults has a CA answer late, drop its answers, sign and die, and say that it failed when it did not, while clients of
// all three protocols send the same bytes five times. Its Lookup is held back until all have been sent, so that what is not known is
// seen to be listed.
func TestReliabilityFaults(t *testing.T) {
	if !long {
		t.Parallel()
	}
	plugin := buildFaulty(t)
	for _, c := range []struct {
		idempotency string
		n           int
		withheld    []string // whose clients cannot have an answer: a CA that may be asked again is, after a death
	}{
		{"native", scaled(8, 1000), []string{"late", "slow", "drop", "fail"}},
		{"lookup", scaled(4, 200), []string{"late", "slow", "drop", "fail", "die", "cut"}},
	} {
		t.Run(c.idempotency, func(t *testing.T) {
			if !long {
				t.Parallel()
			}
			g := startFaulty(t, plugin, c.idempotency)
			goroutines, memory := g.gauge("go_goroutines"), g.gauge("process_resident_memory_bytes")/1e6
			var all []*wronged
			var worst time.Duration
			// Each fault by itself: a death takes whatever is in flight with it.
			for _, wave := range []struct {
				fault string
				n     int
			}{{"late", c.n}, {"drop", c.n}, {"fail", c.n}, {"die", c.n}, {"slow", scaled(3, 60)}, {"within", scaled(3, 60)}, {"cut", scaled(3, 60)}} {
				g.hold()
				these := g.wave(wave.fault, wave.n)
				open := g.listed("unknown")
				for _, w := range these {
					n, withheld := len(open[w.name]), slices.Contains(c.withheld, w.fault)
					if w.err != nil {
						t.Errorf("%s: %v", w.name, w.err)
					} else if w.cert == nil && n != 1 || withheld && (w.cert != nil || n != 1) || w.fault == "within" && w.cert == nil {
						t.Errorf("%s is listed %d times as unknown; its client has a certificate: %v", w.name, n, w.cert != nil)
					}
				}
				g.release()
				settled := g.settles()
				worst = max(worst, settled)
				t.Logf("%s: %d unknown, and listed; settled %s after Lookup answers again", wave.fault, len(open), settled.Round(100*time.Millisecond))
				all = append(all, these...)
			}
			g.ends(all, time.Minute)
			lost, twice := g.agree(all)
			g.tidy()
			g.clients.hangUp()
			t.Logf("%d connections closed under a request; memory %.0f MB, before %.0f MB; goroutines %.0f, before %.0f", g.clients.lost.Load(),
				g.gauge("process_resident_memory_bytes")/1e6, memory, g.gauge("go_goroutines"), goroutines)
			found(finding{"faults of the CA, " + c.idempotency, len(all), lost, twice, fmt.Sprintf("settled after %.1f s", worst.Seconds())})
		})
	}
}

// TestReliabilityFaultsNone is the same with a CA that keeps no record by ID: what is not known is the operator's, and nothing is ever
// asked again.
func TestReliabilityFaultsNone(t *testing.T) {
	if !long {
		t.Parallel()
	}
	g := startFaulty(t, buildFaulty(t), "none")
	var all []*wronged
	for _, fault := range []string{"late", "drop", "fail", "die", "within"} {
		all = append(all, g.wave(fault, scaled(4, 60))...)
	}
	for _, w := range all { // they go on, in vain
		if w.err == nil && w.cert == nil {
			w.cert, w.err = w.client.goOn(t.Context())
		}
	}
	if open := g.listed("unknown,issuing"); len(open) != 0 {
		t.Errorf("%d are left to the worker", len(open))
	}
	ledger, stuck, issued := g.signed(), g.listed("stuck"), g.listed("issued,unconfirmed")
	lost, twice := 0, 0
	for _, w := range all {
		l, open := len(ledger[w.name]), len(stuck[w.name])
		if l > 1 {
			twice++
		}
		ok := w.err == nil
		switch w.fault {
		case "within":
			ok = ok && l == 1 && w.cert != nil && len(issued[w.name]) == 1
		case "die": // one that died with another was perhaps not signed; one that came while no CA ran was not asked
			ok = ok && w.cert == nil && (l == 1 && open == 1 || l == 0 && open <= 1)
		default:
			ok = ok && l == 1 && w.cert == nil && open == 1
		}
		if !ok {
			lost++
			t.Errorf("%s: %v; %d in the ledger, stuck %d, issued %d; its client has a certificate: %v", w.name, w.err, l, open, len(issued[w.name]), w.cert != nil)
		}
	}
	g.tidy()
	found(finding{"faults of the CA, none", len(all), lost, twice, fmt.Sprintf("%d for the operator", len(stuck))})
}

// A CA that refuses what it has certified lies, and nobody can know: the request has failed in its words, its client has nothing, and asks
// for something new when it asks again. Each transaction stands for what it made the CA sign.
func TestReliabilityFaultsLie(t *testing.T) {
	t.Parallel()
	g := startFaulty(t, buildFaulty(t), "native")
	const name = "lie-est-0"
	c := g.clients.make(0, name)
	for range 3 {
		if cert, err := c.send(t.Context()); err == nil || cert != nil || !strings.Contains(err.Error(), "the CA does not certify this") {
			t.Errorf("%v, %v", cert, err)
		}
	}
	failed := g.listed("failed")[name]
	if len(failed) != 3 || len(g.signed()[name]) != 3 || !strings.Contains(failed[0].Note, "a refusal that is not true") {
		t.Errorf("%d signed, failed: %+v", len(g.signed()[name]), failed)
	}
}

// wave is storm with honest devices beside it, and says what they and the CA's process made of it.
func (g *faulty) wave(fault string, n int) []*wronged {
	g.t.Helper()
	before, stop, start := g.restarts(), g.honest(), time.Now()
	all := g.storm(fault, n, scaled(40, 64))
	took := stop()
	g.t.Logf("%s: %d requests sent five times in %s; CA restarted %d times; honest devices meanwhile: %v", fault, len(all),
		time.Since(start).Round(100*time.Millisecond), g.restarts()-before, spread(took))
	return all
}

// spread says of sorted times what is worth saying.
func spread(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	at := func(i int) time.Duration { return took[i].Round(time.Millisecond) }
	return fmt.Sprintf("%d, median %s, p99 %s, worst %s", len(took), at(len(took)/2), at(len(took)*99/100), at(len(took)-1))
}

// settles waits until nothing is unknown any more, at most a minute, and says how long it took.
func (g *faulty) settles() time.Duration {
	g.t.Helper()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		open, took := g.listed("unknown,issuing"), time.Since(start)
		if len(open) == 0 {
			return took
		}
		if took > time.Minute {
			g.t.Errorf("%d are still not settled after %s", len(open), took)
			return took
		}
	}
}
