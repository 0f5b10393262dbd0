package groupcommit_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
	_ "modernc.org/sqlite"
)

func open(t testing.TB) *sql.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_journal_mode=WAL&_synchronous=FULL&_foreign_keys=1&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(2) // the writer's, and the test's own to look
	for _, q := range []string{
		`CREATE TABLE parent (id INTEGER PRIMARY KEY)`,
		`CREATE TABLE line (id INTEGER PRIMARY KEY, body TEXT, parent INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// begin is Options.Begin.
var begin string

// Test runs all tests, with transactions of database/sql and with the writer's own.
func Test(t *testing.T) {
	for _, mode := range []struct{ name, begin string }{{"database/sql", ""}, {"own", "BEGIN IMMEDIATE"}} {
		begin = mode.begin
		t.Run(mode.name, func(t *testing.T) {
			t.Run("ConcurrentCallers", testConcurrentCallers)
			t.Run("UnitsOfOneBatchAreIsolated", testUnitsOfOneBatchAreIsolated)
			t.Run("LoneUnitFails", testLoneUnitFails)
			t.Run("FailedCommit", testFailedCommit)
			t.Run("CommittedInDoubt", testCommittedInDoubt)
			t.Run("BrokenSavepointFailsTheBatch", testBrokenSavepointFailsTheBatch)
			t.Run("BeginFails", testBeginFails)
			t.Run("Retry", testRetry)
			t.Run("Context", testContext)
			t.Run("Timeout", testTimeout)
			t.Run("Close", testClose)
			t.Run("NoDelayWhenIdle", testNoDelayWhenIdle)
		})
	}
}

func writer(t testing.TB, db *sql.DB, o groupcommit.Options) *groupcommit.Writer {
	w := groupcommit.New(db, with(o))
	t.Cleanup(func() { w.Close() })
	return w
}

func with(o groupcommit.Options) groupcommit.Options {
	o.Begin = begin
	return o
}

func insert(id int) func(context.Context, *groupcommit.Tx) error {
	return func(ctx context.Context, tx *groupcommit.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO line (id, body) VALUES (?, 'x')`, id)
		return err
	}
}

