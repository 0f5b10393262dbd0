package e2e

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
)

// verified runs `muster audit verify` and wants it to find the trail good.
func (g *instance) verified(args ...string) string {
	g.t.Helper()
	out, code := g.run(g.dir, binary, append([]string{"audit", "verify"}, args...)...)
	if code != 0 || !strings.Contains(out, "\nverified: ") {
		g.t.Errorf("muster audit verify %s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// TestAuditCommands: a real gateway's trail is good while it runs and after; what somebody does to the file who has no key is found, and told
// by its record; it is exported, verified as files, and pruned.
func TestAuditCommands(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	g := startIn(t, dir)
	work := t.TempDir()
	for i := range 3 {
		g.sh(work, fmt.Sprintf(`set -- /CN=device-000%d; `, i)+makeKey+"\n"+makeCSR+`
			curl -sS --fail --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" "$MUSTER_HTTPS/.well-known/est/simpleenroll"`)
	}
	g.verified("--data", dir)
	g.verified("--config", filepath.Join(dir, "muster.yaml"))
	early := strings.TrimSpace(g.muster("audit", "head"))
	g.stop()
	g.verified("--data", dir, "--expect", early)
	info, err := os.Stat(filepath.Join(dir, "audit.key"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("audit.key: %v, %v", info.Mode(), err)
	}

	// Elsewhere, by an export.
	file := filepath.Join(work, "trail.jsonl")
	g.muster("audit", "export", "--out", file)
	key := filepath.Join(dir, "audit.pub")
	g.verified("--key", key, "--expect", early, file)
	if out, code := g.run(work, binary, "audit", "verify", file); code != 1 || !strings.Contains(out, "nobody vouches") || !strings.Contains(out, "--key") {
		t.Errorf("an export without a key: %d\n%s", code, out)
	}
	some := filepath.Join(work, "some.jsonl")
	g.muster("audit", "export", "--out", some, "--kind", "issued", "--since", "1h")
	if out, code := g.run(work, binary, "audit", "verify", "--key", key, some); code != 1 || !strings.Contains(out, "leaves records out (since") {
		t.Errorf("a part: %d\n%s", code, out)
	}
	lines := strings.SplitAfter(g.sh(work, "cat "+file), "\n")
	if n := len(strings.Split(g.sh(work, "cat "+some), "\n")); n >= len(lines) || n < 5 {
		t.Errorf("%d lines of %d were issued", n, len(lines))
	}
	for name, cut := range map[string][]string{"a line less": append(append([]string{}, lines[:4]...), lines[5:]...), "the last line less": lines[:len(lines)-2]} {
		if err := os.WriteFile(some, []byte(strings.Join(cut, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := g.run(work, binary, "audit", "verify", "--key", key, some); code != 1 || !strings.Contains(out, "record") {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
	}
	if err := os.WriteFile(some, []byte(strings.Join(lines[5:], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	g.verified("--partial", "--key", key, some)

	// On the file, by somebody without the key.
	path := filepath.Join(dir, "muster.db")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	exec(`CREATE TABLE kept AS SELECT * FROM audit`)
	var last int64
	var transaction, stream string
	if err := db.QueryRowContext(t.Context(), `SELECT max(seq), stream FROM audit`).Scan(&last, &stream); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRowContext(t.Context(), `SELECT json_extract(body, '$.transaction') FROM audit WHERE seq = 3`).Scan(&transaction); err != nil {
		t.Fatal(err)
	}
	remade := func(seq int64, body string) {
		t.Helper()
		for ; seq <= last; seq++ {
			prev := audit.Genesis()
			var old string
			_ = db.QueryRowContext(t.Context(), `SELECT hash FROM audit WHERE seq = ?`, seq-1).Scan(&prev)
			if err := db.QueryRowContext(t.Context(), `SELECT body FROM audit WHERE seq = ?`, seq).Scan(&old); err != nil {
				t.Fatal(err)
			}
			if body == "" {
				body = old
			}
			exec(`UPDATE audit SET prev = ?, body = ?, hash = ? WHERE seq = ?`, prev, body, audit.Link(stream, seq, prev, body), seq)
			body = ""
		}
	}
	for _, c := range []struct {
		name, want string
		tamper     func()
	}{
		{"changed", "record 3, transaction " + transaction + ": it was changed", func() { exec(`UPDATE audit SET body = replace(body, 'issued', 'denied') WHERE seq = 3`) }},
		{"removed", "record 4, transaction", func() { exec(`DELETE FROM audit WHERE seq = 3`) }},
		{"reordered", "record 3,", func() {
			exec(`UPDATE audit SET seq = -3 WHERE seq = 3`)
			exec(`UPDATE audit SET seq = 3 WHERE seq = 4`)
			exec(`UPDATE audit SET seq = 4 WHERE seq = -3`)
		}},
		{"cut off", fmt.Sprintf("record %d: the stream ends here", last-1), func() { exec(`DELETE FROM audit WHERE seq = ?`, last) }},
		{"inserted at the end", fmt.Sprintf("record %d: it was written after the gateway had stopped", last+1), func() {
			var prev []byte
			if err := db.QueryRowContext(t.Context(), `SELECT hash FROM audit WHERE seq = ?`, last).Scan(&prev); err != nil {
				t.Fatal(err)
			}
			exec(`INSERT INTO audit VALUES (?, ?, ?, ?, ?)`, stream, last+1, prev, audit.Link(stream, last+1, prev, `{"kind":"issued"}`), `{"kind":"issued"}`)
		}},
		{"made anew", "the records before this checkpoint are not those that it was signed for", func() { remade(3, `{"kind":"denied"}`) }},
		{"renamed", "stream " + stream + ": the stream is gone", func() { exec(`UPDATE audit SET stream = 'other'`) }},
		{"gone", "the stream is gone", func() { exec(`DELETE FROM audit`) }},
		{"the beginning gone", "record 5: the records before it, 1 to 4, are gone", func() { exec(`DELETE FROM audit WHERE seq < 5`) }},
	} {
		c.tamper()
		out, code := g.run(dir, binary, "audit", "verify", "--data", dir)
		if code != 1 || !strings.Contains(out, c.want) || !strings.Contains(out, "NOT VERIFIED") {
			t.Errorf("%s: exit %d, want %q\n%s", c.name, code, c.want, out)
		}
		var report struct {
			Verified bool
			Faults   []audit.Fault
		}
		out, _ = g.run(dir, binary, "audit", "verify", "--data", dir, "--json")
		if err := json.Unmarshal([]byte(out), &report); err != nil || report.Verified || len(report.Faults) == 0 {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
		exec(`DELETE FROM audit`)
		exec(`INSERT INTO audit SELECT * FROM kept`)
	}
	g.verified("--data", dir)
	if err := os.Rename(filepath.Join(dir, "audit.head"), filepath.Join(work, "head")); err != nil {
		t.Fatal(err)
	}
	if out, code := g.run(dir, binary, "audit", "verify", "--data", dir); code != 1 || !strings.Contains(out, "audit.head") {
		t.Errorf("without its head file: %d\n%s", code, out)
	}
	if err := os.Rename(filepath.Join(work, "head"), filepath.Join(dir, "audit.head")); err != nil {
		t.Fatal(err)
	}
	exec(`DROP TABLE kept`)

	// Two days later.
	secret, _, err := audit.LoadKey(filepath.Join(dir, "audit.key"), key)
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(48 * time.Hour)
	s, err := store.Open(t.Context(), "sqlite:"+path, store.Options{Instance: stream, AuditKey: secret, AuditHead: filepath.Join(dir, "audit.head"), Clock: func() time.Time { return later }})
	if err != nil {
		t.Fatal(err)
	}
	err = s.RecordSigned(t.Context(), gateway.AuditEvent{Kind: "started", At: later})
	n, pruned := s.PruneAudit(t.Context(), later.Add(-24*time.Hour))
	if closed := s.Close(); err != nil || pruned != nil || closed != nil || n == 0 {
		t.Fatal(n, err, pruned, closed)
	}
	if out := g.verified("--data", dir); !strings.Contains(out, fmt.Sprintf(" %d to ", n+1)) {
		t.Errorf("%d records were removed:\n%s", n, out)
	}
	exec(`DELETE FROM audit WHERE seq = ?`, n+1)
	if out, code := g.run(dir, binary, "audit", "verify", "--data", dir); code != 1 || !strings.Contains(out, fmt.Sprintf("the records before it, 1 to %d, are gone", n+1)) {
		t.Errorf("one more: %d\n%s", code, out)
	}
}
