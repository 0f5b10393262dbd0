package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// openSQLite opens the file for this process alone, and makes it when there is none.
func openSQLite(ctx context.Context, path string) (*database, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return nil, errors.New(`sqlite: give a file, as in "sqlite:./muster.db"`)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	d := &database{dialect: &sqliteDialect, begin: "BEGIN IMMEDIATE"}
	if d.lock, err = lockFile(path); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	// Made here for its mode, which SQLite gives to its other files too.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = groupcommit.Settle(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: %w", err), d.close())
	}
	common := url.Values{"_busy_timeout": {"5000"}, "_foreign_keys": {"on"}, "_dqs": {"0"}, "_defensive": {"1"}}
	d.write, err = openFile(path, 1, common, url.Values{
		"_txlock": {"immediate"}, "_journal_mode": {"WAL"}, "_synchronous": {"FULL"},
		// temp_store(2): savepoints' undo pages stay in memory; they went to a file, at a fifth of the whole CPU.
		"_pragma": {"cache_size(-16384)", "temp_store(2)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)"},
	})
	if err == nil {
		err = checkDurable(ctx, d.write)
	}
	if err == nil {
		d.read, err = openFile(path, 4, common, url.Values{
			"_query_only": {"1"},
			// For the inner pages of the indexes of a large inventory.
			"_pragma": {"cache_size(-8192)"},
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite %s: %w", path, err), d.close())
	}
	return d, nil
}

func openFile(path string, connections int, settings ...url.Values) (*sql.DB, error) {
	all := url.Values{}
	for _, s := range settings {
		for k, v := range s {
			all[k] = v
		}
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: all.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// checkDurable refuses a file system on which SQLite did not take the settings that commits rely on.
func checkDurable(ctx context.Context, db *sql.DB) error {
	var mode string
	var synchronous int
	if err := db.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&synchronous); err != nil {
		return err
	}
	if mode != "wal" || synchronous != 2 {
		return fmt.Errorf("journal mode %q and synchronous %d in place of wal and 2 (full): does the file lie on a network file system?",
			mode, synchronous)
	}
	return nil
}

// lockFile takes PATH.lock for this process. The kernel lets go of it when the process ends, however that happens.
func lockFile(path string) (io.Closer, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		holder := "another process"
		if b, err := io.ReadAll(io.LimitReader(f, 32)); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				holder = fmt.Sprintf("process %d", pid)
			}
		}
		return nil, fmt.Errorf("%s is in use by %s, which holds %s", path, holder, f.Name())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}
