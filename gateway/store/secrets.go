package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// maxReference is the longest reference of a secret, in bytes. It is part of an index entry, whose size PostgreSQL limits.
const maxReference = 1024

// PutSecret is gateway.Store. Endpoint and device are part of what the secret is sealed to, so that they are refused where they
// could not be stored as they are.
func (s *Store) PutSecret(ctx context.Context, secret *gateway.StoredSecret, e gateway.AuditEvent) error {
	if err := validKey("endpoint", secret.Endpoint); err != nil {
		return err
	}
	if text(secret.Device) != secret.Device {
		return fmt.Errorf("the device %q is not valid UTF-8", secret.Device)
	}
	if n := len(secret.Reference); n == 0 || n > maxReference {
		return fmt.Errorf("a secret's reference has 1 to %d bytes, not %d", maxReference, n)
	}
	if len(secret.Sealed) == 0 {
		return errors.New("a secret without what is sealed")
	}
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	return s.begin(ctx, func(u unit) error {
		_, err := u.exec(putSecret, secret.Endpoint, []byte(secret.Reference), secret.Device, secret.Sealed,
			micros(secret.Created), micros(secret.NotAfter))
		if err != nil {
			return fmt.Errorf("secret: %w", err)
		}
		return u.audit(body)
	})
}

// DropSecret is gateway.Store.
func (s *Store) DropSecret(ctx context.Context, endpoint, reference string, e gateway.AuditEvent) error {
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	if text(endpoint) != endpoint {
		return gateway.ErrNotFound
	}
	return s.begin(ctx, func(u unit) error {
		n, err := u.exec(dropSecret, endpoint, []byte(reference))
		if err != nil {
			return fmt.Errorf("secret: %w", err)
		}
		if n == 0 {
			return gateway.ErrNotFound
		}
		return u.audit(body)
	})
}

// Secret is gateway.Store.
func (s *Store) Secret(ctx context.Context, endpoint, reference string) (*gateway.StoredSecret, error) {
	if text(endpoint) != endpoint {
		return nil, gateway.ErrNotFound
	}
	return secretRow(s.read(ctx, readSecret, endpoint, []byte(reference)).Scan)
}

// Secrets is gateway.Store. Both orders are of bytes. Without afterEndpoint, afterReference is one of the endpoint's.
func (s *Store) Secrets(ctx context.Context, endpoint, afterEndpoint, afterReference string, limit int) ([]*gateway.StoredSecret, error) {
	if afterEndpoint == "" && afterReference != "" {
		afterEndpoint = endpoint
	}
	var q filter
	q.equal("endpoint", endpoint)
	q.where("(endpoint, reference) > (" + q.param(text(afterEndpoint)) + ", " + q.param([]byte(afterReference)) + ")")
	var out []*gateway.StoredSecret
	err := s.list(ctx, listSecrets, &q, "endpoint, reference", limit, func(scan func(...any) error) error {
		secret, err := secretRow(scan)
		out = append(out, secret)
		return err
	})
	return out, err
}

// secretRow scans a row of readSecret or listSecrets.
func secretRow(scan func(...any) error) (*gateway.StoredSecret, error) {
	var out gateway.StoredSecret
	var reference []byte
	var created, notAfter int64
	if err := scan(&out.Endpoint, &reference, &out.Device, &out.Sealed, &created, &notAfter); err != nil {
		return nil, notFound(err)
	}
	out.Reference, out.Created, out.NotAfter = string(reference), fromMicros(created), fromMicros(notAfter)
	return &out, nil
}
