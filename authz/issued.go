package authz

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
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

// use judges what an issued challenge is good for, and spends it.
func use(c *gateway.IssuedChallenge, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	note := "issued challenge " + c.ID
	if c.By != "" {
		note += ", made by " + shown(c.By)
	}
	v := suits(c, note, r, g)
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

// suits judges whether a challenge is good for what is asked for, and chooses its profile. note says whose it is.
func suits(c *gateway.IssuedChallenge, note string, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	deny := func(detail, format string, args ...any) gateway.Verdict {
		return gateway.Denied(gateway.NotAuthorized, detail, note+": "+fmt.Sprintf(format, args...))
	}
	if c.Subject != "" {
		asked := formatSubject(r.Subject)
		switch same, err := isSubject(r.Subject, c.Subject); {
		case err != nil:
			return gateway.Unanswered(fmt.Errorf("%s: its subject %s cannot be read: %w", note, shown(c.Subject), err))
		case !same:
			return deny("the challenge is for another subject", "it is for subject %s, the request asks for %s", c.Subject, asked)
		}
		note += ", for " + c.Subject
	}
	if c.Profile != "" {
		if (r.Profile != "" || g.ProfileChosen()) && g.Profile != c.Profile {
			return deny("the challenge is for another profile", "it is for profile %s, not %s", shown(c.Profile), shown(g.Profile))
		}
		if !g.ChooseProfile(c.Profile) {
			return deny("the challenge is for another profile", "it is for profile %s, which endpoint %s does not offer", shown(c.Profile), r.Endpoint)
		}
		note += ", profile " + c.Profile
	}
	return gateway.Allowed(note)
}

// isSubject reports whether a DER Name is the one that an RFC 4514 string says.
func isSubject(der []byte, text string) (bool, error) {
	want, err := pkix.ParseRFC4514(text)
	if err != nil || isEmptyName(der) {
		return false, err
	}
	return pkix.SameName(der, want), nil
}
