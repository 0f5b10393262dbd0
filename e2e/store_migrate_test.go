package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

const movedConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: %q
seal: {file: ../seal.key}
backends:
  memory: {plugin: ../memoryca, sha256: %s, config: {journal: %s}}
server-certificate: {backend: memory}
profiles:
  device: {backend: memory, keys: [P-256], validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
endpoints:
  devices:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%[4]s"}}
      - names: {san: {dns: {}}}
    renew:
      - own-certificate: {}
  held:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%[4]s"}}
      - names: {san: {dns: {}}}
      - approval: {approvers: 1}
  challenged:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - challenge: {issued: true, basic: true}
      - names: {san: {dns: {}}}
  counted:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%[4]s"}}
      - inventory: {by: [subject.CN], enrollments: 1}
      - names: {device: subject.CN, san: {dns: {}}}
  limited:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%[4]s"}}
      - names: {san: {dns: {}}}
      - limits: {endpoint: {issued: 3, per: 24h}}
  macs:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ../ra.pem, key: ../ra.pem}
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}, devices: true}
      - names: {}
`

// TestStoreMigrate moves a gateway's SQLite store to PostgreSQL, killed at it several times, and goes on with two replicas: each thing that
// was begun on the old store ends on the new one.
func TestStoreMigrate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"ra.pem": raPEM(t), "factory.secret": []byte(factorySecret), "seal.key": []byte(base64.StdEncoding.EncodeToString(random(32))),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := buildPlugin(t, "memoryca", filepath.Join(dir, "memoryca"))
	start := func(name, dsn string) *instance {
		t.Helper()
		data := filepath.Join(dir, name)
		file := filepath.Join(data, "gateway.yaml")
		text := fmt.Sprintf(movedConfig, dsn, sum, filepath.Join(data, "journal"), sha256Hex(estPassword))
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g := &instance{t: t, dir: data}
		g.start(exec.Command(binary, "serve", "--config", file, "--data", data, "--instance", name))
		t.Cleanup(g.stop)
		g.env = countedEnv(t)(g)
		return g
	}
	a := start("a", "sqlite:muster.db")
	ask := func(g *instance, endpoint, password string, d *device, want int) *answer {
		t.Helper()
		got, err := g.post(t.Context(), g.client(nil), endpoint+"/simpleenroll", "factory", password, "application/pkcs10", []byte(toBase64(d.csr)))
		if err != nil || got.status != want {
			t.Fatalf("%s: %v, %+v; want %d", endpoint, err, got, want)
		}
		return got
	}
	challenge := func() string {
		t.Helper()
		c, err := a.admin().NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "challenged", Uses: 1, NotAfter: new(time.Now().Add(time.Hour))})
		if err != nil {
			t.Fatal(err)
		}
		return c.Challenge
	}

	repeats, held, denied, counted := newDevice(t, "repeats"), newDevice(t, "held-one"), newDevice(t, "held-two"), newDevice(t, "unit-1")
	first := ask(a, "devices", estPassword, repeats, http.StatusOK)
	ask(a, "held", estPassword, held, http.StatusAccepted)
	ask(a, "held", estPassword, denied, http.StatusAccepted)
	spent, unspent := challenge(), challenge()
	ask(a, "challenged", spent, newDevice(t, "spends"), http.StatusOK)
	if _, err := a.admin().ImportDevices(t.Context(), []admin.Device{{Name: "unit-1"}, {Name: "unit-2"}}, false, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	ask(a, "counted", estPassword, counted, http.StatusOK)
	for _, name := range []string{"limited-1", "limited-2"} {
		ask(a, "limited", estPassword, newDevice(t, name), http.StatusOK)
	}
	a.muster("secret", "add", "--endpoint", "macs", "--reference", "dev-1", "--device", "one", "--secret-file", secretFile(t, deviceSecret))
	unconfirmed := a.cmpDevice("unconfirmed")
	unconfirmed.at(a, "macs")
	if m, err := unconfirmed.exchange(unconfirmed.request(cmpmsg.TypeIR)); err != nil || unconfirmed.cert == nil {
		t.Fatalf("%v %s", err, failure(m))
	}
	conf := unconfirmed.message(unconfirmed.certConf())
	heldID, deniedID := a.held("held-one"), a.held("held-two")

	cluster := pgtest.Start(t, pgtest.Volatile)
	database := cluster.NewDatabase(t)
	dsn := cluster.DSN(database)
	migrate := func(args ...string) *exec.Cmd {
		return exec.Command(binary, append([]string{"store", "migrate", "--config", filepath.Join(a.dir, "gateway.yaml"), "--from", "sqlite", "--to", dsn}, args...)...)
	}
	if out, err := migrate().CombinedOutput(); err == nil || !strings.Contains(string(out), "another gateway runs on") {
		t.Errorf("while the gateway runs: %v\n%s", err, out)
	}
	a.stop()
	for _, after := range []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 120 * time.Millisecond} {
		m := migrate()
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // wherever that is
		m.Process.Kill()  //nolint:errcheck // it may be done
		m.Wait()          //nolint:errcheck // killed
	}
	out, err := migrate().CombinedOutput()
	if err != nil || !strings.Contains(string(out), "store: "+dsn) || !strings.Contains(string(out), "seal") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	if out, err := migrate().CombinedOutput(); err != nil || !strings.Contains(string(out), "already") {
		t.Errorf("again: %v\n%s", err, out)
	}
	records := func() int {
		return cluster.Count(t, database, `SELECT max(seq) FROM audit WHERE stream = 'a'`)
	}
	before := records()

	a = start("a", dsn)
	b := start("b", dsn)
	for what, g := range map[string]*instance{"a": a, "b": b} {
		if got := ask(g, "devices", estPassword, repeats, http.StatusOK); !bytes.Equal(got.cert.Raw, first.cert.Raw) {
			t.Errorf("a repeat at %s has another certificate", what)
		}
	}
	b.muster("approve", heldID)
	a.muster("deny", deniedID, "--reason", "nobody knows it")
	ask(a, "held", estPassword, held, http.StatusOK)
	ask(b, "held", estPassword, denied, http.StatusForbidden)
	ask(a, "challenged", spent, newDevice(t, "late"), http.StatusUnauthorized)
	ask(b, "challenged", unspent, newDevice(t, "in-time"), http.StatusOK)
	ask(a, "challenged", unspent, newDevice(t, "late"), http.StatusUnauthorized)
	ask(b, "counted", estPassword, newDevice(t, "unit-1"), http.StatusForbidden)
	ask(b, "counted", estPassword, newDevice(t, "unit-2"), http.StatusOK)
	ask(a, "limited", estPassword, newDevice(t, "limited-3"), http.StatusOK)
	if got, err := b.post(t.Context(), b.client(nil), "limited/simpleenroll", "factory", estPassword, "application/pkcs10", []byte(toBase64(newDevice(t, "limited-4").csr))); err != nil || got.status == http.StatusOK {
		t.Errorf("a fourth of three: %v, %+v", err, got)
	}
	own := b.cmpDevice("sealed")
	own.at(b, "macs")
	own.ref, own.secret = "dev-1", []byte(deviceSecret)
	if err := own.enroll(); err != nil {
		t.Errorf("with a sealed secret: %v", err)
	}
	unconfirmed.at(b, "macs")
	pkiConf, err := unconfirmed.post(conf)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := unconfirmed.take(pkiConf); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
		t.Errorf("certConf after the move: %v %s", err, failure(m))
	}
	repeats.cert = first.cert
	if got, err := b.post(t.Context(), b.client(repeats), "simplereenroll", "", "", "application/pkcs10", []byte(toBase64(repeats.csr))); err != nil || got.status != http.StatusOK {
		t.Errorf("a renewal: %v, %+v", err, got)
	}
	a.stop()
	b.stop()
	if now := records(); now <= before {
		t.Errorf("the stream of a has %d records, had %d", now, before)
	}
	s, err := store.Open(t.Context(), dsn, store.Options{Instance: "check"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}
