package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// TestReloadWithoutDatabase: a reload while PostgreSQL is down fails, says so, and changes nothing; once it is back the gateway goes on by itself with
// what it had, and the same reload goes through.
func TestReloadWithoutDatabase(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.Volatile)
	dir := t.TempDir()
	data, secret := filepath.Join(dir, "data"), sha256.Sum256([]byte(estPassword))
	plugin := filepath.Join(dir, "memoryca")
	sum := buildPlugin(t, "memoryca", plugin)
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(replicaConfig, cluster.DSN(cluster.NewDatabase(t)), plugin, sum, filepath.Join(data, "journal"), hex.EncodeToString(secret[:]))
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(data, "gateway.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config)
	g := &instance{t: t, dir: data}
	g.start(exec.Command(binary, "serve", "--config", filepath.Join(data, "gateway.yaml"), "--data", data))
	t.Cleanup(g.stop)
	g.env = countedEnv(t)(g)
	days := func(name string, want float64) {
		t.Helper()
		d := newDevice(t, name)
		g.enrolsAgain(d)
		a, err := g.enroll(t.Context(), g.client(nil), d)
		if err != nil || a.cert == nil {
			t.Fatal(err, a)
		}
		if got := a.cert.NotAfter.Sub(a.cert.NotBefore).Hours() / 24; got < want-1 || got > want+1 {
			t.Errorf("%s: a certificate of %.1f days, want %.0f", name, got, want)
		}
	}
	days("before", 30)

	cluster.Crash(t)
	write(strings.Replace(config, "validity: 30d", "validity: 60d", 1))
	out, code := g.run(data, binary, "reload", "--data", data)
	if code == 0 || !strings.Contains(out, "the store cannot be read: ") || !strings.Contains(out, "nothing has changed") {
		t.Errorf("muster reload: exit %d\n%s", code, out)
	}
	if status := g.readyz(); status != http.StatusServiceUnavailable {
		t.Errorf("readyz is %d without a database", status)
	}
	cluster.Launch(t)
	g.goesReady()
	days("after", 30)
	if out := g.muster("reload"); strings.Contains(out, "nothing") {
		t.Errorf("muster reload: %s", out)
	}
	days("reloaded", 60)
	if log := g.stderr.String(); strings.Contains(log, "panic") {
		t.Error(log)
	}
}
