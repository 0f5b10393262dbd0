package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/muster-pki/muster/gateway/audit"
)

// selectMarks is for the index audit_marks: checkpoints, and what was removed.
const selectMarks = `SELECT stream, seq, prev, hash, body FROM audit
	WHERE substr(body, 1, 20) IN ('{"kind":"checkpoint"', '{"kind":"audit-prune')`

// pruneChunk is how many records one commit removes.
const pruneChunk = 1000

// prunedPart is the beginning of a stream that is to be removed.
type prunedPart struct {
	first int64
	last  audit.Head
	carry []audit.Head // what it says of other streams that begin later for it
}

// PruneAudit removes what was written before a time, and returns how many records that were: of each stream the records before its newest checkpoint
// that is older. This instance's own stream is pruned, and those of instances that are gone, which go as a whole when all of them is older. Nothing is
// removed whose chain or signatures are not as they have to be, and the removal is recorded, and signed, before it begins.
func (s *Store) PruneAudit(ctx context.Context, before time.Time) (removed int64, err error) {
	if s.key == nil {
		return 0, errors.New("audit trail: without a key nothing vouches for what was removed")
	}
	all, err := extents(ctx, s.readDB)
	if err != nil {
		return 0, err
	}
	prunes, err := s.prunes(ctx)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range all {
		n, err := s.pruneStream(ctx, e, all, prunes, before)
		removed += n
		if err != nil {
			errs = append(errs, fmt.Errorf("audit trail, stream %q: %w", e.Last.Stream, err))
		}
	}
	return removed, errors.Join(errs...)
}

// prunes are all records of removals.
func (s *Store) prunes(ctx context.Context) (all []audit.Head, err error) {
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(selectMarks))
	if err != nil {
		return nil, err
	}
	err = eachRecord(rows, func(r audit.Record) error {
		if last, ok := audit.ReadPruned(r.Body); ok {
			all = append(all, last)
		}
		return nil
	})
	return all, err
}

func (s *Store) pruneStream(ctx context.Context, e Extent, all []Extent, prunes []audit.Head, before time.Time) (int64, error) {
	part, err := s.oldPart(ctx, e, before)
	if err != nil || part == nil {
		return 0, err
	}
	if err := s.verifyPart(ctx, part, prunes); err != nil {
		return 0, fmt.Errorf("nothing is removed, since it would take the evidence: %w", err)
	}
	own := e.Last.Stream == s.instance
	if own && part.last.Seq > s.shippedThrough() {
		return 0, nil // a sink has yet to get it from the table
	}
	part.carry = stillNeeded(part.carry, all)
	if !own {
		if len(part.carry) > 0 {
			return 0, nil // its key is not ours, so that we cannot say the same on its behalf
		}
		free, gone, err := s.holdGone(ctx, e.Last.Stream)
		if err != nil || !gone {
			return 0, err
		}
		defer free()
	}
	if err := s.recordPruned(ctx, part); err != nil {
		return 0, err
	}
	removed, err := s.remove(ctx, part)
	if err == nil && part.last.Seq == e.Last.Seq { // nothing of it is to be shipped any more
		err = s.write(ctx, func(u unit) error {
			_, err := u.run(`DELETE FROM audit_sinks WHERE stream = $1`, part.last.Stream)
			return err
		})
	}
	return removed, err
}

// shippedThrough is the last record that all sinks have.
func (s *Store) shippedThrough() int64 {
	through := int64(math.MaxInt64)
	if p := s.ships.Load(); p != nil {
		for _, sh := range *p {
			sh.mu.Lock()
			through = min(through, sh.at)
			sh.mu.Unlock()
		}
	}
	return through
}

