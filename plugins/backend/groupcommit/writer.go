// Package groupcommit commits concurrent writes to one database together: one of the callers takes the units that
// wait, gives each a savepoint of one transaction, commits once, and answers them all. So 32 callers share one fsync,
// and a lone one waits for nobody, not even for another goroutine to wake.
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

	// Begin is the statement that begins a transaction, "" to leave it to database/sql, whose Tx costs a goroutine each.
	// With it, the writer keeps one connection of the database, with its statements prepared, until a transaction does
	// not begin on it. It is for SQLite.
	Begin string

	// Retryable reports whether an error means that the database gave up this transaction in favour of another one
	// (PostgreSQL: SQLSTATE 40001 and 40P01). The batch is then rolled back, and its units run again, each in a
	// transaction of its own. nil for never.
	Retryable func(error) bool

	// Unable reports whether a unit's error means that the database cannot take writes now (PostgreSQL says so of a full disk before COMMIT).
	// The transaction then counts as one whose COMMIT failed. nil for never.
	Unable func(error) bool

	// Doubt is asked after each COMMIT that the database acknowledged, and says why it is not to be relied on; nil: it always is. With its
	// error the transaction counts as one whose COMMIT failed.
	Doubt func() error

	// RolledBack is called, on the goroutine that runs the units and before the next one runs, whenever the work of
	// a unit that had started was undone or may have been: what a unit remembered in memory no longer holds. May be nil.
	RolledBack func()

	// Committed is called, on the same goroutine, after each COMMIT that succeeded, before anybody is answered. No
	// transaction is open then. It cannot fail: what was committed stays. May be nil.
	Committed func()
}

// retries is how often a unit is run again in a transaction of its own.
const retries = 5

// Writer commits units to one database. Do may be called from any number of goroutines.
type Writer struct {
	db     *sql.DB
	o      Options
	health atomic.Pointer[error]
	own    *Tx  // the connection that is kept, with Options.Begin; of the leader alone, and so the next
	wrote  bool // the last transaction that was committed changed rows

	mu     sync.Mutex
	queue  []*unit
	led    bool // some caller is at it
	closed bool
	idle   chan struct{} // closed when closed and not led
}

// Where a unit is on its way. A caller may give up only a waiting one.
const (
	waiting int32 = iota
	begun         // or appointed to lead
	abandoned
)

type unit struct {
	ctx   context.Context
	fn    func(context.Context, *Tx) error
	state atomic.Int32
	err   error
	turn  chan bool // buffered, 1: false when it is done, true when it is to lead
}

// New makes a writer on db. Nothing else should write to a SQLite database beside it.
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
	if o.Doubt == nil {
		o.Doubt = func() error { return nil }
	}
	if o.RolledBack == nil {
		o.RolledBack = func() {}
	}
	if o.Committed == nil {
		o.Committed = func() {}
	}
	return &Writer{db: db, o: o, idle: make(chan struct{})}
}

