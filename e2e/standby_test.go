package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// standbyConfig is faultyConfig with a second CA like the first behind it.
var standbyConfig = strings.NewReplacer(
	"  faulty: {plugin: %s, sha256: %s, config: {dir: %s, idempotency: %s, late: %d}}\n",
	"  corp: {plugin: %[1]s, sha256: %[2]s, config: {dir: %[3]s, idempotency: %[4]s, late: %[5]d, name: Corp CA}}\n"+
		"  corp2: {plugin: %[1]s, sha256: %[2]s, config: {dir: %[6]s, idempotency: native, late: %[5]d, name: Corp Two CA}}\n",
	"server-certificate: {backend: faulty}", "server-certificate: {backend: corp2}",
	"backend: faulty", "backend: corp, standby: [corp2]",
	"{sha256}%s", "{sha256}%[7]s",
).Replace(faultyConfig)

// routed is a gateway whose CA has a standby. The ledgers are both CAs' own.
type routed struct {
	*faulty         // with the first CA
	second  *faulty // the standby
	config  string
}

// startRouted starts one, whose first CA is described with the idempotency.
func startRouted(t *testing.T, plugin, idempotency string) *routed {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	cas := []string{filepath.Join(dir, "ca"), filepath.Join(dir, "ca2")}
	program, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(cas, data) {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const secret = "0123456789abcdef0123456789abcdef"
	sum, hash := sha256.Sum256(program), sha256.Sum256([]byte(secret))
	config := fmt.Sprintf(standbyConfig, plugin, hex.EncodeToString(sum[:]), cas[0], idempotency, faultyLate.Milliseconds(), cas[1], hex.EncodeToString(hash[:]))
	file := filepath.Join(data, "gateway.yaml")
	for path, text := range map[string]string{file: config, filepath.Join(data, "secret"): secret} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &instance{t: t, dir: data}
	g.env = map[string]string{
		"MUSTER_CA": filepath.Join(dir, "root.pem"), "MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": secret, "MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": secret,
		"MUSTER_SCEP_CHALLENGE": secret,
	}
	r := &routed{faulty: &faulty{g, cas[0], nil}, second: &faulty{g, cas[1], nil}, config: file}
	t.Cleanup(func() { g.stop() })
	r.begin()
	var roots []byte
	for _, ca := range cas {
		root, err := os.ReadFile(filepath.Join(ca, "root.crt"))
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})...)
	}
	if err := os.WriteFile(g.env["MUSTER_CA"], roots, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// begin starts the gateway, which listens elsewhere each time.
func (r *routed) begin(extra ...string) {
	r.t.Helper()
	cmd := exec.Command(binary, "serve", "--config", r.config, "--data", r.dir)
	cmd.Env = append(append(os.Environ(), "MUSTER_ISSUE_TIMEOUT="+faultyDeadline.String()), extra...)
	r.start(cmd)
	r.env["MUSTER_HTTP"], r.env["MUSTER_HTTPS"] = "http://"+r.listening("http"), "https://"+r.listening("https")
}

// mood has every call of the first CA go wrong in one way; "" for none.
func (r *routed) mood(how string) {
	r.t.Helper()
	file := filepath.Join(r.ca, "mood")
	if err := os.WriteFile(file+".new", []byte(how), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		r.t.Fatal(err)
	}
}

// agreeBoth checks that each request has one certificate in both ledgers together, in the store and with its client, and counts what is not so.
func (r *routed) agreeBoth(all []*wronged) (lost, twice int) {
	r.t.Helper()
	first, second, store := r.signed(), r.second.signed(), r.listed("issued")
	for _, w := range all {
		l, s := append(append([][]byte(nil), first[w.name]...), second[w.name]...), store[w.name]
		if len(l) > 1 || len(s) > 1 {
			twice++
		}
		if w.err != nil || w.cert == nil || len(l) == 0 || len(s) == 0 {
			lost++
		}
		if w.err != nil || w.cert == nil || len(l) != 1 || len(s) != 1 || !bytes.Equal(l[0], w.cert.Raw) {
			r.t.Errorf("%s: %v; %d in the ledgers, %d issued in the store", w.name, w.err, len(l), len(s))
		}
	}
	return lost, twice
}

// TestStandby: a CA that cannot be reached costs devices of the three protocols nothing; of one that drops its answers those wait that
// it may have certified, until it tells. Each has one certificate in both ledgers together.
func TestStandby(t *testing.T) {
	t.Parallel()
	r := startRouted(t, buildFaulty(t), "native")
	r.clients = r.insistents()
	r.mood("unreached")
	begun := time.Now()
	unreached := r.storm("okunreached", 6, 2)
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("six devices took %v", took)
	}
	for _, w := range unreached {
		if w.cert == nil {
			t.Errorf("%s waits: %v", w.name, w.err)
		}
	}
	var explained bytes.Buffer
	for _, tr := range listing[admin.Transaction](r.instance, "--state", "issued") {
		if strings.Contains(tr.Subject, "okunreached-est-0") {
			explained.WriteString(r.muster("explain", tr.ID))
		}
	}
	if !strings.Contains(explained.String(), "corp cannot be asked: ") || !strings.Contains(explained.String(), "standby corp2") {
		t.Errorf("muster explain:\n%s", explained.String())
	}
	if res, err := http.Get(r.env["MUSTER_HTTP"] + "/readyz"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("not ready, with a standby that can: %v %v", res, err)
	}
	var status admin.Status
	if err := json.Unmarshal([]byte(r.muster("status", "--json")), &status); err != nil || !strings.Contains(status.Backends[0].Error, "it has issued nothing since") {
		t.Errorf("%v; muster status: %+v", err, status.Backends)
	}

	r.mood("")
	r.awaitTrial()
	r.mood("drop")
	dropped := r.storm("okdrop", 3, 3) // asked twice each: the breaker opens again
	after := r.storm("okafter", 3, 3)
	for _, w := range after {
		if w.cert == nil {
			t.Errorf("%s waits: %v", w.name, w.err)
		}
	}
	r.mood("")
	all := append(append(unreached, dropped...), after...)
	r.ends(all, 30*time.Second)
	r.agreeBoth(all)
	if n := len(r.signed()); n < 2 {
		t.Errorf("%d were signed by the first CA, which was asked", n)
	}
}

