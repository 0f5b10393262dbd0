package local

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/groupcommit"
	"google.golang.org/grpc/codes"
)

// CRLReason values that a revocation may give (RFC 5280 section 5.3.1): not removeFromCRL (8), which takes one back, and
// not 7, which is not used.
var revocationReasons = []int{0, 1, 2, 3, 4, 5, 6, 9, 10}

// Revoke records the revocation, durably. The first one of a certificate stands, with its time and reason. All
// generations of a CA with the name are searched: the request does not say which key signed.
// NOT_FOUND: no such certificate of this CA. INVALID_ARGUMENT: not a reason. UNAVAILABLE: the ledger failed.
func (c *CA) Revoke(ctx context.Context, q *backend.RevokeRequest) error {
	r, err := c.running()
	if err != nil {
		return err
	}
	if !slices.Contains(revocationReasons, q.Reason) {
		return backend.Refuse(codes.InvalidArgument, "%d is not a reason to revoke", q.Reason)
	}
	at, now := q.At, c.o.Clock()
	if at.IsZero() || at.After(now) {
		at = now // a CRL that tells the future would be read in two ways
	}
	for _, i := range r.issuers {
		// An imported CA may have changed its name.
		var named []int
		for _, g := range i.all {
			if bytes.Equal(q.Issuer, g.cert.RawSubject) {
				named = append(named, g.number)
			}
		}
		if len(named) == 0 {
			continue
		}
		err := r.ledger.revoke(ctx, i.name, named, bytes.TrimLeft(q.Serial, "\x00"), at, q.Reason)
		r.ocsp.changes.Add(1) // when it failed, too: it may be recorded
		switch {
		case errors.Is(err, errNoSuchSerial):
			return backend.Refuse(codes.NotFound, "%v", err)
		case err != nil:
			return backend.Refuse(codes.Unavailable, "ledger: %v", err)
		}
		return nil
	}
	return backend.Refuse(codes.NotFound, "no CA here has this name")
}

// revoke records a revocation. It changes nothing about a certificate that is revoked already, and fails with
// errNoSuchSerial when no one of the generations has it.
func (l *ledger) revoke(ctx context.Context, issuer string, generations []int, serial []byte, at time.Time, reason int) error {
	return l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		var revoked sql.NullInt64
		var generation int
		var shard int64
		err := tx.QueryRowContext(ctx, `SELECT revoked_at, generation, shard FROM certificates WHERE issuer = $1 AND serial = $2`, issuer, serial).Scan(&revoked, &generation, &shard)
		switch {
		case errors.Is(err, sql.ErrNoRows), err == nil && !slices.Contains(generations, generation):
			return errNoSuchSerial
		case err != nil:
			return err
		case revoked.Valid:
			return nil
		}
		result, err := tx.ExecContext(ctx, `UPDATE certificates SET revoked_at = $1, reason = $2
			WHERE issuer = $3 AND serial = $4 AND revoked_at IS NULL`, at.Unix(), reason, issuer, serial)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err // another replica was first
		}
		// It belongs on the complete CRLs of all keys, and on its shard's: CRL.
		_, err = tx.ExecContext(ctx, `UPDATE keys SET revocations = revocations + 1 WHERE issuer = $1 AND (shard = 0 OR shard = $2)`, issuer, shard)
		return err
	})
}
