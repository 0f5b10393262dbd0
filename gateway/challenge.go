package gateway

import (
	"context"
	"time"
)

// IssuedChallenge is a challenge that an operator, or a service, had made for one enrollment. The store keeps its hash only.
type IssuedChallenge struct {
	ID       string // by which people name it: the first 16 hexadecimal digits of the hash
	Hash     []byte // SHA-256 of the challenge
	Endpoint string // where it is good
	Device   string // whose requests are then that device's; "" for nobody's in particular
	Subject  string // RFC 4514: the one subject that it is good for; "" for any
	Profile  string // the profile that it gives; "" for the endpoint's
	Uses     int64  // 1 unless more were asked for
	Created  time.Time
	NotAfter time.Time
	By       string // who had it made
}

// Key is the claim that spends it.
func (c *IssuedChallenge) Key() string { return "challenge:" + c.ID }

// Challenges is the part of the Store that keeps them.
type Challenges interface {
	// PutChallenge commits a challenge with its audit event.
	PutChallenge(ctx context.Context, c *IssuedChallenge, e AuditEvent) error
	// Challenge returns the one with the hash, expired or not. ErrNotFound.
	Challenge(ctx context.Context, hash []byte) (*IssuedChallenge, error)
	// Challenges lists those that have not expired at validAt (zero: all), newest first, of an endpoint ("" for all), at
	// most limit (0: 100), without those with the ID before and newer ones ("" for none).
	Challenges(ctx context.Context, endpoint string, validAt time.Time, before string, limit int) ([]*IssuedChallenge, error)
	// DropChallenge takes one away. ErrNotFound.
	DropChallenge(ctx context.Context, id string, e AuditEvent) error
}
