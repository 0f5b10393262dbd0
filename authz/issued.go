package authz

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Challenges is where `challenge` finds those that were issued; gateway.Store is one.
type Challenges interface {
	// Challenge returns the one with the SHA-256, expired or not; gateway.ErrNotFound when there is none.
	Challenge(ctx context.Context, hash []byte) (*gateway.IssuedChallenge, error)
}

// errRefused wraps why an issued challenge is as good as none.
var errRefused = errors.New("wrong challenge")

// find looks an issued challenge up by its SHA-256. The error wraps errRefused for one that is not good at the endpoint.
func (s *Challenge) find(ctx context.Context, sum []byte, endpoint string) (*gateway.IssuedChallenge, error) {
	c, err := s.issued.Challenge(ctx, sum)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return nil, errRefused
	case err != nil:
		return nil, fmt.Errorf("the challenge cannot be looked up: %w", err)
	case c == nil || subtle.ConstantTimeCompare(c.Hash, sum) != 1:
		return nil, errors.New("the look-up gave another challenge than was asked for")
	case c.Endpoint != endpoint:
		return nil, fmt.Errorf("%w: challenge %s is good at endpoint %s", errRefused, c.ID, c.Endpoint)
	}
	return c, nil
}

// over says when a challenge expired, nil when it has not.
func over(c *gateway.IssuedChallenge, now time.Time) error {
	if !c.NotAfter.IsZero() && now.After(c.NotAfter) {
		return fmt.Errorf("%w: challenge %s expired at %s", errRefused, c.ID, c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// forChallenge is how the client is told that a challenge is not for what it asks.
const forChallenge = "the challenge is for"

// use judges what an issued challenge is good for, and spends it.
func use(c *gateway.IssuedChallenge, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	note := "issued challenge " + c.ID
	if c.By != "" {
		note += ", made by " + shown(c.By)
	}
	v := wish{forChallenge, c.Subject, c.Profile}.suits(r.Subject, note, r, g)
	if v.Decision != gateway.Allow {
		return v
	}
	uses := Uses(max(c.Uses, 1))
	v.Claims = uses.claims(gateway.Claim{
		Key:    c.Key(),
		Lost:   fmt.Sprintf("challenge %s may be used %s, and has been", c.ID, uses.times()),
		Reason: gateway.Unauthenticated, Detail: "the challenge has been used",
	})
	return v
}
