package store_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// TestDeadlock: PostgreSQL ends one of two transactions that wait for each other. The store's is run again.
func TestDeadlock(t *testing.T) {
	ctx := t.Context()
	d := newPostgres(t, pgtest.Shared(t))
	raw := d.raw
	d.dsn += "&deadlock_timeout=1s" // in which the other one has to join; then the store's session is the victim
	s := d.Open(t, "one", nil)
	begin := func(keys ...string) error {
		b := &gateway.Beginning{Transaction: newTransaction(), Lease: time.Minute}
		for _, k := range keys {
			b.Claims = append(b.Claims, gateway.Claim{Key: k, Limit: 2})
		}
		_, err := s.Begin(ctx, b)
		return err
	}
	if err := begin("a", "b"); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", raw+"&deadlock_timeout=1h")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() //nolint:errcheck // after the commit it does nothing
	lock := func(key string) {
		t.Helper()
		if _, err := tx.ExecContext(ctx, `UPDATE claims SET used = used WHERE key = $1`, key); err != nil {
			t.Fatal(err)
		}
	}
	lock("b")
	got := make(chan error, 1)
	go func() { got <- begin("b", "a") }() // whatever the order in which they are named, it takes a first
	for waiting := 0; waiting == 0; {
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	lock("a")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the victim of a deadlock was not run again: %v", err)
	}
	if err := begin("b"); err == nil {
		t.Error("the first try's use of the claim is forgotten, or it counts twice")
	}
}
