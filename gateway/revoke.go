package gateway

import (
	"context"
	"time"
)

// Revocations is the part of the Store that orders them.
type Revocations interface {
	// OrderRevocation commits that a certificate is revoked: for this gateway at once (Certificate.RevokedAt), with its
	// transaction's repeat keys free, and with WorkRevoke that tells its CA, under a lease of this instance. An unconfirmed
	// transaction becomes StateRejected, with its claims given back. It returns the epoch of the lease; 0 when it was revoked
	// before, which changes nothing and is no error. ErrNotFound for a certificate that is not ours.
	OrderRevocation(ctx context.Context, o *RevocationOrder) (epoch int64, err error)
}

// RevocationOrder is what OrderRevocation commits.
type RevocationOrder struct {
	Issuer, Serial []byte
	Reason         int // CRLReason
	At             time.Time
	Note           string
	Lease          time.Duration
	Audit          AuditEvent
}
