package store_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// TestLapsedIndex: what has lapsed of a key, and what lapses next, is found by an index, however full the key is.
func TestLapsedIndex(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		d.Open(t, "one", nil)
		number := strings.NewReplacer("$2", "CAST($2 AS BIGINT)", "$3", "CAST($3 AS BIGINT)") // parameters of a plan are texts
		for what, plan := range map[string]string{
			"sweep": d.plan(t, number.Replace(store.SweepLapsed()), "k", "1", "256"), "next": d.plan(t, number.Replace(store.NextFree()), "k", "1", "0"),
			"spent": d.plan(t, number.Replace(store.LapsedNow()), "k", "1", "256"),
		} {
			if !strings.Contains(plan, "uses_lapse") || strings.Contains(plan, "SCAN") || strings.Contains(plan, "Seq Scan") || strings.Contains(strings.ToLower(plan), "sort") {
				t.Errorf("%s:\n%s", what, plan)
			}
		}
	})
}

// TestLapsingLock: on PostgreSQL whoever takes claims that lapse, or gives them back, waits for who does so, before anything of them
// is read; others do not.
func TestLapsingLock(t *testing.T) {
	d := newPostgres(t, pgtest.Shared(t))
	s, ctx := d.Open(t, "one", nil), t.Context()
	db, err := sql.Open("pgx", d.raw)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	begin := func(c gateway.Claim) (*gateway.Transaction, int64, error) {
		tx := newTransaction()
		epoch, err := s.Begin(ctx, &gateway.Beginning{Transaction: tx, Lease: time.Minute, Claims: []gateway.Claim{c}})
		return tx, epoch, err
	}
	lapses := gateway.Claim{Key: "k", Limit: 9, Until: time.Now().Add(time.Hour)}
	taken, epoch, err := begin(lapses)
	if err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"taken": func() error { _, _, err := begin(lapses); return err },
		"freed": func() error {
			return s.FreeClaims(ctx, []string{"freed"}, gateway.AuditEvent{Kind: "claims-freed", At: time.Now()})
		},
		"given back": func() error {
			return s.Settle(ctx, &gateway.Settlement{Transaction: taken.ID, Epoch: epoch, State: gateway.StateFailed, Release: true, Now: time.Now(),
				Audit: gateway.AuditEvent{Kind: "failed", At: time.Now(), Transaction: taken.ID}})
		},
	} {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, store.LapsingKey()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := begin(gateway.Claim{Key: "once " + what, Limit: 1}); err != nil {
			t.Errorf("another claim: %v", err)
		}
		got := make(chan error, 1)
		go func() { got <- do() }()
		for waiting := 0; waiting == 0 && len(got) == 0; {
			if err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'`).Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) > 0 {
			t.Errorf("%s beside another one", what)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFreeTakenOver: a renewal that takes a use over, while its claim is freed, leaves none behind that nobody counts.
func TestFreeTakenOver(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		s := d.Open(t, "one", nil).(*store.Store)
		now := time.Now()
		d.Exec(t, fmt.Sprintf("INSERT INTO uses (tx, key, n, until, active) VALUES ('old', 'v', 1, %d, 1)", now.Add(time.Hour).UnixMicro()))
		d.Exec(t, "INSERT INTO claims (key, used) VALUES ('v', 1)")
		noticed, err := store.FreeStale(t.Context(), s, "v", func() { // what a renewal writes
			d.Exec(t, "UPDATE uses SET n = 0 WHERE tx = 'old'")
			d.Exec(t, fmt.Sprintf("INSERT INTO uses (tx, key, n, until, active, took_over) VALUES ('new', 'v', 1, %d, 1, 'old')", now.Add(time.Hour).UnixMicro()))
		})
		if err != nil || !noticed {
			t.Errorf("the renewal was not noticed: %v", err)
		}
	})
}
