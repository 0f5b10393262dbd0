package backendtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha1"
	"crypto/x509"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// OCSP is OCSPResponder.OCSP: the CA's keys sign themselves, about a certificate that a CertID by SHA-1 names.
func (m *Memory) OCSP(_ context.Context, issuer string, request []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.crlNamed(issuer) == nil {
		return nil, backend.Refuse(codes.NotFound, "no CA is named %q", issuer)
	}
	q, err := ocsp.ParseRequest(request)
	if err != nil {
		return ocsp.MalformedRequestErrorResponse, nil
	}
	id, issued := m.serials[string(q.SerialNumber.Bytes())]
	if !issued || q.HashAlgorithm != crypto.SHA1 {
		return ocsp.UnauthorizedErrorResponse, nil
	}
	g := m.generations[m.issued[id].generation]
	if hash := keyHash(g.issuing); !bytes.Equal(q.IssuerKeyHash, hash[:]) {
		return ocsp.UnauthorizedErrorResponse, nil
	}
	now := m.o.Clock().UTC().Truncate(time.Second)
	answer := ocsp.Response{Status: ocsp.Good, SerialNumber: q.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(24 * time.Hour), IssuerHash: crypto.SHA1}
	for _, r := range m.revocations {
		if r.SerialNumber.Cmp(q.SerialNumber) == 0 {
			answer.Status, answer.RevokedAt, answer.RevocationReason = ocsp.Revoked, r.RevocationTime, r.ReasonCode
		}
	}
	der, err := ocsp.CreateResponse(g.issuing, g.issuing, answer, deterministic{g.key})
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "OCSP: %v", err)
	}
	return der, nil
}

// keyHash is what a CertID names a CA's key by (RFC 6960 section 4.1.1).
func keyHash(c *x509.Certificate) [sha1.Size]byte {
	in, bits := cryptobyte.String(c.RawSubjectPublicKeyInfo), []byte(nil)
	var body cryptobyte.String
	_ = in.ReadASN1(&body, asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) && body.ReadASN1BitStringAsBytes(&bits)
	return sha1.Sum(bits)
}

// Key is the key of Issuer, for a test that signs in the CA's name.
func (m *Memory) Key() crypto.Signer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.key
}
