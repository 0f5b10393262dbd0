//go:build reliability

package e2e

import (
	"bytes"
	"crypto/x509"
	"errors"
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
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
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

// reliableWait is for how long a certificate waits for its certConf: longer than a gateway takes to come back.
const reliableWait = 30 * time.Second

// reliable is one device of the run.
type reliable struct {
	name   string
	cert   []byte
	silent bool // it never confirms

	cmp, held, revoked bool
}

// enrolCMP has a device enrol over CMP: each message is sent, byte for byte the same, until it is answered. Every fourth
// device never confirms its certificate, and another fourth begins anew after its first answer. Those that are held or revoked
// all confirm.
func (d *cmpDevice) enrolCMP(i int, retry func() bool) (cert []byte, silent bool, err error) {
	// answered sends a message until the answer is neither missing, nor waiting, nor that of a server that cannot answer now.
	answered := func(der []byte) (*cmpmsg.Message, error) {
		for {
			answer, err := d.post(der)
			var m *cmpmsg.Message
			if err == nil {
				if m, err = d.take(answer); err != nil {
					return nil, err
				}
				rep, ok := m.Body.(*cmpmsg.CertRepMessage)
				waiting := ok && len(rep.Responses) == 1 && rep.Responses[0].Status.Status == cmpmsg.StatusWaiting
				if !waiting && failure(m) != "systemUnavail" {
					return m, nil
				}
			}
			if !retry() {
				return nil, fmt.Errorf("no answer after all: %v", err)
			}
		}
	}
	ask := func() error {
		m, err := answered(d.message(d.request(cmpmsg.TypeIR)))
		if err == nil && d.cert == nil {
			err = fmt.Errorf("ir answered %s: %s", m.Body.Type(), failure(m))
		}
		return err
	}
	if err := ask(); err != nil {
		return nil, false, err
	}
	cert = d.cert.Raw
	kind := i / 2 % 4
	if kind == 1 && (isHeld(i) || isRevoked(i)) {
		kind = 0
	}
	switch kind {
	case 1:
		return cert, true, nil
	case 2: // its answer was lost, and it forgot what it asked
		d.tid, d.peer, d.cert = random(16), nil, nil
		if err := ask(); err != nil {
			return nil, false, err
		}
		if !bytes.Equal(d.cert.Raw, cert) {
			return nil, false, errors.New("another certificate for the same wish")
		}
	}
	m, err := answered(d.message(d.certConf()))
	if err == nil && m.Body.Type() != cmpmsg.TypePKIConf {
		err = fmt.Errorf("certConf answered %s: %s", m.Body.Type(), failure(m))
	}
	return cert, false, err
}

// TestReliability kills the CA's process and the gateway, KILLS times each, while devices enrol, every second one over CMP; each
// device sends the same message until it has its answer. Three in twenty are held, and approved by `muster approve`; three in twenty
// are revoked by `muster revoke`. Then ledger, gateway, audit trail and devices have to agree.
func TestReliability(t *testing.T) {
	kills, total := setting(t, "MUSTER_KILLS", 50), setting(t, "MUSTER_ENROLLMENTS", 2000)
	seed := uint64(setting(t, "MUSTER_SEED", int(time.Now().UnixNano())))
	t.Logf("MUSTER_SEED=%d: %d enrollments, %d kills of the CA's process and %d of the gateway", seed, total, kills, kills)
	random := rand.New(rand.NewPCG(seed, 0))

	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	g.stop()
	config := filepath.Join(g.dir, "muster.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	short := strings.Replace(string(text), "protocol: cmp\n", "protocol: cmp\n    cmp: {confirm-wait: "+reliableWait.String()+"}\n", 1)
	if short == string(text) {
		t.Fatal("the quickstart's configuration has no cmp endpoint")
	}
	if err := os.WriteFile(config, []byte(withHeld(t, short)), 0o600); err != nil {
		t.Fatal(err)
	}
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
	asBegun := &instance{t: t, dir: g.dir, env: g.env} // which a restart does not change
	rest := asBegun.operators()

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
	certs := make([]reliable, total)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			client := g.client(nil)
			for i := range next {
				name := fmt.Sprintf("reliable-%d", i)
				attempts := 0
				retry := func() bool {
					attempts++
					retries.Add(1)
					time.Sleep(50 * time.Millisecond)
					return attempts < 600
				}
				// ended is what a device does that has its certificate.
				ended := func(c reliable) {
					c.name, c.cmp, c.held, c.revoked = name, i%2 == 1, isHeld(i), isRevoked(i)
					certs[i] = c
					if leaf, err := x509.ParseCertificate(c.cert); err != nil {
						t.Errorf("device %d: %v", i, err)
					} else if c.revoked {
						if err := asBegun.revoke(fmt.Sprintf("%x", leaf.SerialNumber), retry); err != nil {
							t.Errorf("device %d: %v", i, err)
						}
					}
				}
				if i%2 == 1 {
					d := asBegun.cmpDevice(name)
					if isHeld(i) {
						d.url += "/p/held-cmp"
					}
					cert, silent, err := d.enrolCMP(i, retry)
					if err != nil {
						t.Errorf("device %d: %v", i, err)
					} else {
						ended(reliable{cert: cert, silent: silent})
					}
					done.Add(1)
					continue
				}
				d, operation := newDevice(t, name), "simpleenroll"
				if isHeld(i) {
					operation = "held-devices/" + operation
				}
				for attempt := 0; ; attempt++ {
					a, err := asBegun.post(t.Context(), client, operation, asBegun.env["MUSTER_EST_USER"], asBegun.env["MUSTER_EST_PASSWORD"],
						"application/pkcs10", []byte(toBase64(d.csr)))
					if err == nil && a.status == http.StatusOK {
						ended(reliable{cert: a.cert.Raw})
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
	rest()
	if t.Failed() {
		t.FailNow()
	}
	g.settled()
	until := time.Now().Add(reliableWait + 30*time.Second)
	unrevoked := func(tr admin.Transaction) bool { return tr.Certificate == nil || tr.Certificate.RevokedAt == nil }
	for time.Now().Before(until) && slices.ContainsFunc(listing[admin.Transaction](g, "--state", "unconfirmed,rejected", "--limit", "1000000"), unrevoked) {
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("%d enrolled in %s, %d retries; killed: gateway %d times, plugin %d times",
		total, time.Since(start).Round(time.Second), retries.Load(), killed.gateway, killed.plugin)
	if killed.gateway != kills || killed.plugin != kills {
		t.Errorf("wanted %d kills of each", kills)
	}

	ledger, err := local.ReadLedger(t.Context(), filepath.Join(g.dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	untold := func(e local.Entry) bool {
		at := slices.IndexFunc(certs, func(c reliable) bool { return c.name == commonName(e.Subject) })
		return at >= 0 && certs[at].revoked && e.RevokedAt.IsZero()
	}
	for time.Now().Before(until.Add(30*time.Second)) && slices.ContainsFunc(ledger, untold) {
		time.Sleep(200 * time.Millisecond)
		if ledger, err = local.ReadLedger(t.Context(), filepath.Join(g.dir, "ca")); err != nil {
			t.Fatal(err)
		}
	}
	inLedger := map[string][]local.Entry{}
	for _, e := range ledger {
		inLedger[commonName(e.Subject)] = append(inLedger[commonName(e.Subject)], e)
	}
	inStore := map[string][]admin.Transaction{}
	for _, tr := range listing[admin.Transaction](g, "--limit", "1000000") {
		inStore[commonName(tr.Subject)] = append(inStore[commonName(tr.Subject)], tr)
	}
	byID := map[string]reliable{}
	for _, c := range certs {
		l, s := inLedger[c.name], inStore[c.name]
		state := "issued"
		if c.silent {
			state = "rejected"
		}
		if len(l) != 1 || len(s) != 1 || s[0].State != state || l[0].ID != s[0].ID || !bytes.Equal(l[0].Certificate, c.cert) {
			t.Errorf("%s: %d in the ledger, %d in the store %+v, want one that is %s", c.name, len(l), len(s), s, state)
		} else if revoked := c.silent || c.revoked; l[0].RevokedAt.IsZero() == revoked || (s[0].Certificate.RevokedAt == nil) == revoked {
			t.Errorf("%s is %s, in the store revoked at %v, in the ledger at %v", c.name, state, s[0].Certificate.RevokedAt, l[0].RevokedAt)
		} else if (s[0].Hold != nil) != c.held || c.held && len(s[0].Hold.Approvals) != 1 {
			t.Errorf("%s was held: %+v", c.name, s[0].Hold)
		} else {
			byID[s[0].ID] = c
		}
	}
	g.stop()
	g.auditTells(byID)
	t.Logf("ledger, store, audit trail and clients agree on %d certificates", len(byID))
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
