package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// lyingConfig has a CA that lies behind all three protocols, and an honest one beside it.
var lyingConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  lying: {plugin: PLUGIN, sha256: SUM, config: {dir: DIR}}
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
metrics: {listeners: [http]}
profiles:
  device: {backend: lying, keys: [P-256], validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
  mobile: {backend: lying, keys: ["RSA>=2048"], validity: 30d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth]}
  honest: {backend: local, validity: 30d}
endpoints:
  devices: {protocol: est, listeners: [https], default: true, profile: device, enroll: &est [password: {users: {factory: "{sha256}HASH"}}, names: {san: {dns: {}}}]}
  honest: {protocol: est, listeners: [https], profile: honest, enroll: *est}
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll: [shared-secret: {secrets: {factory: {file: secret}}}, names: {}]
  scep: {protocol: scep, listeners: [http], default: true, profile: mobile, enroll: [challenge: {secrets: {factory: "{sha256}HASH"}}, names: {}]}
`

// lying is a gateway before a CA that lies.
type lying struct {
	*instance
	ca      string // its folder
	clients *insistents
}

func startLying(t *testing.T) *lying {
	t.Helper()
	dir := t.TempDir()
	ca, plugin := filepath.Join(dir, "ca"), filepath.Join(dir, "plugin")
	if err := os.Mkdir(ca, 0o700); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	const secret = "0123456789abcdef0123456789abcdef"
	config := strings.NewReplacer("PLUGIN", plugin, "SUM", buildPlugin(t, "lyingca", plugin), "DIR", ca, "HASH", sha256Hex(secret)).Replace(lyingConfig)
	for name, text := range map[string]string{"gateway.yaml": config, "secret": secret} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &instance{t: t, dir: data}
	t.Cleanup(func() { g.stop() })
	cmd := exec.Command(binary, "serve", "--config", filepath.Join(data, "gateway.yaml"), "--data", data)
	cmd.Env = append(os.Environ(), "MUSTER_ISSUE_TIMEOUT=1s", "GATEWAYS_SECRET=hidden")
	g.start(cmd)
	g.env = map[string]string{
		"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_HTTPS": "https://" + g.listening("https"), "MUSTER_CA": filepath.Join(data, "ca", "roots.pem"),
		"MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": secret, "MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": secret, "MUSTER_SCEP_CHALLENGE": secret,
	}
	return &lying{g, ca, g.insistents()}
}

// honest enrols at the other CA, and says how long that took.
func (g *lying) honest(client *http.Client, name string) time.Duration {
	g.t.Helper()
	begun := time.Now()
	a, err := g.post(g.t.Context(), client, "honest/simpleenroll", g.env["MUSTER_EST_USER"], g.env["MUSTER_EST_PASSWORD"], "application/pkcs10", []byte(toBase64(newDevice(g.t, name).csr)))
	if err != nil || a.status != http.StatusOK {
		g.t.Errorf("an honest CA's device: %+v, %v", a, err)
	}
	return time.Since(begun)
}

// lie is what the CA does to a request, and how an operator reads of it.
type lie struct {
	name  string
	known bool   // to be a lie: the transaction has failed, and the certificate is revoked
	says  string // to the operator
}

// lies are those that are seen for what they are.
var lies = []lie{
	{"otherkey", true, "another public key"},
	{"othersubject", true, `subject "CN=administrator" instead of`},
	{"othersan", true, `subjectAltName "dns:bank.example" instead of`},
	{"isca", true, "it is a CA certificate"},
	{"longer", true, "valid .* instead of"},
	{"foreign", true, "issued by CN=Elsewhere, and its chain leads to none of the certificates that the CA says it has"},
	{"foreignleaf", true, "the chain's first certificate did not issue it"},
	{"order", true, "did not issue"},
	{"nochain", true, "no chain"},
	{"selfsigned", true, "did not issue"},
}

// noAnswers are answers that are none: whether something was issued is not known, and the CA is asked again and again.
var noAnswers = []lie{
	{"garbage", false, "lying: (Issue|Lookup) answered certificate: "},
	{"trailing", false, "lying: (Issue|Lookup) answered certificate: "},
	{"huge", false, "larger than max"},
	{"neither", false, "lying: (Issue|Lookup) answered "},
	{"shout", false, `lying: .*level=ERROR msg="all is well"`},
	{"environ", false, "own: clean; the host's: (.*permission denied|root may read all)"},
	{"hang", false, "(?i)deadline"},
}

// harmless sends a request that is answered with a lie, and checks that nobody has a certificate of it.
func (g *lying) harmless(l lie, i int) (name string) {
	g.t.Helper()
	name = fmt.Sprintf("%s-%d", l.name, i)
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	client := g.clients.make(i, name)
	for range 2 { // who comes again gets nothing either
		if cert, _ := client.send(ctx); cert != nil {
			g.t.Errorf("%s: a client has the certificate %s", name, cert.Subject)
		}
		if l.name == "hang" || l.name == "crash" {
			break
		}
	}
	return name
}

// explained reads what muster explain says of a transaction.
func (g *lying) explained(l lie, tr admin.Transaction) {
	g.t.Helper()
	out := g.muster("explain", tr.ID)
	if flat := strings.Join(strings.Fields(out), " "); !regexp.MustCompile(l.says).MatchString(flat) {
		g.t.Errorf("%s: %q is not in what muster explain says:\n%.2000s", l.name, l.says, out)
	}
	if len(out) > 16<<10 || strings.ContainsAny(out, "\x1b\x00\x07\r") {
		g.t.Errorf("%s: muster explain says %d bytes, perhaps with control characters", l.name, len(out))
	}
	if strings.Contains(out, "hidden") {
		g.t.Errorf("%s: the gateway's environment stands in\n%s", l.name, out)
	}
}

// lies has a CA lie in all ways, each over as many of the protocols; an honest CA's devices enrol meanwhile. muster explain is asked
// about as many of the lies.
func (g *lying) lies(protocols, explained int) {
	g.t.Helper()
	client := g.client(nil)
	g.honest(client, "before")
	goroutines, files := g.gauge("go_goroutines"), g.gauge("process_open_fds")
	var mu sync.Mutex
	sent := map[string]lie{} // by common name
	send := func(l lie, i int) {
		name := g.harmless(l, i)
		mu.Lock()
		defer mu.Unlock()
		sent[name] = l
	}
	for n, l := range lies {
		for p := range protocols {
			send(l, n+p)
		}
	}
	// Those that take time, side by side: an honest CA's devices do not notice. The one that takes the others down comes last.
	var slow sync.WaitGroup
	for n, l := range noAnswers {
		for p := range protocols {
			slow.Go(func() { send(l, n+p) })
		}
	}
	for i := range 10 {
		g.honest(client, fmt.Sprintf("meanwhile-%d", i))
	}
	slow.Wait()
	found := map[string]admin.Transaction{}
	failed := 0
	g.becomes("what became of the lies is not known", func() bool {
		clear(found)
		failed = 0
		for _, tr := range listing[admin.Transaction](g.instance, "--state", "failed,unknown") {
			name := named(tr.Subject)
			l, ok := sent[name]
			if ok && regexp.MustCompile(l.says).MatchString(tr.Note) && (tr.State == string(gateway.StateFailed)) == l.known {
				found[name] = tr
			}
			if tr.State == string(gateway.StateFailed) {
				failed++
			}
		}
		return len(found) == len(sent)
	})
	for name, l := range sent {
		if _, ok := found[name]; !ok {
			g.t.Errorf("%s is not in the state, or without the note %q", name, l.says)
		} else if explained > 0 {
			g.explained(l, found[name])
			explained--
		}
	}
	g.becomes("not all that was made is revoked", func() bool {
		text, err := os.ReadFile(filepath.Join(g.ca, "revoked"))
		return err == nil && strings.Count(string(text), "\n") >= failed
	})
	for p := range protocols {
		g.harmless(lie{name: "crash"}, p)
	}
	g.honest(client, "after")
	log := g.stderr.String()
	if n := strings.Count(log, "ALARM: the CA's certificate is not what was granted"); n != failed {
		g.t.Errorf("%d alarms of %d lies", n, failed)
	}
	if len(log) > 4<<20 || strings.ContainsAny(log, "\x1b\x00\x07\r") || strings.Contains(log, "\nlevel=ERROR msg=\"all is well\"") {
		g.t.Errorf("a log of %d bytes, perhaps with what the plugin said as it is", len(log))
	}
	const slack = 40 // connections of this test's clients, and calls of the worker to a CA that hangs
	g.becomes("goroutines or descriptors are left", func() bool {
		return g.gauge("go_goroutines") <= goroutines+slack && g.gauge("process_open_fds") <= files+slack
	})
}

// A CA that lies, hangs and dies, over the wire: no client has anything of it, and an operator reads what it did.
func TestLyingCA(t *testing.T) { startLying(t).lies(1, 4) }
