package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/muster-pki/muster/gateway/audit"
)

// Trail reads the audit trail of a store that another process may be writing. It takes no lock, changes nothing and needs no current schema.
type Trail struct {
	db      *sql.DB
	dialect *dialect
}

// OpenTrail opens the trail of the store that Open opens by the dsn.
func OpenTrail(ctx context.Context, dsn string) (*Trail, error) {
	scheme, rest, _ := strings.Cut(dsn, ":")
	t := &Trail{}
	switch scheme {
	case "sqlite":
		path, err := filepath.Abs(rest)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		u := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"mode": {"ro"}, "_busy_timeout": {"5000"}, "_query_only": {"1"}}.Encode()}
		if t.db, err = sql.Open("sqlite", u.String()); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		t.dialect = &sqliteDialect
	case "postgres", "postgresql":
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, fmt.Errorf("store: postgres: %w", err) // pgx leaves the password out
		}
		config.RuntimeParams["application_name"] = "muster audit"
		config.RuntimeParams["default_transaction_read_only"] = "on"
		if config.ConnectTimeout == 0 {
			config.ConnectTimeout = postgresTimeout
		}
		t.db, t.dialect = stdlib.OpenDB(*config), &postgresDialect
	default:
		return nil, fmt.Errorf(`store: the scheme %q is not known: give "sqlite:PATH" or "postgres://USER@HOST/DATABASE"`, scheme)
	}
	t.db.SetMaxOpenConns(1)
	if _, ok := version(ctx, t.db); !ok {
		err := t.db.PingContext(ctx)
		if err == nil {
			err = errors.New("it holds no store of a gateway")
		}
		return nil, errors.Join(fmt.Errorf("store: %w", err), t.db.Close())
	}
	return t, nil
}

// Close closes it.
func (t *Trail) Close() error { return t.db.Close() }

// Snapshot is the trail at one moment.
type Snapshot struct {
	tx      *sql.Tx
	dialect *dialect
}

// Read calls fn with the trail as it is now.
func (t *Trail) Read(ctx context.Context, fn func(*Snapshot) error) error {
	var o *sql.TxOptions // SQLite's transactions are snapshots
	if t.dialect == &postgresDialect {
		o = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	tx, err := t.db.BeginTx(ctx, o)
	if err != nil {
		return fmt.Errorf("audit trail: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return fn(&Snapshot{tx, t.dialect})
}

// Records calls fn with each record, by stream and number; of one stream alone where it is given.
func (s *Snapshot) Records(ctx context.Context, stream string, fn func(audit.Record) error) error {
	query, args := `SELECT stream, seq, prev, hash, body FROM audit`, []any(nil)
	if stream != "" {
		query, args = query+` WHERE stream = $1`, []any{stream}
	}
	rows, err := s.tx.QueryContext(ctx, query+` ORDER BY stream, seq`, args...)
	if err != nil {
		return fmt.Errorf("audit trail: %w", err)
	}
	return eachRecord(rows, fn)
}

func eachRecord(rows *sql.Rows, fn func(audit.Record) error) error {
	return each(rows, func(scan func(...any) error) error {
		var r audit.Record
		if err := scan(&r.Stream, &r.Seq, &r.Prev, &r.Hash, &r.Body); err != nil {
			return fmt.Errorf("audit trail: %w", err)
		}
		return fn(r)
	})
}

// Extent is a stream's first and last record.
type Extent struct {
	First int64
	Last  audit.Head
}

// Extents are those of all streams, by name.
func (s *Snapshot) Extents(ctx context.Context) (all []Extent, err error) {
	return extents(ctx, s.tx)
}

// extents asks for one stream after the other: each is two steps in the index, however long.
func extents(ctx context.Context, q querier) (all []Extent, err error) {
	one := func(query string, args []any, into ...any) error {
		rows, err := q.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		found := false
		err = each(rows, func(scan func(...any) error) error { found = true; return scan(into...) })
		if err == nil && !found {
			err = sql.ErrNoRows
		}
		return err
	}
	for after := ""; ; {
		var e Extent
		err := one(`SELECT stream, seq FROM audit WHERE stream > $1 ORDER BY stream, seq LIMIT 1`, []any{after}, &e.Last.Stream, &e.First)
		if errors.Is(err, sql.ErrNoRows) {
			return all, nil
		}
		if err == nil {
			err = one(texts[auditHead], []any{e.Last.Stream}, &e.Last.Seq, &e.Last.Hash)
		}
		if err != nil {
			return nil, fmt.Errorf("audit trail: %w", err)
		}
		all, after = append(all, e), e.Last.Stream
	}
}
