package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/muster-pki/muster/gateway"
)

// exec runs a statement on the writer's connection, as a unit.
func exec(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	err := s.write(t.Context(), func(u unit) error {
		_, err := u.tx.ExecContext(u.ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// LimitPages limits the database's size, in pages (at least what it has).
func LimitPages(t *testing.T, s *Store, n int) {
	t.Helper()
	exec(t, s, fmt.Sprintf("PRAGMA max_page_count = %d", n))
}

// BreakCommits makes every COMMIT of a write to audit, instances or chains fail: each leaves a row whose parent does not exist,
// which is checked then.
func BreakCommits(t *testing.T, s *Store) {
	t.Helper()
	exec(t, s, `CREATE TABLE broken (x INTEGER REFERENCES parents (x) DEFERRABLE INITIALLY DEFERRED)`)
	exec(t, s, `CREATE TABLE parents (x INTEGER PRIMARY KEY)`)
	exec(t, s, `CREATE TRIGGER break_audit AFTER INSERT ON audit BEGIN INSERT INTO broken VALUES (1); END`)
	exec(t, s, `CREATE TRIGGER break_instances AFTER UPDATE ON instances BEGIN INSERT INTO broken VALUES (1); END`)
	exec(t, s, `CREATE TRIGGER break_chains AFTER INSERT ON chains BEGIN INSERT INTO broken VALUES (1); END`)
}

// MendCommits undoes it.
func MendCommits(t *testing.T, s *Store) {
	t.Helper()
	exec(t, s, `DROP TRIGGER break_audit`)
	exec(t, s, `DROP TRIGGER break_instances`)
	exec(t, s, `DROP TRIGGER break_chains`)
}

// MigrateTo brings an empty database to an older version of the schema.
func MigrateTo(t *testing.T, db *sql.DB, shared bool, version int64) {
	t.Helper()
	d := &sqliteDialect
	if shared {
		d = &postgresDialect
	}
	dir, err := fs.Sub(embedded, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(d.goose, db, migrations{dir, d}, goose.WithDisableGlobalRegistry(true),
		goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err == nil {
		_, err = p.UpTo(t.Context(), version)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ReadByWireID is the text of a statement that has to use its index.
func ReadByWireID() string { return texts[readByWireID] }

// SweepLapsed and NextFree too.
func SweepLapsed() string { return texts[sweepLapsed] }
func NextFree() string    { return nextFree }
func LapsedNow() string   { return lapsedNow }

// LapsingKey is the advisory lock of claims that lapse.
func LapsingKey() int64 { return lapsingKey }

// ReadDevice and ReadAnyDevice too.
func ReadDevice() string    { return texts[readDevice] }
func ReadAnyDevice() string { return texts[readAnyDevice] }

// Swept returns when what was to be swept after the start is.
func Swept(s *Store) { s.behind.Wait() }

// FreeStale frees a claim by uses as they were found before something else was committed, and returns whether that was noticed.
func FreeStale(ctx context.Context, s *Store, key string, meanwhile func()) (noticed bool, err error) {
	found, err := s.usesOf(ctx, []string{key})
	if err != nil {
		return false, err
	}
	meanwhile()
	err = s.write(ctx, func(u unit) error { return u.freeClaim(key, found[key], false) })
	if errors.Is(err, errUsedAgain) {
		return true, nil
	}
	return false, err
}

// WriterSetting is a setting of PostgreSQL in the writer's session.
func WriterSetting(t *testing.T, s *Store, name string) (value string) {
	t.Helper()
	if err := s.writeDB.QueryRowContext(t.Context(), `SELECT current_setting($1)`, name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// ShortenTimeouts has stores that are opened from now on give up a PostgreSQL server that does not answer sooner, until the test's end.
func ShortenTimeouts(t *testing.T) {
	was := postgresTimeout
	postgresTimeout = 2 * time.Second
	t.Cleanup(func() { postgresTimeout = was })
}

// Tick has the shippers, and who waits for them, go by the function that it returns, which lets all their waits pass that have begun. It comes before ShipTo.
func Tick(s *Store) (tick func()) {
	var mu sync.Mutex
	var waits []chan time.Time
	s.after = func(time.Duration) <-chan time.Time {
		mu.Lock()
		defer mu.Unlock()
		c := make(chan time.Time, 1)
		waits = append(waits, c)
		return c
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range waits {
			c <- time.Time{}
		}
		waits = nil
	}
}

// AwaitShipped returns when every sink has everything.
func AwaitShipped(s *Store) {
	head, err := s.tableHead(context.Background())
	if err != nil {
		panic(err)
	}
	for _, sh := range *s.ships.Load() {
		for {
			sh.mu.Lock()
			at, moved := sh.at, sh.moved
			sh.mu.Unlock()
			if at >= head.Seq {
				break
			}
			<-moved
		}
	}
}

// SinksOf are the streams of which it is known how far a sink has them.
func SinksOf(t *testing.T, s *Store) (streams []string) {
	t.Helper()
	rows, err := s.readDB.QueryContext(t.Context(), `SELECT stream FROM audit_sinks ORDER BY stream`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var stream string
		if err := rows.Scan(&stream); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return streams
}

// OwnSessions tells a pooler that shares sessions.
var OwnSessions, ErrPooled = ownSessions, errPooled

// SweptRefused, SweptEnded and LapsedKeys find what can be swept.
func SweptRefused() string { return sweptRefused }
func SweptEnded() string   { return sweptEnded }
func LapsedKeys() string   { return lapsedKeys }

// Counting and Counted are what an overview asks.
func Counting() string { return counting }
func Counted() string  { return counted }

// Listed is the query of a list of transactions.
func Listed(f gateway.TransactionFilter) string {
	return selected(&f).finish(listTransactions, "t.id DESC", f.Limit)
}
