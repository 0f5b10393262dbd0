package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// ByWireID is gateway.Store. A wire ID that is not stored as it came (not valid UTF-8, or with a NUL), or of more than 500
// characters, is found by nobody: adapters encode theirs.
func (s *Store) ByWireID(ctx context.Context, endpoint, wireID string) (*gateway.Transaction, error) {
	if wireID == "" || text(wireID) != wireID || text(endpoint) != endpoint {
		return nil, gateway.ErrNotFound
	}
	return transactionRow(s.read(ctx, readByWireID, endpoint, wireID).Scan)
}

// askedUnder are the newest transactions under a wire ID, of which %s selects by credentials, the open ones first. That
// condition sees text only, so whoever reads a row looks again.
const askedUnder = selectTransaction + ` WHERE t.id IN (SELECT id FROM (SELECT id, state, credentials FROM transactions
		WHERE wire_id = $2 AND endpoint = $1 AND wire_id <> '' AND length(wire_id) <= 500 AND state <> 'refused' ORDER BY id DESC LIMIT 1000) AS newest
		WHERE %s ORDER BY CASE WHEN state IN ` + open + ` THEN 0 ELSE 1 END, id DESC LIMIT 16)
	ORDER BY CASE WHEN t.state IN ` + open + ` THEN 0 ELSE 1 END, t.id DESC`

// maxAskers is how many credentials a transaction is looked for by: no request has as many.
const maxAskers = 16

// AskedUnder is gateway.Store. The wire ID is as for ByWireID.
func (s *Store) AskedUnder(ctx context.Context, endpoint, wireID string, credentials []string) (*gateway.Transaction, error) {
	if wireID == "" || text(wireID) != wireID || text(endpoint) != endpoint || len(credentials) == 0 {
		return nil, gateway.ErrNotFound
	}
	if len(credentials) > maxAskers {
		return nil, fmt.Errorf("a transaction is looked for by %d credentials, at most %d are taken", len(credentials), maxAskers)
	}
	q := filter{args: []any{endpoint, wireID}}
	var conditions []string
	for _, c := range credentials {
		element, err := marshal(c) // as it stands in the list of them
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		conditions = append(conditions, "credentials LIKE "+q.param("%"+likeLiteral.Replace(element)+"%")+` ESCAPE '!'`)
	}
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(fmt.Sprintf(askedUnder, strings.Join(conditions, " OR "))), q.args...)
	if err != nil {
		return nil, fmt.Errorf("transactions under a wire ID: %w", err)
	}
	var found *gateway.Transaction
	err = each(rows, func(scan func(...any) error) error {
		t, err := transactionRow(scan)
		if err == nil && found == nil && slices.ContainsFunc(t.Credentials, func(c string) bool { return slices.Contains(credentials, c) }) {
			found = t
		}
		return err
	})
	if err == nil && found == nil {
		err = gateway.ErrNotFound
	}
	return found, err
}

// likeLiteral has LIKE take a text as it stands.
var likeLiteral = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// Adopt is gateway.Store. The resume key stays.
//
// The transaction is locked first: whoever else changes it waits here, before anybody's keys are touched.
func (s *Store) Adopt(ctx context.Context, a *gateway.Adoption) error {
	if a.Repeat != "" {
		if err := validKey("repeat key", string(a.Repeat)); err != nil {
			return err
		}
	}
	if a.Claim != nil {
		if err := validClaims([]gateway.Claim{*a.Claim}); err != nil {
			return err
		}
	}
	body, err := eventBody(&a.Audit, required)
	if err != nil {
		return err
	}
	now := s.clock()
	at := a.At
	if at.IsZero() {
		at = now
	}
	return s.write(ctx, func(u unit) error {
		n, err := u.exec(adoptTransaction, a.Transaction, text(a.WireID), nullable(a.Exchange), micros(at))
		if err != nil {
			return fmt.Errorf("transaction %s: %w", a.Transaction, err)
		}
		if n == 0 {
			return gateway.ErrStale
		}
		if _, err := u.exec(freeOldRepeat, a.Transaction); err != nil {
			return fmt.Errorf("repeat key: %w", err)
		}
		holder, err := u.takeRepeat(a.Repeat, a.Transaction, now)
		if err != nil {
			return err
		}
		if holder != "" && holder != a.Transaction { // its own when the key is its resume key too
			return &gateway.TwinError{Transaction: holder}
		}
		if _, err := u.exec(setRepeat, a.Transaction, string(a.Repeat)); err != nil {
			return fmt.Errorf("transaction %s: %w", a.Transaction, err)
		}
		if a.Claim != nil {
			var one int
			err := notFound(u.row(usedBy, a.Transaction, a.Claim.Key).Scan(&one))
			if errors.Is(err, gateway.ErrNotFound) { // else a copy of the message was here before
				err = u.takeClaims(a.Transaction, []gateway.Claim{*a.Claim}, nil, now)
			}
			if err != nil {
				return err
			}
		}
		return u.audit(body)
	})
}

// usedBy finds a transaction's use of a claim.
const usedBy = `SELECT 1 FROM uses WHERE tx = $1 AND key = $2`

// Conclude is gateway.Store. It is ErrStale too for a transaction that does not exist.
//
// Work, transaction, keys, claims are written in the order of Settle, which a time-out runs beside it.
func (s *Store) Conclude(ctx context.Context, c *gateway.Conclusion) error {
	if c.State != gateway.StateIssued && c.State != gateway.StateRejected {
		return fmt.Errorf("a confirmation does not make a transaction %q", c.State)
	}
	body, err := eventBody(&c.Audit, required)
	if err != nil {
		return err
	}
	return s.write(ctx, func(u unit) error {
		if err := u.conclude(c); err != nil {
			return err
		}
		return u.audit(body)
	})
}

// conclude writes all of a conclusion but its audit event.
func (u unit) conclude(c *gateway.Conclusion) error {
	rejected := c.State == gateway.StateRejected
	var work int64
	var err error
	if rejected {
		work, err = u.exec(revokeInstead, c.Transaction, u.s.dbNow())
	} else {
		_, err = u.exec(dropWork, c.Transaction)
	}
	if err != nil {
		return fmt.Errorf("work of %s: %w", c.Transaction, err)
	}
	n, err := u.exec(concludeTransaction, c.Transaction, string(c.State), text(c.Note), nullable(c.Exchange), micros(c.Now), text(c.WireID))
	if err != nil {
		return fmt.Errorf("transaction %s: %w", c.Transaction, err)
	}
	if n == 0 {
		return gateway.ErrStale
	}
	if rejected && work == 0 {
		if _, err := u.exec(insertWork, c.Transaction, string(gateway.WorkRevoke), int64(0), "", int64(0), int64(0), u.s.dbNow()); err != nil {
			return fmt.Errorf("work of %s: %w", c.Transaction, err)
		}
	}
	if !rejected && c.RepeatUntil.After(c.Now) {
		_, err = u.exec(keepRepeat, c.Transaction, micros(c.RepeatUntil))
		if err == nil {
			_, err = u.exec(freeResume, c.Transaction)
		}
	} else {
		_, err = u.exec(freeRepeat, c.Transaction)
	}
	if err != nil {
		return fmt.Errorf("repeat key: %w", err)
	}
	if rejected {
		return u.release(c.Transaction, true)
	}
	return nil
}