// orphan inserts a line that makes the COMMIT fail: its parent does not exist, which is checked there.
func orphan(ctx context.Context, tx *groupcommit.Tx) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO line (id, parent) VALUES (999, 4711)`)
	return err
}

func lines(t testing.TB, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRow(`SELECT count(*) FROM line`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// gather holds the writer with a unit of its own until all fns are queued, so that they become one batch.
// It returns their errors.
func gather(t *testing.T, w *groupcommit.Writer, fns ...func(context.Context, *groupcommit.Tx) error) []error {
	t.Helper()
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Do(t.Context(), func(context.Context, *groupcommit.Tx) error { close(held); <-release; return nil }); err != nil {
			t.Errorf("the holding unit: %v", err)
		}
	})
	<-held
	errs := make([]error, len(fns))
	for i, fn := range fns {
		wg.Go(func() { errs[i] = w.Do(t.Context(), fn) })
		groupcommit.AwaitQueued(w, i+1)
	}
	close(release)
	wg.Wait()
	return errs
}

func testConcurrentCallers(t *testing.T) {
	db := open(t)
	w := writer(t, db, groupcommit.Options{MaxBatch: 16})
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			if err := w.Do(t.Context(), insert(i)); err != nil {
				t.Errorf("unit %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := lines(t, db); n != 500 {
		t.Errorf("%d lines, want 500", n)
	}
}

func testUnitsOfOneBatchAreIsolated(t *testing.T) {
	db := open(t)
	var undone atomic.Int32
	w := writer(t, db, groupcommit.Options{RolledBack: func() { undone.Add(1) }})
	broken := errors.New("broken")
	var txs [4]*groupcommit.Tx
	errs := gather(t, w,
		func(ctx context.Context, tx *groupcommit.Tx) error { txs[0] = tx; return insert(1)(ctx, tx) },
		func(ctx context.Context, tx *groupcommit.Tx) error {
			txs[1] = tx
			if err := insert(2)(ctx, tx); err != nil {
				return err
			}
			return broken
		},
		func(ctx context.Context, tx *groupcommit.Tx) error {
			txs[2] = tx
			if err := insert(3)(ctx, tx); err != nil {
				return err
			}
			panic("at the disco")
		},
		func(ctx context.Context, tx *groupcommit.Tx) error { txs[3] = tx; return insert(4)(ctx, tx) },
	)
	if txs[0] != txs[1] || txs[1] != txs[2] || txs[2] != txs[3] {
		t.Fatal("the units did not share a transaction")
	}
	if errs[0] != nil || errs[3] != nil {
		t.Errorf("good units failed: %v, %v", errs[0], errs[3])
	}
	if errs[1] != broken {
		t.Errorf("second unit: %v, want its own error", errs[1])
	}
	if errs[2] == nil || errs[2].Error() != "a write panicked: at the disco" {
		t.Errorf("third unit: %v", errs[2])
	}
	if n := lines(t, db); n != 2 {
		t.Errorf("%d lines, want 2", n)
	}
	// Two savepoints; the holding unit wrote nothing and was committed.
	if undone.Load() != 2 {
		t.Errorf("RolledBack was called %d times, want 2", undone.Load())
	}
	if err := w.Healthy(); err != nil {
		t.Errorf("a unit's own failure made the writer unhealthy: %v", err)
	}
}

func testLoneUnitFails(t *testing.T) {
	db := open(t)
	w := writer(t, db, groupcommit.Options{})
	broken := errors.New("broken")
	for name, fail := range map[string]func() error{
		"error": func() error { return broken },
		"panic": func() error { panic(broken) },
	} {
		err := w.Do(t.Context(), func(ctx context.Context, tx *groupcommit.Tx) error {
			if err := insert(1)(ctx, tx); err != nil {
				return err
			}
			return fail()
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := lines(t, db); n != 0 {
		t.Errorf("%d lines, want none", n)
	}
	if err := w.Healthy(); err != nil {
		t.Error(err)
	}
}

func testFailedCommit(t *testing.T) {
	db := open(t)
	undone := false
	w := writer(t, db, groupcommit.Options{RolledBack: func() { undone = true }})
	errs := gather(t, w, insert(1), orphan, insert(2))
	for i, err := range errs {
		if err == nil || err.Error() != errs[0].Error() {
			t.Errorf("unit %d: %v, want the error of the commit", i, err)
		}
	}
	if !undone {
		t.Error("RolledBack was not called")
	}
	if w.Healthy() == nil {
		t.Error("healthy after a failed commit")
	}
	// A transaction in which nothing was to be committed proves nothing.
	if err := w.Do(t.Context(), func(context.Context, *groupcommit.Tx) error { return errors.New("no") }); err == nil {
		t.Error("no error")
	}
	if w.Healthy() == nil {
		t.Error("healthy again without a commit")
	}
	// Nor does one that changed no row: no disk was asked.
	if err := w.Do(t.Context(), func(ctx context.Context, tx *groupcommit.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM line WHERE 0 = 1`)
		return err
	}); err != nil {
		t.Error(err)
	}
	if w.Healthy() == nil {
		t.Error("healthy again after a commit of nothing")
	}
	if err := w.Do(t.Context(), orphan); err == nil {
		t.Error("a lone unit survived its commit's failure")
	}
	if err := w.Do(t.Context(), insert(3)); err != nil {
		t.Errorf("after a failed commit: %v", err)
	}
	if err := w.Healthy(); err != nil {
		t.Errorf("unhealthy after a good commit: %v", err)
	}
	if n := lines(t, db); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func testCommittedInDoubt(t *testing.T) {
	db := open(t)
	doubt, undone := errors.New("one host has it"), false
	var said error
	w := writer(t, db, groupcommit.Options{Doubt: func() error { return said }, RolledBack: func() { undone = true }})
	doubtful := func(ctx context.Context, tx *groupcommit.Tx) error { said = doubt; return insert(1)(ctx, tx) }
	for i, err := range gather(t, w, doubtful, insert(2)) {
		if !errors.Is(err, doubt) {
			t.Errorf("unit %d: %v", i, err)
		}
	}
	if !undone || !errors.Is(w.Healthy(), doubt) {
		t.Errorf("RolledBack called: %v, healthy: %v", undone, w.Healthy())
	}
	said = nil
	if err := errors.Join(w.Do(t.Context(), insert(3)), w.Healthy()); err != nil {
		t.Error(err)
	}
}

func testBrokenSavepointFailsTheBatch(t *testing.T) {
	db := open(t)
	w := writer(t, db, groupcommit.Options{})
	errs := gather(t, w, insert(1), func(ctx context.Context, tx *groupcommit.Tx) error {
		// What SQLite does by itself after an I/O error: the transaction is gone, and the savepoint with it.
		if _, err := tx.ExecContext(ctx, `ROLLBACK`); err != nil {
			t.Error(err)
		}
		return errors.New("disk I/O error")
	}, insert(2))
	for i, err := range errs {
		if err == nil {
			t.Errorf("unit %d was acknowledged", i)
		}
	}
	if n := lines(t, db); n != 0 {
		t.Errorf("%d lines, want none", n)
	}
	if w.Healthy() == nil {
		t.Error("healthy")
	}
}

