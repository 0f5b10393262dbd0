package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// sweepBatch is how many rows of each kind one commit takes away.
const sweepBatch = 64

// sweeping is the advisory lock of the instance that sweeps.
var sweeping = func() int64 {
	sum := sha256.Sum256([]byte("muster sweep"))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}()

// Which transactions are over. What is found by readers is looked at again by the writer, with the same condition.
const (
	// atRest: it is closed for good, nobody is at it, and no repeat is answered from it.
	atRest = `NOT EXISTS (SELECT 1 FROM work w WHERE w.tx = t.id)
		AND NOT EXISTS (SELECT 1 FROM repeats r WHERE r.key IN (t.repeat, t.resume) AND r.tx = t.id AND r.expires > $2)
		AND t.state NOT IN ` + open
	withoutCertificate = atRest + ` AND t.updated < $1 AND NOT EXISTS (SELECT 1 FROM certificates c WHERE c.tx = t.id)`

	// sweptRefused and sweptRevocations go through the index transactions_state from the oldest on.
	sweptRefused      = `SELECT t.id FROM transactions t WHERE t.state = $3 AND t.id < $4 AND ` + withoutCertificate + ` ORDER BY t.id LIMIT $5`
	sweepTransactions = `DELETE FROM transactions AS t WHERE t.id IN (%s) AND ` + withoutCertificate + ` RETURNING id`

	// A certificate stays while that is valid, or ended too short a time ago, which it renewed: of any of our issuers, since the record has the serial number alone.
	withCertificate = `c.not_after < $1 AND NOT EXISTS (SELECT 1 FROM issuers i JOIN certificates p ON p.issuer = i.name AND p.serial = c.replaces WHERE p.not_after >= $1)
		AND NOT EXISTS (SELECT 1 FROM transactions o WHERE o.state IN ` + open + ` AND o.replaces = c.serial)`
	// issuersOf are the issuers that have certificates: each is the next in the primary key's order.
	issuersOf = `WITH RECURSIVE issuers (name) AS (SELECT * FROM (SELECT issuer FROM certificates ORDER BY issuer LIMIT 1) AS first
		UNION ALL SELECT (SELECT c.issuer FROM certificates c WHERE c.issuer > issuers.name ORDER BY c.issuer LIMIT 1) FROM issuers WHERE issuers.name IS NOT NULL) `
	sweptEnded = issuersOf + `SELECT t.id FROM certificates c JOIN transactions t ON t.id = c.tx
		WHERE ` + withCertificate + ` AND ` + atRest + ` ORDER BY c.not_after LIMIT $3`
	sweepCertificates = issuersOf + `DELETE FROM certificates AS c WHERE c.tx IN (%s) AND ` + withCertificate + `
		AND EXISTS (SELECT 1 FROM transactions t WHERE t.id = c.tx AND ` + atRest + `) RETURNING tx`

	// lockFree locks those that nobody else has locked. What is asked afterwards is as it stands.
	lockFree      = `SELECT id FROM transactions WHERE id IN (%s) ORDER BY id {skip locked}`
	sweepMessages = `DELETE FROM messages WHERE tx IN (%s)`
	sweepRepeats  = `DELETE FROM repeats WHERE key IN (SELECT repeat FROM transactions WHERE id IN (%[1]s) UNION ALL SELECT resume FROM transactions WHERE id IN (%[1]s))
		AND tx IN (%[1]s) AND expires <= `

	lapsedKeys = `SELECT DISTINCT key FROM (SELECT key FROM uses WHERE until > 0 AND until <= $1 ORDER BY until LIMIT $2) AS lapsed ORDER BY key`
	dropUnused = `DELETE FROM claims WHERE key = $1 AND used = 0`
)

