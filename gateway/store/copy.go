package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/audit"
)

// CopyOptions of Copy. The zero value works.
type CopyOptions struct {
	Progress func(done, total int64) // rows; called often, by one goroutine
	Log      *slog.Logger            // nil for none
}

// Copied says what Copy did.
type Copied struct {
	Rows    map[string]int64 // by table
	Already bool             // the target had it all: an earlier run has moved it
	Took    time.Duration    // of the copying alone
	Fault   string           // what is wrong with the audit trail, in source and target alike; "" for nothing
}

// Total is the number of rows.
func (c *Copied) Total() (n int64) {
	for _, rows := range c.Rows {
		n += rows
	}
	return n
}

// copyInstance is the name under which Copy holds a PostgreSQL database.
const copyInstance = "store migrate"

// Copy moves what one store holds into another, which is empty, of the other kind: from SQLite to PostgreSQL or back. No gateway has either
// of them open meanwhile. It all is one transaction of the target's, so that whoever looks sees nothing or everything, and a run that was
// broken off at any point is begun anew. The source stays as it is.
func Copy(ctx context.Context, from, to string, o CopyOptions) (*Copied, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	if schemeOf(from) == schemeOf(to) {
		return nil, fmt.Errorf("both stores are of one kind, %s: use its own tools (a copy of the file, pg_dump)", schemeOf(from))
	}
	if path, ok := strings.CutPrefix(from, "sqlite:"); ok {
		if info, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("the source: %w", err)
		} else if info.Size() == 0 {
			return nil, fmt.Errorf("the source: %s is empty", path)
		}
	}
	source, err := openToCopy(ctx, from, o.Log)
	if err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	defer source.close() //nolint:errcheck // nothing was written
	target, err := openToCopy(ctx, to, o.Log)
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	copied, err := (&copying{source: source, target: target, o: o}).run(ctx)
	return copied, errors.Join(err, target.close())
}

// schemeOf is "sqlite" or "postgres" of an address.
func schemeOf(dsn string) string {
	scheme, _, _ := strings.Cut(dsn, ":")
	if scheme == "postgresql" {
		return "postgres"
	}
	return scheme
}

// openToCopy opens a database that no gateway has open, and brings its schema up to date.
func openToCopy(ctx context.Context, dsn string, log *slog.Logger) (d *database, err error) {
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		d, err = openSQLite(ctx, path)
	} else if schemeOf(dsn) == "postgres" {
		d, err = openPostgres(ctx, dsn, copyInstance, log, func() {})
	} else {
		err = fmt.Errorf(`the scheme %q is not known: give "sqlite:PATH" or "postgres://USER@HOST/DATABASE"`, schemeOf(dsn))
	}
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, d.write, d.dialect); err != nil {
		return nil, errors.Join(err, d.close())
	}
	if d.dialect == &postgresDialect {
		if err := holdInstances(ctx, d.write); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	return d, nil
}

// holdInstances takes the names of all gateways that have written to a PostgreSQL database, for as long as the writer's session lasts.
func holdInstances(ctx context.Context, db *sql.DB) error {
	var names []string
	rows, err := db.QueryContext(ctx, `SELECT name FROM instances ORDER BY name`)
	if err == nil {
		err = each(rows, func(scan func(...any) error) error {
			var name string
			err := scan(&name)
			names = append(names, name)
			return err
		})
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		var ok bool
		if err := db.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, lockKey(name)).Scan(&ok); err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("the gateway %q runs on it: stop it first", name)
		}
	}
	return nil
}

// copying is one run of Copy.
type copying struct {
	source, target *database
	o              CopyOptions
}

