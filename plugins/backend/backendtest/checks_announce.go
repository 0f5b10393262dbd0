package backendtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/smallstep/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// checkAnnounce has the default CA announce its next certificates, vouch for them, and put them in force.
func checkAnnounce(ctx context.Context, x *trial) error {
	if err := x.signsNothing(ctx); err != nil {
		return err
	}
	if !x.issues() || !x.can(backend.CapAnnounce) {
		return nil
	}
	roller, ok := x.b.(backend.Roller)
	if !ok || !x.can(backend.CapRollover) {
		return errors.New("it describes announce and has no Rollover")
	}
	before := x.cas[0]
	q := backend.RolloverRequest{ID: "announce", Kind: backend.RolloverRekey, Announce: true}
	ca, err := roller.Rollover(ctx, &q)
	if status.Code(err) == codes.FailedPrecondition {
		return nil // this CA cannot now
	}
	if err != nil {
		return fmt.Errorf("announcing: %w", err)
	}
	if err := x.begin(ctx); err != nil {
		return err
	}
	switch {
	case !sameCA(ca, &x.cas[0]):
		return errors.New("the answer is not the CA as CACertificates has it")
	case len(ca.Next) == 0:
		return errors.New("it announces nothing")
	case !slices.EqualFunc(ca.Chain, before.Chain, bytes.Equal):
		return errors.New("an announcement changed what the CA issues by")
	}
	if err := verifyChain(ca.Next, x.subject.Now()); err != nil {
		return fmt.Errorf("the next chain: %w", err)
	}
	again, err := roller.Rollover(ctx, &q)
	if err != nil || !sameCA(ca, again) {
		return fmt.Errorf("the same announcement again: another answer, or %v", err)
	}
	if _, err := roller.Rollover(ctx, &backend.RolloverRequest{ID: "announce-2", Kind: backend.RolloverRekey, Announce: true}); status.Code(err) != codes.FailedPrecondition {
		return fmt.Errorf("a second announcement: %v, not FAILED_PRECONDITION", err)
	}
	r, a, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	if err := x.matches(r, a); err != nil {
		return fmt.Errorf("while it is announced: %w", err)
	}
	if err := x.vouchesFor(ctx, ca); err != nil {
		return err
	}
	after, err := roller.Rollover(ctx, &backend.RolloverRequest{ID: "in-force", Kind: backend.RolloverRekey})
	if err != nil {
		return fmt.Errorf("putting it in force: %w", err)
	}
	if len(after.Next) > 0 || !slices.EqualFunc(after.Chain, ca.Next, bytes.Equal) {
		return errors.New("what came into force is not what was announced")
	}
	return x.begin(ctx)
}

// signsNothing asks for signatures that no CA's key makes.
func (x *trial) signsNothing(ctx context.Context) error {
	signer, ok := x.b.(backend.CMSSigner)
	if !ok || !x.can(backend.CapSignCMS) || !x.issues() {
		return nil
	}
	for what, content := range map[string][]byte{
		"text": []byte("content"), "nothing": nil, "a certificate": x.cas[0].Chain[0], "its present chain": certsOnly(x.cas[0].Chain),
	} {
		if der, err := signer.SignCMS(ctx, "", content); len(der) > 0 || !backend.Definite(err) || status.Code(err) == codes.Unimplemented {
			return fmt.Errorf("it signs %s, or does not refuse to for good: %v", what, err)
		}
	}
	return nil
}

// vouchesFor looks at the signature of a CA over its next certificates (RFC 8894 section 4.7.1).
func (x *trial) vouchesFor(ctx context.Context, ca *backend.CA) error {
	signer, ok := x.b.(backend.CMSSigner)
	if !ok || !x.can(backend.CapSignCMS) {
		return nil
	}
	if err := x.signsNothing(ctx); err != nil {
		return err
	}
	if der, err := signer.SignCMS(ctx, "", certsOnly(append(slices.Clone(ca.Next[:1]), ca.Chain[0]))); len(der) > 0 || status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("it signs its next certificate together with another: %v", err)
	}
	content := certsOnly(ca.Next)
	der, err := signer.SignCMS(ctx, "", content)
	if err != nil {
		return fmt.Errorf("signing its next chain: %w", err)
	}
	p7, err := pkcs7.Parse(der)
	if err != nil {
		return fmt.Errorf("what it signed: %w", err)
	}
	by, err := x509.ParseCertificate(ca.Chain[0])
	if err != nil {
		return err
	}
	if len(p7.Signers) != 1 || p7.Signers[0].IssuerAndSerialNumber.SerialNumber.Cmp(by.SerialNumber) != 0 || !bytes.Equal(p7.Signers[0].IssuerAndSerialNumber.IssuerName.FullBytes, by.RawIssuer) {
		return errors.New("what it signed names another signer than the CA")
	}
	p7.Certificates = []*x509.Certificate{by}
	if err := p7.Verify(); err != nil {
		return fmt.Errorf("what it signed: %w", err)
	}
	if !bytes.Equal(p7.Content, content) {
		return errors.New("what it signed is another content")
	}
	return nil
}

// certsOnly builds a degenerate SignedData of certificates alone (RFC 8894 section 3.4), in DER but for their order.
func certsOnly(certs [][]byte) []byte {
	explicit := cbasn1.Tag(0).ContextSpecific().Constructed()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2})
		b.AddASN1(explicit, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {})
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1})
				})
				b.AddASN1(explicit, func(b *cryptobyte.Builder) {
					for _, c := range certs {
						b.AddBytes(c)
					}
				})
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {})
			})
		})
	})
	return b.BytesOrPanic()
}
