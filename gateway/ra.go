package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"math/big"
)

// RegistrationAuthorities is implemented by stages that know registration authorities. An adapter has to know one before the
// pipeline runs where its protocol lets an RA say what nobody else may say.
type RegistrationAuthorities interface {
	// TrustsRA judges the certificate of a credential that was verified. speaks: the RA asks in the device's place; else it
	// passes on what the device itself has protected.
	TrustsRA(ctx context.Context, c Credential, speaks bool) Verdict
}

// TrustedRA returns nil when a stage of the endpoint's pipelines knows the credential for that of a registration authority.
// speaks: one that asks in a device's place; else one that passes on what devices have protected themselves will do. The
// *Error is NotAuthorized, or Unavailable when a stage cannot tell.
//
// That somebody is an RA permits nothing yet: what the request may have is the pipeline's to say.
func (g *Gateway) TrustedRA(ctx context.Context, endpoint string, c Credential, speaks bool) *Error {
	refused := Errorf(NotAuthorized, "", "no stage of endpoint %s knows registration authorities", endpoint)
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return refused
	}
	for _, op := range Operations {
		var trusted bool
		e.Pipelines[op].demands(func(s Stage) {
			ra, ok := s.(RegistrationAuthorities)
			if !ok || trusted {
				return
			}
			switch v := ra.TrustsRA(ctx, c, speaks); v.Decision {
			case Allow:
				trusted = true
			case CannotAnswer:
				refused = unavailable("the registration authority cannot be judged now", errors.New(v.Note))
			default:
				if refused.Reason != Unavailable {
					refused = &Error{Reason: NotAuthorized, Err: errors.New(v.Note)}
				}
			}
		})
		if trusted {
			return nil
		}
	}
	return refused
}

// demands calls f for every stage whose word can let a request pass: not for those that `not` turns round.
func (p Pipeline) demands(f func(Stage)) {
	for _, s := range p {
		f(s)
		if _, turned := s.(not); turned {
			continue
		}
		if c, ok := s.(composite); ok {
			for _, b := range c.branches() {
				b.demands(f)
			}
		}
	}
}

// IssuedAs returns the certificate that this gateway had issued under the issuer (DER Name, in whatever string types) and serial
// number, nil when there is none. The error is an *Error.
func (g *Gateway) IssuedAs(ctx context.Context, issuer []byte, serial *big.Int) (*x509.Certificate, error) {
	if serial == nil || serial.Sign() <= 0 {
		return nil, nil
	}
	c, err := g.issuedUnder(ctx, issuer, serial)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	}
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, Errorf(Internal, "", "the certificate %x in the store: %w", serial, err)
	}
	return cert, nil
}
