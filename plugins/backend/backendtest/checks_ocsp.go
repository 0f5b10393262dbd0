package backendtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// checkOCSP: an issued certificate is good, one that is revoked is revoked from the next answer on, and nothing is signed about
// what was never issued.
func checkOCSP(ctx context.Context, x *trial) error {
	responder, ok := x.b.(backend.OCSPResponder)
	if !ok || !x.can(backend.CapOCSP) {
		return nil
	}
	if _, err := responder.OCSP(ctx, "no-such-ca", []byte{0x30, 0}); status.Code(err) != codes.NotFound {
		return fmt.Errorf("OCSP of a CA that there is not: %v, not NOT_FOUND", err)
	}
	if err := x.unsigned(ctx, responder, []byte("no request"), ocsp.Malformed); err != nil {
		return fmt.Errorf("OCSP, what is no request: %w", err)
	}
	if !x.issues() {
		return nil
	}
	_, a, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return err
	}
	request, err := ocsp.CreateRequest(leaf, x.issuing, nil) // by SHA-1: RFC 5019 section 2.1.1
	if err != nil {
		return err
	}
	stranger := *leaf
	stranger.SerialNumber = new(big.Int).Xor(leaf.SerialNumber, big.NewInt(1))
	unknown, err := ocsp.CreateRequest(&stranger, x.issuing, nil)
	if err != nil {
		return err
	}
	if err := x.unsigned(ctx, responder, unknown, ocsp.Unauthorized); err != nil {
		return fmt.Errorf("OCSP about a serial number that was never issued: %w", err)
	}
	if err := x.says(ctx, responder, request, leaf, ocsp.Good); err != nil {
		return fmt.Errorf("OCSP about a new certificate: %w", err)
	}
	if !x.can(backend.CapRevoke) {
		return nil
	}
	revoke, err := revocation(a, x)
	if err != nil {
		return err
	}
	if err := x.b.Revoke(ctx, revoke); err != nil {
		return err
	}
	if err := x.says(ctx, responder, request, leaf, ocsp.Revoked); err != nil {
		return fmt.Errorf("OCSP after Revoke: %w", err)
	}
	return nil
}

// unsigned wants an OCSPResponse without a signature.
func (x *trial) unsigned(ctx context.Context, responder backend.OCSPResponder, request []byte, want ocsp.ResponseStatus) error {
	der, err := responder.OCSP(ctx, "", request)
	if err != nil {
		return err
	}
	if !bytes.Equal(der, []byte{0x30, 0x03, 0x0a, 0x01, byte(want)}) {
		return fmt.Errorf("%d bytes, not an answer that says %q alone", len(der), want)
	}
	return nil
}

// says wants a signed answer about the certificate.
func (x *trial) says(ctx context.Context, responder backend.OCSPResponder, request []byte, leaf *x509.Certificate, want int) error {
	der, err := responder.OCSP(ctx, "", request)
	if err != nil {
		return err
	}
	a, err := ocsp.ParseResponseForCert(der, leaf, x.issuing)
	if err != nil {
		return err
	}
	now := x.subject.Now()
	switch by := a.Certificate; {
	case a.Status != want:
		return fmt.Errorf("status %d, not %d", a.Status, want)
	case by != nil && !by.Equal(x.issuing) && !slices.Contains(by.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errors.New("its signer may not sign OCSP answers (RFC 6960 section 4.2.2.2)")
	case a.ThisUpdate.After(now.Add(time.Minute)) || !now.Before(a.NextUpdate):
		return fmt.Errorf("it is current from %s to %s, and now is %s", a.ThisUpdate, a.NextUpdate, now)
	}
	return nil
}
