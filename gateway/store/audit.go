package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
)

// head is the end of this instance's stream. Only the writer's goroutine touches it; it is forgotten whenever
// something was rolled back or the writer got a new session (between two, another process may have had this instance's
// name), and read again from the table.
type head struct {
	known   bool
	session int64
	seq     int64
	hash    []byte
}

// checkpointed is the newest checkpoint of this instance's stream, as far as this process knows: zero before its first, and when one may have been
// rolled back, so that the next record gets one.
type checkpointed struct {
	seq int64
	at  time.Time
}

// Whether an event may be left out.
const (
	optional = false
	required = true
)

// eventBody is the JSON of an event, "" for one left out.
func eventBody(e *gateway.AuditEvent, required bool) (string, error) {
	if e.Kind == "" {
		if required {
			return "", errors.New("an audit event without a kind")
		}
		return "", nil
	}
	if reserved(e.Kind) {
		return "", fmt.Errorf("an audit event of the kind %q, which only the trail itself writes", e.Kind)
	}
	b, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("audit event: %w", err)
	}
	return string(b), nil
}

func reserved(kind string) bool { return kind == audit.KindCheckpoint || kind == audit.KindPruned }

// audit appends a body to this instance's stream, and a checkpoint behind it where one is due; "" appends nothing. It is a unit's last write.
func (u unit) audit(body string) error {
	if body == "" {
		return nil
	}
	if err := u.readHead(); err != nil {
		return err
	}
	if left := u.s.left.Seq; left > 0 && u.s.head.seq == left {
		if err := u.checkpoint(true); err != nil {
			return err
		}
	}
	if err := u.appendAudit(body); err != nil {
		return err
	}
	return u.checkpoint(false)
}

// readHead makes the head of the stream known.
func (u unit) readHead() error {
	h, session := &u.s.head, u.s.sessions.Load()
	if h.known && h.session == session {
		return nil
	}
	err := u.queryRow(auditHead, u.s.instance).Scan(&h.seq, &h.hash)
	if errors.Is(err, sql.ErrNoRows) {
		h.seq, h.hash = u.s.before()
		err = nil
	}
	if err != nil {
		return fmt.Errorf("head of the audit trail: %w", err)
	}
	if h.seq < u.s.signed.seq || session != u.s.signedIn {
		u.s.signed, u.s.signedIn = checkpointed{}, session
	}
	h.known, h.session = true, session
	return nil
}

// appendAudit appends a body behind the head, which is known.
func (u unit) appendAudit(body string) error {
	h := &u.s.head
	next := head{known: true, session: h.session, seq: h.seq + 1}
	next.hash = audit.Link(u.s.instance, next.seq, h.hash, body)
	if _, err := u.exec(insertAudit, u.s.instance, next.seq, h.hash, next.hash, body); err != nil {
		return fmt.Errorf("audit trail: %w", err)
	}
	*h = next
	if u.event != nil {
		*u.event = next.seq
	}
	return nil
}

// checkpoint signs what the last checkpoint does not cover, if that is due by number or time, or now. The head is known.
func (u unit) checkpoint(now bool) error {
	s := u.s
	if s.key == nil || s.head.seq == s.signed.seq || s.head.seq == 0 {
		return nil
	}
	at := s.clock()
	age := at.Sub(s.signed.at) // below zero: the clock was set back, and nobody knows how long ago it was
	if !now && s.signed.seq != 0 && s.head.seq-s.signed.seq < audit.Every && age >= 0 && age < audit.Interval {
		return nil
	}
	body, err := s.key.Checkpoint(s.instance, s.head.seq+1, s.head.hash, at)
	if err != nil {
		return fmt.Errorf("checkpoint of the audit trail: %w", err)
	}
	if err := u.appendAudit(body); err != nil {
		return err
	}
	s.signed = checkpointed{s.head.seq, at}
	return nil
}

// Record is gateway.Store.
func (s *Store) Record(ctx context.Context, e gateway.AuditEvent) error {
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	return s.write(ctx, func(u unit) error { return u.audit(body) })
}

// RecordSigned is Record, with a checkpoint behind the event.
func (s *Store) RecordSigned(ctx context.Context, e gateway.AuditEvent) error {
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	return s.write(ctx, func(u unit) error {
		if err := u.audit(body); err != nil {
			return err
		}
		return u.checkpoint(true)
	})
}

// Checkpoint signs what the last checkpoint does not cover, if that is older than audit.Interval. It is to be called every minute or so.
func (s *Store) Checkpoint(ctx context.Context) error {
	if s.key == nil {
		return nil
	}
	return s.write(ctx, func(u unit) error {
		if err := u.readHead(); err != nil {
			return err
		}
		return u.checkpoint(false)
	})
}

// VerifyAudit verifies all streams, this instance's by its key and its head file, where it has them. What is wrong is an *audit.Fault.
func (s *Store) VerifyAudit(ctx context.Context) error {
	var t audit.Trust
	if s.key != nil {
		t.Keys = []audit.PublicKey{s.key.Public()}
	}
	if s.headPath != "" {
		left, err := audit.ReadHeads(s.headPath) // before the table, which is never behind it
		if err != nil {
			return err
		}
		t.Left = left
	}
	v := audit.NewVerifier(t)
	trail := &Trail{db: s.readDB, dialect: s.dialect}
	err := trail.Read(ctx, func(snapshot *Snapshot) error {
		return snapshot.Records(ctx, "", func(r audit.Record) error { v.Add(r); return nil })
	})
	if err != nil {
		return err
	}
	for _, f := range v.Report().Faults() {
		return &f
	}
	return nil
}
