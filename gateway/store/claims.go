package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/gateway"
)

// claimsAsked is how many keys are looked up in one query.
const claimsAsked = 500

// keyed is a condition on the column key.
func keyed(keys []string) filter {
	var q filter
	params := make([]byte, 0, 5*len(keys))
	for i, k := range keys {
		if i > 0 {
			params = append(params, ", "...)
		}
		params = append(params, q.param(text(k))...)
	}
	q.where("key IN (" + string(params) + ")")
	return q
}

// Uses is gateway.Store.
func (s *Store) Uses(ctx context.Context, keys []string) (map[string]int64, error) {
	uses := map[string]int64{}
	for part := range slices.Chunk(keys, claimsAsked) {
		q := keyed(part)
		if err := s.uses(ctx, &q, claimsAsked, uses); err != nil {
			return nil, err
		}
	}
	return uses, nil
}

// The statements of Spent.
const (
	claimFull = `SELECT used FROM claims WHERE key = $1 AND used >= $2`
	lapsedNow = `SELECT n FROM uses WHERE key = $1 AND until > 0 AND until <= $2 AND n > 0 ORDER BY until LIMIT $3`
	canRenew  = `SELECT 1 FROM uses WHERE tx = (SELECT tx FROM certificates WHERE issuer = $1 AND serial = $2) AND key = $3 AND active = 1 AND n > 0 AND until > $4`
)

// Spent is gateway.Store. Where more has lapsed than one claim takes away it says no: Begin finds out.
func (s *Store) Spent(ctx context.Context, b *gateway.Beginning) (bool, error) {
	now := micros(s.clock())
	for _, c := range b.Claims {
		var used int64
		err := s.readDB.QueryRowContext(ctx, claimFull, text(c.Key), c.Limit).Scan(&used)
		if errors.Is(notFound(err), gateway.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("claim %s: %w", c.Key, err)
		}
		if r := b.Renews; c.Active && r != nil {
			var one int
			err := notFound(s.readDB.QueryRowContext(ctx, canRenew, blob(r.Issuer), magnitude(r.Serial), text(c.Key), now).Scan(&one))
			if err == nil {
				continue
			}
			if !errors.Is(err, gateway.ErrNotFound) {
				return false, fmt.Errorf("use of %s: %w", c.Key, err)
			}
		}
		rows, err := s.readDB.QueryContext(ctx, lapsedNow, text(c.Key), now, min(used-c.Limit+1, sweepAtOnce))
		swept := 0
		if err == nil {
			err = each(rows, func(scan func(...any) error) error {
				var n int64
				err := scan(&n)
				used -= n
				swept++
				return err
			})
		}
		if err != nil {
			return false, fmt.Errorf("lapsed uses of %s: %w", c.Key, err)
		}
		if used >= c.Limit && swept < sweepAtOnce {
			return true, nil
		}
	}
	return false, nil
}

// use is a row of uses.
type use struct {
	tx, key string
	n       int64
}

// errUsedAgain undoes a FreeClaims that has not seen all uses.
var errUsedAgain = errors.New("a claim was used meanwhile")

// freeTries is how often FreeClaims looks for a claim's uses beside the writer.
const freeTries = 3

// FreeClaims is gateway.Store.
//
// Uses are in the order of their transactions, for Begin's sake: those of a key are looked for among all, which takes
// a while, and is done beside the writer. Only where claims are used all the time is it done within, at last.
func (s *Store) FreeClaims(ctx context.Context, keys []string, e gateway.AuditEvent) error {
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	if len(keys) > claimsAsked {
		return fmt.Errorf("%d claims are freed at once, at most %d are taken", len(keys), claimsAsked)
	}
	for _, k := range keys {
		if err := validKey("claim", k); err != nil {
			return err
		}
	}
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	for try := 1; ; try++ {
		found := map[string][]use{}
		if try < freeTries {
			if found, err = s.usesOf(ctx, keys); err != nil {
				return err
			}
		}
		err := s.begin(ctx, func(u unit) error {
			// A renewal changes uses alone: none is to come between the claim and its uses.
			if err := u.lockLapsing(); err != nil {
				return err
			}
			for _, k := range keys {
				if err := u.freeClaim(k, found[k], try == freeTries); err != nil {
					return err
				}
			}
			return u.audit(body)
		})
		if !errors.Is(err, errUsedAgain) {
			return err
		}
	}
}

func (s *Store) usesOf(ctx context.Context, keys []string) (map[string][]use, error) {
	found := map[string][]use{}
	if len(keys) == 0 {
		return found, nil
	}
	q := keyed(keys)
	rows, err := s.readDB.QueryContext(ctx, `SELECT tx, key, n FROM uses WHERE `+q.conditions[0]+` ORDER BY key, tx`, q.args...)
	if err != nil {
		return nil, fmt.Errorf("uses: %w", err)
	}
	err = each(rows, func(scan func(...any) error) error {
		var f use
		err := scan(&f.tx, &f.key, &f.n)
		found[f.key] = append(found[f.key], f)
		return err
	})
	return found, err
}

// freeClaim takes a claim away with its uses: those that were found, which have to be all of them, or whatever there is. The
// row of the claim goes, rather than be set to 0: a release that waits for it would subtract its uses all the same.
func (u unit) freeClaim(key string, found []use, search bool) error {
	var used int64
	err := u.row(`DELETE FROM claims WHERE key = $1 RETURNING used`, key).Scan(&used)
	if errors.Is(notFound(err), gateway.ErrNotFound) {
		return nil // never used
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", key, err)
	}
	if search {
		_, err = u.run(`DELETE FROM uses WHERE key = $1`, key)
	}
	for _, f := range found {
		// As many as it is now: a renewal may have taken it over since it was found.
		var n int64
		err = notFound(u.row(`DELETE FROM uses WHERE tx = $1 AND key = $2 RETURNING n`, f.tx, f.key).Scan(&n))
		if err != nil && !errors.Is(err, gateway.ErrNotFound) {
			break
		}
		err = nil
		used -= n
	}
	if err != nil {
		return fmt.Errorf("uses of %s: %w", key, err)
	}
	if used != 0 && !search {
		return errUsedAgain
	}
	return nil
}
