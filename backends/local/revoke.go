package local

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// CRLReason values that a revocation may give (RFC 5280 section 5.3.1): not removeFromCRL (8), which takes one back, and
// not 7, which is not used.
var revocationReasons = []int{0, 1, 2, 3, 4, 5, 6, 9, 10}

// Revoke records the revocation, durably. The first one of a certificate stands, with its time and reason.
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
		if !bytes.Equal(q.Issuer, i.cert.RawSubject) {
			continue
		}
		err := r.ledger.revoke(ctx, i.name, bytes.TrimLeft(q.Serial, "\x00"), at, q.Reason)
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