func testBeginFails(t *testing.T) {
	db := open(t)
	w := writer(t, db, groupcommit.Options{})
	db.Close()
	if err := w.Do(t.Context(), insert(1)); err == nil {
		t.Error("no error from a closed database")
	}
	if w.Healthy() == nil {
		t.Error("healthy with a closed database")
	}
}

func testRetry(t *testing.T) {
	deadlock := errors.New("deadlock detected")
	o := groupcommit.Options{Retryable: func(err error) bool { return errors.Is(err, deadlock) }}
	t.Run("batch", func(t *testing.T) {
		db := open(t)
		w := writer(t, db, o)
		var tries, runs atomic.Int32
		errs := gather(t, w,
			func(ctx context.Context, tx *groupcommit.Tx) error { runs.Add(1); return insert(1)(ctx, tx) },
			func(ctx context.Context, tx *groupcommit.Tx) error {
				if err := insert(2)(ctx, tx); err != nil {
					return err
				}
				if tries.Add(1) < 3 {
					return fmt.Errorf("insert: %w", deadlock)
				}
				return nil
			})
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if tries.Load() != 3 || runs.Load() != 2 {
			t.Errorf("the losing unit ran %d times, want 3; the other %d, want 2", tries.Load(), runs.Load())
		}
		if n := lines(t, db); n != 2 {
			t.Errorf("%d lines, want 2", n)
		}
		if err := w.Healthy(); err != nil {
			t.Error(err)
		}
	})
	t.Run("ends", func(t *testing.T) {
		w := writer(t, open(t), o)
		if err := w.Do(t.Context(), func(context.Context, *groupcommit.Tx) error { return deadlock }); !errors.Is(err, deadlock) {
			t.Errorf("got %v", err)
		}
	})
}

func testContext(t *testing.T) {
	db := open(t)
	w := writer(t, db, groupcommit.Options{})
	t.Run("done before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Do(ctx, insert(1)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("done while waiting", func(t *testing.T) {
		held, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = w.Do(t.Context(), func(context.Context, *groupcommit.Tx) error { close(held); <-release; return nil })
		})
		<-held
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() { got <- w.Do(ctx, insert(2)) }()
		groupcommit.AwaitQueued(w, 1)
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) { // answered while the writer is still held
			t.Errorf("got %v", err)
		}
		close(release)
		wg.Wait()
	})
	t.Run("done once begun", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := w.Do(ctx, func(inner context.Context, tx *groupcommit.Tx) error {
			cancel()
			if inner.Err() != nil {
				t.Error("the caller's context reached a unit that had begun")
			}
			return insert(3)(inner, tx)
		})
		if err != nil {
			t.Errorf("a begun unit did not run to its end: %v", err)
		}
	})
	if n := lines(t, db); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func testTimeout(t *testing.T) {
	db := open(t)
	w := writer(t, db, groupcommit.Options{Timeout: time.Nanosecond})
	if err := w.Do(t.Context(), insert(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if w.Healthy() == nil {
		t.Error("healthy after a timeout")
	}
}

func testClose(t *testing.T) {
	db := open(t)
	w := groupcommit.New(db, with(groupcommit.Options{MaxBatch: 2}))
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = w.Do(t.Context(), func(context.Context, *groupcommit.Tx) error { close(held); <-release; return nil })
	})
	<-held
	for i := range 5 {
		wg.Go(func() {
			if err := w.Do(t.Context(), insert(i)); err != nil {
				t.Errorf("accepted before Close: %v", err)
			}
		})
	}
	groupcommit.AwaitQueued(w, 5)
	wg.Go(func() { w.Close() })
	groupcommit.AwaitClosing(w)
	if err := w.Do(t.Context(), insert(9)); !errors.Is(err, groupcommit.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	close(release)
	wg.Wait()
	w.Close() // twice is once
	if n := lines(t, db); n != 5 {
		t.Errorf("%d lines, want 5", n)
	}
}

// testNoDelayWhenIdle: in a synctest bubble time stands still while anything can run, so a timer on the way of a lone
// unit would show as time passed.
func testNoDelayWhenIdle(t *testing.T) {
	db := open(t)
	synctest.Test(t, func(t *testing.T) {
		w := groupcommit.New(db, with(groupcommit.Options{}))
		start := time.Now()
		if err := w.Do(t.Context(), func(context.Context, *groupcommit.Tx) error { return nil }); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("a lone unit waited %v", d)
		}
		w.Close()
	})
}

func BenchmarkDo(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			db := open(b)
			begin = "BEGIN IMMEDIATE"
			w := writer(b, db, groupcommit.Options{})
			body := make([]byte, 1024)
			var left atomic.Int64
			left.Store(int64(b.N))
			before := cpu()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := w.Do(context.Background(), func(ctx context.Context, tx *groupcommit.Tx) error {
							_, err := tx.ExecContext(ctx, `INSERT INTO line (body) VALUES (?)`, body)
							return err
						}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
