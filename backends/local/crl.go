package local

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"io"
	"math/big"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// crlMaker lets one call at a time make the CRL of an issuer, and keeps the newest one.
type crlMaker struct {
	mu     sync.Mutex
	number int64 // of der, 0 for none yet
	der    []byte
}

// crlState is the row of an issuer.
type crlState struct {
	revocations, number, covers int64
	made, next                  time.Time
}

// CRL writes the issuer's CRL (RFC 5280 section 5), DER. It is made anew after a revocation and when half of its
// validity is over; else the last one is written again. NOT_FOUND: no such issuer.
func (c *CA) CRL(ctx context.Context, name string, w io.Writer) error {
	r, err := c.running()
	if err != nil {
		return err
	}
	i := r.issuer(name)
	if i == nil {
		return backend.Refuse(codes.NotFound, "there is no issuing CA %q", name)
	}
	der, err := r.crl(ctx, i, c.o.Clock().UTC().Truncate(time.Second))
	if err != nil {
		return backend.Refuse(codes.Unavailable, "CRL: %v", err)
	}
	_, err = w.Write(der)
	return err
}

func (r *running) crl(ctx context.Context, i *issuer, now time.Time) ([]byte, error) {
	m := r.crls[i.name]
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := r.ledger.crlState(ctx, i.name)
	if err != nil {
		return nil, err
	}
	current := s.number > 0 && s.covers == s.revocations && !now.Before(s.made) && now.Before(s.made.Add(s.next.Sub(s.made)/2))
	if !current {
		der, err := r.makeCRL(ctx, i, s, now)
		if err != nil {
			return nil, err
		}
		m.number, m.der = s.number+1, der
		return der, nil
	}
	if m.number != s.number { // an earlier process made it, or our commit was reported as failed
		if err := r.ledger.read.QueryRowContext(ctx, `SELECT crl FROM issuers WHERE name = ?`, i.name).Scan(&m.der); err != nil {
			return nil, err
		}
		m.number = s.number
	}
	return m.der, nil
}

// makeCRL makes the CRL after s and records it before anyone sees it. Revocations that come meanwhile are for the next.
func (r *running) makeCRL(ctx context.Context, i *issuer, s *crlState, now time.Time) ([]byte, error) {
	listed, err := r.ledger.revoked(ctx, i.name)
	if err != nil {
		return nil, err
	}
	list := &x509.RevocationList{
		Number:     big.NewInt(s.number + 1),
		ThisUpdate: now,
		NextUpdate: now.Add(r.crlValidity),
	}
	if list.NextUpdate.After(i.cert.NotAfter) && now.Before(i.cert.NotAfter) {
		list.NextUpdate = i.cert.NotAfter
	}
	for _, e := range listed {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber:   new(big.Int).SetBytes(e.serial),
			RevocationTime: e.at,
			ReasonCode:     e.reason,
		})
	}
	der, err := x509.CreateRevocationList(nil, list, i.cert, &signer{key: i.key})
	if err != nil {
		return nil, err
	}
	var over []int64
	for _, e := range listed {
		if e.notAfter.Before(now) {
			over = append(over, e.number)
		}
	}
	return der, r.ledger.recordCRL(ctx, i.name, s, list, der, over)
}

// crlState reads what is known of an issuer's CRL. It is read before the revoked certificates: so a CRL never claims to
// cover a revocation that it does not list.
func (l *ledger) crlState(ctx context.Context, issuer string) (*crlState, error) {
	var s crlState
	var made, next int64
	err := l.read.QueryRowContext(ctx, `SELECT revocations, crl_number, crl_covers, crl_made, crl_next FROM issuers WHERE name = ?`, issuer).
		Scan(&s.revocations, &s.number, &s.covers, &made, &next)
	s.made, s.next = time.Unix(made, 0).UTC(), time.Unix(next, 0).UTC()
	return &s, err
}

type revokedRow struct {
	number   int64
	serial   []byte
	at       time.Time
	reason   int
	notAfter time.Time
}

// revoked lists the issuer's revoked certificates that belong on the next CRL.
func (l *ledger) revoked(ctx context.Context, issuer string) ([]revokedRow, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT number, serial, revoked_at, reason, not_after FROM certificates
		WHERE issuer = ? AND revoked_at IS NOT NULL AND delisted = 0 ORDER BY number`, issuer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []revokedRow
	for rows.Next() {
		var e revokedRow
		var at, notAfter int64
		if err := rows.Scan(&e.number, &e.serial, &at, &e.reason, &notAfter); err != nil {
			return nil, err
		}
		e.at, e.notAfter = time.Unix(at, 0).UTC(), time.Unix(notAfter, 0).UTC()
		list = append(list, e)
	}
	return list, rows.Err()
}

// recordCRL records the CRL that follows on s, and takes off the next one the rows that are over: they expired before
// this CRL was made and are on it, so they have appeared once beyond their validity (RFC 5280 section 3.3).
func (l *ledger) recordCRL(ctx context.Context, issuer string, s *crlState, list *x509.RevocationList, der []byte, over []int64) error {
	return l.writer.Do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE issuers SET crl_number = ?, crl_covers = ?, crl_made = ?, crl_next = ?, crl = ?
			WHERE name = ? AND crl_number = ?`,
			list.Number.Int64(), s.revocations, list.ThisUpdate.Unix(), list.NextUpdate.Unix(), der, issuer, s.number)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errors.New("another CRL came between"))
		}
		for _, number := range over {
			if _, err := tx.ExecContext(ctx, `UPDATE certificates SET delisted = 1 WHERE number = ?`, number); err != nil {
				return err
			}
		}
		return nil
	})
}
