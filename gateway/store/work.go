package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// ClaimDue is gateway.Store. The rows come in the order in which they were due. Attempts counts the leases that were
// given for this kind of work before, so one that ended in a crash counts too.
func (s *Store) ClaimDue(ctx context.Context, lease time.Duration, limit int, free func(backend string) int) ([]gateway.Work, error) {
	if lease <= 0 || limit <= 0 {
		return nil, fmt.Errorf("a lease of %v on %d rows", lease, limit)
	}
	// The table is looked at every second and mostly empty; a look buys no commit.
	backends, err := s.dueBackends(ctx)
	if err != nil {
		return nil, err
	}
	places := map[string]int{}
	backends = slices.DeleteFunc(backends, func(b string) bool { places[b] = free(b); return places[b] <= 0 })
	if len(backends) == 0 {
		return nil, nil
	}
	var due []gateway.Work
	err = s.write(ctx, func(u unit) error {
		due = nil
		for _, b := range backends {
			most := min(places[b], limit-len(due))
			if most == 0 {
				break
			}
			rows, err := u.query(claimDue, s.instance, lease.Microseconds(), int64(most), s.dbNow(), b)
			if err != nil {
				return err
			}
			err = each(rows, func(scan func(...any) error) error {
				var w gateway.Work
				var at int64
				err := scan(&w.Transaction, &w.Kind, &w.Backend, &at, &w.Attempts, &w.Owner, &w.Epoch, &w.Note)
				w.Due = fromMicros(at)
				due = append(due, w)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(due, func(a, b gateway.Work) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Transaction, b.Transaction))
	})
	return due, nil
}

// dueBackends are the CAs for which work is due ("" for work that asks none), the longest overdue first.
func (s *Store) dueBackends(ctx context.Context) ([]string, error) {
	rows, err := s.prepared[dueBackends].QueryContext(ctx, s.dbNow())
	if err != nil {
		return nil, err
	}
	var backends []string
	err = each(rows, func(scan func(...any) error) error {
		var b string
		err := scan(&b)
		backends = append(backends, b)
		return err
	})
	return backends, err
}

// LeaseWork is gateway.Store.
func (s *Store) LeaseWork(ctx context.Context, transaction string, lease time.Duration) (epoch int64, err error) {
	if lease <= 0 {
		return 0, fmt.Errorf("a lease of %v", lease)
	}
	err = s.write(ctx, func(u unit) error {
		err := u.queryRow(leaseWork, transaction, s.instance, lease.Microseconds(), s.dbNow()).Scan(&epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return gateway.ErrStale
		}
		if err != nil {
			return fmt.Errorf("work of %s: %w", transaction, err)
		}
		return nil
	})
	return epoch, err
}

// AskAgain is gateway.Store.
func (s *Store) AskAgain(ctx context.Context, transaction string, epoch int64, now time.Time) error {
	return s.write(ctx, func(u unit) error {
		n, err := u.exec(askAgain, transaction, s.instance, epoch, micros(now))
		if err != nil {
			return fmt.Errorf("asking again for %s: %w", transaction, err)
		}
		if n == 0 {
			return gateway.ErrStale
		}
		return nil
	})
}

// Postpone is gateway.Store.
func (s *Store) Postpone(ctx context.Context, w gateway.Work, delay time.Duration, note string) error {
	return s.write(ctx, func(u unit) error {
		n, err := u.exec(postponeWork, w.Transaction, s.instance, w.Epoch, delay.Microseconds(), text(note), s.dbNow())
		if err != nil {
			return fmt.Errorf("work of %s: %w", w.Transaction, err)
		}
		if n == 0 {
			return gateway.ErrStale
		}
		return nil
	})
}
