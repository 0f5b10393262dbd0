package store_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// pair is a primary with its synchronous standby, and the address of a database on both.
func pair(t *testing.T) (primary, standby *pgtest.Cluster, name, dsn string) {
	t.Helper()
	primary = pgtest.Start(t, pgtest.Volatile)
	name = primary.NewDatabase(t)
	standby = primary.Standby(t, pgtest.Volatile)
	return primary, standby, name, pgtest.DSNs(name, primary, standby)
}

func openStore(t *testing.T, dsn, instance string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn, store.Options{Instance: instance})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// again tries until it works, and returns how long that took.
func again(t *testing.T, what string, fn func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		err := fn()
		if err == nil {
			return time.Since(begun)
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond) // servers are processes of their own
	}
}

// TestFailOver: the standby has what was acknowledged; the stream goes on there by one of two processes of its name; and the primary that
// comes back as it was is neither written nor read.
func TestFailOver(t *testing.T) {
	primary, standby, name, dsn := pair(t)
	first := openStore(t, dsn, "one")
	other := openStore(t, dsn, "other")
	record := func(s *store.Store) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return s.Record(ctx, gateway.AuditEvent{Kind: "strangers"})
	}
	var begun []*gateway.Transaction
	for range 5 {
		tx := newTransaction()
		if _, err := first.Begin(t.Context(), &gateway.Beginning{Transaction: tx, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		begun = append(begun, tx)
		if err := errors.Join(record(first), record(other)); err != nil {
			t.Fatal(err)
		}
	}
	primary.Crash(t)
	if err := record(first); err == nil {
		t.Fatal("acknowledged without a server")
	}
	if err := first.Ready(t.Context()); err == nil {
		t.Error("ready without a server")
	}
	standby.Promote(t)
	took := again(t, "ready after the promotion", func() error { return first.Ready(t.Context()) })
	t.Logf("ready %s after the promotion", took.Round(time.Millisecond))
	for _, tx := range begun {
		if got, err := first.Transaction(t.Context(), tx.ID); err != nil || got.State != gateway.StateIssuing {
			t.Errorf("acknowledged, and after the fail-over: %+v, %v", got, err)
		}
	}
	// The name is taken there too.
	if s, err := store.Open(t.Context(), dsn, store.Options{Instance: "one"}); err == nil || !strings.Contains(err.Error(), "in use by") {
		t.Errorf("a second process of the same name: %v, %v", s, err)
	}
	again(t, "the other", func() error { return record(other) })
	if err := errors.Join(record(first), record(other), first.VerifyAudit(t.Context())); err != nil {
		t.Error(err)
	}

	// It comes back as it was, alone, and takes writes; and all sessions of the new one are cut.
	primary.Launch(t, "synchronous_standby_names=")
	rows := `SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM transactions)`
	was := primary.Count(t, name, rows)
	for range 2 {
		standby.CutAll(t, name)
		again(t, "after the cut", func() error { return errors.Join(record(first), record(other)) })
		again(t, "a read after the cut", func() error { _, err := first.Transaction(t.Context(), begun[0].ID); return err })
	}
	third := openStore(t, dsn, "third") // which has seen nothing of all that
	if err := record(third); err != nil {
		t.Error(err)
	}
	if now := primary.Count(t, name, rows); now != was {
		t.Errorf("the former primary has %d rows more", now-was)
	}
	if n := primary.Count(t, name, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'muster %'`); n != 0 {
		t.Errorf("%d sessions on the former primary", n)
	}
	// Even when it alone can be reached.
	standby.Crash(t)
	if err := record(first); err == nil {
		t.Error("acknowledged by the former primary")
	}
	err := first.Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "timeline") {
		t.Errorf("with the former primary alone: %v", err)
	}
	if now := primary.Count(t, name, rows); now != was {
		t.Errorf("the former primary has %d rows more", now-was)
	}
}

// TestFrozenPrimary: the primary takes connections and answers nobody, as a host does that hangs.
func TestFrozenPrimary(t *testing.T) {
	primary, standby, _, dsn := pair(t)
	store.ShortenTimeouts(t)
	s := openStore(t, dsn, "one")
	primary.Freeze(t)
	t.Cleanup(func() { primary.Thaw(t) })
	standby.Promote(t)
	took := again(t, "ready", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		return errors.Join(s.Record(ctx, gateway.AuditEvent{Kind: "strangers"}), s.Ready(ctx))
	})
	t.Logf("ready %s after the promotion", took.Round(time.Millisecond))
	if took > 5*time.Second { // a write gives up after 2 s, and looks for half a second where the primary is now; both are four to five times that outside of tests
		t.Errorf("ready after %s", took)
	}
}

// TestUnreplicated: a commit that the standby has not got is not acknowledged, though PostgreSQL does when it is told to wait no longer.
func TestUnreplicated(t *testing.T) {
	primary, standby, name, dsn := pair(t)
	s := openStore(t, dsn, "one")
	standby.Crash(t)
	done := make(chan error, 1)
	go func() { done <- s.Record(context.Background(), gateway.AuditEvent{Kind: "strangers"}) }()
	raw, err := sql.Open("pgx", primary.DSN(name))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	again(t, "a commit that waits", func() error {
		var cancelled bool
		return raw.QueryRowContext(t.Context(), `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'muster one'`).Scan(&cancelled)
	})
	if err := <-done; err == nil || !strings.Contains(err.Error(), "synchronous standby") {
		t.Errorf("acknowledged: %v", err)
	}
	standby.Launch(t)
	again(t, "ready", func() error { return s.Ready(t.Context()) })
	if err := errors.Join(s.Record(t.Context(), gateway.AuditEvent{Kind: "strangers"}), s.VerifyAudit(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestCommitsOnTheStandby: a role or a database that commits for its own host alone does not for the gateway.
func TestCommitsOnTheStandby(t *testing.T) {
	c := pgtest.Shared(t)
	for _, setting := range []string{"off", "local"} {
		name := c.NewDatabase(t)
		d := postgresAt(c, name)
		d.Exec(t, `ALTER DATABASE `+name+` SET synchronous_commit = `+setting)
		s := openStore(t, d.dsn, "one")
		if got := store.WriterSetting(t, s, "synchronous_commit"); got != "on" {
			t.Errorf("%s became %s", setting, got)
		}
	}
}
