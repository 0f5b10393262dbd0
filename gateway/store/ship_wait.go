package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// shipped waits until every sink has this instance's stream up to a record that is committed. ErrUnaudited when one does not get it
// in time, or is known not to get any.
func (s *Store) shipped(ctx context.Context, seq int64) error {
	p := s.ships.Load()
	if p == nil {
		return nil
	}
	for _, sh := range *p {
		select {
		case sh.wake <- struct{}{}:
		default:
		}
	}
	var late <-chan time.Time // begins with the first that is waited for
	for _, sh := range *p {
		if err := sh.await(ctx, seq, &late); err != nil {
			return err
		}
	}
	return nil
}

func (sh *shipper) await(ctx context.Context, seq int64, late *<-chan time.Time) error {
	for first := true; ; first = false {
		sh.mu.Lock()
		at, moved, since, why := sh.at, sh.moved, sh.since, sh.why()
		sh.mu.Unlock()
		if at >= seq {
			return nil
		}
		if first && !since.IsZero() {
			return unaudited(sh.sink.Name(), since, why)
		}
		if *late == nil {
			*late = sh.s.after(shipBound)
		}
		select {
		case <-moved:
		case <-sh.done: // taken out meanwhile
			return nil
		case <-*late:
			sh.change(func() { sh.need = max(sh.need, seq) })
			expired := make(chan time.Time)
			close(expired)
			*late = expired
			sh.mu.Lock()
			at, since, why = sh.at, sh.since, sh.why()
			sh.mu.Unlock()
			if at >= seq {
				return nil
			}
			return unaudited(sh.sink.Name(), since, why)
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", gateway.ErrUnaudited, sh.sink.Name(), ctx.Err())
		}
	}
}

func unaudited(sink string, since time.Time, why error) error {
	return fmt.Errorf("%w: %s, since %s: %w", gateway.ErrUnaudited, sink, since.UTC().Format(time.RFC3339), why)
}

// audible is nil unless a sink is behind or fails: then nothing is begun. ErrUnaudited.
func (s *Store) audible() error {
	p := s.ships.Load()
	if p == nil {
		return nil
	}
	var errs []error
	for _, sh := range *p {
		sh.mu.Lock()
		if !sh.since.IsZero() {
			errs = append(errs, unaudited(sh.sink.Name(), sh.since, sh.why()))
		}
		sh.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Audited is gateway.Store.
func (s *Store) Audited(ctx context.Context) error {
	if s.ships.Load() == nil {
		return nil
	}
	if err := s.audible(); err != nil {
		return err
	}
	head, err := s.tableHead(ctx)
	if err != nil {
		return fmt.Errorf("head of the audit trail: %w", err)
	}
	return s.shipped(ctx, head.Seq)
}

// begin is write for what has not happened yet: nothing is begun that a sink would not be told of.
func (s *Store) begin(ctx context.Context, fn func(u unit) error) error {
	if err := s.audible(); err != nil {
		return err
	}
	return s.write(ctx, fn)
}

// stopShipping ends all shipping, with the cursors saved.
func (s *Store) stopShipping() {
	s.shipLock.Lock()
	defer s.shipLock.Unlock()
	p := s.ships.Swap(nil)
	if p == nil {
		return
	}
	s.end(*p)
}
