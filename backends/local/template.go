package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/muster-pki/muster/plugins/backend"
	"golang.org/x/crypto/cryptobyte"
)

// Bounds of a template, in octets of DER where nothing else is said.
const (
	maxSubject    = 8 << 10
	maxAltName    = 32 << 10
	maxExtensions = 64 << 10
	maxFurther    = 32 // number of further extensions
	maxPurposes   = 32 // number of extended key usages

	minRSA, maxRSA = 2048, 8192 // bits

	leafUsages = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment |
		x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement | x509.KeyUsageEncipherOnly | x509.KeyUsageDecipherOnly
)

// template is a backend.Template that was checked, and what is made of it.
type template struct {
	*backend.Template
	key        crypto.PublicKey
	extensions []pkix.Extension // all of them, in the order of the certificate
	digest     []byte           // SHA-256 over issuer and content: the same ID must not come with another one
}

// checkTemplate refuses what the issuer must not or cannot certify. It looks at no clock: the same template is good
// or bad for ever.
func (a *authority) checkTemplate(t *backend.Template, i *issuer) (*template, error) {
	empty, err := checkName(t.Subject)
	switch {
	case err != nil:
		return nil, fmt.Errorf("subject: %w", err)
	case len(t.Subject) > maxSubject:
		return nil, fmt.Errorf("subject: longer than %d octets", maxSubject)
	case empty && len(t.SubjectAltName) == 0:
		return nil, errors.New("neither a subject nor a subjectAltName") // RFC 5280 section 4.1.2.6
	case len(t.SubjectAltName) > maxAltName:
		return nil, fmt.Errorf("subjectAltName: longer than %d octets", maxAltName)
	}
	if len(t.SubjectAltName) > 0 {
		if err := checkGeneralNames(t.SubjectAltName); err != nil {
			return nil, fmt.Errorf("subjectAltName: %w", err)
		}
	}
	if err := a.notOurs(t); err != nil {
		return nil, err
	}
	if err := i.within(t.Subject, t.SubjectAltName); err != nil {
		return nil, err
	}
	out := &template{Template: t}
	if out.key, err = publicKey(t.PublicKey); err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	switch {
	case t.NotBefore.Nanosecond() != 0 || t.NotAfter.Nanosecond() != 0:
		return nil, errors.New("validity: not in whole seconds")
	case !t.NotBefore.Before(t.NotAfter):
		return nil, errors.New("validity: it ends before it begins")
	case t.NotBefore.Before(i.cert.NotBefore) || t.NotAfter.After(i.cert.NotAfter):
		return nil, fmt.Errorf("validity: not within that of the issuing CA, %s to %s", i.cert.NotBefore, i.cert.NotAfter)
	case t.KeyUsage&^leafUsages != 0:
		return nil, fmt.Errorf("key usage %#x: not all of it is for an end entity", int(t.KeyUsage)) // RFC 5280 section 4.2.1.3
	case len(t.ExtKeyUsage) > maxPurposes:
		return nil, fmt.Errorf("more than %d extended key usages", maxPurposes)
	}
	if err := checkFurther(t.Extensions, i); err != nil {
		return nil, err
	}
	if err := out.assemble(i, empty); err != nil {
		return nil, err
	}
	out.digest = digest(i.name, t)
	return out, nil
}

// notOurs refuses the names and keys of our own CAs: a device with one of them could pass for the CA.
func (a *authority) notOurs(t *backend.Template) error {
	switch {
	case a.owns(t.Subject, func(c *x509.Certificate) []byte { return c.RawSubject }):
		return errors.New("subject: it is the name of one of this CA's own certificates")
	case a.owns(t.PublicKey, func(c *x509.Certificate) []byte { return c.RawSubjectPublicKeyInfo }):
		return errors.New("public key: it is one of this CA's own")
	}
	return nil
}

