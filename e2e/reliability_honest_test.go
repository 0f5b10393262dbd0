//go:build reliability

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/passhash"
)

const (
	honestRate   = 40 // enrollments a second
	honestWindow = 10 * time.Second
	mostSlower   = 1.5  // docs/hostile.md
	attackerCPU  = 0.25 // of a core: what it takes itself is not the gateway's doing
)

// attack is e2e/attacker's.
type attack struct {
	Name, Source, To string
	TLS              bool
	Send             []byte
	Rate             float64
	Hold             int
	Drip             bool
}

// TestReliabilityHonest measures how long honest enrollments take, in pairs of windows without and with all kinds of attack beside them.
func TestReliabilityHonest(t *testing.T) {
	attacker := built(t, "attacker")
	dir := filepath.Join(t.TempDir(), "data")
	hash, err := passhash.Password([]byte("a person's password"))
	if err != nil {
		t.Fatal(err)
	}
	edited(t, dir, "            factory: ", fmt.Sprintf("            person: %q\n            factory: ", hash))
	g := startIn(t, dir)
	h := g.honestClients()
	attacks := g.attacks()
	h.window(2 * time.Second) // connections, caches
	pairs := scaled(3, 7)
	var p95, p99 []float64
	var worst time.Duration
	for i := range pairs {
		var without, with []time.Duration
		attacked := func() {
			stop := startAttacker(t, attacker, attacks)
			start := g.cpuAll(t)
			with = h.window(honestWindow)
			stop(float64(g.cpuAll(t)-start) / float64(honestWindow))
		}
		if i%2 == 1 { // what drifts over time is in neither's favour
			attacked()
		}
		without = h.window(honestWindow)
		if i%2 == 0 {
			attacked()
		}
		t.Logf("without: %s; with: %s", times(without), times(with))
		p95 = append(p95, ratio(with, without, 0.95))
		p99 = append(p99, ratio(with, without, 0.99))
		worst = max(worst, with[len(with)-1])
	}
	slices.Sort(p95)
	slices.Sort(p99)
	t.Logf("with / without: p95 %.2f, p99 %.2f", p95, p99)
	median := p99[len(p99)/2]
	if median > mostSlower {
		t.Errorf("under attack honest clients' p99 is %.2f times what it is without", median)
	}
	if h.lost > 0 {
		t.Errorf("%d honest enrollments failed", h.lost)
	}
	g.unharmed(t, -1)
	found(finding{test: "honest clients under attack", n: h.n, lost: h.lost, worst: fmt.Sprintf("p99 %.2f times, %.0f ms", median, float64(worst)/1e6)})
}

// honestClients are those of all protocols.
type honestClients struct {
	g             *instance
	kept, fresh   *http.Client // over TLS
	plain         *http.Client
	scep          *scepDevice
	challenge     string
	n, lost, tick int
}

func (g *instance) honestClients() *honestClients {
	h := &honestClients{g: g, kept: g.client(nil), fresh: g.client(nil), plain: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}}
	h.fresh.Transport.(*http.Transport).DisableKeepAlives = true
	h.scep, h.challenge = g.scepDevice(), g.env["MUSTER_SCEP_CHALLENGE"]
	h.scep.http = h.plain
	return h
}

