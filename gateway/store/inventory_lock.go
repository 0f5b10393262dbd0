package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// inventoryLock is held by the one who changes the inventory, among all instances: an import that was checked meets nothing
// new when it becomes visible. Whoever gets it first takes away what an import that broke off has left.
//
// On PostgreSQL it is an advisory lock of a session of its own, which ends with its holder. Should the session be lost
// while its holder works on, nothing goes wrong: device_imports and the row of inventory say who may still commit.
type inventoryLock struct {
	s    *Store
	conn *sql.Conn // nil on SQLite
}

const unlockTimeout = 5 * time.Second

var inventoryKey = func() int64 {
	sum := sha256.Sum256([]byte("muster inventory"))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}()

func (s *Store) lockInventory(ctx context.Context) (*inventoryLock, error) {
	select {
	case s.inventory <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l := &inventoryLock{s: s}
	var err error
	if s.dialect == &postgresDialect {
		if l.conn, err = s.readDB.Conn(ctx); err == nil {
			_, err = l.conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, inventoryKey)
		}
	}
	if err == nil {
		err = l.sweep(ctx)
	}
	if err != nil {
		l.unlock()
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return l, nil
}

func (l *inventoryLock) unlock() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), unlockTimeout)
		if _, err := l.conn.ExecContext(ctx, `SELECT pg_advisory_unlock_all()`); err != nil {
			_ = l.conn.Raw(func(any) error { return driver.ErrBadConn }) // a session that may hold it goes
		}
		cancel()
		_ = l.conn.Close() // back to the pool
	}
	<-l.s.inventory
}

// chunk commits a part of what nobody sees yet, or any more. On PostgreSQL it does so beside the writer and does not
// wait for the disk: what makes it visible is committed later, and waits.
func (l *inventoryLock) chunk(ctx context.Context, fn func(u unit) error) error {
	if l.conn == nil {
		return l.s.write(ctx, fn)
	}
	tx, err := l.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err = tx.ExecContext(ctx, `SET LOCAL synchronous_commit = off`); err == nil {
		err = fn(unit{l.s, ctx, groupcommit.Of(tx), nil})
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// querier is where to look at what stands.
func (l *inventoryLock) querier() querier {
	if l.conn == nil {
		return l.s.readDB
	}
	return l.conn
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// sweepChunk is how many entries are taken away in one commit.
const sweepChunk = 500

// sweep takes away what earlier imports left: all of one that broke off, and what a finished one replaced.
func (l *inventoryLock) sweep(ctx context.Context) error {
	var left bool
	if err := l.s.leftImports(ctx).Scan(&left); err != nil || !left {
		return err
	}
	// From here on none of them becomes visible: see commitImport and stage.
	err := l.chunk(ctx, func(u unit) error {
		_, err := u.run(`UPDATE device_imports SET state = 2 WHERE state = 0`)
		return err
	})
	if err != nil {
		return err
	}
	states := map[int64]int64{}
	rows, err := l.querier().QueryContext(ctx, `SELECT batch, state FROM device_imports`)
	if err == nil {
		err = each(rows, func(scan func(...any) error) error {
			var batch, state int64
			err := scan(&batch, &state)
			states[batch] = state
			return err
		})
	}
	for batch, state := range states {
		if err == nil {
			err = l.sweepBatch(ctx, batch, state)
		}
	}
	return err
}

// leftImports says whether there is something to sweep.
func (s *Store) leftImports(ctx context.Context) *sql.Row {
	return s.readDB.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM device_imports)`)
}

func (l *inventoryLock) sweepBatch(ctx context.Context, batch, state int64) error {
	gone := func(of int64) bool { return of == batch }
	if state == 1 {
		gone = func(of int64) bool { return of < batch }
	}
	for after := ""; ; {
		var names []string
		rows, err := l.querier().QueryContext(ctx, `SELECT name FROM devices WHERE batch = $1 AND name > $2 ORDER BY batch, name LIMIT $3`,
			batch, after, int64(sweepChunk))
		if err == nil {
			err = each(rows, func(scan func(...any) error) error {
				err := scan(&after)
				names = append(names, after)
				return err
			})
		}
		if err != nil {
			return err
		}
		err = l.chunk(ctx, func(u unit) error {
			if len(names) == 0 {
				_, err := u.run(`DELETE FROM device_imports WHERE batch = $1 AND state = $2`, batch, state)
				return err
			}
			_, err := u.dropRows(names, gone)
			return err
		})
		if err != nil || len(names) == 0 {
			return err
		}
	}
}

// analyze has PostgreSQL look at what a large import changed, rather than a minute later: it would plan as for small tables.
func (l *inventoryLock) analyze(ctx context.Context) {
	if l.conn == nil {
		return
	}
	if _, err := l.conn.ExecContext(ctx, `ANALYZE devices, device_identifiers`); err != nil {
		l.s.log.Info("the inventory was not analyzed", "err", err)
	}
}

// sweepBehind sweeps after the start, where there is something to sweep, without anybody waiting.
func (s *Store) sweepBehind(ctx context.Context) error {
	var left bool
	if err := s.leftImports(ctx).Scan(&left); err != nil || !left {
		return err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.behind.Go(func() {
		l, err := s.lockInventory(ctx)
		if err != nil {
			s.log.Warn("what an import of devices left is not taken away; the next import tries again", "err", err)
			return
		}
		l.unlock()
	})
	return nil
}
