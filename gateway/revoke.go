package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Revocations is the part of the Store that orders them.
type Revocations interface {
	// OrderRevocation commits that a certificate is revoked: for this gateway at once (Certificate.RevokedAt), with its
	// transaction's repeat keys free, and with WorkRevoke that tells its CA, under a lease of this instance. An unconfirmed
	// transaction becomes StateRejected, with its claims given back. It returns the epoch of the lease; 0 when it was revoked
	// before, which changes nothing and is no error. ErrNotFound for a certificate that is not ours.
	//
	// With a Request, its transaction is committed with it, its claims and its repeat key too: *ClaimLostError and *TwinError as
	// Begin, and nothing is written then.
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
	Request        *Transaction // that asked for it, StateRevoked; nil for an operator's order
	Claims         []Claim      // with Request
	RepeatUntil    time.Time    // with Request: until then its repeat key stands
}

// Told is who has heard of a revocation.
type Told int

// What a revocation has come to when it is answered. For this gateway the certificate is revoked in each.
const (
	ToldCA     Told = iota // its CA has revoked it
	ToldLater              // its CA has not said yes yet: the worker goes on asking
	ToldNobody             // its CA takes no revocations from here: somebody has to revoke it there
)

// errRevokedHere says of work that has ended that no CA was told.
var errRevokedHere = errors.New("revoked at this gateway alone: its CA takes no revocations from here, and has to be told otherwise")

// carryOut commits an order to revoke the certificate of a transaction, and tells its CA until the deadline, which lies within
// the lease that began after it. ordered is false when the certificate was revoked before, which heard says nothing of.
func (g *Gateway) carryOut(ctx context.Context, transaction string, o *RevocationOrder, deadline time.Time) (ordered bool, heard Told, err error) {
	o.Lease = g.lease()
	epoch, err := g.store.OrderRevocation(ctx, o)
	if err != nil || epoch == 0 {
		return false, ToldCA, err
	}
	e := &o.Audit
	g.log.LogAttrs(ctx, slog.LevelInfo, "revocation", told([]slog.Attr{slog.String("id", transaction), slog.String("serial", e.Serial)},
		"actor", e.Actor, "device", e.Device, "subject", e.Subject, "note", cut(e.Note, maxNote))...)
	switch err := g.do(ctx, Work{Transaction: transaction, Kind: WorkRevoke, Epoch: epoch}, deadline); {
	case err == nil:
		return true, ToldCA, nil
	case errors.Is(err, errRevokedHere):
		return true, ToldNobody, nil
	}
	return true, ToldLater, nil
}
