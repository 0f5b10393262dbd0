package backendtest

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// matches compares a certificate with its template, field by field, and its chain with the CAs that the backend
// names. All differences are reported.
func (x *trial) matches(r *backend.IssueRequest, a *backend.Issuance) error {
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return err
	}
	t := &r.Template
	var wrong []error
	demand := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	demand(c.Version == 3, "version %d, not 3", c.Version)
	demand(c.SerialNumber.Sign() > 0 && c.SerialNumber.BitLen() <= 159, "serial number %x is not positive or over 20 octets (RFC 5280 section 4.1.2.2)", c.SerialNumber)
	demand(!c.IsCA, "it is a CA's")
	demand(bytes.Equal(c.RawSubjectPublicKeyInfo, t.PublicKey), "another public key")
	demand(bytes.Equal(c.RawSubject, t.Subject), "subject %s, not the template's", c.Subject)
	demand(bytes.Equal(extension(c, oidSubjectAltName), t.SubjectAltName), "another subjectAltName")
	if x.sets(backend.FieldValidity) {
		demand(c.NotBefore.Equal(t.NotBefore) && c.NotAfter.Equal(t.NotAfter), "validity %s to %s, not %s to %s", c.NotBefore, c.NotAfter, t.NotBefore, t.NotAfter)
	}
	demand(c.KeyUsage == t.KeyUsage, "key usage %b, not %b", c.KeyUsage, t.KeyUsage)
	demand((t.KeyUsage == 0) == (extension(c, oidKeyUsage) == nil), "key usage extension present: %t", t.KeyUsage == 0)
	demand(sameOIDs(extension(c, oidExtKeyUsage), t.ExtKeyUsage), "another extended key usage")
	for _, e := range t.Extensions {
		demand(slices.ContainsFunc(c.Extensions, func(o pkix.Extension) bool {
			return o.Id.Equal(e.Id) && o.Critical == e.Critical && bytes.Equal(o.Value, e.Value)
		}), "the extension %s does not stand as asked for", e.Id)
	}
	demand(x.isOwnChain(r.Issuer, a.Chain), "the chain is not that of the CA as CACertificates has it")
	if len(a.Chain) > 0 {
		wrong = append(wrong, verifyChain(append([][]byte{a.Certificate}, a.Chain...), t.NotBefore))
	}
	return errors.Join(wrong...)
}

func extension(c *x509.Certificate, oid asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return e.Value
		}
	}
	return nil
}

// sameOIDs compares an ExtKeyUsageSyntax, a SEQUENCE OF KeyPurposeId (RFC 5280 section 4.2.1.12), as a set.
func sameOIDs(value []byte, want []asn1.ObjectIdentifier) bool {
	var got []asn1.ObjectIdentifier
	if value != nil {
		if rest, err := asn1.Unmarshal(value, &got); err != nil || len(rest) > 0 {
			return false
		}
	}
	in := func(l []asn1.ObjectIdentifier) func(asn1.ObjectIdentifier) bool {
		return func(o asn1.ObjectIdentifier) bool { return !slices.ContainsFunc(l, o.Equal) }
	}
	return len(got) == len(want) && !slices.ContainsFunc(got, in(want)) && !slices.ContainsFunc(want, in(got))
}

func (x *trial) isOwnChain(issuer string, chain [][]byte) bool {
	for i, ca := range x.cas {
		if (issuer == ca.Name || issuer == "" && i == 0) && slices.EqualFunc(ca.Chain, chain, bytes.Equal) {
			return true
		}
	}
	return false
}

// verifyChain wants each certificate signed by the next, all but the first of CAs, the last by itself.
func verifyChain(chain [][]byte, at time.Time) error {
	var certs []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		certs = append(certs, c)
	}
	root := certs[len(certs)-1]
	for i, c := range certs {
		by := root
		if i < len(certs)-1 {
			by = certs[i+1]
		}
		if err := c.CheckSignatureFrom(by); err != nil {
			return fmt.Errorf("certificate %d of the chain, %s, is not signed by %s: %w", i, c.Subject, by.Subject, err)
		}
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return fmt.Errorf("certificate %d of the chain, %s, is not valid at %s", i, c.Subject, at)
		}
	}
	return nil
}
