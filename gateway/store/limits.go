package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// The statements of this file that run when a claim was lost, given back, or ends with its certificate: too seldom to be kept prepared.
const (
	claimStands = `SELECT used FROM claims WHERE key = $1`
	// nextFree is when as many uses will have lapsed as have to.
	nextFree      = `SELECT until FROM uses WHERE key = $1 AND until > 0 AND until > $2 AND n > 0 ORDER BY until LIMIT 1 OFFSET $3`
	transactionOf = `SELECT tx FROM certificates WHERE issuer = $1 AND serial = $2`
	lapsingOf     = `SELECT key, took_over, n FROM uses WHERE tx = $1 AND until > 0 ORDER BY key`
	handBack      = `UPDATE uses SET n = n + $3 WHERE tx = $1 AND key = $2 AND active = 1 AND until > $4`
	handedBack    = `UPDATE uses SET n = 0 WHERE tx = $1 AND key = $2`
	activeOf      = `SELECT u.tx FROM uses u JOIN certificates c ON c.tx = u.tx WHERE c.issuer = $1 AND c.serial = $2 AND u.active = 1 LIMIT 1`
	releaseActive = `UPDATE claims SET used = used - (SELECT n FROM uses WHERE uses.tx = $1 AND uses.key = claims.key)
		WHERE key IN (SELECT key FROM uses WHERE tx = $1 AND active = 1)`
	dropActive = `DELETE FROM uses WHERE tx = $1 AND active = 1`
	certified  = `SELECT 1 FROM certificates WHERE tx = $1`
	// releaseRest and dropRest leave what is counted of a time, and that a message has had a certificate.
	releaseRest = `UPDATE claims SET used = used - (SELECT n FROM uses WHERE uses.tx = $1 AND uses.key = claims.key)
		WHERE key IN (SELECT key FROM uses WHERE tx = $1 AND ` + returned + `)`
	dropRest     = `DELETE FROM uses WHERE tx = $1 AND ` + returned
	returned     = `(active = 1 OR until = 0) AND key NOT LIKE '` + gateway.MessageClaims + `%'`
	redateActive = `UPDATE uses SET until = $2 WHERE tx = $1 AND active = 1`
	usesNow      = `SELECT key, used - CAST(COALESCE((SELECT SUM(n) FROM uses WHERE uses.key = claims.key AND until > 0 AND until <= %s), 0) AS BIGINT) FROM claims`
)

const (
	sweepAtOnce   = 256  // lapsed uses that one claim takes away
	furthestFree  = 1000 // uses that are passed over to say when one is left
	maxClaimsList = 500
)

// lapsingKey is the advisory lock of whoever changes claims that lapse.
var lapsingKey = func() int64 {
	sum := sha256.Sum256([]byte("muster limits"))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}()

// lapsedLeftError undoes a unit whose claim is lost as long as uses of the key stand that have lapsed.
type lapsedLeftError struct{ key string }

func (e *lapsedLeftError) Error() string {
	return "claim " + e.key + ": more has lapsed than was taken away"
}

func validClaims(claims []gateway.Claim) error {
	for _, c := range claims {
		if err := validKey("claim", c.Key); err != nil {
			return err
		}
		if c.Active && c.Until.IsZero() {
			return fmt.Errorf("claim %s: a certificate's use without an end", c.Key)
		}
	}
	return nil
}

