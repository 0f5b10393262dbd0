package e2e

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

func replaced(text, old, now string) string { return strings.ReplaceAll(text, old, now) }

// waiter is a device that was told to wait, and comes again.
type waiter struct {
	name  string
	again func() (bool, error) // whether it has its certificate
}

// asks has a device of one of the three protocols ask at the edge. told says whether it was told to wait; else it has its certificate.
func (l *linked) asks(name, protocol string, c *http.Client, scep *scepDevice) (w *waiter, told bool, err error) {
	g := l.edge
	switch protocol {
	case "est":
		d := newDevice(g.t, name)
		ask := func() (bool, error) {
			a, err := g.post(g.t.Context(), c, "simpleenroll", "held", "held-password", "application/pkcs10", []byte(toBase64(d.csr)))
			switch {
			case err != nil:
				return false, err
			case a.status == http.StatusAccepted && a.header.Get("Retry-After") != "":
				return false, nil
			case a.status != http.StatusOK:
				return false, fmt.Errorf("%s: %d %s", name, a.status, a.body)
			}
			return true, nil
		}
		has, err := ask()
		return &waiter{name, ask}, !has, err
	case "cmp":
		d := g.cmpDevice(name)
		d.url, d.ref, d.secret = g.env["MUSTER_HTTP"]+"/.well-known/cmp", "factory", []byte("the secret of the factory")
		say := func(body cmpmsg.Body) (bool, error) {
			m, err := d.exchange(body)
			if err != nil {
				return false, err
			}
			if f := failure(m); f != "" {
				return false, fmt.Errorf("%s: %s", name, f)
			}
			if d.cert == nil {
				return false, nil
			}
			m, err = d.exchange(d.certConf())
			if err == nil && m.Body.Type() != cmpmsg.TypePKIConf {
				err = fmt.Errorf("%s: certConf answered %s %s", name, m.Body.Type(), failure(m))
			}
			return true, err
		}
		has, err := say(d.request(cmpmsg.TypeIR))
		return &waiter{name, func() (bool, error) { return say(&cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}}) }}, !has, err
	}
	wish := scepWish{name: name, challenge: "held-challenge", tid: name}
	ask := func(w scepWish) (bool, error) {
		a, err := scep.send(scep.message(w))
		if err != nil {
			return false, err
		}
		if a.status == "0" || a.status == "3" {
			return a.status == "0", nil
		}
		return false, fmt.Errorf("%s: %s", name, a)
	}
	has, err := ask(wish)
	return &waiter{name, func() (bool, error) { return ask(wish) }}, !has, err
}

// protocolsOfEdge are those of the devices, in turn.
var protocolsOfEdge = []string{"cmp", "est", "scep"}

// come has n further devices ask, one after the other, and wants each told to wait.
func (l *linked) come(all []*waiter, n int, c *http.Client, scep *scepDevice) []*waiter {
	l.edge.t.Helper()
	for range n {
		i := len(all)
		w, told, err := l.asks(fmt.Sprintf("d%04d", i), protocolsOfEdge[i%3], c, scep)
		if err != nil || !told {
			l.edge.t.Fatalf("device %d: told to wait: %v, %v", i, told, err)
		}
		all = append(all, w)
	}
	return all
}

// killed ends the edge with SIGKILL and starts it again.
func (l *linked) killed() {
	l.edge.t.Helper()
	l.edge.cmd.Process.Kill() //nolint:errcheck // it runs
	<-l.edge.exited
	l.edge.again()
	l.edgeEnv()
}

// delivered waits until nothing waits at the edge any more.
func (l *linked) delivered(patience time.Duration) {
	l.edge.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if len(listing[admin.Transaction](l.edge, "--limit", "1", "--state", "queued,unknown,issuing")) == 0 {
			return
		}
	}
	l.edge.t.Fatalf("requests still wait\n%s\n%s", l.edge.muster("ls"), l.edge.stderr)
}

// wantInOrder wants each device's request at the central gateway once, in the order in which they came to the edge.
func (l *linked) wantInOrder(all []*waiter) {
	l.edge.t.Helper()
	rows := listing[admin.Transaction](l.central, "--limit", "10000")
	slices.SortFunc(rows, func(a, b admin.Transaction) int { return strings.Compare(a.ID, b.ID) })
	var got, want []string
	for _, r := range rows {
		if _, name, ok := strings.Cut(r.Subject, "CN=d"); ok {
			got = append(got, "d"+name[:4])
		}
	}
	for _, w := range all {
		want = append(want, w.name)
	}
	if !slices.Equal(got, want) {
		l.edge.t.Errorf("the central gateway was asked for %d, in the order %v; there came %d", len(got), got, len(want))
	}
	issued := map[string]int{}
	for _, e := range l.central.ledger("d") {
		_, name, _ := strings.Cut(e.Subject, "CN=")
		issued[name]++
	}
	for _, w := range all {
		if issued[w.name] != 1 {
			l.edge.t.Errorf("%s has %d certificates", w.name, issued[w.name])
		}
	}
}

