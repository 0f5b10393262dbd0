package backendtest

import (
	"bytes"
	"context"
	"slices"

	"github.com/smallstep/pkcs7"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// SignCMS is CMSSigner.SignCMS.
func (m *Memory) SignCMS(_ context.Context, issuer string, content []byte) ([]byte, error) {
	if issuer != "" && issuer != "ec" {
		return nil, backend.Refuse(codes.InvalidArgument, "no CA is named %q", issuer)
	}
	m.mu.Lock()
	ca, key, cert := m.describe(), m.key, m.issuing
	m.mu.Unlock()
	if ca.Next == nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "no next certificate is announced")
	}
	p7, err := pkcs7.Parse(content)
	if err != nil || len(p7.Content) > 0 || len(p7.Signers) > 0 || len(p7.CRLs) > 0 || len(p7.Certificates) == 0 {
		return nil, backend.Refuse(codes.InvalidArgument, "not a degenerate SignedData of certificates alone")
	}
	for _, c := range p7.Certificates {
		if !slices.ContainsFunc(ca.Next, func(der []byte) bool { return bytes.Equal(der, c.Raw) }) {
			return nil, backend.Refuse(codes.InvalidArgument, "certificate %s is not the next of this CA", c.Subject)
		}
	}
	signed, err := pkcs7.NewSignedData(content)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSigner(cert, key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	return signed.Finish()
}
