package acme

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"math/big"

	"golang.org/x/crypto/acme"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// Revoke is backend.Backend.Revoke (RFC 8555 section 7.6): by the account that ordered the certificate. One that is revoked already is
// success, which the library says.
func (ca *CA) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	c, err := ca.running.Get(ctx)
	if err != nil {
		return err
	}
	if r.Certificate == nil {
		return backend.Refuse(codes.NotFound, "an ACME CA is asked with the certificate, and there is none")
	}
	leaf, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "the certificate does not parse: %v", err)
	}
	if !bytes.Equal(leaf.RawIssuer, r.Issuer) || leaf.SerialNumber.Cmp(new(big.Int).SetBytes(r.Serial)) != 0 {
		return backend.Refuse(codes.NotFound, "the certificate is not the one that issuer and serial number name")
	}
	client, err := c.client(ctx)
	if err != nil {
		return c.failed(ctx, err)
	}
	err = client.RevokeCert(ctx, nil, r.Certificate, acme.CRLReasonCode(reason(r.Reason)))
	if e, ok := errors.AsType[*acme.Error](err); ok {
		switch {
		case kind(e) == "alreadyRevoked":
			return nil
		case e.StatusCode == 404:
			return backend.Refuse(codes.NotFound, "%s", said(e))
		case kind(e) == "badRevocationReason" && r.Reason != 0: // some take few: what is revoked for no reason is revoked too
			if err = client.RevokeCert(ctx, nil, r.Certificate, acme.CRLReasonUnspecified); err == nil {
				return nil
			}
		}
	}
	if err != nil {
		return c.failed(ctx, err)
	}
	return nil
}

// reason is what an end entity's certificate can be revoked for, and stays: no CA's, no hold (RFC 5280 section 5.3.1).
func reason(r int) int {
	switch r {
	case 1, 3, 4, 5, 9:
		return r
	}
	return 0
}
