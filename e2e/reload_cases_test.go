package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// halfway sends an EST request up to the middle of its body, by when the gateway has taken it up; the rest ends it.
func (g *instance) halfway(name string) (rest func() (status int, body string)) {
	g.t.Helper()
	conf := g.client(nil).Transport.(*http.Transport).TLSClientConfig
	conn, err := tls.Dial("tcp", strings.TrimPrefix(g.env["MUSTER_HTTPS"], "https://"), conf)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	body := toBase64(newDevice(g.t, name).csr)
	req, err := http.NewRequest(http.MethodPost, g.env["MUSTER_HTTPS"]+"/.well-known/est/simpleenroll", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.SetBasicAuth("factory", reloadPassword)
	fmt.Fprintf(conn, "POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nAuthorization: %s\r\nContent-Type: application/pkcs10\r\nContent-Length: %d\r\n\r\n",
		req.Header.Get("Authorization"), len(body))
	r := bufio.NewReader(conn)
	// Whoever reads the body has it sent: the handler is at work.
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		g.t.Fatalf("%q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		g.t.Fatal(err)
	}
	io.WriteString(conn, body[:len(body)/2])
	return func() (int, string) {
		g.t.Helper()
		io.WriteString(conn, body[len(body)/2:])
		res, err := http.ReadResponse(r, req)
		if err != nil {
			g.t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			g.t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
}

// A request that has begun ends by the configuration that it began under, whatever has gone meanwhile: its endpoint, its CA's
// process, its listener. The next one goes by the new configuration.
func TestReloadLeavesRequestsUnderWay(t *testing.T) {
	for name, change := range map[string]struct{ from, to, says string }{
		"the endpoint is removed": {"  plant:", "  workshop:", "endpoints: added workshop; removed plant"},
		"the CA is another one":   {"config: {dir: ca}", "config: {dir: ca2}", "backends: started local; stopped local"},
		"the listener moves":      {"https: {address: 127.0.0.1:0", "https: {address: '[::1]:0'", "listeners: changed https"},
	} {
		t.Run(name, func(t *testing.T) {
			g := reloading(t)
			rest := g.halfway("begun")
			next := strings.Replace(g.config(), change.from, change.to, 1)
			if strings.HasPrefix(name, "the endpoint") {
				next = strings.Replace(next, "    default: true\n", "", 1)
			}
			out := g.reloads(next)
			if !strings.Contains(out, change.says) {
				t.Errorf("no %q in\n%s", change.says, out)
			}
			if status, body := rest(); status != http.StatusOK {
				t.Errorf("the request that had begun: %d %s", status, body)
			}
			if a, err := g.enroll(context.Background(), g.client(nil), newDevice(t, "after")); err == nil && a.status == http.StatusOK {
				t.Errorf("what is gone answers: %+v", a)
			}
			g.becomes("the plugin that is not needed any more runs", func() bool { return g.plugins() == 1 })
		})
	}
}

// A certificate file is read again, and the reload names it.
func TestReloadReadsFilesAgain(t *testing.T) {
	g := reloading(t)
	g.put("tls.pem", serverPEM(t, "second", -time.Hour, 24*time.Hour))
	if out := g.muster("reload"); !strings.Contains(out, "files: read anew "+filepath.Join(g.dir, "tls.pem")+"\n") {
		t.Errorf("%s", out)
	}
	if out := g.handshake("files", ""); !strings.Contains(out, "CN = second") {
		t.Errorf("%s", out)
	}
	if out := g.muster("reload"); !strings.Contains(out, "nothing in it has changed") {
		t.Errorf("%s", out)
	}
}

// Guesses are counted on: a reload gives nobody new ones.
func TestReloadGivesNoNewGuesses(t *testing.T) {
	g := reloading(t)
	hash := g.sh(g.dir, `echo 'correct horse' | "$MUSTER" password`)
	next := strings.Replace(g.config(), `users: {factory: "{sha256}`+sha256Hex(reloadPassword)+`"}`, "limit: {burst: 2, every: 1h}, users: {anna: '"+strings.TrimSpace(hash)+"'}", 1)
	g.reloads(next)
	guess := func() int {
		t.Helper()
		a, err := g.post(context.Background(), g.client(nil), "simpleenroll", "anna", "wrong", "application/pkcs10", []byte(toBase64(newDevice(t, "guess").csr)))
		if err != nil {
			t.Fatal(err)
		}
		return a.status
	}
	if a, b := guess(), guess(); a != http.StatusUnauthorized || b != a {
		t.Fatalf("%d, %d", a, b)
	}
	refused := guess()
	for _, config := range []string{next, strings.Replace(next, "burst: 2", "burst: 1", 1), strings.Replace(next, "every: 1h", "every: 2h", 1)} {
		g.reloads(config)
		if status := guess(); status != refused || status == http.StatusUnauthorized {
			t.Errorf("%d after the reload, %d before", status, refused)
		}
	}
}

// What the audit trail cannot tell of does not happen.
func TestReloadNeedsTheAuditTrail(t *testing.T) {
	g := reloading(t)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(g.dir, "muster.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	good := g.config()
	exec(`CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'the disk is full'); END`)
	g.put("gateway.yaml", strings.Replace(strings.Replace(good, "  plant:", "  workshop:", 1), "    default: true\n", "", 1))
	if out, code := g.run(g.dir, binary, "reload", "--data", g.dir); code != 1 || !strings.Contains(out, "the audit trail cannot take the reload") {
		t.Errorf("exit %d: %s", code, out)
	}
	exec(`DROP TRIGGER full`)
	g.mustEnroll(newDevice(t, "as-before"))
	if out := g.muster("reload"); !strings.Contains(out, "added workshop; removed plant") {
		t.Errorf("%s", out)
	}
	if n := len(g.events("reloaded")); n != 1 {
		t.Errorf("%d events", n)
	}
	if s := g.events("started"); len(s) != 1 || !strings.Contains(s[0].Note, sha256Hex(good)) {
		t.Errorf("%+v", s)
	}
}

// A CA that changes over has files read that nobody ordered to: what has changed of them counts from then on, and the audit trail has it.
func TestRolloverTellsOfFilesThatCount(t *testing.T) {
	g := reloading(t)
	g.put("challenges", "{sha256}"+sha256Hex("another")+"\n")
	const followed = "have followed the CA"
	g.muster("ca", "rekey", "local/ec", "--yes")
	g.becomes("the CA is not followed", func() bool { return strings.Contains(g.stderr.String(), followed) })
	told := g.events("reloaded")
	if len(told) != 1 || told[0].Actor != "rollover" || !strings.Contains(told[0].Note, "files: read anew "+filepath.Join(g.dir, "challenges")) {
		t.Errorf("%+v", told)
	}
	g.muster("ca", "rekey", "local/ec", "--yes")
	g.becomes("the CA is not followed again", func() bool { return strings.Count(g.stderr.String(), followed) == 2 })
	if n := len(g.events("reloaded")); n != 1 {
		t.Errorf("%d events, the second for nothing", n)
	}
}

// Orders that come at any time do no harm: while the gateway starts they wait, many are one, and one that comes while it stops neither
// keeps it from that nor opens anything.
func TestReloadAtAnyTime(t *testing.T) {
	g := reloading(t)
	good := g.config()
	g.put("gateway.yaml", good)
	g.again()
	for range 200 {
		if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	// The order of the operator comes after the last signal's turn, or before it: either way his file is in force.
	if out := g.reloads(strings.Replace(g.config(), "  plant:", "  workshop:", 1)); !strings.Contains(out, "is in force") {
		t.Errorf("%s", out)
	}
	for _, path := range []string{"workshop", "plant"} {
		res, err := g.client(nil).Get(g.env["MUSTER_HTTPS"] + "/.well-known/est/" + path + "/cacerts")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if (res.StatusCode == http.StatusOK) != (path == "workshop") {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	if n := len(g.events("reloaded")); n > 100 {
		t.Errorf("%d reloads for 200 signals", n)
	}
	orders := make(chan struct{})
	go func() {
		defer close(orders)
		for {
			if _, code := g.run(g.dir, binary, "reload", "--data", g.dir); code != 0 {
				return
			}
		}
	}()
	for range 20 {
		g.cmd.Process.Signal(syscall.SIGHUP) //nolint:errcheck // it runs
	}
	g.stop()
	<-orders
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d\n%s", code, g.stderr)
	}
	if log := g.stderr.String(); strings.Contains(log, "cut off") || !strings.Contains(log, "msg=stopped") {
		t.Errorf("%s", log)
	}
}

// With watch, a file that takes the place of another is read without an order, by whatever link it is reached; a bad one is told once,
// and its successor counts.
func TestReloadByWatch(t *testing.T) {
	g := reloading(t)
	config := strings.ReplaceAll(g.config(), "challenges}", "..data/challenges}")
	for _, v := range []string{"..1", "..2", "..3"} {
		if err := os.Mkdir(filepath.Join(g.dir, v), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	lead := func(to string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(g.dir, "..data.new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(g.dir, "..data.new"), filepath.Join(g.dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	g.put("..1/challenges", "{sha256}"+sha256Hex("one")+"\n")
	g.put("..2/challenges", "no hash\n")
	g.put("..3/challenges", "{sha256}"+sha256Hex("three")+"\n")
	lead("..1")
	if out := g.reloads(config + "watch: true\n"); !strings.Contains(out, "settings: changed watch") {
		t.Errorf("%s", out)
	}
	d := g.scepDevice()
	if a := d.ask(scepWish{name: "one", challenge: "one"}); a.status != "0" {
		t.Fatalf("%v", a)
	}
	const bad, good = "reload: nothing has changed\" by=watch", "reload: the configuration is in force\" by=watch"
	lead("..2")
	g.becomes("no reload", func() bool { return strings.Contains(g.stderr.String(), bad) })
	if a := d.ask(scepWish{name: "still", challenge: "one"}); a.status != "0" {
		t.Errorf("%v", a)
	}
	lead("..3")
	g.becomes("no reload", func() bool { return strings.Contains(g.stderr.String(), good) })
	if a := d.ask(scepWish{name: "three", challenge: "three"}); a.status != "0" {
		t.Errorf("%v", a)
	}
	if a := d.ask(scepWish{name: "gone", challenge: "one"}); a.status != "2" {
		t.Errorf("%v", a)
	}
	if log := g.stderr.String(); strings.Count(log, bad) != 1 || strings.Count(log, good) != 1 {
		t.Errorf("%s", log)
	}
	if failed := g.events("reload-failed"); len(failed) != 1 || failed[0].Actor != "watch" {
		t.Errorf("%+v", failed)
	}
}

// Replicas are reloaded one by one, in the midst of a transaction that goes on at the other one.
func TestReloadReplicas(t *testing.T) {
	a, b, _ := cmpReplicas(t)
	d := a.cmpDevice("replicated")
	d.at(a, "macs")
	m, err := d.exchange(d.request(cmpmsg.TypeIR))
	if err != nil || d.cert == nil {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, g := range []*instance{a, b} {
		if out := g.muster("reload"); !strings.Contains(out, "nothing in it has changed") {
			t.Errorf("%s", out)
		}
	}
	d.at(b, "macs")
	if m, err = d.exchange(d.certConf()); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
		t.Errorf("%+v, %v", m, err)
	}
}
