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
	leaseRevocation = `INSERT INTO work (tx, kind, due, owner, lease_until, epoch, attempts, note)
		VALUES ($1, 'revoke', now($4) + $3, $2, now($4) + $3, 1, 0, '')
		ON CONFLICT (tx) DO UPDATE SET kind = excluded.kind, due = excluded.due, owner = excluded.owner,
		lease_until = excluded.lease_until, epoch = work.epoch + 1, attempts = 0, note = '' RETURNING epoch`
	rejectRevoked = `UPDATE transactions SET state = 'rejected', note = $2, updated = $3 WHERE id = $1 AND state = 'unconfirmed'`
)

// errRevokedBefore undoes an order that came second.
var errRevokedBefore = errors.New("the certificate was revoked before")

// OrderRevocation is gateway.Store. The note is the operator's line of a transaction that was unconfirmed; another keeps its own.
//
// Work, transaction, keys, claims are written in the order of Settle, the certificate between transaction and keys.
func (s *Store) OrderRevocation(ctx context.Context, o *gateway.RevocationOrder) (int64, error) {
	if o.Lease <= 0 {
		return 0, errors.New("an order to revoke is carried out under a lease")
	}
	body, err := eventBody(&o.Audit, required)
	if err != nil {
		return 0, err
	}
	at := o.At
	if at.IsZero() {
		at = s.clock()
	}
	issuer, serial := blob(o.Issuer), magnitude(o.Serial)
	var epoch int64
	err = s.write(ctx, func(u unit) error {
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
			if err := u.release(tx); err != nil {
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