// awaitTrial has devices enrol until the first CA issues again.
func (r *routed) awaitTrial() {
	r.t.Helper()
	before, c := len(r.signed()), r.client(nil)
	for i := range 400 {
		if a, err := r.enroll(r.t.Context(), c, newDevice(r.t, fmt.Sprintf("oktrial%d-%d", time.Now().UnixNano(), i))); err != nil || a.status != http.StatusOK {
			r.t.Fatalf("%+v, %v", a, err)
		}
		if len(r.signed()) > before {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	r.t.Fatalf("the first CA is not asked again\n%s", r.stderr)
}

// TestStandbyCrashPoints kills the gateway around the commit by which a request goes to another CA.
func TestStandbyCrashPoints(t *testing.T) {
	t.Parallel()
	r := startRouted(t, buildFaulty(t), "native")
	for _, point := range gateway.RerouteCrashPoints {
		t.Run(point, func(t *testing.T) {
			r.stop()
			r.mood("")
			once := filepath.Join(t.TempDir(), "once")
			r.begin("MUSTER_CRASH_AT="+point, "MUSTER_CRASH_ONCE="+once)
			r.mood("unreached")
			name := "ok" + strings.ReplaceAll(point, "gateway.", "")
			d := newDevice(t, name)
			if a, err := r.enroll(t.Context(), r.client(nil), d); err == nil {
				t.Errorf("it was answered: %d", a.status)
			}
			if _, err := os.Stat(once); err != nil {
				t.Fatalf("the crash point was never passed: %v", err)
			}
			<-r.exited
			r.mood("") // a start needs all CAs
			r.begin()
			r.settled()
			a, err := r.enroll(t.Context(), r.client(nil), d)
			if err != nil || a.status != http.StatusOK {
				t.Fatalf("%+v, %v", a, err)
			}
			both := append(r.signed()[name], r.second.signed()[name]...)
			if issued := r.transactions(name); len(both) != 1 || len(issued) != 1 || !bytes.Equal(both[0], a.cert.Raw) {
				t.Errorf("%d in both ledgers, %d in muster ls", len(both), len(issued))
			}
		})
	}
}