// claiming is write for a unit that takes claims. What has lapsed of one is taken away in commits of its own where that is much,
// so that it is done once, whether a use is left or not.
func (s *Store) claiming(ctx context.Context, now time.Time, fn func(u unit) error) error {
	for {
		err := s.begin(ctx, fn)
		left, ok := errors.AsType[*lapsedLeftError](err)
		if !ok {
			return err
		}
		for n := sweepAtOnce; n == sweepAtOnce; {
			err := s.write(ctx, func(u unit) (err error) {
				if err = u.lockLapsing(); err == nil {
					// Its claim before its uses, as everywhere.
					if _, err = u.exec(giveBack, left.key, int64(0)); err == nil {
						n, err = u.sweep(left.key, now)
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
}

// lockLapsing has those who change claims that lapse do so one after the other, on PostgreSQL, for the rest of the transaction:
// requests of one instance are committed together, each with claims that all use, so that in no order of theirs two instances
// would not wait for each other. And none sees uses as they were before another one's commit, for which it has waited.
func (u unit) lockLapsing() error {
	if u.s.dialect != &postgresDialect {
		return nil // one writer
	}
	if _, err := u.run(`SELECT pg_advisory_xact_lock($1)`, lapsingKey); err != nil {
		return fmt.Errorf("claims that lapse: %w", err)
	}
	return nil
}

// takeClaims takes a transaction's claims, in one order everywhere, so that two instances do not wait for each other's.
func (u unit) takeClaims(tx string, claims []gateway.Claim, renews *gateway.Replaced, now time.Time) error {
	claims = slices.SortedStableFunc(slices.Values(claims), func(a, b gateway.Claim) int { return cmp.Compare(a.Key, b.Key) })
	if slices.ContainsFunc(claims, func(c gateway.Claim) bool { return !c.Until.IsZero() }) {
		if err := u.lockLapsing(); err != nil {
			return err
		}
	}
	var renewed string
	if renews != nil && slices.ContainsFunc(claims, func(c gateway.Claim) bool { return c.Active }) {
		err := u.row(transactionOf, blob(renews.Issuer), magnitude(renews.Serial)).Scan(&renewed)
		if err = notFound(err); err != nil && !errors.Is(err, gateway.ErrNotFound) {
			return fmt.Errorf("certificate %x: %w", renews.Serial, err)
		}
	}
	for _, c := range claims {
		var err error
		if c.Until.IsZero() {
			err = u.takeClaim(tx, c)
		} else {
			err = u.takeLapsing(tx, c, renewed, now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u unit) takeClaim(tx string, c gateway.Claim) error {
	if c.Limit < 1 {
		return &gateway.ClaimLostError{Claim: c}
	}
	n, err := u.exec(takeClaim, c.Key, c.Limit)
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.Key, err)
	}
	if n == 0 {
		return &gateway.ClaimLostError{Claim: c}
	}
	if _, err := u.exec(noteUse, tx, c.Key); err != nil {
		return fmt.Errorf("use of %s: %w", c.Key, err)
	}
	return nil
}

// takeLapsing takes a claim whose uses lapse: that of the renewed certificate's transaction where it has one, else one that is
// left. Whoever takes one takes away a number of those that have lapsed, so that nobody else has to.
func (u unit) takeLapsing(tx string, c gateway.Claim, renewed string, now time.Time) error {
	if c.Limit < 1 {
		return &gateway.ClaimLostError{Claim: c}
	}
	if c.Active && renewed != "" {
		n, err := u.exec(takeOver, renewed, c.Key, micros(now))
		if err != nil {
			return fmt.Errorf("use of %s: %w", c.Key, err)
		}
		if n > 0 {
			return u.noteLapsing(tx, c, renewed)
		}
	}
	// The claim before its uses, taken or not: its row is ours then.
	taken, err := u.exec(takeClaim, c.Key, c.Limit)
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.Key, err)
	}
	swept, err := u.sweep(c.Key, now)
	if err == nil && taken == 0 && swept > 0 {
		taken, err = u.exec(takeClaim, c.Key, c.Limit)
	}
	switch {
	case err != nil:
		return fmt.Errorf("claim %s: %w", c.Key, err)
	case taken > 0:
		return u.noteLapsing(tx, c, "")
	case swept == sweepAtOnce:
		return &lapsedLeftError{c.Key}
	}
	return u.lost(c, now)
}

func (u unit) noteLapsing(tx string, c gateway.Claim, tookOver string) error {
	active := int64(0)
	if c.Active {
		active = 1
	}
	if _, err := u.exec(noteLapsing, tx, c.Key, micros(c.Until), active, tookOver); err != nil {
		return fmt.Errorf("use of %s: %w", c.Key, err)
	}
	return nil
}

// sweep takes away some of a claim's uses that have lapsed, and says how many. The caller has its row.
func (u unit) sweep(key string, now time.Time) (swept int, err error) {
	rows, err := u.query(sweepLapsed, key, micros(now), int64(sweepAtOnce))
	if err != nil {
		return 0, fmt.Errorf("lapsed uses of %s: %w", key, err)
	}
	var used int64
	err = each(rows, func(scan func(...any) error) error {
		var n int64
		err := scan(&n)
		used += n
		swept++
		return err
	})
	if err == nil && used > 0 {
		_, err = u.exec(giveBack, key, used)
	}
	if err != nil {
		return 0, fmt.Errorf("lapsed uses of %s: %w", key, err)
	}
	return swept, nil
}

// lost says how many uses stand of a claim that has none left, and when one will be.
func (u unit) lost(c gateway.Claim, now time.Time) error {
	lost := &gateway.ClaimLostError{Claim: c}
	if err := u.row(claimStands, c.Key).Scan(&lost.Used); err != nil {
		return fmt.Errorf("claim %s: %w", c.Key, err)
	}
	if over := lost.Used - c.Limit; over >= 0 && over < furthestFree { // more when the limit was higher
		var until int64
		err := notFound(u.row(nextFree, c.Key, micros(now), over).Scan(&until))
		switch {
		case err == nil:
			lost.Free = fromMicros(until)
		case !errors.Is(err, gateway.ErrNotFound):
			return fmt.Errorf("uses of %s: %w", c.Key, err)
		}
	}
	return lost
}

// release gives a transaction's claims back: what it took over to the transaction that had it before, if that has a use for it still.
// What is counted of a time stays where a certificate was made, now or before, whatever became of it: or whoever rejects each of his
// would have the CA issue and revoke as fast as he can ask. So does the message that had it, or whoever recorded it would have another.
func (u unit) release(tx string, made bool) error {
	lapsing, err := u.lapsing(tx)
	if err != nil {
		return err
	}
	if len(lapsing) > 0 {
		if err := u.lockLapsing(); err != nil {
			return err
		}
		if lapsing, err = u.lapsing(tx); err != nil { // some were swept, or taken over, meanwhile
			return err
		}
		if !made {
			var one int
			if err := notFound(u.row(certified, tx).Scan(&one)); err == nil {
				made = true
			} else if !errors.Is(err, gateway.ErrNotFound) {
				return fmt.Errorf("certificate of %s: %w", tx, err)
			}
		}
		for _, l := range lapsing {
			if l.tookOver == "" || l.n == 0 {
				continue
			}
			n, err := u.run(handBack, l.tookOver, l.key, l.n, micros(u.s.clock()))
			if err == nil && n > 0 {
				_, err = u.run(handedBack, tx, l.key)
			}
			if err != nil {
				return fmt.Errorf("use of %s: %w", l.key, err)
			}
		}
	}
	if made {
		if _, err = u.run(releaseRest, tx); err == nil {
			_, err = u.run(dropRest, tx)
		}
	} else if _, err = u.exec(releaseClaims, tx); err == nil {
		_, err = u.exec(dropUses, tx)
	}
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	return nil
}

// lapsing is a use that lapses.
type lapsing struct {
	key, tookOver string
	n             int64
}

func (u unit) lapsing(tx string) ([]lapsing, error) {
	rows, err := u.tx.QueryContext(u.ctx, lapsingOf, tx)
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	var list []lapsing
	err = each(rows, func(scan func(...any) error) error {
		var l lapsing
		err := scan(&l.key, &l.tookOver, &l.n)
		list = append(list, l)
		return err
	})
	return list, err
}

// endActive gives back what a certificate uses that was revoked. What was counted of its making stays counted.
func (u unit) endActive(issuer, serial []byte) error {
	var tx string
	err := notFound(u.row(activeOf, issuer, serial).Scan(&tx))
	if errors.Is(err, gateway.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = u.lockLapsing()
	}
	if err == nil {
		_, err = u.run(releaseActive, tx)
	}
	if err == nil {
		_, err = u.run(dropActive, tx)
	}
	if err != nil {
		return fmt.Errorf("claims of certificate %x: %w", serial, err)
	}
	return nil
}

// activeUntil has what a transaction's certificate will use lapse with it, now that its dates are known.
func (u unit) activeUntil(tx string, notAfter time.Time) error {
	if _, err := u.run(redateActive, tx, micros(notAfter)); err != nil {
		return fmt.Errorf("uses of %s: %w", tx, err)
	}
	return nil
}

// uses adds those claims that a filter selects and whose uses stand now.
func (s *Store) uses(ctx context.Context, q *filter, limit int, into map[string]int64) error {
	sel := fmt.Sprintf(usesNow, q.param(micros(s.clock())))
	return s.list(ctx, sel, q, "key", limit, func(scan func(...any) error) error {
		var key string
		var used int64
		err := scan(&key, &used)
		if used > 0 {
			into[key] = used
		}
		return err
	})
}

// UsesUnder is gateway.Store.
func (s *Store) UsesUnder(ctx context.Context, prefix string) (map[string]int64, error) {
	if err := validKey("claim", prefix); err != nil || prefix[len(prefix)-1] != ':' {
		return nil, fmt.Errorf("%q is no beginning of claims, which ends in a colon", prefix)
	}
	var q filter
	q.where("key > " + q.param(prefix))
	q.where("key < " + q.param(prefix[:len(prefix)-1]+";")) // which follows the colon
	uses := map[string]int64{}
	return uses, s.uses(ctx, &q, maxClaimsList, uses)
}
