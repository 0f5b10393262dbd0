package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// The statements of this file run when a CA cannot be asked: too seldom to be kept prepared.
const (
	rerouteWork = `UPDATE work SET backend = $4 WHERE tx = $1 AND owner = $2 AND epoch = $3 AND kind IN ('settle', 'queue')`
	rerouted    = `UPDATE transactions SET backend = $2, intent = $3, verdicts = $4, updated = $5, state = 'issuing'
		WHERE id = $1 AND state IN ('issuing', 'unknown', 'queued')`
)

// Reroute is gateway.Store.
func (s *Store) Reroute(ctx context.Context, r *gateway.Rerouting) error {
	if r.Backend == "" || r.Intent == nil || r.Intent.ID != r.Transaction {
		return errors.New("a request goes to another CA by its name, with an intent of the same ID")
	}
	intent, err := marshal(r.Intent)
	if err != nil {
		return fmt.Errorf("intent: %w", err)
	}
	verdicts, err := marshal(r.Verdicts)
	if err != nil {
		return fmt.Errorf("verdicts: %w", err)
	}
	return s.write(ctx, func(u unit) error {
		n, err := u.run(rerouteWork, r.Transaction, s.instance, r.Epoch, text(r.Backend))
		if err != nil {
			return fmt.Errorf("work of %s: %w", r.Transaction, err)
		}
		if n == 0 {
			return gateway.ErrStale
		}
		if n, err = u.run(rerouted, r.Transaction, text(r.Backend), intent, verdicts, micros(r.At)); err != nil {
			return fmt.Errorf("transaction %s: %w", r.Transaction, err)
		}
		if n == 0 {
			return gateway.ErrStale
		}
		if r.Queue == nil {
			return nil
		}
		if err := u.keepQueue(r.Transaction, r.Queue); err != nil {
			return err
		}
		return u.activeUntil(r.Transaction, r.Intent.Template.NotAfter)
	})
}
