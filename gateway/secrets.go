package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
)

// SharedSecrets is implemented by stages that know shared secrets, by which a MAC is verified before the pipeline runs.
type SharedSecrets interface {
	// SharedSecret returns the secret under the reference (CMP senderKID), as valid at this endpoint.
	// ErrNotFound when there is none.
	SharedSecret(ctx context.Context, endpoint string, reference []byte) (Secret, error)
}

// SharedSecret returns the secret that a stage of the endpoint's pipelines knows under the reference, nil when none
// does. The error is an *Error: a stage could not look it up.
//
// That a MAC holds is a fact, which an adapter finds out; what the secret entitles to is its stage's to say.
func (g *Gateway) SharedSecret(ctx context.Context, endpoint string, reference []byte) (Secret, error) {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return nil, nil
	}
	var found Secret
	var failure error
	for _, op := range Operations {
		e.Pipelines[op].Stages(func(s Stage) {
			holder, ok := s.(SharedSecrets)
			if !ok || found != nil {
				return
			}
			secret, err := holder.SharedSecret(ctx, endpoint, reference)
			switch {
			case err == nil && len(secret) > 0:
				found = secret
			case err != nil && !errors.Is(err, ErrNotFound):
				failure = err
			}
		})
	}
	if found == nil && failure != nil {
		return nil, unavailable("the secret cannot be looked up now", failure)
	}
	return found, nil
}

// Issued reports whether this very certificate was issued through the gateway, revoked since or not. The error is an
// *Error.
func (g *Gateway) Issued(ctx context.Context, cert *x509.Certificate) (bool, error) {
	c, err := g.store.Certificate(ctx, cert.RawIssuer, cert.SerialNumber.Bytes())
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, unavailable("the store cannot be read", err)
	}
	return bytes.Equal(c.DER, cert.Raw), nil
}
