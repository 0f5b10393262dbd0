package local

import (
	"bytes"
	"sync"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

// Two replicas before one token have both signed for one ID, by signatures that are not alike, before either records: one row counts, and
// both answer with it.
func testSharedToken(t *testing.T, s *sharing) {
	m, dir, ledger := new(memoryToken), t.TempDir(), s.ledger()
	config := ledger + "\npkcs11: {module: /lib/module.so, token: muster, pin: /etc/pin}\nissuers: {rsa: {key: RSA-2048}}"
	var both sync.WaitGroup
	both.Add(2)
	meet := m.options(Options{Crash: func(at string) {
		if at == CrashAfterSign {
			both.Done()
			both.Wait()
		}
	}})
	replicas := []*CA{open(t, dir, meet, config)}
	replicas = append(replicas, open(t, replicaOf(t, dir), meet, config))
	got := make([]*backend.Issuance, 2)
	before := m.signed
	var wg sync.WaitGroup
	for n, c := range replicas {
		wg.Go(func() {
			var err error
			if got[n], err = c.Issue(t.Context(), request(t, "id-1")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	rows, same := len(s.entries(t, ledger)), bytes.Equal(got[0].Certificate, got[1].Certificate)
	if m.signed-before != 2 || rows != 1 || !same {
		t.Errorf("%d signatures, %d rows, one answer: %t", m.signed-before, rows, same)
	}
}
