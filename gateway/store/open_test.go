package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

func TestDSN(t *testing.T) {
	dir := t.TempDir()
	for dsn, want := range map[string]string{
		"":                                   `the scheme "" is not known`,
		"muster.db":                          `the scheme "muster.db" is not known`,
		"mysql://root:geheim@localhost/x":    `the scheme "mysql" is not known`,
		"sqlite:":                            `give a file`,
		"sqlite::memory:":                    `give a file`,
		"sqlite:" + dir + "/none/muster.db":  `no such file or directory`,
		"sqlite:" + dir:                      `is a directory`,
		"postgres://u:geheim@[::1/x":         `postgres:`,
		"postgres://u:geheim@127.0.0.1:1/db": `postgres:`,
	} {
		s, err := store.Open(t.Context(), dsn, store.Options{})
		if err == nil {
			_ = s.Close()
			t.Errorf("%q: opened", dsn)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", dsn, err, want)
		}
		if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the error tells the password: %v", dsn, err)
		}
	}
	if _, err := store.Open(t.Context(), "sqlite:"+dir+"/a.db", store.Options{Instance: "a\x00"}); err == nil {
		t.Error("an instance name with a NUL was taken")
	}
}

func TestSQLiteFiles(t *testing.T) {
	// Characters that mean something in a URI are part of a path.
	dir := filepath.Join(t.TempDir(), "100% ?a=b&_pragma=x#c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	s, err := store.Open(t.Context(), "sqlite:./muster.db", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Record(t.Context(), gateway.AuditEvent{Kind: "started"}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
	_, err = store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "muster.db"), store.Options{})
	if want := "in use by process " + strconv.Itoa(os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a second store: %v, want %q in it", err, want)
	}
}

// each runs a test on an empty database of both kinds.
func each(t *testing.T, test func(t *testing.T, d *database)) {
	t.Run("SQLite", func(t *testing.T) { test(t, newSQLite(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, newPostgres(t, pgtest.Shared(t))) })
}

func TestSchemaVersions(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		ctx := t.Context()
		open := func() error {
			s, err := store.Open(ctx, d.dsn, store.Options{})
			if err != nil {
				return err
			}
			return errors.Join(s.Ready(ctx), s.Close())
		}
		for range 2 {
			if err := open(); err != nil {
				t.Fatal(err)
			}
		}
		d.Exec(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (4711, `+map[bool]string{true: "true", false: "1"}[d.shared]+`)`)
		err := open()
		if err == nil || !strings.Contains(err.Error(), "4711") || !strings.Contains(err.Error(), "newer release") {
			t.Errorf("a newer schema: %v", err)
		}
		d.Exec(t, `DELETE FROM goose_db_version WHERE version_id = 4711`)
		if err := open(); err != nil { // and the refusal left nothing locked
			t.Error(err)
		}
		d.Exec(t, `DROP TABLE work`)
		if err := open(); err == nil {
			t.Error("a database without its work table was opened")
		}
	})
}

func TestReplicasStartTogether(t *testing.T) {
	d := newPostgres(t, pgtest.Shared(t))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s, err := store.Open(t.Context(), d.dsn, store.Options{Instance: "replica-" + strconv.Itoa(i)})
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(s.Ready(t.Context()), s.Record(t.Context(), gateway.AuditEvent{Kind: "started"}), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestConnectionLost: PostgreSQL restarts, or the network fails; nothing but the calls under way is lost.
func TestConnectionLost(t *testing.T) {
	c := pgtest.Shared(t)
	d := newPostgres(t, c)
	s := d.Open(t, "one", nil)
	record := func() error { return s.Record(t.Context(), gateway.AuditEvent{Kind: "strangers"}) }
	for range 3 {
		if err := record(); err != nil {
			t.Fatal(err)
		}
		d.crash(t, "one")
		// The first call may meet the dead session, and so may the first read. Then the store is ready again by itself.
		_ = record()
		_ = s.Ready(t.Context())
		if err := errors.Join(s.Ready(t.Context()), record()); err != nil {
			t.Error(err)
		}
	}
	// While the session was gone, a second process took the name: the first one must not write on.
	d.crash(t, "one")
	d.Exec(t, `SELECT 1`)
	second := d.Open(t, "one", nil)
	if err := record(); err == nil {
		t.Error("two processes write as one instance")
	}
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by") {
		t.Errorf("ready without the instance's name: %v", err)
	}
	if err := second.Record(t.Context(), gateway.AuditEvent{Kind: "started"}); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("not ready when the name is free again: %v", err)
	}
	if err := errors.Join(record(), s.VerifyAudit(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestNotReady: a full disk makes the store unready, and room makes it ready again.
func TestNotReady(t *testing.T) {
	d := newSQLite(t)
	s := d.Open(t, "one", nil).(*store.Store)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	store.LimitPages(t, s, 1) // SQLite answers as on a full disk
	full := gateway.AuditEvent{Kind: "strangers", Note: strings.Repeat("x", 1<<20)}
	if err := s.Record(t.Context(), full); err == nil {
		t.Fatal("recorded on a full disk")
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready on a full disk, where a small row may still fit")
	}
	store.LimitPages(t, s, 1<<30)
	if err := errors.Join(s.Record(t.Context(), full), s.Ready(t.Context()), s.VerifyAudit(t.Context())); err != nil {
		t.Error(err)
	}
	store.BreakCommits(t, s)
	if err := s.Record(t.Context(), full); err == nil {
		t.Error("recorded with a commit that failed")
	}
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "commit") {
		t.Errorf("ready: %v", err)
	}
	store.MendCommits(t, s)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("not ready again: %v", err)
	}
	if err := errors.Join(s.Record(t.Context(), full), s.VerifyAudit(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestSilent: goose has loggers of its own, which must not reach standard output or the log.
func TestSilent(t *testing.T) {
	var log bytes.Buffer
	s, err := store.Open(t.Context(), newSQLite(t).dsn, store.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("opening logged: %s", &log)
	}
}

func TestCallerGone(t *testing.T) {
	s := newSQLite(t).Open(t, "one", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Record(ctx, gateway.AuditEvent{Kind: "strangers"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Record: %v", err)
	}
	if _, err := s.Transaction(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Transaction: %v", err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