func (c *copying) run(ctx context.Context) (*Copied, error) {
	tables, err := c.tables(ctx)
	if err != nil {
		return nil, err
	}
	from, err := c.source.write.BeginTx(ctx, &sql.TxOptions{Isolation: c.isolation()})
	if err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	defer from.Rollback() //nolint:errcheck // it read only
	copied := &Copied{}
	if copied.Rows, err = countRows(ctx, from, tables); err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	streams, err := heads(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	conn, err := c.target.write.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	defer conn.Close()
	w := &copyTarget{conn: conn, dialect: c.target.dialect}
	if err := w.begin(ctx, tables); err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	defer w.rollback()
	standing, err := countRows(ctx, conn, tables)
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	if !unused(ctx, conn, standing) {
		there, err := heads(ctx, conn)
		if err != nil {
			return nil, fmt.Errorf("the target: %w", err)
		}
		if maps.Equal(standing, copied.Rows) && maps.Equal(there, streams) {
			copied.Already = true
			return copied, nil
		}
		return nil, fmt.Errorf("the target holds something already (%s): give an empty database", inWords(standing))
	}
	begun := time.Now()
	if err := c.move(ctx, from, w, tables, copied.Total()); err != nil {
		return nil, err
	}
	arrived, err := countRows(ctx, conn, tables)
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	for _, t := range tables {
		if arrived[t.name] != copied.Rows[t.name] {
			return nil, fmt.Errorf("table %s: %d of %d rows arrived; nothing was moved", t.name, arrived[t.name], copied.Rows[t.name])
		}
	}
	if err = w.commit(ctx); err == nil && c.target.doubt != nil {
		err = c.target.doubt()
	}
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	if err := from.Rollback(); err != nil { // before the source's trail is read, by another session
		return nil, fmt.Errorf("the source: %w", err)
	}
	conn.Close()
	copied.Took = time.Since(begun)
	if c.target.dialect == &postgresDialect {
		if _, err := c.target.write.ExecContext(ctx, `ANALYZE`); err != nil { // or it would plan as for empty tables until a minute later
			c.o.Log.Info("not analyzed", "err", err)
		}
	}
	copied.Fault, err = sameTrail(ctx, c.source, c.target)
	return copied, err
}

// isolation keeps what is read of a PostgreSQL source at one moment. SQLite's transactions always do.
func (c *copying) isolation() sql.IsolationLevel {
	if c.source.dialect == &postgresDialect {
		return sql.LevelRepeatableRead
	}
	return sql.LevelDefault
}

// move writes all rows of the source, and ends the leases of the gateway that was stopped.
func (c *copying) move(ctx context.Context, from *sql.Tx, w *copyTarget, tables []copiedTable, total int64) error {
	var done int64
	count := func() { done++; c.o.Progress(done, total) }
	for _, t := range slices.Backward(tables) { // what a new schema brings along
		if _, err := w.conn.ExecContext(ctx, `DELETE FROM `+t.name); err != nil {
			return fmt.Errorf("the target: table %s: %w", t.name, err)
		}
	}
	for _, t := range tables {
		rows, err := from.QueryContext(ctx, `SELECT `+strings.Join(t.names(), ", ")+` FROM `+t.name)
		if err != nil {
			return fmt.Errorf("the source: table %s: %w", t.name, err)
		}
		if err := errors.Join(w.write(ctx, t, &copiedRows{rows: rows, table: t, next: count}), rows.Close()); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	if _, err := w.conn.ExecContext(ctx, c.target.dialect.sql(voidLeases), micros(time.Now())); err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	return nil
}

// sameTrail verifies the audit trail on both sides, and returns what is wrong with it on both, "" for nothing.
func sameTrail(ctx context.Context, source, target *database) (string, error) {
	was, err := trailFault(ctx, source)
	if err != nil {
		return "", fmt.Errorf("the source's audit trail: %w", err)
	}
	is, err := trailFault(ctx, target)
	if err != nil {
		return "", fmt.Errorf("the target's audit trail: %w", err)
	}
	if is != was {
		return "", fmt.Errorf("the audit trail of the target is another one than the source's: do not use it (source: %s; target: %s)", orWhole(was), orWhole(is))
	}
	return is, nil
}

func orWhole(fault string) string {
	if fault == "" {
		return "whole"
	}
	return fault
}

func trailFault(ctx context.Context, d *database) (string, error) {
	v := audit.NewVerifier(audit.Trust{})
	err := (&Trail{db: d.read, dialect: d.dialect}).Read(ctx, func(s *Snapshot) error {
		return s.Records(ctx, "", func(r audit.Record) error { v.Add(r); return nil })
	})
	if err != nil {
		return "", err
	}
	for _, f := range v.Report().Faults() {
		return f.Error(), nil
	}
	return "", nil
}
