package store_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t testing.TB) storetest.Database { return newSQLite(t) })
}

func TestPostgreSQL(t *testing.T) {
	c := pgtest.Start(t, pgtest.Volatile)
	// Each test begins with a schema that is there: its migrations have tests of their own.
	schema := c.NewDatabase(t)
	s, err := store.Open(t.Context(), c.DSN(schema), store.Options{Instance: "schema"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	storetest.Run(t, func(t testing.TB) storetest.Database { return postgresAt(c, c.CopyDatabase(t, schema)) })
}

// database is what both have in common.
type database struct {
	dsn    string
	driver string // of database/sql, and its address, to reach behind the store's back
	raw    string
	crash  func(t testing.TB, instance string)
	shared bool
	names  map[storetest.Store]string
}

func (d *database) Open(t testing.TB, instance string, clock func() time.Time) storetest.Store {
	t.Helper()
	s, err := store.Open(t.Context(), d.dsn, store.Options{Instance: instance, Clock: clock})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if d.names == nil {
		d.names = map[storetest.Store]string{}
	}
	d.names[s] = instance
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (d *database) OpenError(t testing.TB, instance string) error {
	s, err := store.Open(t.Context(), d.dsn, store.Options{Instance: instance})
	if err == nil {
		_ = s.Close()
	}
	return err
}

func (d *database) Crash(t testing.TB, s storetest.Store) { d.crash(t, d.names[s]) }

func (d *database) Shared() bool { return d.shared }

func (d *database) Exec(t testing.TB, query string) {
	t.Helper()
	db, err := sql.Open(d.driver, d.raw)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func newSQLite(t testing.TB) *database {
	d := &database{driver: "sqlite"}
	at := func(dir string) {
		d.raw = filepath.Join(dir, "muster.db")
		d.dsn = "sqlite:" + d.raw
	}
	at(t.TempDir())
	// A killed process leaves the files as they are, for the kernel has what was written. So does a copy of them, and the
	// first store never sees it.
	d.crash = func(t testing.TB, _ string) {
		t.Helper()
		from := filepath.Dir(d.raw)
		at(t.TempDir())
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(filepath.Join(from, "muster.db"+suffix))
			if err == nil {
				err = os.WriteFile(d.raw+suffix, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return d
}

func newPostgres(t testing.TB, c *pgtest.Cluster) *database {
	return postgresAt(c, c.NewDatabase(t))
}

func postgresAt(c *pgtest.Cluster, name string) *database {
	return &database{
		dsn: c.DSN(name), driver: "pgx", raw: c.DSN(name), shared: true,
		crash: func(t testing.TB, instance string) { c.Cut(t, name, "muster "+instance) },
	}
}
