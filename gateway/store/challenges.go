package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

const (
	selectChallenge = `SELECT id, hash, endpoint, device, subject, profile, uses, created, not_after, made_by FROM challenges`
	putChallenge    = `INSERT INTO challenges (id, hash, endpoint, device, subject, profile, uses, created, not_after, made_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`
	dropChallenge = `DELETE FROM challenges WHERE id = $1`
)

// PutChallenge is gateway.Store. One that stands already, or whose ID does, is an error: what a challenge gives is never changed.
func (s *Store) PutChallenge(ctx context.Context, c *gateway.IssuedChallenge, e gateway.AuditEvent) error {
	if len(c.Hash) != sha256.Size || c.ID != hex.EncodeToString(c.Hash[:8]) {
		return fmt.Errorf("the challenge %q is not named by its SHA-256", c.ID)
	}
	if c.Uses < 1 {
		return fmt.Errorf("a challenge that is good %d times", c.Uses)
	}
	if err := validKey("endpoint", c.Endpoint); err != nil {
		return err
	}
	// They decide what it gives, and are refused where they could not be stored as they are.
	for what, v := range map[string]string{"device": c.Device, "subject": c.Subject, "profile": c.Profile} {
		if text(v) != v {
			return fmt.Errorf("the %s %q is not valid UTF-8", what, v)
		}
	}
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	return s.begin(ctx, func(u unit) error {
		n, err := u.run(putChallenge, c.ID, c.Hash, c.Endpoint, c.Device, c.Subject, c.Profile, c.Uses, micros(c.Created),
			micros(c.NotAfter), text(c.By))
		if err != nil {
			return fmt.Errorf("challenge: %w", err)
		}
		if n == 0 {
			return errors.New("the challenge " + c.ID + " stands already")
		}
		return u.audit(body)
	})
}

// DropChallenge is gateway.Store. Its uses stay, so that the same challenge made again is not good again.
func (s *Store) DropChallenge(ctx context.Context, id string, e gateway.AuditEvent) error {
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	if text(id) != id {
		return gateway.ErrNotFound
	}
	return s.begin(ctx, func(u unit) error {
		n, err := u.run(dropChallenge, id)
		if err != nil {
			return fmt.Errorf("challenge: %w", err)
		}
		if n == 0 {
			return gateway.ErrNotFound
		}
		return u.audit(body)
	})
}

// Challenge is gateway.Store.
func (s *Store) Challenge(ctx context.Context, hash []byte) (*gateway.IssuedChallenge, error) {
	return challengeRow(s.read(ctx, readChallenge, blob(hash)).Scan)
}

// Challenges is gateway.Store. NotAfter itself has not expired. Nothing is older than a challenge that does not stand.
func (s *Store) Challenges(ctx context.Context, endpoint string, validAt time.Time, before string, limit int) ([]*gateway.IssuedChallenge, error) {
	var q filter
	q.equal("endpoint", endpoint)
	if !validAt.IsZero() {
		q.where("(not_after = 0 OR not_after >= " + q.param(micros(validAt)) + ")")
	}
	if before != "" {
		q.where("(created, id) < (SELECT created, id FROM challenges WHERE id = " + q.param(text(before)) + ")")
	}
	var out []*gateway.IssuedChallenge
	err := s.list(ctx, selectChallenge, &q, "created DESC, id DESC", limit, func(scan func(...any) error) error {
		c, err := challengeRow(scan)
		out = append(out, c)
		return err
	})
	return out, err
}

// challengeRow scans a row of selectChallenge.
func challengeRow(scan func(...any) error) (*gateway.IssuedChallenge, error) {
	var c gateway.IssuedChallenge
	var created, notAfter int64
	if err := scan(&c.ID, &c.Hash, &c.Endpoint, &c.Device, &c.Subject, &c.Profile, &c.Uses, &created, &notAfter, &c.By); err != nil {
		return nil, notFound(err)
	}
	c.Created, c.NotAfter = fromMicros(created), fromMicros(notAfter)
	return &c, nil
}
