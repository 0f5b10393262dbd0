package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/gateway/seal"
)

// where is the address that the log tells of a listener, the latest.
func (g *gatewayProcess) where(listener string) string {
	g.t.Helper()
	all := regexp.MustCompile(`msg=listening listener=`+listener+` address=(\S+)`).FindAllStringSubmatch(g.stderr.String(), -1)
	if len(all) == 0 {
		g.t.Fatalf("no listener %s in\n%s", listener, g.stderr)
	}
	return all[len(all)-1][1]
}

// client trusts the gateway's roots.
func (g *gatewayProcess) client() *http.Client {
	g.t.Helper()
	return &http.Client{Transport: &http.Transport{TLSClientConfig: g.trusting(&tls.Config{}), ForceAttemptHTTP2: true}}
}

func (g *gatewayProcess) trusting(cfg *tls.Config) *tls.Config {
	g.t.Helper()
	pem, err := os.ReadFile(filepath.Join(g.data, "ca", "roots.pem"))
	if err != nil {
		g.t.Fatal(err)
	}
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AppendCertsFromPEM(pem)
	return cfg
}

func fetch(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestReloadIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "muster.yaml", good)
	g := serveOn(t, dir, "--config", file)
	client := g.client()
	addr := g.where("tls")
	plugin := regexp.MustCompile(`plugin started.* pid=(\d+)`)
	starts := func() int { return len(plugin.FindAllString(g.stderr.String(), -1)) }
	if code, _ := fetch(t, client, "https://"+addr+"/.well-known/est/ran/cacerts"); code != http.StatusOK {
		t.Fatalf("cacerts: %d", code)
	}
	reload := func(config, says string) { t.Helper(); g.reload(t, dir, config, says) }
	serves := func(path string, want int) {
		t.Helper()
		if code, body := fetch(t, client, "https://"+addr+path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	// Each is wrong in another stage of loading; each would have renamed the endpoint.
	renamed := strings.ReplaceAll(good, "  ran:", "  radio:")
	for _, bad := range []struct{ old, new, says string }{
		{"validity:", "vaildity:", "did you mean"},
		{"- own-certificate", "- own-certificat", "unknown stage"},
		{"sqlite:muster.db", "sqlite:other.db", "cannot change while the gateway runs"},
		{"config: {dir: ./ca}", "config: {dir: ./ca, organization: Other}", "in use by the running backend local"},
		{"backend: local\n", "backend: local\n    issuer: es\n", `has no CA \"es\" (did you mean \"ec\"?)`},
		{"{address: 127.0.0.1:0}", "{address: " + taken.Addr().String() + "}", "listeners.plain.address: listen tcp " + taken.Addr().String() + ": bind: address already in use"},
		{"tls: {}", "tls: {cert: a.pem, key: b.pem}", "a.pem"},
	} {
		if !strings.Contains(renamed, bad.old) {
			t.Fatal(bad.old)
		}
		reload(strings.ReplaceAll(renamed, bad.old, bad.new), bad.says)
		serves("/.well-known/est/ran/cacerts", http.StatusOK)
		serves("/.well-known/est/radio/cacerts", http.StatusNotFound)
		serves("/readyz", http.StatusOK)
	}
	if n := starts(); n != 1 {
		t.Errorf("%d plugin starts", n)
	}

	// A good one: sockets, connections and plugin survive, the endpoint is renamed, a listener comes and one goes.
	plain := g.where("plain")
	next := strings.Replace(renamed, "  plain: {address", "  extra: {address", 1)
	next = strings.Replace(next, "tls: {}", `tls: {max: "1.2"}`, 1)
	reload(next, "in force")
	if g.where("tls") != addr {
		t.Error("the TLS listener moved")
	}
	serves("/.well-known/est/radio/cacerts", http.StatusOK)
	serves("/.well-known/est/cacerts", http.StatusOK)
	serves("/.well-known/est/ran/cacerts", http.StatusNotFound)
	if code, _ := fetch(t, http.DefaultClient, "http://"+g.where("extra")+"/readyz"); code != http.StatusOK {
		t.Errorf("extra: %d", code)
	}
	if n := starts(); n != 1 {
		t.Errorf("%d plugin starts", n)
	}
	// A second CA is started beside the first, which goes on.
	reload(strings.NewReplacer("  local: {", "  second: {plugin: local, config: {dir: ./ca2}}\n  local: {", "store:", "server-certificate: {backend: local}\nstore:").Replace(next), "in force")
	if n := starts(); n != 2 {
		t.Errorf("%d plugin starts", n)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("tcp", plain)
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Error("the removed listener still accepts")
			break
		}
	}
	fresh, err := tls.Dial("tcp", addr, g.trusting(&tls.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	if v := fresh.ConnectionState().Version; v != tls.VersionTLS12 {
		t.Errorf("%s after TLS was limited to 1.2", tls.VersionName(v))
	}
	fresh.Close()
	if code := g.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A third party's plugin is an executable with a hash; here it is this program, called by a script.
func TestThirdPartyPlugin(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nexec " + shellQuote(os.Args[0]) + " plugin local\n"
	plugin := write(t, dir, "corp-ca", script)
	if err := os.Chmod(plugin, 0o700); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(script))
	corp := func(key string) string {
		return strings.NewReplacer("{plugin: local, config: {dir: ./ca}}", "{plugin: ./corp-ca, sha256: "+hex.EncodeToString(sum[:])+", config: {"+key+": "+filepath.Join(dir, "ca")+"}}",
			"store:", "server-certificate: {backend: local}\nstore:").Replace(good)
	}
	_, err := checkConfig(t.Context(), write(t, dir, "muster.yaml", corp("dri")))
	if want := `muster.yaml:10: backends.local.config: unknown key "dri" (did you mean "dir"?)`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	file := write(t, dir, "muster.yaml", corp("dir"))
	if _, err := checkConfig(t.Context(), file); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ca")); err == nil {
		t.Error("checking made the CA")
	}
	g := serveOn(t, dir, "--config", file)
	if code, body := fetch(t, g.client(), "https://"+g.where("tls")+"/.well-known/est/cacerts"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	if code := g.end(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d\n%s", code, g.stderr)
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	dir := t.TempDir()
	g := serveOn(t, dir, "--config", write(t, dir, "muster.yaml", good))
	// A client that holds a request half sent keeps the first one waiting.
	c, err := net.Dial("tcp", g.where("plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n")
	g.cmd.Process.Signal(syscall.SIGINT)
	g.waitFor("msg=\"stopping")
	if code := g.end(syscall.SIGINT); code != interrupted {
		t.Errorf("exit code %d, want %d\n%s", code, interrupted, g.stderr)
	}
}

func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		name, old, new string
		args           []string
		want           string
	}{
		{name: "the file is wrong", old: "validity", new: "vaildity", want: "muster.yaml:14: unknown key"},
		{name: "an address is taken", old: "plain: {address: 127.0.0.1:0", new: "plain: {address: " + taken.Addr().String(), want: "bind: address already in use: another program listens there"},
		{name: "no such issuer", old: "backend: local\n", new: "backend: local\n    issuer: rsb\n", want: `profiles.base-station.issuer: backend local has no CA "rsb" (did you mean "rsa"?)`},
		{name: "the store cannot be opened", old: "sqlite:muster.db", new: "sqlite:muster.yaml", want: "muster.yaml:7: store: "},
		{
			name: "a CA is away", old: "backends:\n", new: "backends:\n  away: {plugin: vault, config: {url: 'http://127.0.0.1:1', auth: {token: token}}}\n",
			want: "backends.away: its CA has to answer when the gateway starts, and does not: away: issuer default: not asked: ",
		},
		{
			name: "what to do about it", old: "backends:\n", new: "backends:\n  away: {plugin: vault, config: {url: 'http://127.0.0.1:1', auth: {token: token}}}\n",
			want: "nothing was ever heard of it, so that the gateway cannot start without it: see that it can be reached from here, or take the backend out",
		},
		{name: "log format", args: []string{"--log-format", "xml"}, want: "want text or json"},
		{name: "log level", args: []string{"--log-level", "inof"}, want: `did you mean "info"?`},
		{name: "address flag", args: []string{"--http", "8080"}, want: "want host:port"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file := write(t, dir, "muster.yaml", strings.ReplaceAll(good, tc.old, tc.new))
			if tc.old == "" {
				write(t, dir, "muster.yaml", good)
			}
			g := launchOn(t, dir, append([]string{"--config", file}, tc.args...)...)
			select {
			case <-g.exited:
			case <-time.After(30 * time.Second):
				t.Fatalf("runs\n%s", g.stderr)
			}
			if code := g.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(g.stderr.String(), tc.want) {
				t.Errorf("exit code %d, want %q in\n%s", code, tc.want, g.stderr)
			}
		})
	}
}

func TestSocketPathTooLong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g := launchOn(t, dir, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	<-g.exited
	if !strings.Contains(g.stderr.String(), "admin socket") || !strings.Contains(g.stderr.String(), "use a shorter one") {
		t.Errorf("%s", g.stderr)
	}
}

// Metrics are served where the configuration says, and nowhere else.
func TestMetricsListener(t *testing.T) {
	dir := t.TempDir()
	g := serveOn(t, dir, "--config", write(t, dir, "muster.yaml", good+"metrics: {listeners: [plain]}\n"))
	code, body := fetch(t, http.DefaultClient, "http://"+g.where("plain")+"/metrics")
	if code != http.StatusOK || !strings.Contains(body, `muster_requests_total{endpoint="self",operation="enroll",outcome="issued",protocol="self",reason=""} 1`) ||
		!strings.Contains(body, `muster_plugin_call_duration_seconds_count{backend="local",code="OK"`) {
		t.Errorf("%d\n%s", code, body)
	}
	if code, _ := fetch(t, g.client(), "https://"+g.where("tls")+"/metrics"); code != http.StatusNotFound {
		t.Errorf("metrics on the devices' listener: %d", code)
	}
	g.end(syscall.SIGINT)
}

// Each example starts, on ports of its own and in a folder of its own, and serves its endpoints.
func TestExamplesStart(t *testing.T) {
	type served struct {
		listener, path string
		want           int
	}
	examples := map[string][]served{
		"est.yaml": {
			{"est", "/.well-known/est/cacerts", 200}, {"mef", "/.well-known/est/gateways/cacerts", 200}, {"est", "/.well-known/est/printers/cacerts", 200},
			{"mef", "/.well-known/est/printers/cacerts", 404}, {"est", "/.well-known/est/sensors/serverkeygen", 405},
		},
		// CMP takes POST alone.
		"cmp.yaml": {
			{"ran", "/.well-known/cmp", 405}, {"ran", "/.well-known/cmp/p/ran", 405}, {"ran-tls", "/cmp", 405}, {"ran", "/cmp/sensors", 405},
			{"ran-tls", "/cmp/sensors", 404}, {"ops", "/.well-known/cmp", 404},
		},
		"3gpp.yaml": {
			{"http", "/.well-known/cmp/p/ran", 405}, {"https", "/.well-known/cmp/p/ran/initialization", 405}, {"ops", "/crl/local/ec.crl", 200}, {"ops", "/.well-known/cmp", 404},
		},
		"scep.yaml": {
			{"scep", "/scep?operation=GetCACert", 200}, {"scep", "/scep/phones/pkiclient.exe?operation=GetCACaps", 200}, {"scep", "/scep/routers?operation=GetCACert", 200},
			{"ops", "/scep?operation=GetCACert", 404},
		},
		"ios-mdm.yaml": {
			{"scep", "/ota/ota/profile", 200}, {"scep", "/ota/ota/trust", 200}, {"scep", "/ota/ota", 405}, {"scep", "/ota/ota/check", 403}, {"scep", "/scep/phones?operation=GetCACert", 200},
			{"ops", "/ota/ota/profile", 404},
		},
		// An MEF's clients have a certificate on every operation.
		"onem2m-mef.yaml": {
			{"mef", "/.well-known/est/cacerts", 403}, {"mef", "/.well-known/est/mef/csrattrs", 403}, {"mef", "/.well-known/est/mef-password/cacerts", 200},
			{"mef", "/.well-known/est/mef-password/csrattrs", 401}, {"scep", "/scep?operation=GetCACert", 200}, {"ops", "/crl/local/m2m.crl", 200}, {"scep", "/.well-known/est/cacerts", 403},
		},
		"edge.yaml": {
			{"est", "/.well-known/est/cacerts", 200}, {"est", "/.well-known/est/site/cacerts", 200}, {"est", "/.well-known/cmp/p/plc", 405}, {"cmp", "/.well-known/cmp", 405},
			{"ops", "/readyz", 200}, {"ops", "/metrics", 200}, {"ops", "/crl/local/ec.crl", 200}, {"cmp", "/metrics", 404}, {"ops", "/.well-known/cmp", 404},
		},
		"factory-scep.yaml": {
			{"scep", "/scep?operation=GetCACert", 200}, {"scep", "/scep/line/pkiclient.exe?operation=GetCACaps", 200}, {"scep", "/scep?operation=GetNextCACert", 501},
			{"ops", "/metrics", 200}, {"ops", "/crl/local/rsa.crl", 200}, {"ops", "/scep?operation=GetCACert", 404},
		},
		"factory.yaml": {
			{"plain", "/.well-known/cmp", 405}, {"tls", "/.well-known/cmp/p/factory", 405}, {"tls", "/.well-known/est/cacerts", 200},
			{"tls", "/.well-known/est/lab/cacerts", 200}, {"plain", "/scep?operation=GetCACert", 200}, {"ops", "/.well-known/cmp", 404},
		},
	}
	elsewhere := []string{"stepca.yaml", "edge-forward.yaml"} // before the CA that they need: e2e/cas; TestEdgeLink (e2e)
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) != len(examples)+len(elsewhere) {
		t.Errorf("%d examples, %d are started here, %d in e2e/cas: %v", len(files), len(examples), len(elsewhere), err)
	}
	for name, paths := range examples {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS("../../configs")); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			file := write(t, dir, name, regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(string(text), "127.0.0.1:0"))
			g := serveOn(t, filepath.Join(dir, "data"), "--config", file)
			client := g.client()
			for _, p := range paths {
				scheme := "http://"
				if strings.Contains(g.stderr.String(), "listener="+p.listener+" address="+g.where(p.listener)+" tls=true") {
					scheme = "https://"
				}
				if code, body := fetch(t, client, scheme+g.where(p.listener)+p.path); code != p.want {
					t.Errorf("%s %s: %d %s, want %d", p.listener, p.path, code, body, p.want)
				}
			}
			if code := g.end(syscall.SIGINT); code != 0 {
				t.Errorf("exit code %d\n%s", code, g.stderr)
			}
		})
	}
}

