package local

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/groupcommit"
	"google.golang.org/grpc/codes"
)

// crlMaker lets one call at a time make a CRL, and keeps the newest one where it is a key's.
type crlMaker struct {
	mu     sync.Mutex
	number int64 // of der, 0 for none yet
	der    []byte
}

// crlScope is what a CRL lists: what is revoked of all certificates of an issuer, or of those of a shard. The key signs it.
type crlScope struct {
	issuer *issuer
	key    *generation
	shard  *shard // nil for all
}

func (s *crlScope) name() string {
	if s.shard != nil {
		return s.shard.name
	}
	return s.key.crlName()
}

// crlState is the row of a CRL.
type crlState struct {
	revocations, number, covers int64
	made, next                  time.Time
}

// CRL writes a CRL (RFC 5280 section 5), DER: under an issuer's name that of its newest key, under one of CA.CRLs that of
// this key, under the name of one of CA.Shards that shard's, each as long as it has unexpired certificates. It is made anew after a revocation and when half of its validity is
// over; else the last one is written again. NOT_FOUND: no such CRL.
//
// The CRL of every key lists the revoked certificates of all generations with its name. For a relying party, RFC 5280 makes
// the name and not the key the CA: whichever of the CRLs it takes as complete, it finds them. It lists those of shards too.
func (c *CA) CRL(ctx context.Context, name string, w io.Writer) error {
	r, err := c.running()
	if err != nil {
		return err
	}
	now := c.o.Clock().UTC().Truncate(time.Second)
	s, err := r.scopeNamed(ctx, name, now)
	if err != nil {
		return err
	}
	der, err := r.crl(ctx, s, now)
	if missing, ok := errors.AsType[*missingError](err); ok {
		// It lists what another replica has issued by a newer generation.
		if err = c.follow(ctx, r, missing); err == nil {
			if r, err = c.running(); err != nil {
				return err
			}
			if s, err = r.scopeNamed(ctx, name, now); err != nil {
				return err
			}
			der, err = r.crl(ctx, s, now)
		}
	}
	if err != nil {
		return backend.Refuse(codes.Unavailable, "CRL: %v", err)
	}
	_, err = w.Write(der)
	return err
}

// scopeNamed finds what the CRL with the name lists. It fails with NOT_FOUND when there is none (any more).
func (r *running) scopeNamed(ctx context.Context, name string, now time.Time) (*crlScope, error) {
	if i, key := r.crlNamed(name); i != nil {
		if !r.publishes(i, key, now) {
			return nil, backend.Refuse(codes.NotFound, "the CRL %q has ended: all certificates under its key have expired", name)
		}
		return &crlScope{issuer: i, key: key}, nil
	}
	s, err := r.shardNamed(ctx, name)
	switch {
	case err != nil:
		return nil, backend.Refuse(codes.Unavailable, "CRL: %v", err)
	case s == nil:
		return nil, backend.Refuse(codes.NotFound, "there is no CRL %q", name)
	case !r.publishesShard(s.issuer, s.shard, now):
		return nil, backend.Refuse(codes.NotFound, "the CRL %q has ended: all certificates of the shard have expired", name)
	}
	return s, nil
}

// crlNamed finds the issuer and the newest generation of the key whose CRL has the name; nil when there is none.
func (r *running) crlNamed(name string) (*issuer, *generation) {
	if i := r.issuer(name); i != nil {
		return i, i.generation
	}
	for _, i := range r.issuers {
		for _, key := range i.keys() {
			if key.crlName() == name {
				return i, key
			}
		}
	}
	return nil, nil
}

