package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest"
)

// rawDB reaches a database behind the store's back.
func (d *database) rawDB(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open(d.driver, d.raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// oldInsert is how the release with schema version 1 inserts a transaction.
const oldInsert = `INSERT INTO transactions (id, wire_id, protocol, endpoint, operation, state, source, credentials, requester,
	device, subject, verdicts, repeat, backend, profile, replaces, intent, reason, note, received, updated, ticket)
	VALUES ($1, $2, 'est', 'ran', 'enroll', 'issuing', '192.0.2.1', '["password:factory"]', 'password:factory', $3, 'CN=x', '[]',
	$4, 'local', 'device', NULL, '', '', '', $5, $5, '')`

// TestOlderRelease: a release that knows less of the schema has written before, and writes beside this one.
func TestOlderRelease(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		raw := d.rawDB(t)
		now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
		insert := func(id string) {
			t.Helper()
			for _, s := range []struct {
				text string
				args []any
			}{
				{oldInsert, []any{id, "wire " + id, "device " + id, "key " + id, now.UnixMicro()}},
				{`INSERT INTO repeats (key, tx, expires) VALUES ($1, $2, 9223372036854775807)`, []any{"key " + id, id}},
				{`INSERT INTO work (tx, kind, due, owner, lease_until, epoch, attempts, note)
					VALUES ($1, 'settle', 0, '', 0, 1, 0, '')`, []any{id}},
			} {
				if _, err := raw.ExecContext(t.Context(), s.text, s.args...); err != nil {
					t.Fatal(err)
				}
			}
		}
		store.MigrateTo(t, raw, d.shared, 1)
		insert("written before")
		s := d.Open(t, "one", nil)
		insert("written beside")
		for _, id := range []string{"written before", "written beside"} {
			tx, err := s.Repeat(t.Context(), gateway.RepeatKey("key "+id), now)
			if err != nil {
				t.Fatal(err)
			}
			if tx.ID != id || tx.State != gateway.StateIssuing || tx.Device != "device "+id || tx.Resume != "" || tx.ConfirmWait != 0 || tx.Exchange != nil ||
				tx.Hold != nil || tx.Changes != nil || tx.SealedKey != nil {
				t.Errorf("%s: %+v", id, tx)
			}
			if found, err := s.ByWireID(t.Context(), "ran", "wire "+id); err != nil || found.ID != id {
				t.Errorf("%s by its wire ID: %+v, %v", id, found, err)
			}
		}
		due, err := s.ClaimDue(t.Context(), time.Minute, 10, storetest.AnyPlace)
		if err != nil || len(due) != 2 {
			t.Fatalf("%+v, %v", due, err)
		}
		for _, w := range due {
			tx, err := s.Transaction(t.Context(), w.Transaction)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Settle(t.Context(), newSettlement(tx, w.Epoch)); err != nil {
				t.Error(err)
			}
		}
		list, err := s.Transactions(t.Context(), gateway.TransactionFilter{States: []gateway.State{gateway.StateIssued}})
		if err != nil || len(list) != 2 {
			t.Errorf("%d are issued, %v", len(list), err)
		}
		// What this one writes, the older one reads.
		tx := newTransaction()
		tx.Resume, tx.ConfirmWait, tx.Exchange = "resume", time.Minute, []byte{1}
		if _, err := s.Begin(t.Context(), &gateway.Beginning{Transaction: tx, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		var device string
		err = raw.QueryRowContext(t.Context(), `SELECT t.device FROM transactions t JOIN repeats r ON r.tx = t.id WHERE r.key = $1`,
			string(tx.Repeat)).Scan(&device)
		if err != nil || device != tx.Device {
			t.Errorf("%q, %v", device, err)
		}
	})
}

// A replica that holds certificates and wants a transaction, as one that revokes does, and a newer one that migrates meanwhile do not lock
// each other out; and a migration that broke off is done again.
func TestMigratesBeside(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		raw := d.rawDB(t)
		store.MigrateTo(t, raw, d.shared, 15)
		if !d.shared {
			d.Exec(t, `DROP INDEX transactions_state`)
			store.MigrateTo(t, raw, d.shared, 16)
			return
		}
		tx, err := raw.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(t.Context(), `UPDATE certificates SET revoked_at = 1`); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			store.MigrateTo(t, d.rawDB(t), d.shared, 16)
		}()
		for waiting := 0; waiting == 0; {
			if err := raw.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tx.ExecContext(t.Context(), `UPDATE transactions SET sealed_key = NULL`); err != nil {
			t.Error(err)
		}
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

// plan is how the database goes about a prepared statement, with texts for parameters.
func (d *database) plan(t *testing.T, statement string, params ...any) string {
	t.Helper()
	conn, err := d.rawDB(t).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	explain, args := `EXPLAIN QUERY PLAN `+statement, params
	if d.shared {
		types := strings.TrimSuffix(strings.Repeat("text, ", len(params)), ", ")
		for _, q := range []string{`SET enable_seqscan = off`, `SET plan_cache_mode = force_generic_plan`,
			`PREPARE planned (` + types + `) AS ` + statement} {
			if _, err := conn.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		values := strings.TrimSuffix(strings.Repeat("'x', ", len(params)), ", ")
		explain, args = `EXPLAIN EXECUTE planned (`+values+`)`, nil
	}
	rows, err := conn.QueryContext(t.Context(), explain, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		line := make([]any, len(columns))
		for i := range line {
			line[i] = new(any)
		}
		if err := rows.Scan(line...); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&plan, *(line[len(line)-1].(*any)))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}

// TestWireIDIndex: a look-up by wire ID comes before anybody is authenticated, and must not read the whole table.
func TestWireIDIndex(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		d.Open(t, "one", nil)
		plan := d.plan(t, store.ReadByWireID(), "ran", "0011")
		if !strings.Contains(plan, "transactions_wire") || strings.Contains(strings.ToLower(plan), "sort") ||
			strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("the plan:\n%s", plan)
		}
	})
}

// TestSuccessorsIndex: successors are looked for by what they succeed; nobody reads all certificates for it.
func TestSuccessorsIndex(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		d.Open(t, "one", nil)
		cast := "$1"
		if d.shared {
			cast = "convert_to($1, 'UTF8')"
		}
		plan := d.plan(t, `SELECT c.tx FROM certificates c LEFT JOIN transactions t ON t.id = c.tx WHERE c.replaces = `+cast+` AND t.confirmed > 0 ORDER BY c.tx DESC LIMIT 100`, "x")
		if !strings.Contains(plan, "certificates_replaces") {
			t.Errorf("the plan:\n%s", plan)
		}
	})
}