// Do runs fn in a transaction that it may share with other callers' units, and returns nil after the commit is durable.
// Otherwise it returns
//   - fn's error, or an error that says that fn panicked: what fn wrote is rolled back, the other units are not touched;
//   - the error of BEGIN or COMMIT, which all units of the transaction get. After a COMMIT whose answer was lost it is
//     not known whether the database made it durable;
//   - ctx's error when ctx ended before fn was begun: fn does not run. Once begun, a unit runs to its end;
//   - ErrClosed.
//
// fn may run on another caller's goroutine, so it must do nothing but its statements, on tx alone, with the context it is
// given, which does not end with ctx. It may run more than once (Options.Retryable), each time on a clean slate:
// what it leaves in variables of the caller counts only after Do returned nil. No two units run at the same time.
func (w *Writer) Do(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &unit{ctx: ctx, fn: fn, turn: make(chan bool, 1)}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.queue = append(w.queue, u)
	lead := !w.led
	w.led = true
	w.mu.Unlock()
	if !lead {
		select {
		case lead = <-u.turn:
		case <-ctx.Done():
			if u.state.CompareAndSwap(waiting, abandoned) {
				return ctx.Err()
			}
			lead = <-u.turn
		}
	}
	if lead {
		w.lead(u)
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
	first := !w.closed
	w.closed = true
	if first && !w.led {
		close(w.idle)
	}
	w.mu.Unlock()
	<-w.idle
	if first {
		w.giveUp()
	}
	return nil
}

// lead commits the batch that begins with the leader's own unit, then appoints the first that waits.
func (w *Writer) lead(own *unit) {
	own.state.CompareAndSwap(waiting, begun) // nobody else can give it up: its caller is here
	batch := w.take(own)
	w.together(batch)
	for _, u := range batch {
		if u != own {
			u.turn <- false
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, u := range w.queue {
		if u.state.CompareAndSwap(waiting, begun) {
			w.drop(i)
			u.turn <- true
			return
		}
	}
	w.drop(len(w.queue))
	w.led = false
	if w.closed {
		close(w.idle)
	}
}

// take removes the next batch from the queue, without the units whose callers have gone. own leads it.
func (w *Writer) take(own *unit) (batch []*unit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for ; n < len(w.queue) && len(batch) < w.o.MaxBatch; n++ {
		switch u := w.queue[n]; {
		case u == own:
			batch = append(batch, u)
		case u.ctx.Err() != nil:
			// Its caller sees that too, or comes here first.
			if u.state.CompareAndSwap(waiting, abandoned) {
				u.err = u.ctx.Err()
				u.turn <- false
			}
		case u.state.CompareAndSwap(waiting, begun):
			batch = append(batch, u)
		}
	}
	w.drop(n)
	return batch
}

// drop takes n units off the queue. It needs the lock.
func (w *Writer) drop(n int) {
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
}

// together commits the batch as one transaction, or, when the database wants it retried, one by one.
func (w *Writer) together(batch []*unit) {
	if len(batch) == 1 {
		w.alone(batch[0])
		return
	}
	committed, err := w.transact(func(ctx context.Context, tx *Tx) (bool, error) { return w.savepoints(ctx, tx, batch) })
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
func (w *Writer) savepoints(ctx context.Context, tx *Tx, batch []*unit) (commit bool, err error) {
	for _, u := range batch {
		if _, err := tx.exec(ctx, "SAVEPOINT unit"); err != nil {
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
			if _, err := tx.exec(ctx, "ROLLBACK TO SAVEPOINT unit"); err != nil {
				return false, fmt.Errorf("roll back to savepoint: %w", errors.Join(err, u.err))
			}
			w.o.RolledBack()
			if w.unable(u.err) {
				return false, u.err
			}
		}
		if _, err := tx.exec(ctx, "RELEASE SAVEPOINT unit"); err != nil {
			return false, fmt.Errorf("release savepoint: %w", err)
		}
	}
	return commit, nil
}

// alone commits one unit as a transaction, again while the database wants it retried.
func (w *Writer) alone(u *unit) {
	for try := 0; ; try++ {
		u.err = nil
		committed, err := w.transact(func(ctx context.Context, tx *Tx) (bool, error) {
			if u.err = w.call(ctx, tx, u); w.unable(u.err) {
				return false, u.err
			}
			return u.err == nil, nil
		})
		if e := errors.Join(u.err, err); try < retries && e != nil && w.o.Retryable(e) {
			pause(try)
			continue
		}
		w.judge(committed, err, 1)
		if err != nil && err != u.err { //nolint:errorlint // the very same
			u.err = errors.Join(u.err, err)
		}
		return
	}
}

// pause lets the transaction that was favoured go on before this one is in its way again.
func pause(try int) { time.Sleep(rand.N(time.Duration(try+1) * 10 * time.Millisecond)) }

// transact runs body in a transaction, commits when body says so, else rolls back. Its error is the transaction's:
// of BEGIN, COMMIT or ROLLBACK, or body's.
func (w *Writer) transact(body func(context.Context, *Tx) (commit bool, err error)) (committed bool, err error) {
	ctx, cancel := w.bound()
	defer cancel()
	tx, err := w.begin(ctx)
	if err != nil {
		return false, fmt.Errorf("begin: %w", err)
	}
	commit, err := body(ctx, tx)
	if err == nil && commit {
		if err = tx.commit(ctx); err == nil {
			err = w.o.Doubt()
		}
		if err != nil {
			w.o.RolledBack()
			return false, fmt.Errorf("commit: %w", err)
		}
		w.o.Committed()
		w.wrote = tx.wrote
		return true, nil
	}
	rollbackErr := tx.rollback(ctx)
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

func (w *Writer) unable(err error) bool { return err != nil && w.o.Unable != nil && w.o.Unable(err) }

// call runs the unit's function and turns a panic into an error.
func (w *Writer) call(ctx context.Context, tx *Tx, u *unit) (err error) {
	defer func() {
		if v := recover(); v != nil {
			w.o.Log.Error("a write panicked and was rolled back", "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("a write panicked: %v", v)
		}
	}()
	return u.fn(ctx, tx)
}

// judge records whether transactions can be committed. One in which every unit failed by itself says nothing about it, nor does one
// that changed no row: on a broken disk it succeeds.
func (w *Writer) judge(committed bool, err error, units int) {
	switch {
	case err != nil:
		level := slog.LevelError
		if w.health.Swap(&err) != nil {
			level = slog.LevelDebug // told; each caller has its error
		}
		w.o.Log.Log(context.Background(), level, "transactions cannot be committed", "units", units, "error", err)
	case committed && w.wrote && w.Healthy() != nil:
		w.health.Store(nil)
		w.o.Log.Info("transactions are committed again")
	}
}
