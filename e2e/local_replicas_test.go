package e2e

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// What docs/backends/local.md#replicas shows, with two protocols.
const localReplicaConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: %q
seal: {file: ../seal.key}
backends:
  local: {plugin: local, config: {dir: ca, issuers: {rsa: {bits: 2048}}}}
distribution: {listeners: [http]}
profiles:
  device: {backend: local, keys: [P-256], validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
endpoints:
  devices:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%s"}}
      - names: {san: {dns: {}}}
  macs:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}}
      - names: {}
`

// databasePassword stands in the store's URL. PostgreSQL does not ask for it here: the test looks where it turns up.
const databasePassword = "what-nobody-prints"

// localReplica is a gateway in a folder of its own, with the CA in ca below it.
func localReplica(t *testing.T, dir, name, dsn string, extra ...string) *instance {
	t.Helper()
	data := filepath.Join(dir, name)
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	secret := sha256.Sum256([]byte(factorySecret))
	file := filepath.Join(data, "gateway.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, localReplicaConfig, dsn, hex.EncodeToString(secret[:])), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &instance{t: t, dir: data}
	cmd := exec.Command(binary, "serve", "--config", file, "--data", data, "--instance", name)
	cmd.Env = append(os.Environ(), extra...)
	g.start(cmd)
	t.Cleanup(g.stop)
	return g
}

func (g *instance) reachable() {
	g.t.Helper()
	g.env = map[string]string{
		"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_HTTPS": "https://" + g.listening("https"),
		"MUSTER_CA": filepath.Join(g.dir, "ca", "roots.pem"), "MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": factorySecret,
		"MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": factorySecret,
	}
}

// TestLocalReplicas runs two gateways over one PostgreSQL with the embedded CA, whose ledger is there: one certificate and one row for a
// request at both, over EST and CMP; a revocation at one is on the other's CRL; what one that dies has signed, or not, the other settles.
func TestLocalReplicas(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.Volatile)
	dsn := strings.Replace(cluster.DSN(cluster.NewDatabase(t)), "muster@", "muster:"+databasePassword+"@", 1)
	dir := t.TempDir()
	for name, content := range map[string]string{"factory.secret": factorySecret, "seal.key": base64.StdEncoding.EncodeToString(random(32))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := localReplica(t, dir, "a", dsn)
	a.reachable()
	// Without the authority the second one says what to do.
	b := localReplica(t, dir, "b", dsn)
	<-b.exited
	if told := b.stderr.String(); !strings.Contains(told, "another replica has made it") || strings.Contains(told, databasePassword) {
		t.Fatalf("%s", told)
	}
	printed := []string{b.stderr.String()}
	if out, err := exec.Command("cp", "-a", filepath.Join(a.dir, "ca", "authority"), filepath.Join(b.dir, "ca", "authority")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b = localReplica(t, dir, "b", dsn)
	b.reachable()
	rows := func(name string) (of []local.Entry) {
		t.Helper()
		all, err := local.ReadPostgresLedger(t.Context(), local.LedgerURL(dsn), "local")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if strings.Contains(e.Subject, "CN="+name) {
				of = append(of, e)
			}
		}
		return of
	}

	t.Run("the same request at both at once, EST", func(t *testing.T) {
		d := newDevice(t, "est-twin")
		answers := make([]*answer, 8)
		var wg sync.WaitGroup
		for i := range answers {
			g := []*instance{a, b}[i%2]
			c := g.client(nil)
			wg.Go(func() {
				for range 200 {
					got, err := g.enroll(t.Context(), c, d)
					if err != nil {
						t.Error(err)
						return
					}
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
		if got := rows("est-twin"); len(got) != 1 || !bytes.Equal(got[0].Certificate, answers[0].cert.Raw) {
			t.Errorf("%d rows", len(got))
		}
	})
	t.Run("the same request at both at once, CMP", func(t *testing.T) {
		d := a.cmpDevice("cmp-twin")
		ir := d.message(d.request(cmpmsg.TypeIR))
		answers := make([][]byte, 8)
		var wg sync.WaitGroup
		for i := range answers {
			own := *d
			own.url = []*instance{a, b}[i%2].env["MUSTER_HTTP"] + "/.well-known/cmp"
			wg.Go(func() {
				var err error
				if answers[i], err = own.decided(ir); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if _, err := d.take(answers[0]); err != nil || d.cert == nil {
			t.Fatalf("no certificate: %v", err)
		}
		if got := rows("cmp-twin"); len(got) != 1 || !bytes.Equal(got[0].Certificate, d.cert.Raw) {
			t.Errorf("%d rows", len(got))
		}
	})

	work := t.TempDir()
	t.Run("curl at one, openssl at the other; revoked there, on the CRL here", func(t *testing.T) {
		a.sh(work, `set -- /CN=by-curl; `+makeKey+"; "+makeCSR+`
			curl -sS --fail --cacert "$MUSTER_CA" -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 \
				"$MUSTER_HTTPS/.well-known/est/simpleenroll" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out curl.crt`)
		b.sh(work, ecKey+`new.key; `+cmpCommand+`cmp -cmd ir`+cmpSecret+`-newkey new.key -subject /CN=by-openssl -certout openssl.crt
			openssl verify -CAfile "$MUSTER_CA" -untrusted "$(dirname "$MUSTER_CA")/authority/ec.crt" curl.crt openssl.crt`)
		if x, y := rows("by-curl"), rows("by-openssl"); len(x) != 1 || len(y) != 1 {
			t.Fatalf("%d and %d rows", len(x), len(y))
		}
		for _, c := range []struct {
			file          string
			by, elsewhere *instance
		}{{"curl.crt", b, a}, {"openssl.crt", a, b}} {
			serial := strings.TrimPrefix(serial(a, work, c.file), "serial=")
			c.by.muster("revoke", serial, "--reason", "keyCompromise")
			listed := false
			for range 250 { // the CA is told at once, by a worker where that fails
				out := c.elsewhere.sh(work, `curl -sS --fail "$MUSTER_HTTP/crl/local/ec.crl" | openssl crl -inform DER -noout -text`)
				if listed = strings.Contains(out, "Serial Number: "+serial); listed {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if !listed {
				t.Errorf("%s is not on the other's CRL", c.file)
			}
		}
		x, y := a.sh(work, `curl -sS --fail "$MUSTER_HTTP/crl/local/ec.crl" | openssl sha256`), b.sh(work, `curl -sS --fail "$MUSTER_HTTP/crl/local/ec.crl" | openssl sha256`)
		if x != y {
			t.Error("two CRLs at once")
		}
	})

	// One dies at each point, its gateway with it. The other settles what it has left, when its lease is over.
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, point := range local.CrashPoints {
		t.Run("killed at "+point, func(t *testing.T) {
			printed = append(printed, b.stderr.String())
			b.stop()
			b = localReplica(t, dir, "b", dsn, "MUSTER_CRASH_AT="+point, "MUSTER_CRASH_BOTH=1")
			b.reachable()
			name := "killed-" + strings.ReplaceAll(point, ".", "-")
			d := newDevice(t, name)
			if got, err := b.enroll(t.Context(), b.client(nil), d); err == nil {
				t.Errorf("it answers %d", got.status)
			}
			<-b.exited
			if n := len(rows(name)); n != map[bool]int{point == local.CrashAfterLedger: 1}[true] {
				t.Errorf("%d rows when it has died", n)
			}
			if _, err := db.ExecContext(t.Context(), `UPDATE work SET lease_until = 0, due = 0`); err != nil { // the time goes by
				t.Fatal(err)
			}
			a.settled()
			got, err := a.enroll(t.Context(), a.client(nil), d)
			if err != nil || got.status != http.StatusOK {
				t.Fatalf("%+v, %v", got, err)
			}
			if all := rows(name); len(all) != 1 || !bytes.Equal(all[0].Certificate, got.cert.Raw) || len(a.transactions(name)) != 1 {
				t.Errorf("%d rows, %d transactions", len(all), len(a.transactions(name)))
			}
		})
	}

	// The password reaches the plugin by Configure alone.
	pid := a.plugin()
	for _, file := range []string{"environ", "cmdline"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil || len(text) == 0 {
			t.Fatalf("%v, %d bytes", err, len(text))
		}
		printed = append(printed, string(text))
	}
	checked, code := a.run(a.dir, binary, "config", "check", filepath.Join(a.dir, "gateway.yaml"))
	if code != 0 {
		t.Errorf("config check: %s", checked)
	}
	printed = append(printed, a.stderr.String(), a.muster("ls"), checked)
	if i := slices.IndexFunc(printed, func(s string) bool { return strings.Contains(s, databasePassword) }); i >= 0 {
		t.Errorf("the password of the database stands in\n%s", printed[i])
	}
}
