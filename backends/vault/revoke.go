package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Revoke revokes by serial number, and a certificate that the engine has not stored (no_store) by itself. The engine knows no reasons.
func (c *CA) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	e, err := c.open.Get(ctx)
	if err != nil {
		return err
	}
	if len(r.Serial) == 0 || len(r.Serial) > 64 {
		return backend.Refuse(codes.NotFound, "no serial number of this CA")
	}
	stored, revoked, err := e.certificate(ctx, colons(r.Serial))
	if err != nil {
		return err
	}
	switch {
	case stored != nil && !bytes.Equal(stored.RawIssuer, r.Issuer):
		return backend.Refuse(codes.NotFound, "the certificate with this serial number has another issuer")
	case stored != nil && revoked:
		return nil
	case stored != nil:
		return e.revoke(ctx, map[string]any{"serial_number": colons(r.Serial)})
	case len(r.Certificate) == 0:
		return backend.Refuse(codes.NotFound, "the engine has stored no certificate with this serial number")
	}
	leaf, err := x509.ParseCertificate(r.Certificate)
	if err != nil || !bytes.Equal(leaf.RawIssuer, r.Issuer) || leaf.SerialNumber.Cmp(new(big.Int).SetBytes(r.Serial)) != 0 {
		return backend.Refuse(codes.NotFound, "the engine has stored no certificate with this serial number, and the one at hand has another")
	}
	return e.revoke(ctx, map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}))})
}

// What pathRevokeWrite says of a certificate that it does not know, with 400, and with 500 of one that was presented.
var unknownCertificate = []string{"certificate with serial ", "unable to verify signature on presented cert"}

func (e *engine) revoke(ctx context.Context, body map[string]any) error {
	answer, err := e.api.call(ctx, http.MethodPost, e.path("revoke"), body, maxAnswer)
	if err != nil {
		return err
	}
	if text := strings.Join(said(answer), "; "); answer.Status >= http.StatusBadRequest {
		for _, u := range unknownCertificate {
			if strings.Contains(text, u) {
				return backend.Refuse(codes.NotFound, "%s", answer.Said(text))
			}
		}
	}
	if answer.Status == http.StatusNoContent { // an expired one, which it does not list
		return nil
	}
	if answer.Status != http.StatusOK {
		return refused(answer)
	}
	var got struct {
		State string `json:"state"`
	}
	if err := dataOf(answer, &got); err != nil {
		return err
	}
	if got.State == "pending" { // global_queue of Vault Enterprise
		return backend.Refuse(codes.Unavailable, "another cluster has to revoke it, and has not yet")
	}
	return nil
}

// certificate reads a stored certificate, nil when there is none with that serial number (hexadecimal, with colons).
func (e *engine) certificate(ctx context.Context, serial string) (c *x509.Certificate, revoked bool, err error) {
	answer, err := e.api.call(ctx, http.MethodGet, e.path("cert", serial), nil, maxAnswer)
	switch {
	case err != nil:
		return nil, false, err
	case nothing(answer):
		return nil, false, nil
	case answer.Status != http.StatusOK:
		return nil, false, refused(answer)
	}
	var got struct {
		Certificate string `json:"certificate"`
		Revoked     int64  `json:"revocation_time"`
	}
	if err := dataOf(answer, &got); err != nil {
		return nil, false, err
	}
	certs, err := parsePEM(got.Certificate)
	if err != nil {
		return nil, false, backend.Refuse(codes.Internal, "certificate %s as the engine has it: %v", serial, err)
	}
	return certs[0], got.Revoked != 0, nil
}

// nothing reports whether an answer says that nothing is there: 404 without a word. With one, something else is missing.
func nothing(a *upstream.Answer) bool {
	return a.Status == http.StatusNotFound && len(said(a)) == 0
}

// colons writes a serial number as the engine does (parsing.SerialFromBigInt).
func colons(serial []byte) string {
	parts := make([]string, len(serial))
	for i, b := range serial {
		parts[i] = hex.EncodeToString([]byte{b})
	}
	return strings.Join(parts, ":")
}