// oldPart is what of a stream is older, nil for nothing.
func (s *Store) oldPart(ctx context.Context, e Extent, before time.Time) (*prunedPart, error) {
	stream := e.Last.Stream
	if stream != s.instance {
		var body string
		if err := s.readDB.QueryRowContext(ctx, s.dialect.sql(`SELECT body FROM audit WHERE stream = $1 AND seq = $2`), stream, e.Last.Seq).Scan(&body); err != nil {
			return nil, err
		}
		if at := audit.TimeOf(body); !at.IsZero() && at.Before(before) {
			return &prunedPart{first: e.First, last: e.Last}, nil
		}
	}
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(selectMarks+` AND stream = $1 AND seq > $2 ORDER BY seq`), stream, e.First)
	if err != nil {
		return nil, err
	}
	var part *prunedPart
	errEnough := errors.New("the rest is newer")
	err = eachRecord(rows, func(r audit.Record) error {
		at, ok := s.checkpointTime(r)
		switch {
		case !ok:
		case !at.Before(before):
			return errEnough
		default:
			part = &prunedPart{first: e.First, last: audit.Head{Stream: stream, Seq: r.Seq - 1, Hash: r.Prev}}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return part, err
}

// checkpointTime is the time of a checkpoint that may be the first of its stream. Whether it is signed by its instance can be told of this one's.
func (s *Store) checkpointTime(r audit.Record) (time.Time, bool) {
	if r.Stream != s.instance {
		return audit.CheckpointTime(r)
	}
	at, err := s.key.Signed(r)
	return at, err == nil
}

// verifyPart verifies what is to be removed, and collects what it says of removals.
func (s *Store) verifyPart(ctx context.Context, part *prunedPart, prunes []audit.Head) error {
	v := audit.NewVerifier(audit.Trust{Keys: []audit.PublicKey{s.key.Public()}, Expect: []audit.Head{part.last}, Partial: true})
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(`SELECT stream, seq, prev, hash, body FROM audit WHERE stream = $1 AND seq <= $2 ORDER BY seq`),
		part.last.Stream, part.last.Seq)
	if err != nil {
		return err
	}
	err = eachRecord(rows, func(r audit.Record) error {
		if r.Seq == part.first && r.Seq > 1 && !said(prunes, audit.Head{Stream: r.Stream, Seq: r.Seq - 1, Hash: r.Prev}) {
			return &audit.Fault{Stream: r.Stream, Seq: r.Seq, What: "the records before it are gone, and nothing says that they were removed"}
		}
		if other, ok := audit.ReadPruned(r.Body); ok && other.Stream != r.Stream {
			part.carry = append(part.carry, other)
		}
		v.Add(r)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range v.Report().Faults() {
		return &f
	}
	return nil
}

// said reports whether a removal through the record, or further, is on record.
func said(prunes []audit.Head, last audit.Head) bool {
	for _, p := range prunes {
		if p.Stream == last.Stream && (p.Seq > last.Seq || p.Seq == last.Seq && bytes.Equal(p.Hash, last.Hash)) {
			return true
		}
	}
	return false
}

// stillNeeded are the removals for which streams begin where they do.
func stillNeeded(said []audit.Head, all []Extent) (needed []audit.Head) {
	for _, p := range said {
		for _, e := range all {
			if e.Last.Stream == p.Stream && e.First > 1 && p.Seq >= e.First-1 {
				needed = append(needed, p)
			}
		}
	}
	return needed
}

// recordPruned says, signed, what will be removed.
func (s *Store) recordPruned(ctx context.Context, part *prunedPart) error {
	var bodies []string
	for _, last := range append(part.carry, part.last) {
		body, err := audit.NewPruned(last, s.clock())
		if err != nil {
			return err
		}
		bodies = append(bodies, body)
	}
	return s.write(ctx, func(u unit) error {
		for _, body := range bodies {
			if err := u.audit(body); err != nil {
				return err
			}
		}
		return u.checkpoint(true)
	})
}

// remove removes the part, the oldest first.
func (s *Store) remove(ctx context.Context, part *prunedPart) (removed int64, err error) {
	for through := part.first - 1; through < part.last.Seq; {
		through = min(through+pruneChunk, part.last.Seq)
		var n int64
		err := s.write(ctx, func(u unit) (err error) {
			n, err = u.run(`DELETE FROM audit WHERE stream = $1 AND seq <= $2`, part.last.Stream, through)
			return err
		})
		if err != nil {
			return removed, err
		}
		removed += n
	}
	return removed, nil
}

// holdGone keeps a process of another instance's name away until free is called. gone is false when one runs.
func (s *Store) holdGone(ctx context.Context, instance string) (free func(), gone bool, err error) {
	if s.dialect == &sqliteDialect { // one process owns the file
		return func() {}, true, nil
	}
	conn, err := s.readDB.Conn(ctx)
	if err != nil {
		return nil, false, err
	}
	key := lockKey(instance)
	err = conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&gone)
	if err != nil || !gone {
		return nil, false, errors.Join(err, conn.Close())
	}
	return func() {
		_, err := conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, key)
		if err = errors.Join(err, conn.Close()); err != nil {
			s.log.Warn("the name of an instance that is gone could not be freed: its connection ends later", "instance", instance, "error", err)
		}
	}, true, nil
}