// Sweep is gateway.Store. What can be swept is found beside the writer, which looks at each row again.
func (s *Store) Sweep(ctx context.Context, o gateway.SweepOrder) (done gateway.SweepResult, err error) {
	limit := o.Limit
	if limit <= 0 {
		limit = sweepBatch
	}
	now := s.clock()
	var more bool
	if done.Uses, more, err = s.sweepUses(ctx, now, limit); err != nil {
		return done, err
	}
	done.More = more
	if !o.Refused.IsZero() {
		for _, state := range []gateway.State{gateway.StateRefused, gateway.StateDenied, gateway.StateFailed} {
			n, more, err := s.sweepClosed(ctx, state, o.Refused, now, limit)
			done.Refused, done.More = done.Refused+n, done.More || more
			if err != nil {
				return done, err
			}
		}
	}
	if !o.Ended.IsZero() {
		n, more, err := s.sweepClosed(ctx, gateway.StateRevoked, o.Ended, now, limit)
		done.Ended, done.More = n, done.More || more
		if err != nil {
			return done, err
		}
		n, more, err = s.sweepBatch(ctx, sweptEnded, []any{micros(o.Ended), micros(now), int64(limit)}, limit, func(u unit, ids []string) (int, error) {
			ids, err := u.among(sweepCertificates, ids, micros(o.Ended), micros(now))
			if err != nil {
				return 0, err
			}
			n, err := u.sweepTransactions(ids, time.UnixMicro(never), now)
			if err == nil && n != len(ids) {
				err = fmt.Errorf("of %d certificates %d transactions can go", len(ids), n)
			}
			return n, err
		})
		done.Ended, done.More = done.Ended+n, done.More || more
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// sweepClosed takes transactions of a state away that were closed before, and have no certificate.
func (s *Store) sweepClosed(ctx context.Context, state gateway.State, before, now time.Time, limit int) (int, bool, error) {
	args := []any{micros(before), micros(now), string(state), gateway.FirstID(before), int64(limit)}
	return s.sweepBatch(ctx, sweptRefused, args, limit, func(u unit, ids []string) (int, error) { return u.sweepTransactions(ids, before, now) })
}

// sweepBatch takes away what a query selects, in one commit. more says that it selected as much as it may.
func (s *Store) sweepBatch(ctx context.Context, query string, args []any, limit int, sweep func(u unit, ids []string) (int, error)) (swept int, more bool, err error) {
	ids, err := s.texted(ctx, query, args...)
	if err != nil || len(ids) == 0 {
		return 0, false, err
	}
	slices.Sort(ids)
	others := false
	err = s.write(ctx, func(u unit) error {
		swept = 0
		var err error
		if others, err = u.othersSweep(); err != nil || others {
			return err
		}
		free, err := u.among(lockFree, ids)
		if err == nil {
			swept, err = sweep(u, free)
		}
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	// Where none of them could go, the next look would find the same.
	return swept, len(ids) == limit && swept > 0, nil
}

// texted are the rows of a query that selects a text.
func (s *Store) texted(ctx context.Context, query string, args ...any) (list []string, err error) {
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(query), args...)
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	err = each(rows, func(scan func(...any) error) error {
		var t string
		err := scan(&t)
		list = append(list, t)
		return err
	})
	return list, err
}

// othersSweep reports whether another instance sweeps now. Else none does before the unit's end.
func (u unit) othersSweep() (bool, error) {
	if u.s.dialect != &postgresDialect {
		return false, nil
	}
	var ours bool
	if err := u.row(`SELECT pg_try_advisory_xact_lock($1)`, sweeping).Scan(&ours); err != nil {
		return false, fmt.Errorf("sweep: %w", err)
	}
	return !ours, nil
}

// among runs a statement on those transactions, its other parameters first, and returns of which it speaks.
func (u unit) among(statement string, ids []string, args ...any) (list []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	q := filter{args: args}
	query := u.s.dialect.sql(fmt.Sprintf(statement, q.list(ids)))
	rows, err := u.tx.QueryContext(u.ctx, query, q.args...)
	if err != nil {
		return nil, err
	}
	err = each(rows, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		list = append(list, id)
		return err
	})
	return list, err
}

// list are texts as parameters.
func (q *filter) list(texts []string) string {
	params := make([]string, len(texts))
	for i, t := range texts {
		params[i] = q.param(t)
	}
	return strings.Join(params, ", ")
}

// sweepTransactions takes transactions away with what belongs to them alone, as far as they are over. Their uses stay: those that lapse
// are swept by themselves, the others say for ever what a device, or a message, has had.
func (u unit) sweepTransactions(ids []string, before, now time.Time) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	// The keys first, which are found by the transactions. They have expired, whatever becomes of those.
	var keys filter
	expired := fmt.Sprintf(sweepRepeats, keys.list(ids)) + keys.param(micros(now))
	_, err := u.run(expired, keys.args...)
	if err == nil {
		ids, err = u.among(sweepTransactions, ids, micros(before), micros(now))
	}
	if err == nil && len(ids) > 0 {
		var messages filter
		those := fmt.Sprintf(sweepMessages, messages.list(ids))
		_, err = u.run(those, messages.args...)
	}
	return len(ids), err
}

// sweepUses takes away uses that have lapsed, of whatever key, and claims of which none is left.
func (s *Store) sweepUses(ctx context.Context, now time.Time, limit int) (swept int, more bool, err error) {
	keys, err := s.texted(ctx, lapsedKeys, micros(now), int64(limit))
	if err != nil || len(keys) == 0 {
		return 0, false, err
	}
	others := false
	err = s.write(ctx, func(u unit) error {
		swept = 0
		var err error
		if others, err = u.othersSweep(); err != nil || others {
			return err
		}
		if err := u.lockLapsing(); err != nil {
			return err
		}
		for _, key := range keys { // in the order in which all take claims
			if swept >= limit {
				break
			}
			// The claim before its uses, as everywhere.
			if _, err := u.exec(giveBack, key, int64(0)); err != nil {
				return fmt.Errorf("claim %s: %w", key, err)
			}
			n, err := u.sweep(key, now)
			if err == nil {
				_, err = u.run(dropUnused, key)
			}
			if err != nil {
				return err
			}
			swept += n
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	return swept, swept >= limit, nil
}
