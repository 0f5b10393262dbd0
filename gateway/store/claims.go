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
		err := s.write(ctx, func(u unit) error {
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
		var n int64
		if n, err = u.run(`DELETE FROM uses WHERE tx = $1 AND key = $2`, f.tx, f.key); err != nil {
			break
		}
		used -= n * f.n
	}
	if err != nil {
		return fmt.Errorf("uses of %s: %w", key, err)
	}
	if used != 0 && !search {
		return errUsedAgain
	}
	return nil
}