// TestKeysInOneOrder: whichever of two keys is the repeat and whichever the resume key, the lower is locked first, and
// nothing is while another one holds it.
func TestKeysInOneOrder(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		if !d.shared {
			t.Skip("one writer has nobody to wait for")
		}
		ctx := t.Context()
		s := d.Open(t, "one", nil)
		db := d.rawDB(t)
		for _, keys := range [][2]gateway.RepeatKey{{"a", "b"}, {"b", "a"}} {
			d.Exec(t, `INSERT INTO repeats (key, tx, expires) VALUES ('a', 'x', 1), ('b', 'x', 1) ON CONFLICT (key) DO UPDATE SET expires = 1`)
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.ExecContext(ctx, `SELECT 1 FROM repeats WHERE key = 'a' FOR UPDATE`); err != nil {
				t.Fatal(err)
			}
			got := make(chan error, 1)
			go func() {
				b := newTransaction()
				b.Repeat, b.Resume = keys[0], keys[1]
				_, err := s.Begin(ctx, &gateway.Beginning{Transaction: b, Lease: time.Minute})
				got <- err
			}()
			for waiting := 0; waiting == 0; {
				if err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := tx.ExecContext(ctx, `SELECT 1 FROM repeats WHERE key = 'b' FOR UPDATE NOWAIT`); err != nil {
				t.Errorf("%v: b is locked before a: %v", keys, err)
			}
			if err := errors.Join(tx.Rollback(), <-got); err != nil {
				t.Errorf("%v: %v", keys, err)
			}
		}
	})
}
