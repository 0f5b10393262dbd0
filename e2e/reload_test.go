package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

const reloadPassword, reloadSecret, reloadChallenge = "a password of the factory", "a secret of the factory!", "a challenge of the factory"

// reloadConfig serves EST, CMP and SCEP. PROFILE, MORE and LISTENERS are what reloads change.
var reloadConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
  files: {address: 127.0.0.1:0, tls: {cert: tls.pem, key: tls.pem}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
metrics: {listeners: [http]}
profiles:
  device: {backend: local, validity: 90d}
endpoints:
  plant:
    protocol: est
    listeners: [https, files]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}` + sha256Hex(reloadPassword) + `"}}
      - names: {san: {dns: {}}}
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {san: {dns: {}}}
  phones:
    protocol: scep
    listeners: [http]
    default: true
    profile: device-rsa
    enroll:
      - challenge: {file: challenges}
      - names: {san: {dns: {}}}
`

func reloading(t *testing.T) *instance {
	t.Helper()
	reloadConfig := strings.Replace(reloadConfig, "  device: {", "  device-rsa: {backend: local, issuer: rsa, validity: 90d}\n  device: {", 1)
	g := configured(t, reloadConfig, "factory.secret", reloadSecret, "challenges", "{sha256}"+sha256Hex(reloadChallenge)+"\n",
		"tls.pem", serverPEM(t, "first", -time.Hour, 24*time.Hour))
	g.env["MUSTER_EST_USER"], g.env["MUSTER_EST_PASSWORD"] = "factory", reloadPassword
	g.env["MUSTER_CMP_REF"], g.env["MUSTER_CMP_SECRET"] = "factory", reloadSecret
	return g
}

// config is the configuration's text.
func (g *instance) config() string {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "gateway.yaml"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

// put writes a file of the gateway's folder.
func (g *instance) put(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// reloads has `muster reload` put a configuration into force, and returns what it prints.
func (g *instance) reloads(config string) string {
	g.t.Helper()
	g.put("gateway.yaml", config)
	return g.muster("reload")
}

// refuses has `muster reload` fail for a configuration, which changes nothing.
func (g *instance) refuses(config, says string) {
	g.t.Helper()
	g.put("gateway.yaml", config)
	out, code := g.run(g.dir, binary, "reload", "--data", g.dir)
	if code != 1 || !regexp.MustCompile(says).MatchString(out) || !strings.HasSuffix(out, "\nnothing has changed\n") {
		g.t.Errorf("exit %d, want %q in\n%s", code, says, out)
	}
}

// gauge reads a gauge of the gateway's own metrics.
func (g *instance) gauge(name string) float64 {
	g.t.Helper()
	res, err := http.Get(g.env["MUSTER_HTTP"] + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(body)
	if m == nil {
		g.t.Fatalf("no metric %s in\n%s", name, body)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		g.t.Fatal(err)
	}
	return v
}

// plugins counts the gateway's processes.
func (g *instance) plugins() int {
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(g.cmd.Process.Pid)).Output()
	return len(strings.Fields(string(out)))
}

// becomes waits until something is so that nobody tells of.
func (g *instance) becomes(what string, so func() bool) {
	g.t.Helper()
	for range 6000 {
		if so() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Errorf("%s\n%s", what, g.stderr)
}

// enrolling is devices that enrol without end, until stop; each answer has to be a certificate.
type enrolling struct {
	t     *testing.T
	g     *instance
	quit  chan struct{}
	done  sync.WaitGroup
	count [4]atomic.Int64 // enrollments, by kind of client

	mu    sync.Mutex
	epoch chan struct{} // closed at the next reload
}

// enrolAll starts clients of EST on open and on new connections, of CMP and of SCEP.
func enrolAll(t *testing.T, g *instance) *enrolling {
	l := &enrolling{t: t, g: g, quit: make(chan struct{}), epoch: make(chan struct{})}
	open, fresh := g.client(nil), g.client(nil)
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	for i, client := range []*http.Client{open, fresh} {
		l.run(i, client, func(n int) error {
			a, err := g.enroll(context.Background(), client, newDevice(t, fmt.Sprintf("est-%d-%d", i, n)))
			if err != nil || a.status != http.StatusOK {
				return fmt.Errorf("%+v, %v", a, err)
			}
			return nil
		})
	}
	// The certificate is confirmed under another configuration than it was asked for under.
	cmpClient := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
	l.run(2, cmpClient, func(n int) error {
		d := g.cmpDevice(fmt.Sprintf("cmp-%d", n))
		d.http = cmpClient
		m, err := d.exchange(d.request(cmpmsg.TypeIR))
		if err != nil || d.cert == nil {
			return fmt.Errorf("ir: %+v, %v", m, err)
		}
		l.mu.Lock()
		next := l.epoch
		l.mu.Unlock()
		select {
		case <-next:
		case <-l.quit:
		}
		if m, err = d.exchange(d.certConf()); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
			return fmt.Errorf("certConf: %+v, %v", m, err)
		}
		return nil
	})
	scep := g.scepDevice()
	scep.http = &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
	l.run(3, scep.http, func(n int) error {
		a, err := scep.send(scep.message(scepWish{name: fmt.Sprintf("scep-%d", n), challenge: reloadChallenge}))
		if err != nil || a.status != "0" {
			return fmt.Errorf("%v, %v", a, err)
		}
		return nil
	})
	return l
}

func (l *enrolling) run(kind int, client *http.Client, once func(n int) error) {
	l.done.Go(func() {
		defer client.CloseIdleConnections()
		for n := 0; ; n++ {
			select {
			case <-l.quit:
				return
			default:
			}
			if err := once(n); err != nil {
				l.t.Errorf("client %d, request %d: %v", kind, n, err)
				return
			}
			l.count[kind].Add(1)
		}
	})
}

// reloaded tells the clients that a configuration was put into force.
func (l *enrolling) reloaded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.epoch)
	l.epoch = make(chan struct{})
}

func (l *enrolling) stop() {
	close(l.quit)
	l.done.Wait()
	if !l.each(10) {
		l.t.Error("a client has enrolled fewer than 10 times")
	}
}

// each reports whether every client has enrolled so often.
func (l *enrolling) each(times int64) bool {
	for kind := range l.count {
		if l.count[kind].Load() < times {
			return l.t.Failed() // one that failed enrols no more
		}
	}
	return true
}

// Must show: reload 100 times under load, half of them bad files, and no request fails; every bad one is told with its line, and
// nothing is left behind: no goroutine, file or process.
func TestReloadUnderLoad(t *testing.T) {
	g := reloading(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dies := "#!/bin/sh\nexit 7\n"
	g.put("dies", dies)
	if err := os.Chmod(filepath.Join(g.dir, "dies"), 0o700); err != nil {
		t.Fatal(err)
	}
	good := g.config()
	edit := func(from, to string) string {
		t.Helper()
		if !strings.Contains(good, from) {
			t.Fatal(from)
		}
		return strings.Replace(good, from, to, 1)
	}
	const extra = "  extra:\n    protocol: est\n    listeners: [https]\n    profile: device\n    renew: [{own-certificate: {}}]\n"
	goods := []string{
		good, edit("validity: 90d}\nendpoints", "validity: 80d}\nendpoints"), good + extra, strings.ReplaceAll(good, "server-certificate", "distribution: {listeners: [http]}\nserver-certificate"),
		edit("listeners:\n", "listeners:\n  more: {address: 127.0.0.1:0, connections: 7}\n"), edit("https: {address: 127.0.0.1:0, tls: {}}", `https: {address: 127.0.0.1:0, tls: {max: "1.2"}}`),
		good + "watch: false\n",
	}
	bads := []struct{ config, says string }{
		{edit("validity: 90d}\nendpoints", "vaildity: 90d}\nendpoints"), `gateway\.yaml:13: unknown key "vaildity" in profiles\.device \(did you mean "validity"\?\)`},
		{edit("factory.secret", "factory.sceret"), `gateway\.yaml:29: .*factory\.sceret: no such file`},
		{edit("backends:\n", "backends:\n  corp: {plugin: ./dies, sha256: "+sha256Hex(dies)+"}\n"), `gateway\.yaml:8: backends\.corp: `},
		{edit("http: {address: 127.0.0.1:0}", "http: {address: 127.0.0.1:0}\n  taken: {address: "+taken.Addr().String()+"}"), `address already in use`},
		{"", `gateway\.yaml:1: key "version" is missing`},
		{good[:strings.Index(good, "shared-secret:")+20], `gateway\.yaml:\d+: `},
		{edit("- names: {san: {dns: {}}}", `- policy: {rules: [{name: est, if: "request.protcol == 'est'", deny: "no"}]}`+"\n      - names: {}"), `gateway\.yaml:22:51: .*did you mean protocol\?`},
		{edit("cert: tls.pem", "cert: other.pem"), `gateway\.yaml:5: listeners\.files\.tls: .*other\.pem`},
	}
	// What is made once, is made: connections to the store, and pools.
	l := enrolAll(t, g)
	g.becomes("the clients do not enrol", func() bool {
		l.reloaded()
		return l.each(10)
	})
	l.stop()
	measured := func() (goroutines, files float64, plugins int) {
		return g.gauge("go_goroutines"), g.gauge("process_open_fds"), g.plugins()
	}
	const slack = 12 // connections of this very test, and the runtime's own; 50 reloads leave more, if they leave anything
	goroutines, files, plugins := measured()

	l = enrolAll(t, g)
	reloads := scaled(20, 50)
	for i := range reloads {
		g.reloads(goods[i%len(goods)])
		l.reloaded()
		bad := bads[i%len(bads)]
		g.refuses(bad.config, bad.says)
	}
	l.stop()
	g.reloads(good)
	if good, failed := g.gauge(`muster_reloads_total{outcome="good"}`), g.gauge(`muster_reloads_total{outcome="failed"}`); int(good) != reloads+1 || int(failed) != reloads {
		t.Errorf("%v good reloads, %v failed ones are counted", good, failed)
	}
	told := g.events("reloaded")
	if failed := g.events("reload-failed"); len(told) != reloads+1 || len(failed) != reloads || !strings.HasPrefix(failed[0].Actor, "unix:") || !strings.Contains(failed[0].Note, "vaildity") {
		t.Errorf("%d and %d audit events", len(told), len(failed))
	}
	if last := told[len(told)-1]; !strings.Contains(last.Note, sha256Hex(good)) || !strings.HasPrefix(last.Actor, "unix:") {
		t.Errorf("%+v", last)
	}
	var g2, f2 float64
	var p2 int
	g.becomes("something is left behind", func() bool {
		g2, f2, p2 = measured()
		return g2 <= goroutines+slack && f2 <= files+slack && p2 == plugins
	})
	t.Logf("enrollments: %d EST, %d on new connections, %d CMP, %d SCEP; goroutines %v, then %v; files %v, %v; plugins %d, %d",
		l.count[0].Load(), l.count[1].Load(), l.count[2].Load(), l.count[3].Load(), goroutines, g2, files, f2, plugins, p2)
}
