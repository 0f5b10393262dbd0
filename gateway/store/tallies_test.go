package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// talliers are stores of both kinds.
func talliers(t testing.TB) map[string]*database {
	return map[string]*database{"SQLite": newSQLite(t), "PostgreSQL": newPostgres(t, pgtest.Shared(t))}
}

var six = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

// Each transaction and certificate is counted in the step in which it began, or ends, and revoked ones are not.
func TestTallies(t *testing.T) {
	for kind, d := range talliers(t) {
		t.Run(kind, func(t *testing.T) {
			s := d.Open(t, "one", nil).(*store.Store)
			for i, began := range []time.Duration{-time.Millisecond, 0, 59*time.Minute + 59*time.Second + 999*time.Millisecond, time.Hour, 2 * time.Hour} {
				tx := newTransaction()
				tx.ID, tx.Protocol = gateway.NewID(six.Add(began)), []gateway.Protocol{gateway.EST, gateway.CMP}[i%2]
				epoch, err := s.Begin(t.Context(), &gateway.Beginning{Transaction: tx, Lease: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				settled := newSettlement(tx, epoch)
				settled.Certificate.NotAfter = six.Add(began)
				if err := s.Settle(t.Context(), settled); err != nil {
					t.Fatal(err)
				}
				if i == 2 {
					if err := s.MarkRevoked(t.Context(), &gateway.Revocation{Issuer: settled.Certificate.Issuer, Serial: settled.Certificate.Serial, At: six, Audit: gateway.AuditEvent{Kind: "revoked", At: six}}); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := s.Tallies(t.Context(), six, six.Add(time.Hour))
			want := []gateway.Tally{{Protocol: gateway.CMP, State: gateway.StateIssued, Count: 1}, {Protocol: gateway.EST, State: gateway.StateIssued, Count: 1}}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%v %v, want %v", got, err, want)
			}
			ends, err := s.Endings(t.Context(), six, time.Hour, 3)
			if err != nil || !slices.Equal(ends, []int64{1, 1, 1}) {
				t.Errorf("%v %v", ends, err)
			}
		})
	}
}

// What is counted is counted in indexes alone, however large the rows are.
func TestTalliesReadIndexes(t *testing.T) {
	d := newSQLite(t)
	if err := d.Open(t, "one", nil).Close(); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		store.Counting(): "COVERING INDEX transactions_state (state=? AND id>? AND id<?)",
		store.Counted():  "COVERING INDEX certificates_not_after (not_after>? AND not_after<?)",
	} {
		if plan := d.plan(t, query, "1", "2", "3"); !strings.Contains(plan, want) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s, want %s", plan, want)
		}
	}
}

// The newest of several states are found by the index: nothing is read of the others, however many there are.
func TestListOfStatesReadsTheNewest(t *testing.T) {
	d := newSQLite(t)
	if err := d.Open(t, "one", nil).Close(); err != nil {
		t.Fatal(err)
	}
	query := store.Listed(gateway.TransactionFilter{States: []gateway.State{gateway.StateRefused, gateway.StateFailed}, Limit: 8})
	plan := d.plan(t, query, make([]any, strings.Count(query, "$"))...)
	if strings.Count(plan, "COVERING INDEX transactions_state (state=?)") != 2 || strings.Contains(plan, "SCAN t ") {
		t.Error(plan)
	}
}

const talliedRows = 200_000

// BenchmarkTallies counts that many transactions of one hour.
func BenchmarkTallies(b *testing.B) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		b.Run(kind, func(b *testing.B) {
			var d *database
			if kind == "SQLite" {
				d = newSQLite(b)
			} else {
				d = newPostgres(b, pgtest.Start(b))
			}
			s := d.Open(b, "one", nil).(*store.Store)
			id := `'%s' || printf('%%016d', i)`
			if kind == "PostgreSQL" {
				id = `'%s' || lpad(i::text, 16, '0')`
			}
			d.Exec(b, fmt.Sprintf(refusals, talliedRows, fmt.Sprintf(id, gateway.FirstID(six)[:10]), strings.Repeat("0", 400)))
			if kind == "PostgreSQL" {
				d.Exec(b, "VACUUM ANALYZE transactions")
			}
			b.ResetTimer()
			for range b.N {
				got, err := s.Tallies(context.Background(), six, six.Add(time.Hour))
				if err != nil || len(got) != 1 || got[0].Count != talliedRows {
					b.Fatal(got, err)
				}
			}
		})
	}
}
