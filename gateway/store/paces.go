package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// paceSlack is how far beyond all that Pace gives a turn can lie before it is taken for one that a clock gave which was wrong.
const paceSlack = time.Minute

// paceAhead is by how much a turn is written ahead where memory has it: a restart costs a CA so much of its time, and an
// issuance no commit.
const paceAhead = time.Second

const (
	// takeTurn is nextTurn in SQL. $1 the backend, $2 what lies between two, $3 what a burst makes of it, $4 the longest wait.
	takeTurn = `INSERT INTO paces (backend, turn) VALUES ($1, now($6) - $3)
		ON CONFLICT (backend) DO UPDATE SET turn = CASE
			WHEN paces.turn > now($6) + $5 THEN now($6)
			WHEN paces.turn + $2 < now($6) - $3 THEN now($6) - $3
			ELSE paces.turn + $2 END
		WHERE paces.turn + $2 <= now($6) + $4 OR paces.turn > now($6) + $5
		RETURNING turn - now($6)`
	lookTurn = `SELECT turn + $2 - now($3) FROM paces WHERE backend = $1`
	readTurn = `SELECT turn FROM paces WHERE backend = $1`
	keepTurn = `INSERT INTO paces (backend, turn) VALUES ($1, $2) ON CONFLICT (backend) DO UPDATE SET turn = excluded.turn`
)

// noTurn is before all turns.
const noTurn = math.MinInt64 / 2

// ownPace is a CA's row as the one process has it that owns the file.
type ownPace struct {
	turn int64 // microseconds
	kept int64 // what the row has, never before turn
}

// Pace is gateway.Store. PostgreSQL is asked each time, in a commit of its own that waits for no disk: a crash of its host
// forgets the turns of less than a second. A SQLite file is this process's alone, so memory has the turns.
func (s *Store) Pace(ctx context.Context, backend string, every time.Duration, burst int, most time.Duration) (time.Duration, bool, error) {
	if every < time.Microsecond || burst < 1 || most < 0 || int64(burst) > int64(100*365*24*time.Hour)/int64(every) {
		return 0, false, fmt.Errorf("one in %v, %d at once, a wait of %v", every, burst, most)
	}
	if err := validKey("backend", backend); err != nil {
		return 0, false, err
	}
	if s.dialect == &sqliteDialect {
		return s.ownTurn(ctx, backend, every.Microseconds(), int64(burst), most)
	}
	step := every.Microseconds()
	spread, far := step*int64(burst-1), (most + paceSlack).Microseconds()
	var wait int64
	err := s.paceDB.QueryRowContext(ctx, s.dialect.sql(takeTurn), backend, step, spread, most.Microseconds(), far, s.dbNow()).Scan(&wait)
	taken := err == nil
	if errors.Is(err, sql.ErrNoRows) {
		err = s.paceDB.QueryRowContext(ctx, s.dialect.sql(lookTurn), backend, step, s.dbNow()).Scan(&wait)
	}
	if err != nil {
		return 0, false, fmt.Errorf("pace of %s: %w", backend, err)
	}
	return max(time.Duration(wait)*time.Microsecond, 0), taken, nil
}

// nextTurn is the turn that follows, all in microseconds: a step after the one before, but no more than a burst of them lies
// in the past. What no clock can have given counts as now.
func nextTurn(turn, now, step, burst, far int64) int64 {
	if turn > now+far {
		return now
	}
	return max(turn+step, now-step*(burst-1))
}

// ownTurn is Pace where one process has the database.
func (s *Store) ownTurn(ctx context.Context, backend string, step, burst int64, most time.Duration) (time.Duration, bool, error) {
	select {
	case s.paceLock <- struct{}{}:
		defer func() { <-s.paceLock }()
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
	p := s.paces[backend]
	if p == nil {
		p = &ownPace{noTurn, noTurn}
		switch err := notFound(s.readDB.QueryRowContext(ctx, readTurn, backend).Scan(&p.turn)); {
		case err == nil:
			p.kept = p.turn
		case !errors.Is(err, gateway.ErrNotFound):
			return 0, false, fmt.Errorf("pace of %s: %w", backend, err)
		}
		s.paces[backend] = p
	}
	now := micros(s.clock())
	next := nextTurn(p.turn, now, step, burst, (most + paceSlack).Microseconds())
	wait := time.Duration(max(next-now, 0)) * time.Microsecond
	if wait > most {
		return wait, false, nil
	}
	kept := p.kept
	if next > kept || next < p.turn {
		kept = next + paceAhead.Microseconds()
		err := s.write(ctx, func(u unit) error {
			_, err := u.run(keepTurn, backend, kept)
			return err
		})
		if err != nil {
			return 0, false, fmt.Errorf("pace of %s: %w", backend, err)
		}
	}
	s.paces[backend] = &ownPace{turn: next, kept: kept}
	return wait, true, nil
}
