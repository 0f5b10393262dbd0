package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// The statements of transactions whose messages are passed on, too seldom to be kept prepared.
const (
	insertForward = `INSERT INTO work (tx, kind, due, owner, lease_until, epoch, attempts, note)
		VALUES ($1, 'forward', now($6) + $2, $3, now($6) + $4, $5, 0, '')`
	leaseForward = `UPDATE work SET owner = $2, lease_until = now($4) + $3, epoch = epoch + 1
		WHERE tx = $1 AND kind = 'forward' AND (lease_until <= now($4) OR owner = $2) RETURNING epoch`
	setExchange  = `UPDATE transactions SET exchange = $2 WHERE id = $1`
	setConfirmed = `UPDATE transactions SET confirmed = $2 WHERE id = $1`
	// dropCertificate makes room for another one; settle has seen to it that the transaction was forwarded.
	dropCertificate = `DELETE FROM certificates WHERE tx = $1`
)

// insertForward has WorkForward wait for so long, leased to this instance, which passes the first message on.
func (u unit) insertForward(tx string, wait, lease time.Duration, epoch int64) error {
	if _, err := u.run(insertForward, tx, wait.Microseconds(), u.s.instance, lease.Microseconds(), epoch, u.s.dbNow()); err != nil {
		return fmt.Errorf("work of %s: %w", tx, err)
	}
	return nil
}

// LeaseForward is gateway.Store. ErrStale too for a transaction that does not exist.
func (s *Store) LeaseForward(ctx context.Context, transaction string, lease time.Duration) (int64, error) {
	if lease <= 0 {
		return 0, errors.New("a message is passed on under a lease")
	}
	var epoch int64
	err := s.begin(ctx, func(u unit) error {
		err := u.row(leaseForward, transaction, s.instance, lease.Microseconds(), s.dbNow()).Scan(&epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return gateway.ErrStale
		}
		if err != nil {
			return fmt.Errorf("work of %s: %w", transaction, err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// settleForward writes what only what was passed on has: the record of its messages, that its certificate is confirmed, the
// certificate that another takes the place of, and the one that it has revoked.
func (u unit) settleForward(st *gateway.Settlement) error {
	if st.Exchange != nil {
		if _, err := u.run(setExchange, st.Transaction, st.Exchange); err != nil {
			return fmt.Errorf("record of %s: %w", st.Transaction, err)
		}
		if st.Certificate != nil { // whose dates nobody knew when its use was taken
			if err := u.activeUntil(st.Transaction, st.Certificate.NotAfter); err != nil {
				return err
			}
		}
	}
	if st.Instead {
		if _, err := u.run(dropCertificate, st.Transaction); err != nil {
			return fmt.Errorf("certificate of %s: %w", st.Transaction, err)
		}
	}
	if st.Confirmed { // nothing resumes it any more, as in conclude
		if _, err := u.run(setConfirmed, st.Transaction, micros(st.Now)); err != nil {
			return fmt.Errorf("transaction %s: %w", st.Transaction, err)
		}
		if _, err := u.exec(freeResume, st.Transaction); err != nil {
			return fmt.Errorf("repeat key: %w", err)
		}
	}
	if st.Revokes == nil {
		return nil
	}
	issuer, serial := blob(st.Revokes.Issuer), magnitude(st.Revokes.Serial.Bytes())
	n, err := u.exec(markRevoked, issuer, serial, micros(st.Now), int64(st.Revokes.Reason))
	if err != nil {
		return fmt.Errorf("certificate %x: %w", serial, err)
	}
	if n == 0 { // not ours, or revoked before
		return nil
	}
	if _, err := u.exec(freeRepeatOfCertificate, issuer, serial); err != nil {
		return fmt.Errorf("repeat key: %w", err)
	}
	return u.endActive(issuer, serial)
}
