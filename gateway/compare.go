package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/plugins/backend"
)

var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// compare holds a CA's certificate against what was granted. A CA is trusted to sign, not to decide: a certificate
// with another key, name, use or date than the pipeline allowed is never handed out. The leaf is returned with the
// error too, when it parsed, so that it can be revoked.
func (g *Gateway) compare(intent *backend.IssueRequest, decides []backend.Field, got *backend.Issuance) (leaf *x509.Certificate, chain []*x509.Certificate, err error) {
	leaf, err = got.Leaf()
	if err != nil {
		return nil, nil, fmt.Errorf("it does not parse: %w", err)
	}
	chain, err = g.chains.verified(got.Chain)
	if err != nil {
		return leaf, nil, err
	}
	if err := leaf.CheckSignatureFrom(chain[0]); err != nil {
		return leaf, nil, fmt.Errorf("the chain's first certificate did not issue it: %w", err)
	}
	return leaf, chain, errors.Join(equals(leaf, &intent.Template, decides), copied(leaf, intent))
}

// equals lists every difference between a certificate and its template, and in the fields that the CA decides what it has beyond it.
func equals(leaf *x509.Certificate, t *backend.Template, decides []backend.Field) error {
	var diffs []error
	differ := func(format string, args ...any) { diffs = append(diffs, fmt.Errorf(format, args...)) }
	// own reports whether the CA decides the field, and holds it against the template.
	own := func(f backend.Field) bool {
		if !slices.Contains(decides, f) {
			return false
		}
		if more := decided[f](leaf, t); more != "" {
			differ("%s", more)
		}
		return true
	}
	if leaf.Version != 3 {
		differ("version %d", leaf.Version)
	}
	if leaf.SerialNumber.Sign() <= 0 { // RFC 5280 section 4.1.2.2
		differ("serial number %d", leaf.SerialNumber)
	}
	if !own(backend.FieldSubject) && !bytes.Equal(leaf.RawSubject, t.Subject) {
		differ("subject %q instead of %q", nameOf(leaf.RawSubject), nameOf(t.Subject))
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, t.PublicKey) {
		differ("another public key")
	}
	if !own(backend.FieldValidity) && (!leaf.NotBefore.Equal(t.NotBefore) || !leaf.NotAfter.Equal(t.NotAfter)) {
		differ("valid %s to %s instead of %s to %s", leaf.NotBefore, leaf.NotAfter, t.NotBefore, t.NotAfter)
	}
	if !own(backend.FieldKeyUsage) && leaf.KeyUsage != t.KeyUsage {
		differ("key usage %s instead of %s", keyUsageNames(leaf.KeyUsage), keyUsageNames(t.KeyUsage))
	}
	if leaf.IsCA {
		differ("it is a CA certificate")
	}
	if !own(backend.FieldSubjectAltName) && !bytes.Equal(extension(leaf, oidSubjectAltName), t.SubjectAltName) {
		differ("subjectAltName %q instead of %q", cut(shownSAN(extension(leaf, oidSubjectAltName)), maxShown), cut(shownSAN(t.SubjectAltName), maxShown))
	}
	if !own(backend.FieldExtKeyUsage) {
		if eku, err := parseOIDs(extension(leaf, oidExtKeyUsage)); err != nil || !sameOIDs(eku, t.ExtKeyUsage) {
			differ("extended key usage %v instead of %v", eku, t.ExtKeyUsage)
		}
	}
	for _, want := range t.Extensions {
		if !bytes.Equal(extension(leaf, want.Id), want.Value) {
			differ("extension %s missing or another", want.Id)
		}
	}
	for _, e := range leaf.Extensions {
		granted := grantedExtension(e.Id, t)
		switch {
		case granted != nil && granted.Critical != e.Critical:
			differ("extension %s: critical is %t", e.Id, e.Critical)
		case granted == nil && e.Critical && !ownCritical(e.Id):
			differ("critical extension %s was not granted", e.Id)
		}
	}
	return errors.Join(diffs...)
}

// ownCritical reports whether a CA may mark an extension critical by itself: those that every relying party knows.
// Others, not critical, are the CA's to add (AIA, CRL distribution points, ...).
func ownCritical(id asn1.ObjectIdentifier) bool {
	for _, own := range []asn1.ObjectIdentifier{oidKeyUsage, oidExtKeyUsage, oidSubjectAltName, {2, 5, 29, 19}} {
		if id.Equal(own) {
			return true
		}
	}
	return false
}

// grantedExtension returns a further extension of the template, nil when it has none of that type.
func grantedExtension(id asn1.ObjectIdentifier, t *backend.Template) *x509pkix.Extension {
	for i := range t.Extensions {
		if id.Equal(t.Extensions[i].Id) {
			return &t.Extensions[i]
		}
	}
	return nil
}

// extension returns the value of an extension, nil when it is absent.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

// parseOIDs reads ExtKeyUsageSyntax ::= SEQUENCE SIZE (1..MAX) OF KeyPurposeId (RFC 5280 section 4.2.1.12).
func parseOIDs(der []byte) ([]asn1.ObjectIdentifier, error) {
	if der == nil {
		return nil, nil
	}
	var ids []asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(der, &ids)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing bytes")
	}
	return ids, err
}

// sameOIDs compares as sets: the order of purposes means nothing.
func sameOIDs(a, b []asn1.ObjectIdentifier) bool {
	within := func(a, b []asn1.ObjectIdentifier) bool {
		for _, x := range a {
			found := false
			for _, y := range b {
				found = found || x.Equal(y)
			}
			if !found {
				return false
			}
		}
		return true
	}
	return within(a, b) && within(b, a)
}

func keyHash(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:]
}
