package groupcommit

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// Tx is a unit's transaction: the methods of *sql.Tx that a unit has use for. With Options.Begin a statement is
// prepared when its text comes for the first time, and kept, up to maxPrepared of them: most texts are constants.
type Tx struct {
	tx *sql.Tx // nil with Options.Begin

	conn     *sql.Conn
	prepared map[string]*sql.Stmt

	wrote bool // some unit's statement changed a row
}

// maxPrepared is how many statements are kept. Texts that come later, such as those with as many parameters as there are
// rows, are prepared each time.
const maxPrepared = 256

// Of is a transaction that somebody else began, and will end.
func Of(tx *sql.Tx) *Tx { return &Tx{tx: tx} }

// PrepareContext is that of *sql.Tx: the caller closes what it gets.
func (t *Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if t.tx != nil {
		return t.tx.PrepareContext(ctx, query)
	}
	return t.conn.PrepareContext(ctx, query)
}

// ExecContext is that of *sql.Tx.
func (t *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	result, err := t.exec(ctx, query, args...)
	if err == nil && !t.wrote {
		n, err := result.RowsAffected()
		t.wrote = err == nil && n > 0
	}
	return result, err
}

// exec is ExecContext for the writer's own statements, which change no row.
func (t *Tx) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if t.tx != nil {
		return t.tx.ExecContext(ctx, query, args...)
	}
	stmt, err := t.prepare(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case stmt == nil:
		return t.conn.ExecContext(ctx, query, args...)
	}
	return stmt.ExecContext(ctx, args...)
}

// QueryContext is that of *sql.Tx.
func (t *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if t.tx != nil {
		return t.tx.QueryContext(ctx, query, args...)
	}
	stmt, err := t.prepare(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case stmt == nil:
		return t.conn.QueryContext(ctx, query, args...)
	}
	return stmt.QueryContext(ctx, args...)
}

// QueryRowContext is that of *sql.Tx.
func (t *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if t.tx != nil {
		return t.tx.QueryRowContext(ctx, query, args...)
	}
	stmt, err := t.prepare(ctx, query)
	if err != nil || stmt == nil {
		return t.conn.QueryRowContext(ctx, query, args...) // an error is the row's
	}
	return stmt.QueryRowContext(ctx, args...)
}

// prepare returns the statement that is kept, nil where no more are.
func (t *Tx) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt := t.prepared[query]; stmt != nil || len(t.prepared) >= maxPrepared {
		return stmt, nil
	}
	stmt, err := t.conn.PrepareContext(ctx, query)
	if err == nil {
		t.prepared[query] = stmt
	}
	return stmt, err
}

func (t *Tx) commit(ctx context.Context) error {
	if t.tx != nil {
		return t.tx.Commit()
	}
	_, err := t.exec(ctx, "COMMIT")
	if err != nil {
		// SQLite may have left the transaction open. Should this fail too, the next one does not begin.
		_ = t.rollback(ctx)
	}
	return err
}

func (t *Tx) rollback(ctx context.Context) error {
	if t.tx != nil {
		return t.tx.Rollback()
	}
	_, err := t.exec(ctx, "ROLLBACK")
	return err
}

// begin begins a transaction. That none is open on the connection that is kept, SQLite itself makes sure of: BEGIN fails then.
func (w *Writer) begin(ctx context.Context) (*Tx, error) {
	if w.o.Begin == "" {
		tx, err := w.db.BeginTx(ctx, nil)
		return &Tx{tx: tx}, err
	}
	if w.own == nil {
		conn, err := w.db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		w.own = &Tx{conn: conn, prepared: map[string]*sql.Stmt{}}
	}
	w.own.wrote = false
	if _, err := w.own.exec(ctx, w.o.Begin); err != nil {
		w.giveUp()
		return nil, err
	}
	return w.own, nil
}

// giveUp closes the connection that is kept, and with it whatever transaction may be open on it.
func (w *Writer) giveUp() {
	if w.own == nil {
		return
	}
	for _, stmt := range w.own.prepared {
		_ = stmt.Close() // the connection ends anyway
	}
	_ = w.own.conn.Raw(func(any) error { return driver.ErrBadConn }) // the pool does not give it to anybody else
	_ = w.own.conn.Close()
	w.own = nil
}
