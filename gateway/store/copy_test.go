package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// schemaTables are the tables of a SQLite store with their columns, NAME or NAME? for one that may be NULL, and declared types.
func schemaTables(t *testing.T, db *sql.DB) map[string][][2]string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT s.name, c.name || CASE WHEN c."notnull" = 0 AND c.pk = 0 THEN '?' ELSE '' END, c.type FROM sqlite_schema s, pragma_table_info(s.name) c
		WHERE s.type = 'table' AND s.name NOT LIKE 'sqlite_%' AND s.name <> 'goose_db_version' ORDER BY s.name, c.name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	tables := map[string][][2]string{}
	for rows.Next() {
		var table, column, kind string
		if err := rows.Scan(&table, &column, &kind); err != nil {
			t.Fatal(err)
		}
		tables[table] = append(tables[table], [2]string{column, kind})
	}
	return tables
}

// fill writes rows into every table that the schema has, of values that are easily lost on the way: empty and NULL, zero bytes, large numbers.
// Rows of a number go together, so that what refers to a row finds it.
func fill(t *testing.T, db *sql.DB, rows int) {
	t.Helper()
	for table, columns := range schemaTables(t, db) {
		if table == "inventory" {
			if _, err := db.ExecContext(t.Context(), `UPDATE inventory SET batch = 9007199254740993`); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for row := range rows {
			var names, places []string
			var values []any
			for i, c := range columns {
				name, nullable := strings.CutSuffix(c[0], "?")
				names, places = append(names, name), append(places, fmt.Sprintf("$%d", i+1))
				switch {
				case nullable && row%3 == 1 && name != "chain":
					values = append(values, nil)
				case nullable && row%3 == 2 && name != "chain" && c[1] == "BLOB":
					values = append(values, []byte{})
				case c[1] == "BLOB":
					values = append(values, []byte(fmt.Sprintf("\x00\xff%d", row)))
				case c[1] == "TEXT":
					values = append(values, fmt.Sprintf("Gerät\t\\N\n'%d'", row))
				case c[1] == "BIGINT":
					values = append(values, int64(9007199254740993)+int64(row))
				default:
					t.Fatalf("table %s, column %s: the type %q is new here: teach gateway/store/copy_table.go and this test", table, name, c[1])
				}
			}
			text := `INSERT INTO ` + table + ` (` + strings.Join(names, ", ") + `) VALUES (` + strings.Join(places, ", ") + `)`
			if _, err := db.ExecContext(t.Context(), text, values...); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
	}
}

// dump is all that a database holds, by table, but for the leases, which end with the move.
func dump(t *testing.T, db *sql.DB, tables map[string][][2]string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for table, columns := range tables {
		var names []string
		for _, c := range columns {
			name := strings.TrimSuffix(c[0], "?")
			if table != "work" || !slices.Contains([]string{"owner", "lease_until", "due"}, name) {
				names = append(names, name)
			}
		}
		rows, err := db.QueryContext(t.Context(), `SELECT `+strings.Join(names, ", ")+` FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		all[table] = []string{}
		for rows.Next() {
			values, into := make([]any, len(names)), make([]any, len(names))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			line := ""
			for i, v := range values {
				if v == nil {
					line += names[i] + "=NULL "
				} else {
					line += fmt.Sprintf("%s=%q ", names[i], fmt.Sprint(v))
				}
			}
			all[table] = append(all[table], line)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		slices.Sort(all[table])
	}
	return all
}

func wantSame(t *testing.T, got, want map[string][]string) {
	t.Helper()
	for table := range want {
		if !slices.Equal(got[table], want[table]) {
			t.Errorf("table %s:\n got %q\nwant %q", table, got[table], want[table])
		}
	}
}

// newSource is a SQLite store whose tables all have rows.
func newSource(t *testing.T, rows int) *database {
	t.Helper()
	d := newSQLite(t)
	if err := d.Open(t, "one", nil).Close(); err != nil {
		t.Fatal(err)
	}
	fill(t, d.rawDB(t), rows)
	return d
}

// TestCopy moves every table that the schema has to PostgreSQL, and back.
func TestCopy(t *testing.T) {
	source := newSource(t, 7)
	raw := source.rawDB(t)
	tables := schemaTables(t, raw)
	want := dump(t, raw, tables)
	for table, rows := range want {
		if len(rows) == 0 {
			t.Errorf("table %s has no rows to move", table)
		}
	}
	c := pgtest.Shared(t)
	target := newPostgres(t, c)
	var last, total int64
	copied, err := store.Copy(t.Context(), source.dsn, target.dsn, store.CopyOptions{Progress: func(done, of int64) { last, total = done, of }})
	if err != nil {
		t.Fatal(err)
	}
	if copied.Already || copied.Total() == 0 || last != copied.Total() || total != last || copied.Fault == "" { // the trail is made of nonsense
		t.Errorf("%+v, %d of %d", copied, last, total)
	}
	wantSame(t, dump(t, target.rawDB(t), tables), want)
	if n := c.Count(t, strings.Split(filepath.Base(target.dsn), "?")[0], `SELECT count(*) FROM pg_sequences WHERE sequencename NOT LIKE 'goose%'`); n != 0 {
		t.Errorf("the schema has %d sequences now: Copy has to set them", n)
	}
	if n := c.Count(t, strings.Split(filepath.Base(target.dsn), "?")[0], `SELECT count(*) FROM work WHERE owner <> '' OR lease_until <> 0`); n != 0 {
		t.Errorf("%d leases of the gateway that was stopped", n)
	}

	again, err := store.Copy(t.Context(), source.dsn, target.dsn, store.CopyOptions{})
	if err != nil || !again.Already {
		t.Errorf("again: %+v, %v", again, err)
	}
	back := newSQLite(t)
	if _, err := store.Copy(t.Context(), target.dsn, back.dsn, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	wantSame(t, dump(t, back.rawDB(t), tables), want)
}

// TestCopyBrokenOff: whatever breaks a run off, the target is as empty as before, and the next run moves all.
func TestCopyBrokenOff(t *testing.T) {
	source := newSource(t, 40)
	target := newPostgres(t, pgtest.Shared(t))
	tables := schemaTables(t, source.rawDB(t))
	for _, after := range []int64{1, 100, 400} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := store.Copy(ctx, source.dsn, target.dsn, store.CopyOptions{Progress: func(done, _ int64) {
			if done == after {
				cancel()
			}
		}})
		if err == nil {
			t.Fatalf("not broken off after %d rows", after)
		}
		for table, rows := range dump(t, target.rawDB(t), tables) {
			if len(rows) > 0 && table != "inventory" {
				t.Errorf("broken off after %d rows: table %s has %d", after, table, len(rows))
			}
		}
	}
	if _, err := store.Copy(t.Context(), source.dsn, target.dsn, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	wantSame(t, dump(t, target.rawDB(t), tables), dump(t, source.rawDB(t), tables))
}

func TestCopyRefused(t *testing.T) {
	source, other := newSource(t, 1), newSQLite(t)
	c := pgtest.Shared(t)
	used, running := newPostgres(t, c), newPostgres(t, c)
	s := used.Open(t, "one", nil)
	if err := errors.Join(s.Record(t.Context(), gateway.AuditEvent{Kind: "started"}), s.Close()); err != nil {
		t.Fatal(err)
	}
	running.Open(t, "runs", nil)
	held := newSource(t, 1)
	held.Open(t, "one", nil)
	for _, test := range []struct{ from, to, want string }{
		{source.dsn, other.dsn, "of one kind"},
		{used.dsn, running.dsn, "of one kind"},
		{other.dsn, used.dsn, "no such file"},
		{source.dsn, used.dsn, "holds something already (audit: "},
		{source.dsn, running.dsn, `the gateway "runs" runs on it`},
		{running.dsn, other.dsn, `the gateway "runs" runs on it`},
		{held.dsn, newPostgres(t, c).dsn, "in use by process"},
		{source.dsn, "mysql://root:geheim@localhost/x", `the scheme "mysql" is not known`},
	} {
		copied, err := store.Copy(t.Context(), test.from, test.to, store.CopyOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s to %s: %+v, %v; want %q", test.from, test.to, copied, err, test.want)
		}
	}
}

// BenchmarkCopy moves b.N enrollments, of five rows each (transaction, use, repeat, certificate, audit record): -benchtime 200000x for a million.
func BenchmarkCopy(b *testing.B) {
	source := newSQLite(b)
	if err := source.Open(b, "one", nil).Close(); err != nil {
		b.Fatal(err)
	}
	target := newPostgres(b, pgtest.Start(b))
	numbers := fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, b.N)
	for _, q := range []string{
		`INSERT INTO transactions (id, wire_id, protocol, endpoint, operation, state, source, credentials, requester, device, subject, verdicts, repeat, backend,
			profile, intent, reason, note, received, updated, ticket) ` + numbers + `SELECT 'tx' || i, 'wire' || i, 'est', 'ran', 'enroll', 'issued', '192.0.2.1', '["password:factory"]',
			'password:factory', 'device-' || i, 'CN=device-' || i, '[{"stage":"password","decision":"allow"},{"stage":"inventory","decision":"allow"}]',
			'repeat' || i, 'local', 'device', hex(randomblob(400)), '', '', i, i, '' FROM n`,
		`INSERT INTO uses (tx, key, n) ` + numbers + `SELECT 'tx' || i, 'device' || i, 1 FROM n`,
		`INSERT INTO repeats (key, tx, expires) ` + numbers + `SELECT 'repeat' || i, 'tx' || i, i FROM n`,
		`INSERT INTO certificates (issuer, serial, tx, backend, endpoint, profile, device, requester, subject, subject_raw, key_hash, not_before, not_after, der, chain,
			revoked_at, revocation) ` + numbers + `SELECT CAST('issuer' AS BLOB), randomblob(16), 'tx' || i, 'local', 'ran', 'device', 'device-' || i, 'password:factory',
			'CN=device-' || i, CAST('CN=device-' || i AS BLOB), randomblob(32), i, i, randomblob(700), NULL, 0, 0 FROM n`,
		`INSERT INTO audit (stream, seq, prev, hash, body) ` + numbers + `SELECT 'bench', i, randomblob(32), randomblob(32), '{"kind":"issued","transaction":"tx' || i || '"}' FROM n`,
	} {
		source.Exec(b, q)
	}
	b.ResetTimer()
	copied, err := store.Copy(b.Context(), source.dsn, target.dsn, store.CopyOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(copied.Total())/copied.Took.Seconds(), "rows/s")
	b.ReportMetric(copied.Took.Seconds(), "s")
}
