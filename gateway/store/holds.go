package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// The statements of this file run when a person, or the time, ends a hold: too seldom to be kept prepared.
const (
	// lockHold lets one after the other read and write a hold: whoever changes one locks its work first, as everywhere.
	lockHold = `UPDATE work SET kind = kind WHERE tx = $1 AND kind = 'hold'`
	heldAs   = `SELECT state, hold FROM transactions WHERE id = $1 AND state IN ('held', 'approved')`
	// changeHold changes it from what was read ($2), or nothing.
	changeHold = `UPDATE transactions SET state = $3, hold = $4, intent = COALESCE($5, intent), note = COALESCE($6, note), updated = $7,
		sealed_key = CASE WHEN $3 = 'denied' THEN NULL ELSE sealed_key END
		WHERE id = $1 AND state IN ('held', 'approved') AND hold = $2`
	leaseHeld = `UPDATE work SET kind = 'settle', due = now($4) + $3, owner = $2, lease_until = now($4) + $3, epoch = epoch + 1,
		attempts = 0, note = '', backend = ` + theCA + ` WHERE tx = $1 RETURNING epoch`
	// waitApproved has WorkHold wait anew, whoever has leased it.
	waitApproved = `UPDATE work SET due = now($3) + $2, owner = '', lease_until = 0, epoch = epoch + 1, attempts = 0, note = ''
		WHERE tx = $1 AND kind = 'hold'`
)

// run runs a statement that is not prepared and returns how many rows it changed.
func (u unit) run(text string, args ...any) (int64, error) {
	res, err := u.tx.ExecContext(u.ctx, u.s.dialect.sql(text), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// row runs a statement that is not prepared and returns its one row.
func (u unit) row(text string, args ...any) *sql.Row {
	return u.tx.QueryRowContext(u.ctx, u.s.dialect.sql(text), args...)
}

// insertHold has WorkHold wait for so long.
func (u unit) insertHold(tx string, wait time.Duration) error {
	if _, err := u.exec(insertWork, tx, string(gateway.WorkHold), max(wait, 0).Microseconds(), "", int64(0), int64(0), u.s.dbNow()); err != nil {
		return fmt.Errorf("work of %s: %w", tx, err)
	}
	return nil
}

// hold reads the record of a transaction that is held, or approved where that does too, as stored too. ErrStale when it is not. A
// transaction that was held without a record waits for one approval, for ever.
func (u unit) hold(tx string, approvedToo bool) (h *gateway.HoldRecord, stored string, err error) {
	var state gateway.State
	if err := u.row(heldAs, tx).Scan(&state, &stored); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return nil, "", gateway.ErrStale
		}
		return nil, "", fmt.Errorf("hold of %s: %w", tx, err)
	}
	if state == gateway.StateApproved && !approvedToo {
		return nil, "", gateway.ErrStale
	}
	h = &gateway.HoldRecord{}
	if stored != "" {
		if err := json.Unmarshal([]byte(stored), h); err != nil {
			return nil, "", fmt.Errorf("hold of %s in the store: %w", tx, err)
		}
	}
	return h, stored, nil
}

// change writes a hold's record, where nobody has since it was read. intent and note stay where they are nil.
func (u unit) change(tx, stored string, state gateway.State, h *gateway.HoldRecord, intent, note any, at time.Time) error {
	hold, err := marshal(h)
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	n, err := u.run(changeHold, tx, stored, string(state), hold, intent, note, micros(at))
	if err != nil {
		return fmt.Errorf("transaction %s: %w", tx, err)
	}
	if n == 0 {
		return gateway.ErrStale
	}
	return nil
}

// said is an approval as it is stored.
func (s *Store) said(a gateway.Approval) gateway.Approval {
	if a.At.IsZero() {
		a.At = s.clock()
	}
	return gateway.Approval{By: a.By, At: a.At.UTC(), Reason: text(a.Reason)}
}

