package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// takeOverWithin is how soon another replica settles what a killed one left: its lease, and the worker's next look.
const takeOverWithin = 60 * time.Second

// endLeases has the database see all leases as over, for a run that does not wait for it.
const endLeases = `WITH ended AS (UPDATE work SET owner = '', lease_until = 0, due = 0 RETURNING 1) SELECT count(*) FROM ended`

// TestReliabilityTakeOver kills a replica at each named point of an issuance. The device sends the same request to another one, until it
// has its certificate: the one that the killed replica had the CA issue, where it had.
func TestReliabilityTakeOver(t *testing.T) {
	if !long {
		t.Parallel()
	}
	dir := t.TempDir()
	cluster := pgtest.Start(t, pgtest.Volatile)
	database := cluster.NewDatabase(t)
	secret := sha256.Sum256([]byte(estPassword))
	plugin := filepath.Join(dir, "memoryca")
	sum := buildPlugin(t, "memoryca", plugin)
	var journals []string
	start := func(name string, extra ...string) *instance {
		t.Helper()
		data := filepath.Join(dir, name)
		file, journal := filepath.Join(data, "gateway.yaml"), filepath.Join(data, "journal")
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(replicaConfig, cluster.DSN(database), plugin, sum, journal, hex.EncodeToString(secret[:]))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g := &instance{t: t, dir: data}
		cmd := exec.Command(binary, "serve", "--config", file, "--data", data, "--instance", name)
		cmd.Env = append(os.Environ(), extra...)
		g.start(cmd)
		t.Cleanup(g.stop)
		g.env = countedEnv(t)(g)
		return g
	}
	survivor := start("survivor")
	journals = append(journals, filepath.Join(dir, "survivor", "journal"))
	devices, victims := make([]*device, len(gateway.CrashPoints)), make([]*instance, len(gateway.CrashPoints))
	for i, point := range gateway.CrashPoints {
		name := fmt.Sprintf("victim-%d", i)
		start(name).stop() // its own certificate is made before anything crashes
		victims[i], devices[i] = start(name, "MUSTER_CRASH_AT="+point), newDevice(t, fmt.Sprintf("taken-over-%d", i))
		journals = append(journals, filepath.Join(dir, name, "journal"))
	}
	got, worst := &won{}, &slowest{}
	var killed, wg sync.WaitGroup
	for i, d := range devices {
		killed.Go(func() {
			if a, err := victims[i].enroll(t.Context(), victims[i].client(nil), d); err == nil {
				t.Errorf("killed at %s, it answered %d", gateway.CrashPoints[i], a.status)
			}
			<-victims[i].exited
		})
	}
	killed.Wait()
	if !long {
		cluster.Count(t, database, endLeases)
	}
	for i, d := range devices {
		wg.Go(func() {
			begun, c := time.Now(), survivor.client(nil)
			for {
				a, err := survivor.enroll(t.Context(), c, d)
				if err == nil && a.status == http.StatusOK {
					got.add(fmt.Sprintf("taken-over-%d", i), a.cert)
					break
				}
				if err != nil || a.status != http.StatusAccepted || time.Since(begun) > takeOverWithin {
					t.Errorf("killed at %s, the other one says after %s: %v, %+v", gateway.CrashPoints[i], time.Since(begun), err, a)
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			worst.since(begun)
			t.Logf("killed at %s: settled by the other after %s", gateway.CrashPoints[i], time.Since(begun).Round(time.Millisecond))
		})
	}
	wg.Wait()
	issued := map[string]bool{} // the same certificate again is the same certificate: replicas of this CA keep a journal each
	for _, j := range journals {
		ids, err := backendtest.Journal(j)
		if err != nil {
			t.Fatal(err)
		}
		for _, certs := range ids {
			for _, der := range certs {
				issued[string(der)] = true
			}
		}
	}
	var all [][]byte
	for der := range issued {
		all = append(all, []byte(der))
	}
	for i, point := range gateway.CrashPoints {
		if trs := survivor.transactions(fmt.Sprintf("taken-over-%d", i)); len(trs) != 1 || trs[0].State != "issued" {
			t.Errorf("killed at %s: %+v, want one that is issued", point, trs)
		}
	}
	got.judge(t, "a replica killed within a request, settled by another", "taken-over-", len(devices), survivor, byCommonName(t, all, "taken-over-"), worst.String())
}
