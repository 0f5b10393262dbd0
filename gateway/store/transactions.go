package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// never is when the repeat key of an open transaction expires.
const never = math.MaxInt64

// Begin is gateway.Store. The epoch is 1 for StateIssuing and StateForwarded, and 0 for StateHeld: its WorkHold, due at Hold.Until, is nobody's.
// Without Transaction.Hold no work waits for it.
func (s *Store) Begin(ctx context.Context, b *gateway.Beginning) (int64, error) {
	t := b.Transaction
	if t.State != gateway.StateIssuing && t.State != gateway.StateHeld && t.State != gateway.StateForwarded {
		return 0, fmt.Errorf("a transaction does not begin as %q", t.State)
	}
	if t.State != gateway.StateHeld && b.Lease <= 0 {
		return 0, errors.New("a transaction that is issued or passed on begins under a lease")
	}
	if (t.State == gateway.StateForwarded) != (b.Wait > 0) {
		return 0, fmt.Errorf("a transaction that begins as %q is closed after %v", t.State, b.Wait)
	}
	if t.Hold != nil && (t.State != gateway.StateHeld || t.Hold.Until.IsZero()) {
		return 0, fmt.Errorf("a hold until %v of a transaction that begins as %q", t.Hold.Until, t.State)
	}
	args, err := transactionArgs(t)
	if err != nil {
		return 0, err
	}
	if err := validClaims(b.Claims); err != nil {
		return 0, err
	}
	if t.Hold != nil {
		if err := validLater(t.Hold.Claims); err != nil {
			return 0, err
		}
	}
	body, err := eventBody(&b.Audit, optional)
	if err != nil {
		return 0, err
	}
	now := s.clock()
	var epoch int64
	err = s.claiming(ctx, now, func(u unit) error {
		epoch = 0
		if err := u.takeKeys(t, now); err != nil {
			return err
		}
		if err := u.takeClaims(t.ID, b.Claims, b.Renews, now); err != nil {
			return err
		}
		if t.Hold != nil {
			if err := u.leftFor(t.Hold.Claims); err != nil {
				return err
			}
		}
		if _, err := u.exec(insertTransaction, args...); err != nil {
			return fmt.Errorf("transaction %s: %w", t.ID, err)
		}
		if t.State == gateway.StateIssuing {
			epoch = 1
			lease := b.Lease.Microseconds()
			if _, err := u.exec(insertWork, t.ID, string(gateway.WorkSettle), lease, s.instance, lease, epoch, s.dbNow()); err != nil {
				return fmt.Errorf("work of %s: %w", t.ID, err)
			}
		}
		if t.State == gateway.StateForwarded {
			epoch = 1
			if err := u.insertForward(t.ID, b.Wait, b.Lease, epoch); err != nil {
				return err
			}
		}
		if t.Hold != nil {
			if err := u.insertHold(t.ID, t.Hold.Until.Sub(now)); err != nil {
				return err
			}
		}
		return u.audit(body)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// takeKeys takes a new transaction's keys, in one order everywhere as with claims. Of two twins it tells the one that
// brought the same message.
func (u unit) takeKeys(t *gateway.Transaction, now time.Time) error {
	keys := []gateway.RepeatKey{t.Repeat, t.Resume}
	slices.Sort(keys)
	twins := map[gateway.RepeatKey]string{}
	for _, key := range slices.Compact(keys) {
		holder, err := u.takeRepeat(key, t.ID, now)
		if err != nil {
			return err
		}
		if holder != "" {
			twins[key] = holder
		}
	}
	if len(twins) > 0 {
		return &gateway.TwinError{Transaction: cmp.Or(twins[t.Repeat], twins[t.Resume])}
	}
	return nil
}

// takeRepeat takes a key for a transaction, and says which one holds it where one does. Nobody holds "".
func (u unit) takeRepeat(key gateway.RepeatKey, tx string, now time.Time) (holder string, err error) {
	if key == "" {
		return "", nil
	}
	n, err := u.exec(takeRepeat, string(key), tx, int64(never), micros(now))
	if err != nil {
		return "", fmt.Errorf("repeat key: %w", err)
	}
	if n == 1 {
		return "", nil
	}
	if err := u.queryRow(holderOfRepeat, string(key)).Scan(&holder); err != nil {
		return "", fmt.Errorf("holder of the repeat key: %w", err)
	}
	return holder, nil
}

// Refuse is gateway.Store.
func (s *Store) Refuse(ctx context.Context, t *gateway.Transaction, e gateway.AuditEvent) error {
	if t.State != gateway.StateRefused {
		return fmt.Errorf("a refused transaction is not %q", t.State)
	}
	args, err := transactionArgs(t)
	if err != nil {
		return err
	}
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	return s.begin(ctx, func(u unit) error {
		if _, err := u.exec(insertTransaction, args...); err != nil {
			return fmt.Errorf("transaction %s: %w", t.ID, err)
		}
		return u.audit(body)
	})
}

// Repeat is gateway.Store. Most often nobody holds the key: a question with a short answer finds that out for less.
func (s *Store) Repeat(ctx context.Context, key gateway.RepeatKey, now time.Time) (*gateway.Transaction, error) {
	if key == "" {
		return nil, gateway.ErrNotFound
	}
	var held int
	if err := s.read(ctx, keyHeld, string(key), micros(now)).Scan(&held); err != nil {
		return nil, notFound(err)
	}
	return transactionRow(s.read(ctx, readRepeat, string(key), micros(now), int64(never)).Scan)
}

// Transaction is gateway.Store.
func (s *Store) Transaction(ctx context.Context, id string) (*gateway.Transaction, error) {
	if text(id) != id {
		return nil, gateway.ErrNotFound
	}
	return transactionRow(s.read(ctx, readTransaction, id).Scan)
}

// Transactions is gateway.Store. They come without Exchange and SealedKey, and a certificate without DER and chain.
func (s *Store) Transactions(ctx context.Context, f gateway.TransactionFilter) ([]*gateway.Transaction, error) {
	q := selected(&f)
	var out []*gateway.Transaction
	err := s.list(ctx, listTransactions, q, "t.id DESC", f.Limit, func(scan func(...any) error) error {
		t, err := transactionRow(scan)
		out = append(out, t)
		return err
	})
	return out, err
}

// selected are the conditions of a list of transactions. Of several states the newest of each are found by themselves: the index
// transactions_state has them in order, and of all that are in any of the states it has not (SQLite took 2 s to sort 80,000).
func selected(f *gateway.TransactionFilter) *filter {
	q := &filter{}
	rest := func(q *filter, of string) {
		q.equal(of+"endpoint", f.Endpoint)
		q.equal(of+"device", f.Device)
		q.before(of+"id", f.Before)
	}
	switch len(f.States) {
	case 0:
		rest(q, "t.")
	case 1:
		q.where("t.state = " + q.param(text(string(f.States[0]))))
		rest(q, "t.")
	default:
		var newest []string
		for i, state := range f.States {
			one := &filter{args: q.args}
			one.where("state = " + one.param(text(string(state))))
			rest(one, "")
			query := one.finish("SELECT id FROM transactions", "id DESC", f.Limit)
			newest, q.args = append(newest, fmt.Sprintf("SELECT id FROM (%s) s%d", query, i)), one.args
		}
		q.where("t.id IN (" + strings.Join(newest, " UNION ALL ") + ")")
	}
	return q
}

// filter collects the conditions of a list.
type filter struct {
	conditions []string
	args       []any
}

func (q *filter) param(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

func (q *filter) where(condition string) { q.conditions = append(q.conditions, condition) }

func (q *filter) equal(column, value string) {
	if value != "" {
		q.where(column + " = " + q.param(text(value)))
	}
}

func (q *filter) before(column, id string) {
	if id != "" {
		q.where(column + " < " + q.param(text(id)))
	}
}

// list runs a select with its filter, in an order.
func (s *Store) list(ctx context.Context, sel string, q *filter, order string, limit int, row func(scan func(...any) error) error) error {
	query := q.finish(sel, order, limit)
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(query), q.args...)
	if err != nil {
		return err
	}
	return each(rows, row)
}

// finish is the query with the conditions.
func (q *filter) finish(sel, order string, limit int) string {
	if limit <= 0 {
		limit = 100
	}
	if len(q.conditions) > 0 {
		sel += " WHERE " + strings.Join(q.conditions, " AND ")
	}
	return sel + " ORDER BY " + order + " LIMIT " + q.param(int64(limit))
}

// each calls row for every row and closes them.
func each(rows *sql.Rows, row func(scan func(...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
