package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// The statements of this file run when a key was lost on its way, or was approved: too seldom to be kept prepared.
const (
	// revokeSuperseded has the worker tell the CA, whatever waits for the transaction.
	revokeSuperseded = `INSERT INTO work (tx, kind, due, owner, lease_until, epoch, attempts, note, backend)
		VALUES ($1, 'revoke', now($2), '', 0, 1, 0, '', ` + theCA + `)
		ON CONFLICT (tx) DO UPDATE SET kind = excluded.kind, due = excluded.due, owner = '', lease_until = 0,
		epoch = work.epoch + 1, attempts = 0, note = '', backend = excluded.backend`
	noteSuperseded = `UPDATE transactions SET note = $2
		WHERE id = $1 AND state = 'issued' AND delivery <> '' AND repeat = $3 AND resume = $4`
	revokeOfTransaction = `UPDATE certificates SET revoked_at = $2, revocation = $3 WHERE tx = $1 AND revoked_at = 0`
	// moveRepeats gives what a transaction holds of its keys to another one ($2) that is open.
	moveRepeats = `UPDATE repeats SET tx = $2, expires = $3 WHERE key IN ` + keysOf + ` AND tx = $1 AND expires > $4`
	moveUses    = `UPDATE uses SET tx = $2 WHERE tx = $1`

	leaseApproved = `UPDATE work SET kind = 'settle', due = now($4) + $3, owner = $2, lease_until = now($4) + $3, epoch = epoch + 1,
		attempts = 0, note = '', backend = ` + theCA + ` WHERE tx = $1 AND kind = 'hold' RETURNING epoch`
	collectApproved = `UPDATE transactions SET state = 'issuing', intent = $2, delivery = $3, updated = $4 WHERE id = $1 AND state = 'approved'`
)

// Supersede is gateway.Store.
//
// Work, transaction, certificate, keys, claims are written in the order of OrderRevocation, the new transaction last.
func (s *Store) Supersede(ctx context.Context, p *gateway.Supersession) (int64, error) {
	t := p.Transaction
	switch {
	case t.State != gateway.StateIssuing || t.Intent == nil || t.Delivery == nil || t.Hold != nil || p.Lease <= 0:
		return 0, fmt.Errorf("a transaction that takes another's place is issued at once, with a key that is not kept: not %q", t.State)
	case t.Repeat == "" || t.ID == p.Earlier || t.Delivery.After != p.Earlier:
		return 0, errors.New("a transaction that takes another's place has that one's repeat key, and names it")
	}
	args, err := transactionArgs(t)
	if err != nil {
		return 0, err
	}
	body, err := eventBody(&p.Audit, required)
	if err != nil {
		return 0, err
	}
	at := p.At
	if at.IsZero() {
		at = s.clock()
	}
	now := s.clock()
	const epoch = 1
	err = s.begin(ctx, func(u unit) error {
		if _, err := u.run(revokeSuperseded, p.Earlier, s.dbNow()); err != nil {
			return fmt.Errorf("work of %s: %w", p.Earlier, err)
		}
		for _, change := range []struct {
			what, text string
			args       []any
		}{
			{"transaction", noteSuperseded, []any{p.Earlier, text(p.Note), string(t.Repeat), string(t.Resume)}},
			{"certificate", revokeOfTransaction, []any{p.Earlier, micros(at), int64(p.Reason)}},
			{"repeat key", moveRepeats, []any{p.Earlier, t.ID, int64(never), micros(now)}},
		} {
			n, err := u.run(change.text, change.args...)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", change.what, p.Earlier, err)
			}
			if n == 0 {
				return gateway.ErrStale
			}
		}
		if _, err := u.run(moveUses, p.Earlier, t.ID); err != nil {
			return fmt.Errorf("claims of %s: %w", p.Earlier, err)
		}
		if err := u.activeUntil(t.ID, t.Intent.Template.NotAfter); err != nil {
			return err
		}
		if _, err := u.exec(insertTransaction, args...); err != nil {
			return fmt.Errorf("transaction %s: %w", t.ID, err)
		}
		lease := p.Lease.Microseconds()
		if _, err := u.exec(insertWork, t.ID, string(gateway.WorkSettle), lease, s.instance, lease, int64(epoch), s.dbNow()); err != nil {
			return fmt.Errorf("work of %s: %w", t.ID, err)
		}
		return u.audit(body)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// Collect is gateway.Store. ErrStale too for a transaction that does not exist.
func (s *Store) Collect(ctx context.Context, c *gateway.Collection) (int64, error) {
	if c.Intent == nil || c.Delivery == nil || c.Lease <= 0 {
		return 0, errors.New("an approved transaction is issued with an intent, under a lease")
	}
	intent, err := marshal(c.Intent)
	if err != nil {
		return 0, fmt.Errorf("intent: %w", err)
	}
	delivery, err := marshal(c.Delivery)
	if err != nil {
		return 0, fmt.Errorf("delivery: %w", err)
	}
	at := c.At
	if at.IsZero() {
		at = s.clock()
	}
	var epoch int64
	err = s.begin(ctx, func(u unit) error {
		epoch = 0
		err := u.row(leaseApproved, c.Transaction, s.instance, c.Lease.Microseconds(), s.dbNow()).Scan(&epoch)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return gateway.ErrStale
		case err != nil:
			return fmt.Errorf("work of %s: %w", c.Transaction, err)
		}
		n, err := u.run(collectApproved, c.Transaction, intent, delivery, micros(at))
		if err != nil {
			return fmt.Errorf("transaction %s: %w", c.Transaction, err)
		}
		if n == 0 {
			return gateway.ErrStale
		}
		return u.activeUntil(c.Transaction, c.Intent.Template.NotAfter)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}
