package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// Settle is gateway.Store. A closed transaction keeps its state: only work that follows it can still be settled.
//
// StateIssued and StateUnconfirmed need a certificate, and StateRejected one that was kept before: without Settlement.Certificate
// all three are refused unless the transaction was unconfirmed. From there it becomes nothing else, and takes no second
// certificate. What is unconfirmed waits with WorkConfirm, or nothing would ever end it.
//
// Epoch 0 stands for no lease: it settles an open transaction that no work waits for (held, stuck). It is ErrStale
// when somebody else did so before.
func (s *Store) Settle(ctx context.Context, st *gateway.Settlement) error {
	if err := sensible(st); err != nil {
		return err
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
		if err := u.settleForward(st); err != nil {
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

// sensible refuses what no transaction can become, wherever it stands.
func sensible(st *gateway.Settlement) error {
	switch st.State {
	case gateway.StateIssued, gateway.StateFailed:
	case gateway.StateForwarded:
		if st.Next != gateway.WorkForward || st.Epoch == 0 {
			return fmt.Errorf("what is passed on is closed in time, under the lease of its message, and does not wait for %q", st.Next)
		}
	case gateway.StateUnconfirmed:
		if st.Next != gateway.WorkConfirm {
			return fmt.Errorf("what is unconfirmed waits to be confirmed, not for %q", st.Next)
		}
	case "":
		return errors.New("a settlement says where the transaction stands")
	case gateway.StateDenied:
		return errors.New("what is held is denied by Deny alone")
	case gateway.StateQueued:
		if st.Next != gateway.WorkQueue || st.Certificate != nil {
			return fmt.Errorf("what waits for its CA does not wait for %q, and has no certificate", st.Next)
		}
	default:
		if st.Certificate != nil {
			return fmt.Errorf("a certificate only with an outcome that has one: not %q", st.State)
		}
	}
	switch {
	case st.Instead && (st.Certificate == nil || st.State != gateway.StateForwarded && st.State != gateway.StateIssued),
		st.Revokes != nil && (st.State != gateway.StateRevoked || st.Revokes.Serial == nil):
		return fmt.Errorf("a certificate takes no other's place, and none is revoked, in a transaction that is %q", st.State)
	case st.Confirmed && (st.State != gateway.StateIssued || st.Certificate != nil):
		return fmt.Errorf("nobody confirms a certificate that comes just now, or one in a transaction that is %q", st.State)
	case st.Release && (st.State == gateway.StateIssued || st.State == gateway.StateUnconfirmed || st.State == gateway.StateForwarded):
		return fmt.Errorf("claims are not given back for a transaction that is %q", st.State)
	case st.Epoch == 0 && hasCertificate(st):
		return fmt.Errorf("without a certificate and without a lease nothing becomes %q", st.State)
	}
	return nil
}

// hasCertificate reports whether a settlement takes it as given that the transaction has its certificate.
func hasCertificate(st *gateway.Settlement) bool {
	switch st.State {
	case gateway.StateIssued, gateway.StateUnconfirmed, gateway.StateRejected:
		return st.Certificate == nil
	}
	return false
}

// repeats reports whether what is settled is given again to who asks again.
func repeats(st *gateway.Settlement) bool {
	return (st.State == gateway.StateIssued || st.State == gateway.StateRevoked) && st.RepeatUntil.After(st.Now)
}

// settle writes all of a settlement but certificate and audit event.
func (u unit) settle(st *gateway.Settlement) error {
	update := settleTransaction
	if st.Epoch == 0 {
		update = resolveTransaction
	} else if err := u.endLease(st); err != nil {
		return err
	}
	n, err := u.exec(update, st.Transaction, string(st.State), string(st.Reason), text(st.Note), text(st.Ticket),
		micros(st.Now), hasCertificate(st), st.State.Open() || repeats(st))
	if err != nil {
		return fmt.Errorf("transaction %s: %w", st.Transaction, err)
	}
	if n == 0 {
		if st.Epoch == 0 {
			return gateway.ErrStale
		}
		return fmt.Errorf("transaction %s cannot become %q from where it stands (certificate given: %t)", st.Transaction, st.State, st.Certificate != nil)
	}
	if st.Epoch == 0 && st.Next != "" {
		if _, err := u.exec(insertWork, st.Transaction, string(st.Next), st.Delay.Microseconds(), "", int64(0), int64(0), u.s.dbNow()); err != nil {
			return fmt.Errorf("work of %s: %w", st.Transaction, err)
		}
	}
	switch {
	case repeats(st):
		_, err = u.exec(keepRepeat, st.Transaction, micros(st.RepeatUntil))
	case !st.State.Open():
		_, err = u.exec(freeRepeat, st.Transaction)
	}
	if err != nil {
		return fmt.Errorf("repeat key: %w", err)
	}
	if err := u.keepQueue(st.Transaction, st.Queue); err != nil {
		return err
	}
	if !st.Ends.IsZero() {
		if err := u.activeUntil(st.Transaction, st.Ends); err != nil {
			return err
		}
	}
	if st.Release {
		return u.release(st.Transaction, st.Certificate != nil)
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
