package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// copiedTable is a table of the schema.
type copiedTable struct {
	name    string
	columns []copiedColumn
}

type copiedColumn struct {
	name string
	blob bool
}

func (t copiedTable) names() []string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return names
}

// tables are those of the schema as the databases have them, each behind those that it refers to. Both have the same.
func (c *copying) tables(ctx context.Context) ([]copiedTable, error) {
	lite, other := c.source, c.target
	if lite.dialect != &sqliteDialect {
		lite, other = c.target, c.source
	}
	var names []string
	rows, err := lite.read.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'goose_db_version' ORDER BY name`)
	if err == nil {
		err = each(rows, func(scan func(...any) error) error {
			var name string
			err := scan(&name)
			names = append(names, name)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("the tables: %w", err)
	}
	found, refers := map[string]copiedTable{}, map[string][]string{}
	for _, name := range names {
		t := copiedTable{name: name}
		rows, err := lite.read.QueryContext(ctx, `SELECT name, type FROM pragma_table_info($1) ORDER BY name`, name)
		if err == nil {
			err = each(rows, func(scan func(...any) error) error {
				var column, kind string
				err := scan(&column, &kind)
				t.columns = append(t.columns, copiedColumn{column, kind == "BLOB"})
				return err
			})
		}
		if err == nil {
			rows, err = lite.read.QueryContext(ctx, `SELECT "table" FROM pragma_foreign_key_list($1)`, name)
		}
		if err == nil {
			err = each(rows, func(scan func(...any) error) error {
				var to string
				err := scan(&to)
				refers[name] = append(refers[name], to)
				return err
			})
		}
		if err == nil {
			err = sameColumns(ctx, other.read, t)
		}
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		found[name] = t
	}
	var sorted []copiedTable
	for len(found) > 0 {
		before := len(found)
		for _, name := range slices.Sorted(maps.Keys(found)) {
			waits := func(to string) bool { _, still := found[to]; return still && to != name }
			if !slices.ContainsFunc(refers[name], waits) {
				sorted = append(sorted, found[name])
				delete(found, name)
			}
		}
		if len(found) == before {
			return nil, errors.New("tables refer to each other in a circle")
		}
	}
	return sorted, nil
}

// sameColumns fails where PostgreSQL's table has others.
func sameColumns(ctx context.Context, db *sql.DB, t copiedTable) error {
	var columns []copiedColumn
	rows, err := db.QueryContext(ctx, `SELECT column_name, data_type = 'bytea' FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1`, t.name)
	if err == nil {
		err = each(rows, func(scan func(...any) error) error {
			var c copiedColumn
			err := scan(&c.name, &c.blob)
			columns = append(columns, c)
			return err
		})
	}
	if err != nil {
		return err
	}
	slices.SortFunc(columns, func(a, b copiedColumn) int { return strings.Compare(a.name, b.name) })
	if !slices.Equal(columns, t.columns) {
		return fmt.Errorf("its columns differ between the two databases: %v and %v", t.columns, columns)
	}
	return nil
}

// rowQuerier is a transaction, or a session.
type rowQuerier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// countRows is how many rows each table has.
func countRows(ctx context.Context, q rowQuerier, tables []copiedTable) (map[string]int64, error) {
	n := map[string]int64{}
	for _, t := range tables {
		var rows int64
		if err := q.QueryRowContext(ctx, `SELECT count(*) FROM `+t.name).Scan(&rows); err != nil {
			return nil, fmt.Errorf("table %s: %w", t.name, err)
		}
		n[t.name] = rows
	}
	return n, nil
}

// heads is the hash of each audit stream's last record.
func heads(ctx context.Context, q rowQuerier) (map[string]string, error) {
	found := map[string]string{}
	rows, err := q.QueryContext(ctx, `SELECT a.stream, a.hash FROM audit a JOIN (SELECT stream, max(seq) AS seq FROM audit GROUP BY stream) l
		ON l.stream = a.stream AND l.seq = a.seq`)
	if err != nil {
		return nil, err
	}
	return found, each(rows, func(scan func(...any) error) error {
		var stream string
		var hash []byte
		err := scan(&stream, &hash)
		found[stream] = string(hash)
		return err
	})
}

// unused reports whether a database has what a new schema brings along alone: the row of the inventory, before its first batch.
func unused(ctx context.Context, q rowQuerier, rows map[string]int64) bool {
	for table, n := range rows {
		if n > 0 && table != "inventory" {
			return false
		}
	}
	var batch int64
	return q.QueryRowContext(ctx, `SELECT batch FROM inventory`).Scan(&batch) == nil && batch == 0
}

func inWords(rows map[string]int64) string {
	var said []string
	for _, table := range slices.Sorted(maps.Keys(rows)) {
		if n := rows[table]; n > 0 && table != "inventory" {
			said = append(said, fmt.Sprintf("%s: %d", table, n))
		}
	}
	return strings.Join(said, ", ")
}

// copiedRows reads a table, one row at a time. It is a pgx.CopyFromSource.
type copiedRows struct {
	rows  *sql.Rows
	table copiedTable
	next  func() // called for each row
	err   error
}

// Next is pgx.CopyFromSource.
func (r *copiedRows) Next() bool {
	if r.rows.Next() {
		return true
	}
	r.err = r.rows.Err()
	return false
}

// Values is pgx.CopyFromSource.
func (r *copiedRows) Values() ([]any, error) {
	values, into := make([]any, len(r.table.columns)), make([]any, len(r.table.columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := r.rows.Scan(into...); err != nil {
		return nil, err
	}
	for i, c := range r.table.columns {
		if b, ok := values[i].([]byte); ok && !c.blob {
			values[i] = string(b)
		} else if ok && b == nil {
			values[i] = []byte{} // not NULL
		}
	}
	r.next()
	return values, nil
}

// Err is pgx.CopyFromSource.
func (r *copiedRows) Err() error { return r.err }

// copyTarget is the transaction that all is written in.
type copyTarget struct {
	conn    *sql.Conn
	dialect *dialect
	ended   bool
}

// begin begins it, alone on the database's tables.
func (w *copyTarget) begin(ctx context.Context, tables []copiedTable) error {
	if w.dialect == &sqliteDialect {
		_, err := w.conn.ExecContext(ctx, `BEGIN IMMEDIATE`)
		return err
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.name
	}
	for _, q := range []string{`SET statement_timeout = 0`, `SET idle_in_transaction_session_timeout = 0`, `BEGIN`,
		`SET LOCAL lock_timeout = '` + instanceWait + `'`, `LOCK TABLE ` + strings.Join(names, ", ") + ` IN ACCESS EXCLUSIVE MODE`} {
		if _, err := w.conn.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (w *copyTarget) rollback() {
	if !w.ended {
		_, _ = w.conn.ExecContext(context.Background(), `ROLLBACK`) // a session that is gone has done so
	}
}

func (w *copyTarget) commit(ctx context.Context) error {
	_, err := w.conn.ExecContext(ctx, `COMMIT`)
	w.ended = err == nil
	return err
}

// write writes a table's rows: by COPY, or by one statement for many rows.
func (w *copyTarget) write(ctx context.Context, t copiedTable, rows *copiedRows) error {
	if w.dialect == &sqliteDialect {
		return w.insert(ctx, t, rows)
	}
	return w.conn.Raw(func(driver any) error {
		_, err := driver.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{t.name}, t.names(), rows)
		return err
	})
}

func (w *copyTarget) insert(ctx context.Context, t copiedTable, rows *copiedRows) error {
	head := `INSERT INTO ` + t.name + ` (` + strings.Join(t.names(), ", ") + `) VALUES `
	insert, err := w.conn.PrepareContext(ctx, head+places(1, make([]string, len(t.columns))...))
	if err != nil {
		return err
	}
	defer insert.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err == nil {
			_, err = insert.ExecContext(ctx, values...)
		}
		if err != nil {
			return err
		}
	}
	return rows.Err()
}
