package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const faultyConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  faulty: {plugin: %s, sha256: %s, config: {dir: %s, idempotency: %s, late: %d}}
server-certificate: {backend: faulty}
metrics: {listeners: [http]}
profiles:
  device: {backend: faulty, keys: [P-256], validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
  mobile: {backend: faulty, keys: ["RSA>=2048"], validity: 30d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth]}
endpoints:
  devices:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%s"}}
      - names: {san: {dns: {}}}
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: secret}}}
      - names: {}
    cmp: {unconfirmed: keep}
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll:
      - challenge: {secrets: {factory: "{sha256}%s"}}
      - names: {}
`

// How long the gateway waits for the CA in these tests, and how late an answer is that comes too late.
const faultyDeadline, faultyLate = 1500 * time.Millisecond, 2 * time.Second

// faulty is a gateway with a CA that goes wrong on command.
type faulty struct {
	*instance
	ca      string // its folder
	clients *insistents
}

// buildFaulty makes the plugin.
func buildFaulty(t *testing.T) (plugin string) {
	t.Helper()
	return built(t, "faultyca")
}

// startFaulty starts one, whose CA is described with the idempotency.
func startFaulty(t *testing.T, plugin, idempotency string) *faulty {
	t.Helper()
	dir := t.TempDir()
	data, ca := filepath.Join(dir, "data"), filepath.Join(dir, "ca")
	program, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{data, ca} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const secret = "0123456789abcdef0123456789abcdef"
	sum, hash := sha256.Sum256(program), sha256.Sum256([]byte(secret))
	config := fmt.Sprintf(faultyConfig, plugin, hex.EncodeToString(sum[:]), ca, idempotency, faultyLate.Milliseconds(), hex.EncodeToString(hash[:]), hex.EncodeToString(hash[:]))
	file := filepath.Join(data, "gateway.yaml")
	for path, text := range map[string]string{file: config, filepath.Join(data, "secret"): secret} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &instance{t: t, dir: data}
	cmd := exec.Command(binary, "serve", "--config", file, "--data", data)
	cmd.Env = append(os.Environ(), "MUSTER_ISSUE_TIMEOUT="+faultyDeadline.String())
	g.start(cmd)
	t.Cleanup(g.stop)
	g.env = map[string]string{
		"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_HTTPS": "https://" + g.listening("https"), "MUSTER_CA": filepath.Join(dir, "root.pem"),
		"MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": secret, "MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": secret, "MUSTER_SCEP_CHALLENGE": secret,
	}
	root, err := os.ReadFile(filepath.Join(ca, "root.crt"))
	if err == nil {
		err = os.WriteFile(g.env["MUSTER_CA"], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &faulty{g, ca, g.insistents()}
}

// hold keeps Lookup from answering until release.
func (g *faulty) hold() {
	if err := os.WriteFile(filepath.Join(g.ca, "hold"), nil, 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g *faulty) release() {
	if err := os.Remove(filepath.Join(g.ca, "hold")); err != nil {
		g.t.Fatal(err)
	}
}

// signed is the CA's own ledger: every certificate that it signed, by common name.
func (g *faulty) signed() map[string][][]byte {
	g.t.Helper()
	f, err := os.Open(filepath.Join(g.ca, "ledger"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	by := map[string][][]byte{}
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) != 3 {
			continue // half a line
		}
		der, err := hex.DecodeString(fields[2])
		if err != nil {
			g.t.Fatal(err)
		}
		by[fields[1]] = append(by[fields[1]], der)
	}
	return by
}

// gauge reads a metric without labels.
func (g *faulty) gauge(name string) float64 {
	g.t.Helper()
	res, err := http.Get(g.env["MUSTER_HTTP"] + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return v
		}
	}
	g.t.Fatalf("no metric %s", name)
	return 0
}

var restarted = regexp.MustCompile(`msg="plugin restarted"`)

// restarts counts how often the CA's process was started again.
func (g *faulty) restarts() int { return len(restarted.FindAllString(g.stderr.String(), -1)) }

// tidy checks that dead CAs left neither processes nor sockets.
func (g *faulty) tidy() {
	g.t.Helper()
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(g.cmd.Process.Pid)).Output()
	if n := len(strings.Fields(string(out))); n != 1 {
		lines := regexp.MustCompile(`(?m)^.*msg="plugin .*$`).FindAllString(g.stderr.String(), -1)
		g.t.Errorf("%d processes below the gateway, want the CA's one\n%s", n, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
	sockets, err := filepath.Glob(filepath.Join(g.dir, "run", "*", "plugin-dir*"))
	if err != nil || len(sockets) > 1 {
		g.t.Errorf("%d socket folders of dead CAs are left, %v", len(sockets), err)
	}
}