// Approve is gateway.Store. ErrStale too for a transaction that does not exist.
func (s *Store) Approve(ctx context.Context, a *gateway.ApprovalOrder) (int64, error) {
	if err := validKey("approver", a.Approval.By); err != nil {
		return 0, err
	}
	if a.Intent == nil || a.Lease <= 0 {
		return 0, errors.New("the last approval needs an intent and a lease")
	}
	intent, err := marshal(a.Intent)
	if err != nil {
		return 0, fmt.Errorf("intent: %w", err)
	}
	body, err := eventBody(&a.Audit, required)
	if err != nil {
		return 0, err
	}
	approval := s.said(a.Approval)
	var epoch int64
	err = s.begin(ctx, func(u unit) error {
		epoch = 0
		if _, err := u.run(lockHold, a.Transaction); err != nil {
			return fmt.Errorf("work of %s: %w", a.Transaction, err)
		}
		h, stored, err := u.hold(a.Transaction, false)
		if err != nil {
			return err
		}
		if !h.Until.IsZero() && !approval.At.Before(h.Until) {
			return gateway.ErrStale
		}
		for _, earlier := range h.Approvals {
			if earlier.By == approval.By {
				return gateway.ErrApproved
			}
		}
		h.Approvals = append(h.Approvals, approval)
		var claims []gateway.Claim
		if len(h.Approvals) >= h.Approvers {
			claims, h.Claims = h.Claims, nil
		}
		switch {
		case len(h.Approvals) < h.Approvers:
			err = u.change(a.Transaction, stored, gateway.StateHeld, h, nil, nil, approval.At)
		case a.NotLast:
			return gateway.ErrLast
		case !a.Until.IsZero():
			h.Until = a.Until.UTC()
			if err = u.waitApproved(a.Transaction, h.Until.Sub(approval.At)); err == nil {
				err = u.change(a.Transaction, stored, gateway.StateApproved, h, nil, nil, approval.At)
			}
		default:
			if epoch, err = u.leaseHeld(a.Transaction, a.Lease); err == nil {
				err = u.change(a.Transaction, stored, gateway.StateIssuing, h, intent, nil, approval.At)
			}
			if err == nil {
				err = u.activeUntil(a.Transaction, a.Intent.Template.NotAfter)
			}
		}
		if err == nil {
			err = u.takeClaims(a.Transaction, claims, nil, approval.At)
		}
		if err != nil {
			return err
		}
		return u.audit(body)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// validLater says what is wrong with claims that the last approval takes. None of them lapses: nobody takes such a one.
func validLater(claims []gateway.Claim) error {
	for _, c := range claims {
		if c.Active || !c.Until.IsZero() {
			return fmt.Errorf("the claim %s lapses, and is not taken by an approval", c.Key)
		}
	}
	return validClaims(claims)
}

// leftFor refuses a hold of whose claims, which nothing takes yet, one has no use left: nobody has to look at it.
func (u unit) leftFor(claims []gateway.Claim) error {
	for _, c := range claims {
		var used int64
		err := notFound(u.row(claimFull, c.Key, c.Limit).Scan(&used))
		if err == nil || c.Limit < 1 {
			return &gateway.ClaimLostError{Claim: c}
		}
		if !errors.Is(err, gateway.ErrNotFound) {
			return fmt.Errorf("claim %s: %w", c.Key, err)
		}
	}
	return nil
}

// waitApproved has a hold's work wait for so long, for the requester now.
func (u unit) waitApproved(tx string, wait time.Duration) error {
	n, err := u.run(waitApproved, tx, max(wait, 0).Microseconds(), u.s.dbNow())
	if err != nil {
		return fmt.Errorf("work of %s: %w", tx, err)
	}
	if n == 0 { // held without a record
		return u.insertHold(tx, wait)
	}
	return nil
}

// leaseHeld makes a hold's work that of settling its intent, under a lease of this instance.
func (u unit) leaseHeld(tx string, lease time.Duration) (epoch int64, err error) {
	us := lease.Microseconds()
	err = u.row(leaseHeld, tx, u.s.instance, us, u.s.dbNow()).Scan(&epoch)
	if errors.Is(err, sql.ErrNoRows) { // held without a record
		epoch = 1
		_, err = u.exec(insertWork, tx, string(gateway.WorkSettle), us, u.s.instance, us, epoch, u.s.dbNow())
	}
	if err != nil {
		return 0, fmt.Errorf("work of %s: %w", tx, err)
	}
	return epoch, nil
}

// Deny is gateway.Store. ErrStale too for a transaction that does not exist. Without a RepeatUntil after the denial its
// keys are free at once.
//
// Work, transaction, keys, claims are written in the order of Settle.
func (s *Store) Deny(ctx context.Context, d *gateway.DenialOrder) error {
	if text(d.Denied.By) != d.Denied.By {
		return fmt.Errorf("the name %q is not valid UTF-8", d.Denied.By)
	}
	if w := d.Work; w != nil && w.Transaction != d.Transaction {
		return fmt.Errorf("transaction %s is denied under a lease on %q", d.Transaction, w.Transaction)
	}
	body, err := eventBody(&d.Audit, required)
	if err != nil {
		return err
	}
	denied := s.said(d.Denied)
	return s.begin(ctx, func(u unit) error {
		if err := u.endHold(d); err != nil {
			return err
		}
		h, stored, err := u.hold(d.Transaction, true)
		if err != nil {
			return err
		}
		h.Denied = &denied
		if err := u.change(d.Transaction, stored, gateway.StateDenied, h, nil, text(d.Note), denied.At); err != nil {
			return err
		}
		if d.RepeatUntil.After(denied.At) {
			if _, err = u.exec(keepRepeat, d.Transaction, micros(d.RepeatUntil)); err == nil {
				_, err = u.exec(freeResume, d.Transaction)
			}
		} else {
			_, err = u.exec(freeRepeat, d.Transaction)
		}
		if err != nil {
			return fmt.Errorf("repeat key: %w", err)
		}
		if err := u.release(d.Transaction, false); err != nil {
			return err
		}
		return u.audit(body)
	})
}

// endHold ends a hold's work: under the worker's lease, or whoever has leased it when a person denies.
func (u unit) endHold(d *gateway.DenialOrder) error {
	if d.Work == nil {
		if _, err := u.exec(dropWork, d.Transaction); err != nil {
			return fmt.Errorf("work of %s: %w", d.Transaction, err)
		}
		return nil
	}
	n, err := u.exec(endWork, d.Transaction, u.s.instance, d.Work.Epoch)
	if err != nil {
		return fmt.Errorf("work of %s: %w", d.Transaction, err)
	}
	if n == 0 {
		return gateway.ErrStale
	}
	return nil
}
