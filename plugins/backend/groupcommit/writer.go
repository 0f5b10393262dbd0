// Package groupcommit commits concurrent writes to one database together: one goroutine takes the units that
// wait, gives each a savepoint of one transaction, commits once, and answers them all. So 32 callers share one fsync,
// and a lone one waits for nobody.
//
// It is not a store: it knows neither schema nor dialect. gateway/store and the ledgers of CA backends write through it.
package groupcommit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is Do's answer after Close.
var ErrClosed = errors.New("the writer is closed")

// Options of a Writer. The zero value works.
type Options struct {
	MaxBatch int          // units in one transaction, 128 when 0
	Log      *slog.Logger // failed and recovered commits, panics; nil for none

	// Timeout bounds one transaction, from BEGIN to COMMIT; 0 for no bound. It is for databases behind a network.
	// Leave it 0 with SQLite: a context that can end costs a goroutine per statement there, and an interrupted
	// statement rolls the whole transaction back.
	Timeout time.Duration

	// Retryable reports whether an error means that the database gave up this transaction in favour of another one
	// (PostgreSQL: SQLSTATE 40001 and 40P01). The batch is then rolled back, and its units run again, each in a
	// transaction of its own. nil for never.
	Retryable func(error) bool

	// RolledBack is called, on the goroutine that runs the units and before the next one runs, whenever the work of
	// a unit that had started was undone or may have been: what a unit remembered in memory no longer holds. May be nil.
	RolledBack func()
}

// retries is how often a unit is run again in a transaction of its own.
const retries = 5

// Writer commits units to one database. Do may be called from any number of goroutines.
type Writer struct {
	db      *sql.DB
	o       Options
	health  atomic.Pointer[error]
	wake    chan struct{} // buffered, 1: there is something in the queue, or closed changed
	stopped chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	queue  []*unit
	closed bool

	savepoint, release, rollback *sql.Stmt // of the goroutine alone
}

// Where a unit is on its way. A caller may give up only a waiting one.
const (
	waiting int32 = iota
	begun
	abandoned
)

type unit struct {
	ctx   context.Context
	fn    func(context.Context, *sql.Tx) error
	state atomic.Int32
	err   error
	done  chan struct{}
}

