package e2e

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/audit"
)

// TestAuditAnsweredFor: a trail that a restored backup has cut off is good for who answers for that very record, one that nothing signs for who
// answers for that very stream; both as long as nothing else is wrong.
func TestAuditAnsweredFor(t *testing.T) {
	t.Parallel()
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	g.stop()
	path := filepath.Join(g.dir, "muster.db")
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatal(err)
	}
	g.stop()
	g.verified("--data", g.dir)
	if err := os.WriteFile(path, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatal(err)
	}
	g.stop()

	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var stream string
	var broken int64
	if err := db.QueryRowContext(t.Context(), `SELECT stream, seq FROM audit WHERE json_extract(body, '$.kind') = ?`, audit.KindBroken).Scan(&stream, &broken); err != nil {
		t.Fatal(err)
	}
	place := fmt.Sprintf("%s:%d", stream, broken)
	refused := func(what, want string, args ...string) {
		t.Helper()
		if out, code := g.run(g.dir, binary, append([]string{"audit", "verify", "--data", g.dir}, args...)...); code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, want %q\n%s", what, code, want, out)
		}
	}
	refused("nobody answers", "--restored "+place)
	refused("for another record", "--restored "+place, "--restored", fmt.Sprintf("%s:%d", stream, broken+1))
	refused("for another stream", "--restored "+place, "--restored", fmt.Sprintf("x%s:%d", stream, broken))
	refused("for no record", "--restored: ", "--restored", stream)
	restored := []string{"--data", g.dir, "--restored", place}
	g.verified(restored...)

	// A stream of before trails were signed.
	prev := audit.Genesis()
	for seq := int64(1); seq <= 3; seq++ {
		body := `{"kind":"issued"}`
		hash := audit.Link("old", seq, prev, body)
		if _, err := db.ExecContext(t.Context(), `INSERT INTO audit (stream, seq, prev, hash, body) VALUES ('old', ?, ?, ?, ?)`, seq, prev, hash, body); err != nil {
			t.Fatal(err)
		}
		prev = hash
	}
	refused("nothing signs it", "--unsigned old", restored[2:]...)
	refused("another one is meant", "--unsigned old", append(restored[2:], "--unsigned", stream)...)
	unsigned := append(restored, "--unsigned", "old")
	g.verified(unsigned...)
	refused("unsigned does not answer for the other", "--restored "+place, "--unsigned", "old")
	if _, err := db.ExecContext(t.Context(), `UPDATE audit SET body = '{"kind":"denied"}' WHERE stream = 'old' AND seq = 2`); err != nil {
		t.Fatal(err)
	}
	refused("changed, in an unsigned stream", "stream old, record 2: it was changed", unsigned[2:]...)
	if _, err := db.ExecContext(t.Context(), `UPDATE audit SET body = '{"kind":"issued"}' WHERE stream = 'old' AND seq = 2`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `UPDATE audit SET body = '{"kind":"denied"}' WHERE stream = ? AND seq = ?`, stream, broken+1); err != nil {
		t.Fatal(err)
	}
	refused("changed, after what is answered for", fmt.Sprintf("record %d: it was changed", broken+1), unsigned[2:]...)
}
