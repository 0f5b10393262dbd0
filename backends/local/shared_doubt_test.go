package local

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// interrupted calls while no commit comes to its end by itself, since PostgreSQL waits for a standby that there is none of: an operator ends each wait
// (pg_cancel_backend), and PostgreSQL acknowledges the commit with a warning. It returns how many there were.
func (s *sharing) interrupted(t *testing.T, call func() error) (waits int, err error) {
	t.Helper()
	answer := make(chan error, 1)
	go func() { answer <- call() }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) { // the server is a process of its own
		select {
		case err := <-answer:
			return waits, err
		default:
		}
		waits += s.cluster.Count(t, s.db, `SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
	}
	t.Fatal("it does not answer")
	return 0, nil
}

// TestSharedDoubt: what PostgreSQL acknowledges without the synchronous standby having it is neither recorded, nor never, nor moved, since a fail-over may
// lose it.
func TestSharedDoubt(t *testing.T) {
	s := share(t)
	db, err := sql.Open("pgx", s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	waiting := func(standby string) {
		t.Helper()
		for _, statement := range []string{`ALTER SYSTEM SET synchronous_standby_names = '` + standby + `'`, `SELECT pg_reload_conf()`} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	ledgerOf := func(name string) *ledger {
		t.Helper()
		l, err := openPostgresLedger(t.Context(), LedgerURL(s.url), name, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.close() })
		return l
	}
	l, fresh := ledgerOf("doubt"), ledgerOf("moved")
	if _, err := l.write.ExecContext(t.Context(), `INSERT INTO generations (issuer, number) VALUES ('ec', 1)`); err != nil {
		t.Fatal(err)
	}
	dir := standing(t)
	c := open(t, dir, Options{})
	issue(t, c, request(t, "a"))
	shut(t, c)
	from, err := openLedger(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = from.close() })

	waiting("nobody")
	for n := range 1000 { // until the server goes by it
		if waits, _ := s.interrupted(t, func() error { _, err := l.never(fmt.Sprint("first ", n)); return err }); waits > 0 {
			break
		}
	}
	move := func() error { _, err := c.moveInto(t.Context(), fresh, from, dir, true); return err }
	for _, c := range []struct {
		what string
		call func() error
	}{
		{"never", func() error { _, err := l.never("x"); return err }},
		{"record", func() error {
			_, err := l.record(&entry{id: "y", issuer: "ec", generation: 1, serial: []byte{1}, template: []byte{1}, certificate: []byte{1}})
			return err
		}},
		{"a file that moves", move},
		{"one that has moved, in doubt", move},
	} {
		waits, err := s.interrupted(t, c.call)
		if waits == 0 || err == nil || !strings.Contains(err.Error(), "stopped waiting for the synchronous standby") {
			t.Errorf("%s: after %d waits %v", c.what, waits, err)
		}
	}
	waiting("")
	if err := move(); err != nil {
		t.Errorf("once the standby is there: %v", err)
	}
}

// TestOtherSchema: a session that is not in the ledger's schema, as behind a pooler that drops the search path, neither enters the ledger nor makes one.
func TestOtherSchema(t *testing.T) {
	s := share(t)
	config, err := postgresConfig(LedgerURL(s.url), "pooled")
	if err != nil {
		t.Fatal(err)
	}
	schema := postgresSchemaName("pooled")
	if err := migratePostgres(t.Context(), config, schema); err != nil {
		t.Fatal(err)
	}
	enter := func(config *pgx.ConnConfig) error {
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // of a test
		return enterPostgres(t.Context(), conn, schema, slog.New(slog.DiscardHandler))
	}
	if err := enter(config); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"", "public", "nowhere"} {
		other := config.Copy()
		if delete(other.RuntimeParams, "search_path"); path != "" {
			other.RuntimeParams["search_path"] = path
		}
		for what, err := range map[string]error{"entering": enter(other), "migrating": migratePostgres(t.Context(), other, schema)} {
			if err == nil || !strings.Contains(err.Error(), "not in the schema "+schema) {
				t.Errorf("%s with search_path %q: %v", what, path, err)
			}
		}
	}
}
