package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

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
	b, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("audit event: %w", err)
	}
	return string(b), nil
}

// audit appends a body to this instance's stream; "" appends nothing. It is a unit's last write.
func (u unit) audit(body string) error {
	if body == "" {
		return nil
	}
	h, session := &u.s.head, u.s.sessions.Load()
	if !h.known || h.session != session {
		err := u.queryRow(auditHead, u.s.instance).Scan(&h.seq, &h.hash)
		if errors.Is(err, sql.ErrNoRows) {
			h.seq, h.hash, err = 0, audit.Genesis(), nil
		}
		if err != nil {
			return fmt.Errorf("head of the audit trail: %w", err)
		}
		h.known, h.session = true, session
	}
	next := head{known: true, session: session, seq: h.seq + 1}
	next.hash = audit.Link(u.s.instance, next.seq, h.hash, body)
	if _, err := u.exec(insertAudit, u.s.instance, next.seq, h.hash, next.hash, body); err != nil {
		return fmt.Errorf("audit trail: %w", err)
	}
	*h = next
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

// AuditError says where a chain of the audit trail breaks.
type AuditError struct {
	Stream string
	Seq    int64
	Why    string
}

func (e *AuditError) Error() string {
	return fmt.Sprintf("the audit trail breaks at stream %q, record %d: %s", e.Stream, e.Seq, e.Why)
}

// VerifyAudit walks all chains and fails with an *AuditError at the first record that was changed, removed or put in.
// What it cannot see is the removal of a stream's newest records, or a chain rewritten to its end: for that the
// trail has to be copied elsewhere as it grows.
func (s *Store) VerifyAudit(ctx context.Context) error {
	rows, err := s.readDB.QueryContext(ctx, `SELECT stream, seq, prev, hash, body FROM audit ORDER BY stream, seq`)
	if err != nil {
		return err
	}
	stream, last := "", head{hash: audit.Genesis()}
	return each(rows, func(scan func(...any) error) error {
		var of, body string
		var seq int64
		var prev, hash []byte
		if err := scan(&of, &seq, &prev, &hash, &body); err != nil {
			return err
		}
		if of != stream {
			stream, last = of, head{hash: audit.Genesis()}
		}
		switch {
		case seq != last.seq+1:
			return &AuditError{of, seq, fmt.Sprintf("the record before it is %d", last.seq)}
		case !bytes.Equal(prev, last.hash):
			return &AuditError{of, seq, "it does not follow the record before"}
		case !bytes.Equal(hash, audit.Link(of, seq, prev, body)):
			return &AuditError{of, seq, "it was changed"}
		}
		last.seq, last.hash = seq, hash
		return nil
	})
}
