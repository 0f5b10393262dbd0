package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// The statements of this file run while a CA cannot be asked, and until it has what waited: too seldom to be kept prepared.
const (
	// claimQueued leases the oldest. What an instance asked the CA for and did not end (issuing) may be older: until that one's lease is over,
	// and it stands in the queue too, nothing passes it.
	claimQueued = `UPDATE work SET owner = $2, lease_until = now($4) + $3, epoch = epoch + 1, attempts = attempts + 1
		WHERE tx = (SELECT tx FROM work WHERE kind = 'queue' AND backend = $1 ORDER BY tx LIMIT 1) AND lease_until <= now($4)
		AND NOT EXISTS (SELECT 1 FROM transactions t JOIN work w ON w.tx = t.id
			WHERE t.state = 'issuing' AND t.id < work.tx AND w.kind = 'settle' AND w.backend = $1)
		RETURNING tx, kind, backend, due, attempts - 1, owner, epoch, note`
	queues   = `SELECT backend, count(*), min(tx) FROM work WHERE kind = 'queue' GROUP BY backend ORDER BY backend`
	queueOf  = `SELECT count(*), COALESCE(min(tx), '') FROM work WHERE kind = 'queue' AND backend = $1`
	setQueue = `UPDATE transactions SET queue = $2, confirm_wait = CASE WHEN confirm_wait BETWEEN 1 AND $3 THEN $3 ELSE confirm_wait END WHERE id = $1`
)

// ClaimQueued is gateway.Store.
func (s *Store) ClaimQueued(ctx context.Context, backend string, lease time.Duration) (*gateway.Work, error) {
	if lease <= 0 {
		return nil, fmt.Errorf("a lease of %v", lease)
	}
	var w gateway.Work
	err := s.write(ctx, func(u unit) error {
		var at int64
		err := u.row(claimQueued, text(backend), s.instance, lease.Microseconds(), s.dbNow()).Scan(
			&w.Transaction, &w.Kind, &w.Backend, &at, &w.Attempts, &w.Owner, &w.Epoch, &w.Note)
		w.Due = fromMicros(at)
		if errors.Is(err, sql.ErrNoRows) {
			return gateway.ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &w, nil
}

// Queues is gateway.Store.
func (s *Store) Queues(ctx context.Context) ([]gateway.Queue, error) {
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(queues))
	if err != nil {
		return nil, err
	}
	var all []gateway.Queue
	err = each(rows, func(scan func(...any) error) error {
		var q gateway.Queue
		err := scan(&q.Backend, &q.Length, &q.First)
		all = append(all, q)
		return err
	})
	return all, err
}

// Queue is gateway.Store.
func (s *Store) Queue(ctx context.Context, backend string) (gateway.Queue, error) {
	q := gateway.Queue{Backend: backend}
	err := s.readDB.QueryRowContext(ctx, s.dialect.sql(queueOf), text(backend)).Scan(&q.Length, &q.First)
	return q, err
}

// keepQueue writes what is known of a request that waits for its CA; nil leaves it as it is.
func (u unit) keepQueue(tx string, q *gateway.QueueRecord) error {
	if q == nil {
		return nil
	}
	record, err := marshal(q)
	if err == nil {
		_, err = u.run(setQueue, tx, record, gateway.QueuedConfirmWait.Microseconds())
	}
	if err != nil {
		return fmt.Errorf("queue of %s: %w", tx, err)
	}
	return nil
}
