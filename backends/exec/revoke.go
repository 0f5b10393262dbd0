package exec

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// Revoke is backend.Backend.Revoke.
func (c *CA) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	serial := r.Serial
	if len(serial) == 0 {
		serial = []byte{0}
	}
	q := &question{
		Version: 1, Operation: opRevoke, IssuerName: nameText(r.Issuer), IssuerDER: r.Issuer, Serial: fmt.Sprintf("%X", serial),
		Reason: &r.Reason, At: r.At.UTC().Format(time.RFC3339),
	}
	if r.Certificate != nil {
		q.Certificate = toPEM("CERTIFICATE", r.Certificate)
	}
	a, err := c.run(ctx, c.config.Revoke, q)
	if err != nil {
		return err
	}
	if !a.Revoked {
		return backend.Refuse(codes.Internal, "the answer to revoke of %s does not say `revoked`", hex.EncodeToString(serial))
	}
	return nil
}

// CRL is backend.Backend.CRL.
func (c *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	a, err := c.run(ctx, c.config.CRL, &question{Version: 1, Operation: opCRL, Issuer: issuer})
	if err != nil {
		return err
	}
	list, err := der(a.CRL, "X509 CRL")
	if err != nil {
		return backend.Refuse(codes.Internal, "the answer: crl: %v", err)
	}
	_, err = io.Copy(w, bytes.NewReader(list))
	return err
}
