package backendtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// checkRollover goes through the kinds of rollover one after the other. A CA may refuse some of them, FAILED_PRECONDITION or
// UNIMPLEMENTED, but not all.
func checkRollover(ctx context.Context, x *trial) error {
	if !x.issues() || !x.can(backend.CapRollover) {
		return nil
	}
	roller, ok := x.b.(backend.Roller)
	if !ok {
		return errors.New("it describes rollover and has no Rollover")
	}
	if _, err := roller.Rollover(ctx, &backend.RolloverRequest{ID: "roll-none", Issuer: "no-such-ca", Kind: backend.RolloverRekey}); !backend.Definite(err) {
		return fmt.Errorf("rollover of a CA that does not exist: %v, not a definite refusal", err)
	}
	done := 0
	for n, q := range []backend.RolloverRequest{
		{Kind: backend.RolloverRenew}, {Kind: backend.RolloverRekey},
		{Kind: backend.RolloverRenew, Root: true}, {Kind: backend.RolloverRekey, Root: true},
	} {
		q.ID = fmt.Sprintf("roll-%d", n)
		what := fmt.Sprintf("%s, root %t", q.Kind, q.Root)
		err := x.rollover(ctx, roller, &q)
		switch code := status.Code(err); {
		case code == codes.FailedPrecondition || code == codes.Unimplemented:
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		}
		done++
	}
	if done == 0 {
		return errors.New("it describes rollover and refuses every kind of it")
	}
	return nil
}

// rollover makes one of the default CA and looks at what comes of it. It fails with Rollover's own error when that refuses.
func (x *trial) rollover(ctx context.Context, roller backend.Roller, q *backend.RolloverRequest) error {
	before := x.cas[0]
	r, a, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	ca, err := roller.Rollover(ctx, q)
	if err != nil {
		return err
	}
	if err := x.begin(ctx); err != nil {
		return err
	}
	if !sameCA(ca, &x.cas[0]) || ca.Name != before.Name {
		return errors.New("the answer is not the CA as CACertificates has it")
	}
	if err := x.rolledOver(q, &before, ca); err != nil {
		return err
	}
	again, err := roller.Rollover(ctx, q)
	if err != nil {
		return fmt.Errorf("the same ID again: %w", err)
	}
	if !sameCA(ca, again) {
		return errors.New("the same ID made another generation")
	}
	// What was issued before stays what it was; what is issued from here on is issued by the new certificate.
	if x.d.Idempotency != backend.IdempotencyNone {
		b, err := x.again(ctx, r)
		if err != nil {
			return err
		}
		if !bytes.Equal(a.Certificate, b.Certificate) {
			return errors.New("an ID from before the rollover led to another certificate after it")
		}
		if err := verifyChain(append([][]byte{b.Certificate}, b.Chain...), x.subject.Now()); err != nil {
			return err
		}
	}
	next, fresh, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	if err := x.matches(next, fresh); err != nil {
		return fmt.Errorf("after it: %w", err)
	}
	return x.revokedAcross(ctx, ca, a)
}

func sameCA(a, b *backend.CA) bool {
	return a.Name == b.Name && slices.EqualFunc(a.Chain, b.Chain, bytes.Equal) && slices.EqualFunc(a.Rollover, b.Rollover, bytes.Equal) && slices.EqualFunc(a.Next, b.Next, bytes.Equal) && slices.Equal(a.CRLs, b.CRLs)
}

// rolledOver compares the CA before and after: what was to change has changed, and the old and the new are linked.
func (x *trial) rolledOver(q *backend.RolloverRequest, before, after *backend.CA) error {
	if err := verifyChain(after.Chain, x.subject.Now()); err != nil {
		return err
	}
	old, now, all := make([]*x509.Certificate, 0, 2), make([]*x509.Certificate, 0, 2), []*x509.Certificate(nil)
	for _, der := range [][]byte{before.Chain[0], before.Chain[len(before.Chain)-1]} {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		old = append(old, c)
	}
	for _, der := range [][]byte{after.Chain[0], after.Chain[len(after.Chain)-1]} {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		now = append(now, c)
	}
	for _, der := range slices.Concat(after.Chain, after.Rollover) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	sameKey := func(a, b *x509.Certificate) bool {
		return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
	}
	changed := []struct {
		what     string
		old, now *x509.Certificate
		changes  bool
	}{{"issuing CA", old[0], now[0], true}, {"root", old[1], now[1], q.Root}}
	for _, c := range changed {
		rekeyed := c.changes && q.Kind == backend.RolloverRekey
		switch {
		case !bytes.Equal(c.old.RawSubject, c.now.RawSubject):
			return fmt.Errorf("the %s has another name", c.what)
		case c.old.Equal(c.now) == c.changes:
			return fmt.Errorf("the %s has another certificate: %t, not %t", c.what, !c.changes, c.changes)
		case sameKey(c.old, c.now) == rekeyed:
			return fmt.Errorf("the %s has another key: %t, not %t", c.what, !rekeyed, rekeyed)
		case !slices.ContainsFunc(all, c.old.Equal):
			return fmt.Errorf("the earlier certificate of the %s is missing from the rollover certificates, and an unexpired one lies below it", c.what)
		}
		if c.what == "root" && rekeyed {
			link := func(subject, by *x509.Certificate) bool {
				return slices.ContainsFunc(all, func(l *x509.Certificate) bool {
					return sameKey(l, subject) && bytes.Equal(l.RawSubject, subject.RawSubject) && l.CheckSignatureFrom(by) == nil
				})
			}
			if !link(c.old, c.now) || !link(c.now, c.old) {
				return errors.New("OldWithNew or NewWithOld is missing (RFC 9810 section 4.4.1)")
			}
		}
	}
	for n, c := range all {
		if !slices.ContainsFunc(all, func(by *x509.Certificate) bool {
			return bytes.Equal(c.RawIssuer, by.RawSubject) && c.CheckSignatureFrom(by) == nil
		}) {
			return fmt.Errorf("certificate %d of chain and rollover, %s, is signed by none of them", n, c.Subject)
		}
	}
	return nil
}

// revokedAcross revokes a certificate from before a rollover and looks for it on the CRL of the key that signed it.
func (x *trial) revokedAcross(ctx context.Context, ca *backend.CA, a *backend.Issuance) error {
	if !x.can(backend.CapRevoke) {
		return nil
	}
	revoke, err := revocation(a, x)
	if err != nil {
		return err
	}
	if err := x.b.Revoke(ctx, revoke); err != nil {
		return fmt.Errorf("revoking a certificate from before the rollover: %w", err)
	}
	if !x.can(backend.CapCRL) {
		return nil
	}
	by, err := x509.ParseCertificate(a.Chain[0])
	if err != nil {
		return err
	}
	if len(ca.CRLs) == 0 || ca.CRLs[0] != ca.Name {
		return fmt.Errorf("the CA's CRLs are %q: its name is not the first", ca.CRLs)
	}
	n := new(big.Int).SetBytes(revoke.Serial)
	for _, name := range ca.CRLs {
		var der bytes.Buffer
		if err := x.b.CRL(ctx, name, &der); err != nil {
			return fmt.Errorf("CRL %s: %w", name, err)
		}
		l, err := x509.ParseRevocationList(der.Bytes())
		if err != nil {
			return fmt.Errorf("CRL %s: %w", name, err)
		}
		if l.CheckSignatureFrom(by) == nil && slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(n) == 0 }) {
			return nil
		}
	}
	return fmt.Errorf("a certificate from before the rollover was revoked, and is on no CRL of %q that its own key signed", ca.CRLs)
}
