package store

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
)

// TestAuditRewritten: a record that was made anew, hash and all, shows at the next one.
func TestAuditRewritten(t *testing.T) {
	ctx := t.Context()
	s, err := Open(ctx, "sqlite:"+filepath.Join(t.TempDir(), "muster.db"), Options{Instance: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if err := s.Record(ctx, gateway.AuditEvent{Kind: "strangers"}); err != nil {
			t.Fatal(err)
		}
	}
	var prev, hash []byte
	if err := s.readDB.QueryRowContext(ctx, `SELECT prev, hash FROM audit WHERE seq = 2`).Scan(&prev, &hash); err != nil {
		t.Fatal(err)
	}
	wantBreak := func(seq int64) {
		t.Helper()
		var broken *audit.Fault
		if err := s.VerifyAudit(ctx); !errors.As(err, &broken) || broken.Stream != "one" || broken.Seq != seq {
			t.Errorf("got %v, want a break at record %d", err, seq)
		}
	}
	set := func(hash []byte, body string) {
		t.Helper()
		exec(t, s, `UPDATE audit SET hash = $1, body = $2 WHERE seq = 2`, hash, body)
	}
	set(audit.Link("one", 2, prev, "{}"), "{}")
	wantBreak(3)
	set(hash, "{}")
	wantBreak(2)

	// Record 3 gone, and a number left out.
	exec(t, s, `DELETE FROM audit WHERE seq > 1`)
	if err := s.VerifyAudit(ctx); err != nil {
		t.Fatal(err)
	}
	exec(t, s, s.dialect.sql(texts[insertAudit]), "one", 4, prev, audit.Link("one", 4, prev, "{}"), "{}")
	wantBreak(4)
}
