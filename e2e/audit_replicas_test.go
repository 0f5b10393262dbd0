package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// TestAuditReplicas: the trail of two replicas is verified by both keys, with a snapshot of it while both write: never is it found faulty.
func TestAuditReplicas(t *testing.T) {
	t.Parallel()
	secret := sha256.Sum256([]byte("0123456789abcdef0123456789abcdef"))
	cluster := pgtest.Start(t, pgtest.Volatile)
	dir := t.TempDir()
	replicas, _ := startReplicasAt(t, cluster.DSN(cluster.NewDatabase(t)), "memoryca", dir, func(dsn, plugin, sum, journal string) string {
		return fmt.Sprintf(replicaConfig, dsn, plugin, sum, journal, hex.EncodeToString(secret[:]))
	}, func(g *instance) map[string]string {
		return map[string]string{
			"MUSTER_HTTPS": "https://" + g.listening("https"), "MUSTER_CA": memoryRoot(t, g.dir),
			"MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": "0123456789abcdef0123456789abcdef",
		}
	})
	quit := make(chan struct{})
	var load sync.WaitGroup
	for i, g := range replicas {
		c := g.client(nil)
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-quit:
					return
				default:
				}
				if got, err := g.enroll(t.Context(), c, newDevice(t, fmt.Sprintf("r%d-%d", i, n))); err != nil || got.status != http.StatusOK {
					t.Errorf("replica %d: %+v, %v", i, got, err)
					return
				}
			}
		})
	}
	a, b := replicas[0], replicas[1]
	config := filepath.Join(a.dir, "gateway.yaml")
	other := filepath.Join(b.dir, "audit.pub")
	out, code := a.run(a.dir, binary, "audit", "verify", "--config", config, "--data", a.dir)
	if code != 1 || !strings.Contains(out, `stream "b": its chain is whole, but nobody vouches for the key`) {
		t.Errorf("without the other's key: %d\n%s", code, out)
	}
	for range scaled(5, 50) {
		if a.verified("--config", config, "--data", a.dir, "--key", other); t.Failed() {
			break
		}
	}
	close(quit)
	load.Wait()
	for _, g := range replicas {
		g.stop()
	}
	out = b.verified("--config", filepath.Join(b.dir, "gateway.yaml"), "--data", b.dir, "--key", filepath.Join(a.dir, "audit.pub"))
	if !strings.Contains(out, "\na ") || !strings.Contains(out, "\nb ") {
		t.Errorf("two streams, want a and b:\n%s", out)
	}
}
