package store_test

import (
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// TestNoPrivileges: a user who may not make tables is told who can mend it.
func TestNoPrivileges(t *testing.T) {
	c := pgtest.Start(t, pgtest.Volatile)
	name := c.NewDatabase(t)
	d := postgresAt(c, name)
	d.Exec(t, `CREATE ROLE poor LOGIN`)
	dsn := strings.Replace(d.dsn, "muster@", "poor@", 1)
	if s, err := store.Open(t.Context(), dsn, store.Options{Instance: "one"}); err == nil || !strings.Contains(err.Error(), "GRANT CREATE ON SCHEMA") {
		t.Errorf("%v, %v", s, err)
	}
	d.Exec(t, `GRANT CREATE ON SCHEMA public TO poor`)
	openStore(t, dsn, "one")
}

// TestPooled: a pooler that gives one session to several connections is refused.
func TestPooled(t *testing.T) {
	c := pgtest.Shared(t)
	dsn := c.DSN(c.NewDatabase(t))
	var pools []*sql.DB
	for range 2 {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		db.SetMaxOpenConns(1)
		pools = append(pools, db)
	}
	if err := store.OwnSessions(t.Context(), pools[0], pools[0]); !errors.Is(err, store.ErrPooled) {
		t.Errorf("one session for two: %v", err)
	}
	if err := store.OwnSessions(t.Context(), pools...); err != nil {
		t.Errorf("a session each: %v", err)
	}
}

// TestFullServer: PostgreSQL whose disk is full refuses a statement, not the COMMIT. The store is not ready until it has room.
func TestFullServer(t *testing.T) {
	c := pgtest.Shared(t)
	d := postgresAt(c, c.NewDatabase(t))
	s := openStore(t, d.dsn, "one")
	d.Exec(t, `CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE disk_full; END $$`)
	for _, table := range []string{"audit", "chains"} {
		d.Exec(t, `CREATE TRIGGER no_room BEFORE INSERT ON `+table+` FOR EACH ROW EXECUTE FUNCTION no_room()`)
	}
	if err := s.Record(t.Context(), gateway.AuditEvent{Kind: "strangers"}); err == nil {
		t.Error("acknowledged")
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready with a full disk")
	}
	for _, table := range []string{"audit", "chains"} {
		d.Exec(t, `DROP TRIGGER no_room ON `+table)
	}
	if err := errors.Join(s.Ready(t.Context()), s.Record(t.Context(), gateway.AuditEvent{Kind: "strangers"}), s.VerifyAudit(t.Context())); err != nil {
		t.Error(err)
	}
}
