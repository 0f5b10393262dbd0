package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// The statements of an order to revoke, too seldom to be kept prepared.
const (
	certificateToRevoke = `SELECT tx, revoked_at FROM certificates WHERE issuer = $1 AND serial = $2`
	// leaseRevocation takes the place of whatever waits for the transaction: to be confirmed, or revoked.
	leaseRevocation = `INSERT INTO work (tx, kind, due, owner, lease_until, epoch, attempts, note, backend)
		VALUES ($1, 'revoke', now($4) + $3, $2, now($4) + $3, 1, 0, '', ` + theCA + `)
		ON CONFLICT (tx) DO UPDATE SET kind = excluded.kind, due = excluded.due, owner = excluded.owner,
		lease_until = excluded.lease_until, epoch = work.epoch + 1, attempts = 0, note = '',
		backend = excluded.backend RETURNING epoch`
	rejectRevoked = `UPDATE transactions SET state = 'rejected', note = $2, updated = $3 WHERE id = $1 AND state IN ('unconfirmed', 'forwarded')`
)

// errRevokedBefore undoes an order that came second.
var errRevokedBefore = errors.New("the certificate was revoked before")

// OrderRevocation is gateway.Store. The note is the operator's line of a transaction that was unconfirmed; another keeps its own.
//
// Work, transaction, keys, claims are written in the order of Settle, the certificate between transaction and keys; what belongs
// to the request that asked for it comes last.
func (s *Store) OrderRevocation(ctx context.Context, o *gateway.RevocationOrder) (int64, error) {
	if o.Lease <= 0 {
		return 0, errors.New("an order to revoke is carried out under a lease")
	}
	body, err := eventBody(&o.Audit, required)
	if err != nil {
		return 0, err
	}
	request, err := requestArgs(o)
	if err != nil {
		return 0, err
	}
	at := o.At
	if at.IsZero() {
		at = s.clock()
	}
	issuer, serial := blob(o.Issuer), magnitude(o.Serial)
	var epoch int64
	err = s.claiming(ctx, at, func(u unit) error {
		epoch = 0
		var tx string
		var revoked int64
		if err := u.row(certificateToRevoke, issuer, serial).Scan(&tx, &revoked); err != nil {
			return notFound(err)
		}
		if revoked != 0 {
			return errRevokedBefore
		}
		if err := u.row(leaseRevocation, tx, s.instance, o.Lease.Microseconds(), s.dbNow()).Scan(&epoch); err != nil {
			return fmt.Errorf("work of %s: %w", tx, err)
		}
		rejected, err := u.run(rejectRevoked, tx, text(o.Note), micros(at))
		if err != nil {
			return fmt.Errorf("transaction %s: %w", tx, err)
		}
		if _, err := u.exec(eraseKeyOfCertificate, issuer, serial); err != nil {
			return fmt.Errorf("key of %s: %w", tx, err)
		}
		n, err := u.exec(markRevoked, issuer, serial, micros(at), int64(o.Reason))
		if err != nil {
			return fmt.Errorf("certificate %x: %w", serial, err)
		}
		if n == 0 { // while this one waited for the row of work
			return errRevokedBefore
		}
		if _, err := u.exec(freeRepeat, tx); err != nil {
			return fmt.Errorf("repeat key: %w", err)
		}
		if rejected > 0 {
			err = u.release(tx, true)
		} else {
			err = u.endActive(issuer, serial)
		}
		if err != nil {
			return err
		}
		if o.Request != nil {
			if err := u.askedToRevoke(o, request); err != nil {
				return err
			}
		}
		return u.audit(body)
	})
	if errors.Is(err, errRevokedBefore) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// requestArgs are the parameters of insertTransaction for the request of an order, nil for an operator's.
func requestArgs(o *gateway.RevocationOrder) ([]any, error) {
	t := o.Request
	switch {
	case t == nil && (len(o.Claims) > 0 || !o.RepeatUntil.IsZero()):
		return nil, errors.New("an order to revoke has claims and a repeat key with a request only")
	case t == nil:
		return nil, nil
	case t.State != gateway.StateRevoked || t.Intent != nil || t.Hold != nil || t.Resume != "":
		return nil, fmt.Errorf("a request to revoke that was carried out is not %q, and certifies nothing", t.State)
	}
	if err := validClaims(o.Claims); err != nil {
		return nil, err
	}
	return transactionArgs(t)
}

// askedToRevoke writes the request of an order, with its key and claims.
func (u unit) askedToRevoke(o *gateway.RevocationOrder, args []any) error {
	t := o.Request
	keep := o.RepeatUntil.After(o.At)
	if keep {
		holder, err := u.takeRepeat(t.Repeat, t.ID, o.At)
		if err != nil {
			return err
		}
		if holder != "" {
			return &gateway.TwinError{Transaction: holder}
		}
	}
	if err := u.takeClaims(t.ID, o.Claims, nil, o.At); err != nil {
		return err
	}
	if _, err := u.exec(insertTransaction, args...); err != nil {
		return fmt.Errorf("transaction %s: %w", t.ID, err)
	}
	if keep {
		if _, err := u.exec(keepRepeat, t.ID, micros(o.RepeatUntil)); err != nil {
			return fmt.Errorf("repeat key: %w", err)
		}
	}
	return nil
}
