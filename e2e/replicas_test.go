package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
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

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

const replicaConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: %q
backends:
  memory: {plugin: %s, sha256: %s, config: {journal: %s}}
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
      - password: {users: {factory: "{sha256}%s"}}
      - names: {san: {dns: {}}}
    renew:
      - own-certificate: {}
`

// startReplicas starts two gateways over one PostgreSQL, each in a folder below dir, with a third party's plugin that lies
// in dir and a journal of its own for each. config makes a configuration, env tells where the gateway is.
func startReplicas(t *testing.T, dir string, config func(dsn, plugin, sum, journal string) string, env func(*instance) map[string]string) (replicas []*instance, journals []string) {
	t.Helper()
	return startReplicasOn(t, "memoryca", dir, config, env)
}

// startReplicasOn is startReplicas with the plugin of a folder of this package.
func startReplicasOn(t *testing.T, ca, dir string, config func(dsn, plugin, sum, journal string) string, env func(*instance) map[string]string) (replicas []*instance, journals []string) {
	t.Helper()
	cluster := pgtest.Start(t, pgtest.Volatile)
	return startReplicasAt(t, cluster.DSN(cluster.NewDatabase(t)), ca, dir, config, env)
}

// startReplicasAt is startReplicasOn over a database that there is.
func startReplicasAt(t *testing.T, dsn, ca, dir string, config func(dsn, plugin, sum, journal string) string, env func(*instance) map[string]string) (replicas []*instance, journals []string) {
	t.Helper()
	plugin := filepath.Join(dir, ca)
	sum := buildPlugin(t, ca, plugin)
	for _, name := range []string{"a", "b"} {
		data := filepath.Join(dir, name)
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		journal := filepath.Join(data, "journal")
		journals = append(journals, journal)
		file := filepath.Join(data, "gateway.yaml")
		if err := os.WriteFile(file, []byte(config(dsn, plugin, sum, journal)), 0o600); err != nil {
			t.Fatal(err)
		}
		g := &instance{t: t, dir: data}
		g.start(exec.Command(binary, "serve", "--config", file, "--data", data, "--instance", name))
		t.Cleanup(g.stop)
		g.env = env(g)
		replicas = append(replicas, g)
	}
	return replicas, journals
}

// TestReplicas runs two gateways over one PostgreSQL, with a third party's plugin: the same request at both at once is
// one transaction; what one issued the other repeats, renews and explains.
func TestReplicas(t *testing.T) {
	t.Parallel()
	secret := sha256.Sum256([]byte("0123456789abcdef0123456789abcdef"))
	replicas, journals := startReplicas(t, t.TempDir(), func(dsn, plugin, sum, journal string) string {
		return fmt.Sprintf(replicaConfig, dsn, plugin, sum, journal, hex.EncodeToString(secret[:]))
	}, func(g *instance) map[string]string {
		return map[string]string{
			"MUSTER_HTTPS": "https://" + g.listening("https"), "MUSTER_CA": memoryRoot(t, g.dir),
			"MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": "0123456789abcdef0123456789abcdef",
		}
	})
	a, b := replicas[0], replicas[1]

	d := newDevice(t, "replicated")
	answers := make([]*answer, 16)
	var wg sync.WaitGroup
	for i := range answers {
		g := replicas[i%2]
		c := g.client(nil)
		wg.Go(func() {
			for range 100 {
				got, err := g.enroll(t.Context(), c, d)
				if err != nil {
					t.Error(err)
					return
				}
				// The replica that does not issue it says pending, and knows a moment later.
				if answers[i] = got; got.status != http.StatusAccepted {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	for _, got := range answers {
		if got == nil || got.status != http.StatusOK || !bytes.Equal(got.cert.Raw, answers[0].cert.Raw) {
			t.Fatalf("%+v", got)
		}
	}
	if n := len(a.transactions("replicated")); n != 1 {
		t.Errorf("%d transactions", n)
	}
	issued := 0
	for _, j := range journals {
		ids, err := backendtest.Journal(j)
		if err != nil {
			t.Fatal(err)
		}
		for _, certs := range ids {
			for _, der := range certs {
				if bytes.Equal(der, answers[0].cert.Raw) {
					issued++
				}
			}
		}
	}
	if issued != 1 {
		t.Errorf("the CA issued it %d times", issued)
	}

	// The other replica renews what this one issued.
	d.cert = answers[0].cert
	renewed, err := b.post(t.Context(), b.client(d), "simplereenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
	if err != nil || renewed.status != http.StatusOK || bytes.Equal(renewed.cert.Raw, d.cert.Raw) {
		t.Fatalf("%+v, %v", renewed, err)
	}
	id := a.transactions("replicated")[0].ID
	if told := a.muster("explain", id); !strings.Contains(told, "own-certificate") {
		t.Errorf("replica a does not explain what b did:\n%s", told)
	}
}

// memoryRoot writes the memory CA's root, and returns the file.
func memoryRoot(t *testing.T, dir string) string {
	t.Helper()
	root := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "e2e"}).Root()
	file := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// listening reads from the log where a listener is, once the gateway is ready.
func (g *instance) listening(name string) string {
	g.t.Helper()
	line := regexp.MustCompile(`msg=listening listener=` + name + ` address=(\S+)`)
	for range 3000 {
		if log := g.stderr.String(); strings.Contains(log, "msg=ready") {
			return line.FindStringSubmatch(log)[1]
		}
		select {
		case <-g.exited:
			g.t.Fatalf("the gateway ended\n%s", g.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
	g.t.Fatalf("not ready\n%s", g.stderr)
	return ""
}

// The next step after the quickstart: its own configuration, by name. The env file stays true, on other ports too.
func TestQuickstartByItsConfiguration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	g := startIn(t, dir)
	before := g.env
	g.stop()
	if err := os.Remove(filepath.Join(dir, "quickstart.env")); err != nil {
		t.Fatal(err)
	}
	g = &instance{t: t, dir: dir}
	g.start(exec.Command(binary, "serve", "--config", filepath.Join(dir, "muster.yaml"), "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"))
	t.Cleanup(g.stop)
	if err := g.ready(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	if g.env["MUSTER_EST_PASSWORD"] != before["MUSTER_EST_PASSWORD"] || g.env["MUSTER_CA"] != before["MUSTER_CA"] {
		t.Error("the env file tells other secrets")
	}
	g.mustEnroll(newDevice(t, "by-config"))
}

// The server's certificate covers every name by which this host is called, and verifies with MUSTER_CA alone.
func TestServerCertificate(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	conf := g.client(nil).Transport.(*http.Transport).TLSClientConfig
	for _, name := range []string{"localhost", "127.0.0.1", "::1", host} {
		c := conf.Clone()
		c.ServerName = name
		conn, err := tls.Dial("tcp", strings.TrimPrefix(g.env["MUSTER_HTTPS"], "https://"), c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if chain := conn.ConnectionState().PeerCertificates; len(chain) < 2 || chain[0].PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("%s: a chain of %d", name, len(chain))
		}
		conn.Close()
	}
}