// New starts a writer on db. Nothing else should write to a SQLite database beside it.
func New(db *sql.DB, o Options) *Writer {
	if o.MaxBatch <= 0 {
		o.MaxBatch = 128
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Retryable == nil {
		o.Retryable = func(error) bool { return false }
	}
	if o.RolledBack == nil {
		o.RolledBack = func() {}
	}
	w := &Writer{db: db, o: o, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	go w.run()
	return w
}

// Do runs fn in a transaction that it may share with other callers' units, and returns nil after the commit is durable.
// Otherwise it returns
//   - fn's error, or an error that says that fn panicked: what fn wrote is rolled back, the other units are not touched;
//   - the error of BEGIN or COMMIT, which all units of the transaction get. After a COMMIT whose answer was lost it is
//     not known whether the database made it durable;
//   - ctx's error when ctx ended before fn was begun: fn does not run. Once begun, a unit runs to its end;
//   - ErrClosed.
//
// fn runs on the writer's goroutine, so it must do nothing but its statements, on tx alone, with the context it is
// given, which does not end with ctx. It may run more than once (Options.Retryable), each time on a clean slate:
// what it leaves in variables of the caller counts only after Do returned nil.
func (w *Writer) Do(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &unit{ctx: ctx, fn: fn, done: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.queue = append(w.queue, u)
	w.mu.Unlock()
	w.signal()
	select {
	case <-u.done:
	case <-ctx.Done():
		if u.state.CompareAndSwap(waiting, abandoned) {
			return ctx.Err()
		}
		<-u.done
	}
	return u.err
}

// Healthy says why the last transaction failed; nil after one that was committed, and before the first.
// A unit that failed by itself does not count.
func (w *Writer) Healthy() error {
	if p := w.health.Load(); p != nil {
		return *p
	}
	return nil
}

// Close waits until all units that were accepted have run. It leaves the database open.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.signal()
	<-w.stopped
	return nil
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	defer close(w.stopped)
	defer w.closeStatements()
	for {
		batch, closed := w.take()
		if len(batch) > 0 {
			w.together(batch)
			for _, u := range batch {
				close(u.done)
			}
			continue
		}
		if closed {
			return
		}
		<-w.wake
	}
}

// take removes the next batch from the queue, without the units whose callers have gone.
func (w *Writer) take() (batch []*unit, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for ; n < len(w.queue) && len(batch) < w.o.MaxBatch; n++ {
		u := w.queue[n]
		if err := u.ctx.Err(); err != nil {
			if u.state.CompareAndSwap(waiting, abandoned) {
				u.err = err
				close(u.done)
			}
			continue
		}
		if u.state.CompareAndSwap(waiting, begun) {
			batch = append(batch, u)
		}
	}
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
	return batch, w.closed
}

// together commits the batch as one transaction, or, when the database wants it retried, one by one.
func (w *Writer) together(batch []*unit) {
	if len(batch) == 1 {
		w.alone(batch[0])
		return
	}
	err := w.prepare()
	committed := false
	if err == nil {
		committed, err = w.transact(func(ctx context.Context, tx *sql.Tx) (bool, error) { return w.savepoints(ctx, tx, batch) })
	}
	if err != nil && w.o.Retryable(err) {
		w.o.Log.Info("transaction retried unit by unit", "units", len(batch), "error", err)
		pause(0)
		for _, u := range batch {
			w.alone(u)
		}
		return
	}
	w.judge(committed, err, len(batch))
	if err != nil {
		for _, u := range batch {
			u.err = err
		}
	}
}

// savepoints runs each unit of the batch under a savepoint and reports whether any is to be committed. Its error is
// one that ends the whole transaction; a unit's own error stays with the unit.
func (w *Writer) savepoints(ctx context.Context, tx *sql.Tx, batch []*unit) (commit bool, err error) {
	for _, u := range batch {
		if _, err := tx.StmtContext(ctx, w.savepoint).ExecContext(ctx); err != nil {
			return false, fmt.Errorf("savepoint: %w", err)
		}
		if u.err = w.call(ctx, tx, u); u.err == nil {
			commit = true
		} else {
			if w.o.Retryable(u.err) {
				return false, u.err
			}
			// A database that cannot undo this unit (SQLite drops the transaction after an I/O error or a full disk)
			// cannot be trusted with the others of the batch.
			if _, err := tx.StmtContext(ctx, w.rollback).ExecContext(ctx); err != nil {
				return false, fmt.Errorf("roll back to savepoint: %w", errors.Join(err, u.err))
			}
			w.o.RolledBack()
		}
		if _, err := tx.StmtContext(ctx, w.release).ExecContext(ctx); err != nil {
			return false, fmt.Errorf("release savepoint: %w", err)
		}
	}
	return commit, nil
}

// alone commits one unit as a transaction, again while the database wants it retried.
func (w *Writer) alone(u *unit) {
	for try := 0; ; try++ {
		u.err = nil
		committed, err := w.transact(func(ctx context.Context, tx *sql.Tx) (bool, error) {
			u.err = w.call(ctx, tx, u)
			return u.err == nil, nil
		})
		if e := errors.Join(u.err, err); try < retries && e != nil && w.o.Retryable(e) {
			pause(try)
			continue
		}
		w.judge(committed, err, 1)
		if err != nil {
			u.err = errors.Join(u.err, err)
		}
		return
	}
}

// pause lets the transaction that was favoured go on before this one is in its way again.
func pause(try int) { time.Sleep(rand.N(time.Duration(try+1) * 10 * time.Millisecond)) }

// transact runs body in a transaction, commits when body says so, else rolls back. Its error is the transaction's:
// of BEGIN, COMMIT or ROLLBACK, or body's.
func (w *Writer) transact(body func(context.Context, *sql.Tx) (commit bool, err error)) (committed bool, err error) {
	ctx, cancel := w.bound()
	defer cancel()
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("begin: %w", err)
	}
	commit, err := body(ctx, tx)
	if err == nil && commit {
		if err = tx.Commit(); err != nil {
			w.o.RolledBack()
			return false, fmt.Errorf("commit: %w", err)
		}
		return true, nil
	}
	rollbackErr := tx.Rollback()
	w.o.RolledBack()
	if err == nil && rollbackErr != nil {
		return false, fmt.Errorf("roll back: %w", rollbackErr)
	}
	return false, err // the rollback of a broken transaction adds nothing to it
}

func (w *Writer) bound() (context.Context, context.CancelFunc) {
	if w.o.Timeout > 0 {
		return context.WithTimeout(context.Background(), w.o.Timeout)
	}
	return context.Background(), func() {}
}

// prepare prepares the savepoint statements, outside of any transaction since the pool may hold one connection only.
func (w *Writer) prepare() error {
	ctx, cancel := w.bound()
	defer cancel()
	for _, p := range []struct {
		text string
		stmt **sql.Stmt
	}{
		{"SAVEPOINT unit", &w.savepoint},
		{"ROLLBACK TO SAVEPOINT unit", &w.rollback},
		{"RELEASE SAVEPOINT unit", &w.release},
	} {
		if *p.stmt != nil {
			continue
		}
		prepared, err := w.db.PrepareContext(ctx, p.text)
		if err != nil {
			return fmt.Errorf("prepare savepoints: %w", err)
		}
		*p.stmt = prepared
	}
	return nil
}

func (w *Writer) closeStatements() {
	for _, s := range []*sql.Stmt{w.savepoint, w.release, w.rollback} {
		if s != nil {
			_ = s.Close() // the connection ends with its database anyway
		}
	}
}

// call runs the unit's function and turns a panic into an error.
func (w *Writer) call(ctx context.Context, tx *sql.Tx, u *unit) (err error) {
	defer func() {
		if v := recover(); v != nil {
			w.o.Log.Error("a write panicked and was rolled back", "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("a write panicked: %v", v)
		}
	}()
	return u.fn(ctx, tx)
}

// judge records whether transactions can be committed. One in which every unit failed by itself says nothing about it.
func (w *Writer) judge(committed bool, err error, units int) {
	switch {
	case err != nil:
		w.health.Store(&err)
		w.o.Log.Error("transaction failed", "units", units, "error", err)
	case committed && w.Healthy() != nil:
		w.health.Store(nil)
		w.o.Log.Info("transactions are committed again")
	}
}
