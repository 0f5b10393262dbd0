package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// Bounds of a message, whose kind and note are part of an index entry.
const (
	maxMessageKind = 32  // bytes
	maxMessageNote = 256 // bytes
	maxMessages    = 1000
)

// hearText is hear. It counts nothing for a transaction that does not exist.
const hearText = `INSERT INTO messages (tx, kind, note, source, heard, first_at, last_at)
	SELECT id, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS BIGINT), CAST($6 AS BIGINT), CAST($7 AS BIGINT)
	FROM transactions WHERE id = $1
	ON CONFLICT (tx, kind, note) DO UPDATE SET heard = messages.heard + excluded.heard,
		source = CASE WHEN excluded.last_at >= messages.last_at THEN excluded.source ELSE messages.source END,
		first_at = CASE WHEN excluded.first_at < messages.first_at THEN excluded.first_at ELSE messages.first_at END,
		last_at = CASE WHEN excluded.last_at > messages.last_at THEN excluded.last_at ELSE messages.last_at END`

// Heard is gateway.Store. A Count below 1 counts as 1; kind and note are cut to 32 and 256 bytes.
func (s *Store) Heard(ctx context.Context, messages []gateway.Message) error {
	var heard []gateway.Message
	for _, m := range messages {
		if validKey("transaction ID", m.Transaction) != nil {
			continue // nobody's
		}
		m.Kind, m.Note, m.Count = short(m.Kind, maxMessageKind), short(m.Note, maxMessageNote), max(m.Count, 1)
		heard = append(heard, m)
	}
	if len(heard) == 0 {
		return nil
	}
	// In one order everywhere, so that two instances do not wait for each other's rows.
	slices.SortStableFunc(heard, func(a, b gateway.Message) int {
		return cmp.Or(cmp.Compare(a.Transaction, b.Transaction), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Note, b.Note))
	})
	return s.write(ctx, func(u unit) error {
		for _, m := range heard {
			_, err := u.exec(hear, m.Transaction, m.Kind, m.Note, text(m.Source), m.Count, micros(m.First), micros(m.Last))
			if err != nil {
				return fmt.Errorf("message to %s: %w", m.Transaction, err)
			}
		}
		return nil
	})
}

// short is a text of at most n bytes.
func short(s string, n int) string {
	s = text(s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

// Messages is gateway.Store: the first 1000.
func (s *Store) Messages(ctx context.Context, transaction string) ([]gateway.Message, error) {
	var q filter
	q.where("tx = " + q.param(text(transaction)))
	var out []gateway.Message
	const sel = `SELECT tx, kind, note, source, heard, first_at, last_at FROM messages`
	err := s.list(ctx, sel, &q, "first_at, kind, note", maxMessages, func(scan func(...any) error) error {
		var m gateway.Message
		var first, last int64
		err := scan(&m.Transaction, &m.Kind, &m.Note, &m.Source, &m.Count, &first, &last)
		m.First, m.Last = fromMicros(first), fromMicros(last)
		out = append(out, m)
		return err
	})
	return out, err
}
