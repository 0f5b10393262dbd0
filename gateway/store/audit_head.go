package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
)

// openHeads opens the head file, and compares what it says with the table. wrong says what somebody did to the table, "" for nothing.
func (s *Store) openHeads(ctx context.Context) (wrong string, err error) {
	if s.headPath == "" {
		return "", nil
	}
	var left *audit.Left
	var damaged bool
	if s.heads, left, damaged, err = audit.OpenHeads(s.headPath, s.instance); err != nil {
		return "", fmt.Errorf("head of the audit trail: %w", err)
	}
	now, err := s.tableHead(ctx)
	if err == nil {
		wrong, err = s.compareHead(ctx, left, damaged, now)
	}
	if err == nil && wrong == "" && now.Seq == 0 && left != nil && left.Seq > 0 {
		s.left, now = left.Head, left.Head
	}
	if err != nil {
		return "", fmt.Errorf("head of the audit trail: %w", err)
	}
	s.told = now.Seq
	return wrong, s.heads.Write(now, false)
}

// tableHead is the last record of this instance's stream, s.left where the table has none.
func (s *Store) tableHead(ctx context.Context) (audit.Head, error) {
	h := audit.Head{Stream: s.instance}
	err := s.readDB.QueryRowContext(ctx, s.texts[auditHead], s.instance).Scan(&h.Seq, &h.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		h.Seq, h.Hash = s.before()
		err = nil
	}
	return h, err
}

// before is what the first record follows in a stream of which the table has none. One that was removed as a whole goes on where it ended, behind a
// checkpoint, and not at 1: so it is verified for as long alone as the removal is on record, and signed by a known key.
func (s *Store) before() (seq int64, hash []byte) {
	if s.left.Seq == 0 {
		return 0, audit.Genesis()
	}
	return s.left.Seq, s.left.Hash
}

func (s *Store) compareHead(ctx context.Context, left *audit.Left, damaged bool, now audit.Head) (string, error) {
	file := filepath.Base(s.headPath)
	own, err := s.lastOwnCheckpoint(ctx)
	switch {
	case err != nil:
		return "", err
	case left == nil && damaged:
		return file + " was damaged, so that nobody knows whether records were cut off", nil
	case left == nil && own > 0:
		return file + " was gone, so that nobody knows whether records were cut off", nil
	case left == nil || left.Seq == 0:
		return "", nil
	case left.Seq > now.Seq:
		prunes, err := s.prunes(ctx)
		if err != nil || now.Seq == 0 && slices.ContainsFunc(prunes, func(p audit.Head) bool { return p.String() == left.String() }) {
			return "", err
		}
		return fmt.Sprintf("the stream ended at record %d, and had been written through %d (%s): the records after it were cut off", now.Seq, left.Seq, left.Head), nil
	}
	var hash []byte
	err = s.readDB.QueryRowContext(ctx, s.dialect.sql(`SELECT hash FROM audit WHERE stream = $1 AND seq = $2`), s.instance, left.Seq).Scan(&hash)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Sprintf("record %d, the last that had been written, was gone", left.Seq), nil
	case err != nil:
		return "", err
	case !bytes.Equal(hash, left.Hash):
		return fmt.Sprintf("record %d, the last that had been written, was another one (it was %s): it, or one before, was rewritten", left.Seq, left.Head), nil
	case left.Closed && now.Seq > left.Seq && own <= left.Seq:
		return fmt.Sprintf("records %d to %d had been written while the gateway did not run", left.Seq+1, now.Seq), nil
	case now.Seq > left.Seq:
		s.log.Info("the audit trail has records that its head file does not know of: the host crashed", "from", left.Seq+1, "to", now.Seq)
	}
	return "", nil
}

// lastOwnCheckpoint is the number of the newest checkpoint that this instance's key signed, 0 for none.
func (s *Store) lastOwnCheckpoint(ctx context.Context) (seq int64, err error) {
	if s.key == nil {
		return 0, nil
	}
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(selectMarks+` AND stream = $1 ORDER BY seq DESC LIMIT 20`), s.instance)
	if err != nil {
		return 0, err
	}
	err = eachRecord(rows, func(r audit.Record) error {
		if _, err := s.key.Signed(r); err == nil {
			seq = max(seq, r.Seq)
		}
		return nil
	})
	return seq, err
}

// committed writes the head file after a commit, on the writer's goroutine.
func (s *Store) committed() {
	if s.heads == nil {
		return
	}
	at := audit.Head{Stream: s.instance, Seq: s.head.seq, Hash: s.head.hash}
	if !s.head.known { // a later unit of the batch was rolled back
		var err error
		if at, err = s.tableHead(context.Background()); err != nil {
			s.log.Warn("the head of the audit trail could not be read: its file is behind until the next event", "error", err)
			return
		}
	}
	if at.Seq == s.told {
		return
	}
	s.tell(at, false)
}

func (s *Store) tell(at audit.Head, closed bool) {
	err := s.heads.Write(at, closed)
	switch failed := err != nil; {
	case failed && !s.untold:
		s.log.Error("the head file of the audit trail cannot be written: records that are cut off will not be missed", "file", s.headPath, "error", err)
	case !failed && s.untold:
		s.log.Info("the head file of the audit trail can be written again", "file", s.headPath)
	}
	if s.untold = err != nil; err == nil {
		s.told = at.Seq
	}
}

// closeHeads says in the head file that nothing comes any more. The writer is closed.
func (s *Store) closeHeads() error {
	if s.heads == nil {
		return nil
	}
	at, err := s.tableHead(context.Background())
	if err == nil {
		s.tell(at, true)
	}
	return errors.Join(err, s.heads.Close())
}

// recordWrong keeps what openHeads found.
func (s *Store) recordWrong(ctx context.Context, wrong string) error {
	if wrong == "" {
		return nil
	}
	s.log.Error("the audit trail is not as this gateway left it", "stream", s.instance, "found", wrong)
	return s.RecordSigned(ctx, gateway.AuditEvent{Kind: audit.KindBroken, At: s.clock(), Actor: s.instance, Note: wrong})
}