// window has them enrol at their rate for so long, and returns how long each took, the shortest first.
func (h *honestClients) window(d time.Duration) []time.Duration {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / honestRate)
	defer tick.Stop()
	for range int(d.Seconds() * honestRate) {
		<-tick.C
		h.tick++
		what, enrol := h.next(h.tick)
		wg.Go(func() {
			start := time.Now()
			err := enrol()
			took1 := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, took1)
			if h.n++; err != nil {
				h.lost++
				h.g.t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// next prepares an enrollment.
func (h *honestClients) next(i int) (what string, enrol func() error) {
	name := fmt.Sprintf("honest-%d", i)
	switch i % 4 {
	case 0:
		d := h.g.cmpDevice(name)
		d.http = h.plain
		return "CMP", d.enroll
	case 1:
		m := h.scep.message(scepWish{name: name, challenge: h.challenge})
		return "SCEP", func() error {
			a, err := h.scep.send(m)
			if err == nil && a.cert == nil {
				err = fmt.Errorf("%s", a)
			}
			return err
		}
	}
	d, client := newDevice(h.g.t, name), h.kept
	if what = "EST, connection kept"; i%4 == 3 {
		what, client = "EST, new connection", h.fresh
	}
	return what, func() error {
		a, err := h.g.enroll(h.g.t.Context(), client, d)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	}
}

// attacks fill every place of both listeners, and do what costs a stranger little and the gateway much.
func (g *instance) attacks() []attack {
	plain, private := strings.TrimPrefix(g.env["MUSTER_HTTP"], "http://"), strings.TrimPrefix(g.env["MUSTER_HTTPS"], "https://")
	wire := func(path, kind string, body []byte, header ...string) []byte {
		h := hostile{method: "POST", path: path, header: append(header, "Content-Type: "+kind), body: body}
		return h.wire()
	}
	head := func(n int) []byte {
		return []byte(fmt.Sprintf("POST /.well-known/cmp HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkixcmp\r\nContent-Length: %d\r\n\r\nx", n))
	}
	const est = "/.well-known/est/simpleenroll"
	csr := []byte(toBase64(estBombs(g.t)["RSA-8192"]))
	guess := "Authorization: Basic " + toBase64([]byte("person:"+strings.Repeat("x", 1000)))
	all := []attack{
		{Name: "full handshakes", Source: "127.0.0.2", To: private, TLS: true, Rate: 15, Hold: 1},
		{Name: "half-open handshakes", Source: "127.0.0.3", To: private, Send: []byte("\x16\x03\x01\x02\x00\x01"), Rate: 20, Hold: 100},
		{Name: "garbage for a ClientHello", Source: "127.0.0.4", To: private, Send: append([]byte("\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03"), random(200)...), Rate: 30, Hold: 1},
		{Name: "slow headers", Source: "127.0.0.5", To: plain, Send: []byte("GET / HTTP/1.1\r\nX: "), Rate: 10, Hold: 100, Drip: true},
		{Name: "slow bodies", Source: "127.0.0.6", To: plain, Send: head(1000), Rate: 10, Hold: 100, Drip: true},
		{Name: "wrong passwords", Source: "127.0.0.7", To: private, TLS: true, Send: wire(est, "application/pkcs10", csr, guess), Rate: 2},
		{Name: "dear CMP", Source: "127.0.0.8", To: plain, Send: wire("/.well-known/cmp", "application/pkixcmp", cmpBombs(g.t, g)["PBM, 100,000 iterations"]), Rate: 3},
		{Name: "dear SCEP", Source: "127.0.0.9", To: plain, Send: wire("/scep?operation=PKIOperation", "application/x-pki-message", scepBombs(g.t, g)["16 certificates"]), Rate: 3},
	}
	for _, to := range []string{plain, private} {
		for i := range 4 {
			all = append(all, attack{Name: "idle", Source: fmt.Sprintf("127.0.0.%d", 2+i), To: to, Rate: 5, Hold: 400})
		}
	}
	return all
}

// startAttacker returns when its connections are open. stop ends it, and tells what it and the gateway (in cores) have used.
func startAttacker(t *testing.T, program string, attacks []attack) (stop func(gateway float64)) {
	t.Helper()
	plan, err := json.Marshal(attacks)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nice", "-n", "19", program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Write(plan) //nolint:errcheck // it says when it has read it
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the attacker says %q, %v", line, err)
	}
	before := cpu(t, cmd.Process.Pid)
	start := time.Now()
	return func(gateway float64) {
		t.Helper()
		cores := float64(cpu(t, cmd.Process.Pid)-before) / float64(time.Since(start))
		in.Close()
		done, _ := io.ReadAll(r)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the attacker: %v", err)
		}
		t.Logf("attacker %.2f cores, gateway and CA %.2f; %s", cores, gateway, strings.ReplaceAll(strings.TrimSpace(string(done)), "\n", ", "))
		if cores > attackerCPU {
			t.Errorf("the attacker takes %.2f cores itself", cores)
		}
		for line := range strings.Lines(string(done)) {
			if strings.HasSuffix(line, " 0\n") {
				t.Errorf("no attack: %s", line)
			}
		}
	}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))]
}

func ratio(with, without []time.Duration, q float64) float64 {
	return float64(quantile(with, q)) / float64(quantile(without, q))
}

func times(sorted []time.Duration) string {
	ms := func(q float64) float64 { return float64(quantile(sorted, q)) / 1e6 }
	return fmt.Sprintf("p50 %.1f ms, p95 %.1f, p99 %.1f, most %.1f of %d", ms(0.5), ms(0.95), ms(0.99), ms(1), len(sorted))
}
