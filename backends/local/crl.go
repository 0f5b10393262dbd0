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

// crlMaker lets one call at a time make the CRL of a key, and keeps the newest one.
type crlMaker struct {
	mu     sync.Mutex
	number int64 // of der, 0 for none yet
	der    []byte
}

// crlState is the row of a key.
type crlState struct {
	revocations, number, covers int64
	made, next                  time.Time
}

// CRL writes a CRL (RFC 5280 section 5), DER: under an issuer's name that of its newest key, under one of CA.CRLs that of
// this key, as long as it has unexpired certificates. It is made anew after a revocation and when half of its validity is
// over; else the last one is written again. NOT_FOUND: no such CRL.
//
// The CRL of every key lists the revoked certificates of all generations with its name. For a relying party, RFC 5280 makes
// the name and not the key the CA: whichever of the CRLs it takes as complete, it finds them.
func (c *CA) CRL(ctx context.Context, name string, w io.Writer) error {
	r, err := c.running()
	if err != nil {
		return err
	}
	now := c.o.Clock().UTC().Truncate(time.Second)
	i, key := r.crlNamed(name)
	switch {
	case i == nil:
		return backend.Refuse(codes.NotFound, "there is no CRL %q", name)
	case !r.publishes(i, key, now):
		return backend.Refuse(codes.NotFound, "the CRL %q has ended: all certificates under its key have expired", name)
	}
	der, err := r.crl(ctx, i, key, now)
	if missing, ok := errors.AsType[*missingError](err); ok {
		// It lists what another replica has issued by a newer generation.
		if err = c.follow(ctx, r, missing); err == nil {
			if r, err = c.running(); err != nil {
				return err
			}
			if i, key = r.crlNamed(name); i == nil {
				return backend.Refuse(codes.NotFound, "there is no CRL %q", name)
			}
			der, err = r.crl(ctx, i, key, now)
		}
	}
	if err != nil {
		return backend.Refuse(codes.Unavailable, "CRL: %v", err)
	}
	_, err = w.Write(der)
	return err
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

func (r *running) crl(ctx context.Context, i *issuer, key *generation, now time.Time) ([]byte, error) {
	m := r.crls[key.crlName()]
	m.mu.Lock()
	defer m.mu.Unlock()
	for try := 0; ; try++ {
		der, err := r.newest(ctx, m, i, key, now)
		if !errors.Is(err, errAnotherCRL) || try == crlTries {
			return der, err
		}
	}
}

// crlTries is how often a CRL is looked for again when another replica's came between.
const crlTries = 8

var errAnotherCRL = errors.New("another CRL came between")

// newest returns the CRL that the ledger has, or makes the next. It fails with errAnotherCRL when another replica did meanwhile.
func (r *running) newest(ctx context.Context, m *crlMaker, i *issuer, key *generation, now time.Time) ([]byte, error) {
	s, err := r.ledger.crlState(ctx, key.crlName())
	if err != nil {
		return nil, err
	}
	current := s.number > 0 && s.covers == s.revocations && !now.Before(s.made) && now.Before(s.made.Add(s.next.Sub(s.made)/2))
	if !current {
		der, err := r.makeCRL(ctx, i, key, s, now)
		if err != nil {
			return nil, err
		}
		m.number, m.der = s.number+1, der
		return der, nil
	}
	if m.number != s.number { // another process made it, or our commit was reported as failed
		if err := r.ledger.read.QueryRowContext(ctx, `SELECT crl_number, crl FROM keys WHERE name = $1`, key.crlName()).Scan(&m.number, &m.der); err != nil {
			return nil, err
		}
	}
	return m.der, nil
}

// makeCRL makes the CRL after s and records it before anyone sees it. Revocations that come meanwhile are for the next.
func (r *running) makeCRL(ctx context.Context, i *issuer, key *generation, s *crlState, now time.Time) ([]byte, error) {
	listed, err := r.ledger.revoked(ctx, i.name)
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
	var over []int64
	for _, e := range listed {
		by := i.numbered(e.generation)
		if by == nil && r.ledger.shared {
			return nil, &missingError{dir: r.authorityDir(), ca: i.name, number: e.generation}
		}
		if by == nil || !bytes.Equal(by.cert.RawSubject, key.cert.RawSubject) {
			continue // an imported CA that had another name then
		}
		// Its own key's CRL takes it off, and another one only when that is not made any more.
		if e.notAfter.Before(now) && (by.keyFirst == key.keyFirst || !r.publishes(i, by, now)) {
			over = append(over, e.number)
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
	return der, r.ledger.recordCRL(ctx, key.crlName(), s, list, der, over)
}

// crlState reads what is known of a key's CRL. It is read before the revoked certificates: so a CRL never claims to
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
	serial     []byte
	at         time.Time
	reason     int
	notAfter   time.Time
}

// revoked lists the issuer's revoked certificates that belong on the next CRLs.
func (l *ledger) revoked(ctx context.Context, issuer string) ([]revokedRow, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT number, generation, serial, revoked_at, reason, not_after FROM certificates
		WHERE issuer = $1 AND revoked_at IS NOT NULL AND delisted = 0 ORDER BY number`, issuer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []revokedRow
	for rows.Next() {
		var e revokedRow
		var at, notAfter int64
		if err := rows.Scan(&e.number, &e.generation, &e.serial, &at, &e.reason, &notAfter); err != nil {
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