// The link is cut after a request was sent, hangs, and is down; the edge is killed. Sixty devices of three protocols are told to wait, and
// each has one certificate when the link is back, of a central gateway that was asked in the order in which they came.
func TestEdgeLink(t *testing.T) {
	t.Parallel()
	l := startLinked(t)
	c := l.edge.client(nil)
	scep := l.edge.scepDevice()
	if _, told, err := l.asks("before", "est", c, scep); err != nil || told {
		t.Fatalf("over a link that is up: %v, %v", told, err)
	}
	// The example says the same, for a site of CMP and EST.
	l.edge.sh(l.edge.dir, `mkdir example; cp ra.pem example/edge.pem; cp ra.key example/edge.key; cp roots.pem example`)
	example, err := os.ReadFile("../configs/edge-forward.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(l.edge.dir, "example", "edge-forward.yaml"), example, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.edge.sh(l.edge.dir, `"$MUSTER" config check example/edge-forward.yaml`)

	var all []*waiter
	l.link.is("cut")
	all = l.come(all, 2, c, scep)
	l.link.is("hangs")
	all = l.come(all, 2, c, scep)
	l.link.is("down")
	all = l.come(all, 20, c, scep)

	var status admin.Status
	if err := json.Unmarshal([]byte(l.edge.muster("status", "--json")), &status); err != nil || len(status.Backends) != 1 || status.Backends[0].Queued != len(all) {
		t.Errorf("%v: %+v", err, status.Backends)
	}
	if told := l.edge.muster("status"); !strings.Contains(told, fmt.Sprintf("%d requests wait until this CA can be asked", len(all))) {
		t.Errorf("status:\n%s", told)
	}
	l.killed()
	all = l.come(all, 60-len(all), c, scep)
	for _, w := range all[:6] { // who comes again finds what it asked for before
		if has, err := w.again(); has || err != nil {
			t.Errorf("%s, while the link is down: %v, %v", w.name, has, err)
		}
	}
	if n := len(listing[admin.Transaction](l.edge)); n != len(all)+1 {
		t.Errorf("%d transactions of %d devices", n, len(all)+1)
	}

	// Programs that are not ours wait by themselves.
	dir := t.TempDir()
	l.edge.sh(dir, makeKey+"\n"+`set -- /CN=curl; `+makeCSR)
	curl := `curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u held:held-password \
		-o answer -w '%{http_code} %header{retry-after}' "$MUSTER_HTTPS/.well-known/est/simpleenroll"`
	if code := l.edge.sh(dir, curl); !strings.HasPrefix(code, "202 ") || code == "202 " {
		t.Errorf("curl: %s", code)
	}
	out := &capture{}
	openssl := exec.CommandContext(t.Context(), "openssl", "cmp", "-config", "", "-batch", "-cmd", "ir", "-server", l.edge.env["MUSTER_HTTP"], "-path", ".well-known/cmp",
		"-trusted", l.edge.env["MUSTER_CA"], "-trusted", l.edge.dir+"/roots.pem", "-ref", "factory", "-secret", "pass:the secret of the factory", "-newkey", "device.key", "-subject", "/CN=openssl",
		"-total_timeout", "60", "-keep_alive", "0", "-certout", "openssl.pem")
	openssl.Dir, openssl.Stdout, openssl.Stderr = dir, out, out
	if err := openssl.Start(); err != nil {
		t.Fatal(err)
	}
	for l.edge.state("openssl") != "queued" {
		time.Sleep(50 * time.Millisecond)
	}
	l.link.is("up")
	if err := openssl.Wait(); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	l.delivered(time.Minute)
	for _, w := range all {
		if has, err := w.again(); !has || err != nil {
			t.Errorf("%s, afterwards: %v, %v", w.name, has, err)
		}
	}
	if code := l.edge.sh(dir, curl); code != "200 " {
		t.Errorf("curl: %s", code)
	}
	l.wantInOrder(all)
	if _, told, err := l.asks("after", "scep", c, scep); err != nil || told {
		t.Errorf("afterwards: %v, %v", told, err)
	}
}