func TestPasswordCommand(t *testing.T) {
	cmd := command("password")
	cmd.Stdin = strings.NewReader("correct horse\n")
	out, err := cmd.Output()
	if err != nil || !regexp.MustCompile(`^\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$[^$]+\$[^$\n]+\n$`).Match(out) {
		t.Errorf("%v %q", err, out)
	}
	for _, in := range []string{"", "\n"} {
		cmd := command("password")
		cmd.Stdin = strings.NewReader(in)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%q: %s", in, out)
		}
	}
}

func TestPasswordCommandForDigest(t *testing.T) {
	folder, configured := t.TempDir(), t.TempDir()
	key := write(t, configured, "key", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	config := write(t, configured, "muster.yaml", "seal: {file: key}\n"+good)
	for keyFile, where := range map[string][]string{
		filepath.Join(folder, sealKey): {"--data", folder}, // made here, as the gateway does
		key:                            {"--config", config},
	} {
		cmd := command(append([]string{"password", "--user", "Mufasa", "--digest", "http-auth@example.org"}, where...)...)
		cmd.Stdin = strings.NewReader("Circle of Life\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v %s", where, err, out)
		}
		sealer, err := seal.Load(keyFile, false)
		if err != nil {
			t.Fatal(err)
		}
		// RFC 7616 section 3.9.1
		_, ha1, _, err := passhash.OpenDigest(strings.TrimSpace(string(out)), "Mufasa", sealer.Open)
		if err != nil || hex.EncodeToString(ha1) != "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232" {
			t.Errorf("%v: %x %v", where, ha1, err)
		}
	}
	// The configuration of a data directory is found there.
	cmd := command("password", "--user", "anna", "--digest", "plant", "--data", configured)
	cmd.Stdin = strings.NewReader("correct horse\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(configured, sealKey)); err == nil {
		t.Error("a key was made beside the configured one")
	}
	cmd = command("password", "--user", "anna", "--digest", "plant", "--data", filepath.Join(folder, "nowhere"))
	cmd.Stdin = strings.NewReader("correct horse\n")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "--config FILE, or --data DIR") {
		t.Errorf("%v %s", err, out)
	}
	for _, arguments := range [][]string{{"--digest", "plant"}, {"--user", "anna"}, {"--user", "an:na", "--digest", "plant"}, {"--user", "anna", "--digest", ""}} {
		cmd := command(append([]string{"password"}, arguments...)...)
		cmd.Stdin = strings.NewReader("correct horse\n")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%q: %s", arguments, out)
		}
	}
}

func TestPluginCommandWantsAName(t *testing.T) {
	// The test binary runs main for it.
	out, err := command("plugin", "locla").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `did you mean "local"?`) {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := command("version").Output(); err != nil || !strings.HasPrefix(string(out), "muster ") {
		t.Errorf("%v %q", err, out)
	}
}