// publicKey parses a SubjectPublicKeyInfo and checks its bounds.
func publicKey(spki []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA || k.N.Bit(0) == 0 {
			return nil, fmt.Errorf("an RSA modulus has %d to %d bits and is odd", minRSA, maxRSA)
		}
		if k.E < 3 || k.E > math.MaxUint32 || k.E&1 == 0 {
			return nil, errors.New("an RSA exponent is odd and between 3 and 2^32-1")
		}
	case *ecdsa.PublicKey:
		if c := k.Curve; c != elliptic.P256() && c != elliptic.P384() && c != elliptic.P521() {
			return nil, fmt.Errorf("curve %s is not certified", c.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("a key of type %T is not certified", key)
	}
	return key, nil
}

// checkFurther refuses further extensions that the certificate has anyway, that only a CA has, and malformed ones.
func checkFurther(further []pkix.Extension, i *issuer) error {
	if len(further) == 0 {
		return nil
	}
	if len(further) > maxFurther {
		return fmt.Errorf("more than %d further extensions", maxFurther)
	}
	taken := map[string]string{
		oidBasicConstraints.String():  "it is always there",
		oidKeyUsage.String():          "it is a field of the template",
		oidExtKeyUsage.String():       "it is a field of the template",
		oidSubjectAltName.String():    "it is a field of the template",
		oidSubjectKeyID.String():      "it is always there",
		oidNameConstraints.String():   "it is for CAs",
		oidPolicyMappings.String():    "it is for CAs",
		oidPolicyConstraints.String(): "it is for CAs",
		oidInhibitAnyPolicy.String():  "it is for CAs",
	}
	for _, e := range i.own {
		taken[e.Id.String()] = "the issuer adds its own"
	}
	size := 0
	for _, e := range further {
		id := e.Id.String()
		if why, ok := taken[id]; ok {
			return fmt.Errorf("extension %s: %s", id, why)
		}
		taken[id] = "it comes twice" // RFC 5280 section 4.2
		var b cryptobyte.Builder
		b.AddASN1ObjectIdentifier(e.Id)
		if _, err := b.Bytes(); err != nil {
			return fmt.Errorf("extension %s: not an object identifier", id)
		}
		if !oneElement(e.Value) {
			return fmt.Errorf("extension %s: its value is not one DER element", id)
		}
		if size += len(e.Value); size > maxExtensions {
			return fmt.Errorf("further extensions: longer than %d octets", maxExtensions)
		}
	}
	return nil
}

// assemble makes the extensions. Which are critical: RFC 5280 section 4.2.1.
func (t *template) assemble(i *issuer, emptySubject bool) error {
	ski, err := keyIdentifier(t.PublicKey)
	if err != nil {
		return err
	}
	add := func(id asn1.ObjectIdentifier, critical bool, build func(b *cryptobyte.Builder)) error {
		e, err := extension(id, critical, build)
		t.extensions = append(t.extensions, e)
		return err
	}
	errs := []error{add(oidBasicConstraints, true, notCA)}
	if t.KeyUsage != 0 {
		errs = append(errs, add(oidKeyUsage, true, func(b *cryptobyte.Builder) { keyUsage(b, t.KeyUsage) }))
	}
	if len(t.ExtKeyUsage) > 0 {
		errs = append(errs, add(oidExtKeyUsage, false, func(b *cryptobyte.Builder) { purposes(b, t.ExtKeyUsage) }))
	}
	if len(t.SubjectAltName) > 0 {
		errs = append(errs, add(oidSubjectAltName, emptySubject, func(b *cryptobyte.Builder) { b.AddBytes(t.SubjectAltName) }))
	}
	errs = append(errs, add(oidSubjectKeyID, false, func(b *cryptobyte.Builder) { b.AddASN1OctetString(ski) }))
	t.extensions = append(append(t.extensions, i.own...), t.Extensions...)
	return errors.Join(errs...)
}

// digest is a SHA-256 over everything that decides about the certificate's content. The ledger keeps it: it must never
// change from one release to the next.
func digest(issuer string, t *backend.Template) []byte {
	h := sha256.New()
	number := func(n int64) {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		h.Write(b[:])
	}
	octets := func(b []byte) {
		number(int64(len(b)))
		h.Write(b)
	}
	text := func(s string) {
		number(int64(len(s)))
		io.WriteString(h, s)
	}
	text(issuer)
	octets(t.Subject)
	octets(t.SubjectAltName)
	octets(t.PublicKey)
	number(t.NotBefore.Unix())
	number(t.NotAfter.Unix())
	number(int64(t.KeyUsage))
	number(int64(len(t.ExtKeyUsage)))
	for _, id := range t.ExtKeyUsage {
		text(id.String())
	}
	number(int64(len(t.Extensions)))
	for _, e := range t.Extensions {
		text(e.Id.String())
		if e.Critical {
			number(1)
		} else {
			number(0)
		}
		octets(e.Value)
	}
	return h.Sum(nil)
}
