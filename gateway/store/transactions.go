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

// Begin is gateway.Store. The epoch is 1 for StateIssuing, and 0 for StateHeld, which no work waits for.
func (s *Store) Begin(ctx context.Context, b *gateway.Beginning) (int64, error) {
	t := b.Transaction
	if t.State != gateway.StateIssuing && t.State != gateway.StateHeld {
		return 0, fmt.Errorf("a transaction does not begin as %q", t.State)
	}
	if t.State == gateway.StateIssuing && b.Lease <= 0 {
		return 0, errors.New("a transaction that is issued begins under a lease")
	}
	args, err := transactionArgs(t)
	if err != nil {
		return 0, err
	}
	for _, c := range b.Claims {
		if err := validKey("claim", c.Key); err != nil {
			return 0, err
		}
	}
	// In one order everywhere, so that two instances do not wait for each other's claims.
	claims := slices.SortedStableFunc(slices.Values(b.Claims), func(a, b gateway.Claim) int { return cmp.Compare(a.Key, b.Key) })
	body, err := eventBody(&b.Audit, optional)
	if err != nil {
		return 0, err
	}
	now := s.clock()
	var epoch int64
	err = s.write(ctx, func(u unit) error {
		epoch = 0
		if t.Repeat != "" {
			if err := u.takeRepeat(t, now); err != nil {
				return err
			}
		}
		for _, c := range claims {
			if err := u.takeClaim(t.ID, c); err != nil {
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
		return u.audit(body)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

func (u unit) takeRepeat(t *gateway.Transaction, now time.Time) error {
	n, err := u.exec(takeRepeat, string(t.Repeat), t.ID, int64(never), micros(now))
	if err != nil {
		return fmt.Errorf("repeat key: %w", err)
	}
	if n == 1 {
		return nil
	}
	var twin string
	if err := u.queryRow(holderOfRepeat, string(t.Repeat)).Scan(&twin); err != nil {
		return fmt.Errorf("holder of the repeat key: %w", err)
	}
	return &gateway.TwinError{Transaction: twin}
}

func (u unit) takeClaim(tx string, c gateway.Claim) error {
	if c.Limit < 1 {
		return &gateway.ClaimLostError{Claim: c}
	}
	n, err := u.exec(takeClaim, c.Key, c.Limit)
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.Key, err)
	}
	if n == 0 {
		return &gateway.ClaimLostError{Claim: c}
	}
	if _, err := u.exec(noteUse, tx, c.Key); err != nil {
		return fmt.Errorf("use of %s: %w", c.Key, err)
	}
	return nil
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
	return s.write(ctx, func(u unit) error {
		if _, err := u.exec(insertTransaction, args...); err != nil {
			return fmt.Errorf("transaction %s: %w", t.ID, err)
		}
		return u.audit(body)
	})
}

// Settle is gateway.Store. A closed transaction keeps its state: only work that follows it can still be settled.
//
// Epoch 0 stands for no lease: it settles an open transaction that no work waits for (held, stuck). It is ErrStale
// when somebody else did so before.
func (s *Store) Settle(ctx context.Context, st *gateway.Settlement) error {
	if st.State == "" {
		return errors.New("a settlement says where the transaction stands")
	}
	if (st.State == gateway.StateIssued) != (st.Certificate != nil) && st.State != gateway.StateFailed {
		return fmt.Errorf("a certificate with, and only with, an outcome that has one: not %q", st.State)
	}
	body, err := eventBody(&st.Audit, optional)
	if err != nil {
		return err
	}
	var cert []any
	var chainHash []byte
	var chain string
	if c := st.Certificate; c != nil {
		if c.Transaction != st.Transaction {
			return fmt.Errorf("transaction %s is settled with a certificate of %q", st.Transaction, c.Transaction)
		}
		if cert, chainHash, chain, err = certificateArgs(c); err != nil {
			return err
		}
		if _, known := s.chains.Load(string(chainHash)); known {
			chain = ""
		}
	}
	err = s.write(ctx, func(u unit) error {
		if err := u.settle(st); err != nil {
			return err
		}
		if chain != "" {
			if _, err := u.exec(insertChain, chainHash, chain); err != nil {
				return fmt.Errorf("chain: %w", err)
			}
		}
		if cert != nil {
			n, err := u.exec(insertCertificate, cert...)
			if err != nil {
				return fmt.Errorf("certificate: %w", err)
			}
			if n == 0 {
				return gateway.ErrCertificateExists
			}
		}
		return u.audit(body)
	})
	if err == nil && chain != "" {
		s.chains.Store(string(chainHash), struct{}{})
	}
	return err
}

// settle writes all of a settlement but certificate and audit event.
func (u unit) settle(st *gateway.Settlement) error {
	update := settleTransaction
	if st.Epoch == 0 {
		update = resolveTransaction
	} else if err := u.endLease(st); err != nil {
		return err
	}
	n, err := u.exec(update, st.Transaction, string(st.State), string(st.Reason), text(st.Note), text(st.Ticket), micros(st.Now))
	if err != nil {
		return fmt.Errorf("transaction %s: %w", st.Transaction, err)
	}
	if n == 0 {
		if st.Epoch == 0 {
			return gateway.ErrStale
		}
		return fmt.Errorf("transaction %s is closed and cannot become %q", st.Transaction, st.State)
	}
	if st.Epoch == 0 && st.Next != "" {
		if _, err := u.exec(insertWork, st.Transaction, string(st.Next), st.Delay.Microseconds(), "", int64(0), int64(0), u.s.dbNow()); err != nil {
			return fmt.Errorf("work of %s: %w", st.Transaction, err)
		}
	}
	switch {
	case st.State == gateway.StateIssued && st.RepeatUntil.After(st.Now):
		_, err = u.exec(keepRepeat, st.Transaction, micros(st.RepeatUntil))
	case !st.State.Open():
		_, err = u.exec(freeRepeat, st.Transaction)
	}
	if err != nil {
		return fmt.Errorf("repeat key: %w", err)
	}
	if st.Release {
		if _, err := u.exec(releaseClaims, st.Transaction); err != nil {
			return fmt.Errorf("claims: %w", err)
		}
		if _, err := u.exec(dropUses, st.Transaction); err != nil {
			return fmt.Errorf("claims: %w", err)
		}
	}
	return nil
}

// endLease ends or reschedules the work under whose lease the outcome was found.
func (u unit) endLease(st *gateway.Settlement) (err error) {
	var n int64
	if st.Next == "" {
		n, err = u.exec(endWork, st.Transaction, u.s.instance, st.Epoch)
	} else {
		n, err = u.exec(rescheduleWork, st.Transaction, u.s.instance, st.Epoch, string(st.Next), st.Delay.Microseconds(),
			text(st.Note), u.s.dbNow())
	}
	if err != nil {
		return fmt.Errorf("work of %s: %w", st.Transaction, err)
	}
	if n == 0 {
		return gateway.ErrStale
	}
	return nil
}

// Repeat is gateway.Store.
func (s *Store) Repeat(ctx context.Context, key gateway.RepeatKey, now time.Time) (*gateway.Transaction, error) {
	if key == "" {
		return nil, gateway.ErrNotFound
	}
	return transactionRow(s.read(ctx, readRepeat, string(key), micros(now)).Scan)
}

// Transaction is gateway.Store.
func (s *Store) Transaction(ctx context.Context, id string) (*gateway.Transaction, error) {
	if text(id) != id {
		return nil, gateway.ErrNotFound
	}
	return transactionRow(s.read(ctx, readTransaction, id).Scan)
}

// Transactions is gateway.Store. A certificate comes without DER and chain.
func (s *Store) Transactions(ctx context.Context, f gateway.TransactionFilter) ([]*gateway.Transaction, error) {
	var q filter
	if len(f.States) > 0 {
		params := make([]string, len(f.States))
		for i, state := range f.States {
			params[i] = q.param(text(string(state)))
		}
		q.where("t.state IN (" + strings.Join(params, ", ") + ")")
	}
	q.equal("t.endpoint", f.Endpoint)
	q.equal("t.device", f.Device)
	q.before("t.id", f.Before)
	var out []*gateway.Transaction
	err := s.list(ctx, listTransactions, &q, "t.id", f.Limit, func(scan func(...any) error) error {
		t, err := transactionRow(scan)
		out = append(out, t)
		return err
	})
	return out, err
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

// list runs a select with its filter, the newest transaction first.
func (s *Store) list(ctx context.Context, sel string, q *filter, id string, limit int, row func(scan func(...any) error) error) error {
	if limit <= 0 {
		limit = 100
	}
	query := sel
	if len(q.conditions) > 0 {
		query += " WHERE " + strings.Join(q.conditions, " AND ")
	}
	query += " ORDER BY " + id + " DESC LIMIT " + q.param(int64(limit))
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(query), q.args...)
	if err != nil {
		return err
	}
	return each(rows, row)
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
