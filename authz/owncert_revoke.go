package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// mayRevoke judges a request to revoke another certificate than the one that the requester shows.
func (s *OwnCertificate) mayRevoke(ctx context.Context, r *gateway.Request, record *gateway.Certificate, leaf *x509.Certificate) (gateway.Verdict, bool) {
	what := fmt.Sprintf("certificate %x of %s asks to revoke certificate %x of issuer %s",
		leaf.SerialNumber.Bytes(), pkix.FormatName(leaf.RawSubject), r.Target.Serial.Bytes(), pkix.FormatName(r.Target.Issuer))
	target, err := s.store.Certificate(ctx, r.Target.Issuer, r.Target.Serial.Bytes())
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return gateway.Denied(gateway.UnknownCert, "no such certificate was issued here", what+", which is not among those issued here"), false
	case err != nil:
		return gateway.Unanswered(fmt.Errorf("%s, which cannot be looked up: %w", what, err)), false
	case target == nil:
		return gateway.Unanswered(errors.New(what + ": the look-up gave nothing")), false
	case s.config.Revoke != revokeDevice:
		return gateway.Denied(gateway.NotAuthorized, "a certificate revokes itself only", what), false
	case record.Device == "" || target.Device != record.Device || !slices.Contains(s.endpoints(r.Endpoint), target.Endpoint):
		return gateway.Denied(gateway.NotAuthorized, "the certificate is not one of this device's",
			fmt.Sprintf("%s, of device %s from endpoint %q; the requester is device %s", what, shown(target.Device), target.Endpoint, shown(record.Device))), false
	case !confirmed(record): // it may be revoked at any moment, and what it revokes would be gone
		return gateway.Denied(gateway.NotAuthorized, "the certificate is not confirmed yet", what+", and waits to be confirmed itself"), false
	}
	return gateway.Verdict{}, true
}
