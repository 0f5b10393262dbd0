package stepca

import (
	"bytes"
	"context"
	"crypto/x509"
	"math/big"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

const saidRevoked = "is already revoked" // with 400 (authority.Revoke)

// Revoke revokes by serial number. step-ca takes any (authority.Revoke), so that what it cannot have issued is NOT_FOUND here: another
// issuer's, and a serial number that is not of Muster's making, unless the certificate is given and verifies.
func (c *CA) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	run, err := c.open.Get(ctx)
	if err != nil {
		return err
	}
	serial := new(big.Int).SetBytes(r.Serial)
	if !run.view.Load().knows(r, serial) {
		return backend.Refuse(codes.NotFound, "no certificate of this CA that Muster asked for has serial number %s", serial.Text(16))
	}
	return c.revoke(ctx, run, serial, r.Reason)
}

// knows reports whether the certificate is one of this CA's.
func (v *view) knows(r *backend.RevokeRequest, serial *big.Int) bool {
	// Its issuing certificate may have changed since: the checksum holds the name.
	if ours(r.Serial, r.Issuer) {
		return true
	}
	if len(r.Certificate) == 0 {
		return false
	}
	leaf, err := x509.ParseCertificate(r.Certificate)
	if err != nil || leaf.SerialNumber.Cmp(serial) != 0 || !bytes.Equal(leaf.RawIssuer, r.Issuer) {
		return false
	}
	return slices.ContainsFunc(slices.Concat(v.chain, v.all), func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil })
}

// revoke is api.Revoke. A certificate that is revoked already is success.
func (c *CA) revoke(ctx context.Context, run *running, serial *big.Int, reason int) error {
	now, number := c.o.Clock(), serial.String()
	token, err := run.signer.sign(&claims{
		Issuer: run.signer.name, Subject: number, Audience: run.audience("revoke"), ID: freshID(), IssuedAt: now.Unix(), Expires: now.Add(lifetime).Unix(),
	})
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	a, err := run.post(ctx, "/1.0/revoke", token, map[string]any{"serial": number, "ott": token, "reasonCode": reason, "passive": true})
	if err != nil {
		return err
	}
	said := message(a)
	switch {
	case a.Status == http.StatusOK:
		return nil
	case a.Status == http.StatusBadRequest && strings.Contains(said, saidRevoked):
		return nil
	case a.Status == http.StatusNotImplemented:
		return backend.Refuse(codes.FailedPrecondition, "step-ca has no database (`db` in its ca.json), and without one it cannot revoke")
	}
	return a.Refused(said)
}
