package store_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t testing.TB) storetest.Database { return newSQLite(t) })
}

func TestPostgreSQL(t *testing.T) {
	c := pgtest.Shared(t)
	// Each test begins with a schema that is there: its migrations have tests of their own.
	schema := c.NewDatabase(t)
	s, err := store.Open(t.Context(), c.DSN(schema), store.Options{Instance: "schema"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	pool := c.NewPool(t, schema)
	storetest.Run(t, func(t testing.TB) storetest.Database { return postgresAt(c, pool.Take(t)) })
}

// database is what both have in common.
type database struct {
	dsn    string
	driver string // of database/sql, and its address, to reach behind the store's back
	raw    string
	dir    string // of audit keys and head files
	crash  func(t testing.TB, instance string)
	shared bool
	names  map[storetest.Store]string
}

func (d *database) Open(t testing.TB, instance string, clock func() time.Time) storetest.Store {
	t.Helper()
	if d.dir == "" {
		d.dir = t.TempDir()
	}
	key, _, err := audit.LoadKey(filepath.Join(d.dir, instance+".key"), filepath.Join(d.dir, "audit.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), d.dsn, store.Options{Instance: instance, Clock: clock, AuditKey: key, AuditHead: d.head(instance)})
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

// head is an instance's head file.
func (d *database) head(instance string) string { return filepath.Join(d.dir, instance+".head") }

// Trail is for what reads the audit trail beside the stores.
func (d *database) Trail(t testing.TB) ([]audit.Record, audit.Trust) {
	t.Helper()
	var trust audit.Trust
	heads, err := filepath.Glob(d.head("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		left, err := audit.ReadHeads(h)
		if err != nil {
			t.Fatal(err)
		}
		trust.Left = append(trust.Left, left...)
	}
	if trust.Keys, err = audit.ReadPublicKeys(filepath.Join(d.dir, "audit.pub")); err != nil {
		t.Fatal(err)
	}
	trail, err := store.OpenTrail(t.Context(), d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	var all []audit.Record
	err = trail.Read(t.Context(), func(s *store.Snapshot) error {
		return s.Records(t.Context(), "", func(r audit.Record) error { all = append(all, r); return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, trust
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
		d.dir = dir
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
		files, err := filepath.Glob(filepath.Join(from, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "-shm") || strings.HasSuffix(f, ".lock") {
				continue
			}
			b, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(d.dir, filepath.Base(f)), b, 0o600)
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