func (r *running) crl(ctx context.Context, s *crlScope, now time.Time) ([]byte, error) {
	m := r.crls[s.name()]
	if s.shard != nil {
		// It is not kept: there may be many shards, the ledger has their CRLs, and the gateway keeps what is asked for.
		kept, _ := r.shardCRLs.LoadOrStore(s.name(), new(crlMaker))
		m = kept.(*crlMaker)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for try := 0; ; try++ {
		der, err := r.newest(ctx, m, s, now)
		if !errors.Is(err, errAnotherCRL) || try == crlTries {
			if s.shard != nil {
				m.number, m.der = 0, nil
			}
			return der, err
		}
	}
}

// crlTries is how often a CRL is looked for again when another replica's came between.
const crlTries = 8

var errAnotherCRL = errors.New("another CRL came between")

// newest returns the CRL that the ledger has, or makes the next. It fails with errAnotherCRL when another replica did meanwhile.
func (r *running) newest(ctx context.Context, m *crlMaker, of *crlScope, now time.Time) ([]byte, error) {
	s, err := r.ledger.crlState(ctx, of.name())
	if err != nil {
		return nil, err
	}
	current := s.number > 0 && s.covers == s.revocations && !now.Before(s.made) && now.Before(s.made.Add(s.next.Sub(s.made)/2))
	if !current {
		der, err := r.makeCRL(ctx, of, s, now)
		if err != nil {
			return nil, err
		}
		m.number, m.der = s.number+1, der
		return der, nil
	}
	if m.number != s.number { // another process made it, or our commit was reported as failed
		if err := r.ledger.read.QueryRowContext(ctx, `SELECT crl_number, crl FROM keys WHERE name = $1`, of.name()).Scan(&m.number, &m.der); err != nil {
			return nil, err
		}
	}
	return m.der, nil
}

// makeCRL makes the CRL after s and records it before anyone sees it. Revocations that come meanwhile are for the next.
func (r *running) makeCRL(ctx context.Context, of *crlScope, s *crlState, now time.Time) ([]byte, error) {
	i, key := of.issuer, of.key
	listed, err := r.ledger.revoked(ctx, of)
	if err != nil {
		return nil, err
	}
	list := &x509.RevocationList{
		Number:     big.NewInt(s.number + 1),
		ThisUpdate: now,
		NextUpdate: now.Add(r.crlValidity),
	}
	if list.NextUpdate.After(key.cert.NotAfter) && now.Before(key.cert.NotAfter) {
		list.NextUpdate = key.cert.NotAfter
	}
	if of.shard != nil {
		point, err := issuingDistributionPoint(of.shard.uris)
		if err != nil {
			return nil, err
		}
		list.ExtraExtensions = append(list.ExtraExtensions, point)
	}
	var over []int64
	var shards map[int64]bool // that have CRLs of their own; nil before they were looked at
	for _, e := range listed {
		by := i.numbered(e.generation)
		if by == nil && r.ledger.shared {
			return nil, &missingError{dir: r.authorityDir(), ca: i.name, number: e.generation}
		}
		if by == nil || !bytes.Equal(by.cert.RawSubject, key.cert.RawSubject) {
			continue // an imported CA that had another name then
		}
		if e.notAfter.Before(now) {
			// Its own shard's or else its own key's CRL takes it off, and another one only when that is not made any more.
			own := by.keyFirst == key.keyFirst || !r.publishes(i, by, now)
			if e.shard > 0 && of.shard == nil {
				if shards == nil {
					if shards, err = r.publishedShards(ctx, i, now); err != nil {
						return nil, err
					}
				}
				own = !shards[e.shard]
			}
			if own {
				over = append(over, e.number)
			}
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber:   new(big.Int).SetBytes(e.serial),
			RevocationTime: e.at,
			ReasonCode:     e.reason,
		})
	}
	der, err := x509.CreateRevocationList(nil, list, key.cert, &signer{key: key.key})
	if err != nil {
		return nil, err
	}
	return der, r.ledger.recordCRL(ctx, of.name(), s, list, der, over)
}

// crlState reads what is known of a CRL. It is read before the revoked certificates: so a CRL never claims to
// cover a revocation that it does not list.
func (l *ledger) crlState(ctx context.Context, name string) (*crlState, error) {
	var s crlState
	var made, next int64
	err := l.read.QueryRowContext(ctx, `SELECT revocations, crl_number, crl_covers, crl_made, crl_next FROM keys WHERE name = $1`, name).
		Scan(&s.revocations, &s.number, &s.covers, &made, &next)
	s.made, s.next = time.Unix(made, 0).UTC(), time.Unix(next, 0).UTC()
	return &s, err
}

type revokedRow struct {
	number     int64
	generation int
	shard      int64
	serial     []byte
	at         time.Time
	reason     int
	notAfter   time.Time
}

// revoked lists the revoked certificates that belong on the next CRL.
func (l *ledger) revoked(ctx context.Context, of *crlScope) ([]revokedRow, error) {
	one, args := "", []any{of.issuer.name}
	if of.shard != nil {
		one, args = "AND shard = $2", append(args, of.shard.number)
	}
	rows, err := l.read.QueryContext(ctx, `SELECT number, generation, shard, serial, revoked_at, reason, not_after FROM certificates
		WHERE issuer = $1 `+one+` AND revoked_at IS NOT NULL AND delisted = 0 ORDER BY shard, number`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []revokedRow
	for rows.Next() {
		var e revokedRow
		var at, notAfter int64
		if err := rows.Scan(&e.number, &e.generation, &e.shard, &e.serial, &at, &e.reason, &notAfter); err != nil {
			return nil, err
		}
		e.at, e.notAfter = time.Unix(at, 0).UTC(), time.Unix(notAfter, 0).UTC()
		list = append(list, e)
	}
	return list, rows.Err()
}

// recordCRL records the CRL that follows on s, and takes off the next one the rows that are over: they expired before
// this CRL was made and are on it, so they have appeared once beyond their validity (RFC 5280 section 3.3).
func (l *ledger) recordCRL(ctx context.Context, name string, s *crlState, list *x509.RevocationList, der []byte, over []int64) error {
	return l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE keys SET crl_number = $1, crl_covers = $2, crl_made = $3, crl_next = $4, crl = $5
			WHERE name = $6 AND crl_number = $7`,
			list.Number.Int64(), s.revocations, list.ThisUpdate.Unix(), list.NextUpdate.Unix(), der, name, s.number)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errAnotherCRL)
		}
		for _, number := range over {
			if _, err := tx.ExecContext(ctx, `UPDATE certificates SET delisted = 1 WHERE number = $1`, number); err != nil {
				return err
			}
		}
		return nil
	})
}
