package gateway

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"
)

// Profile is a configured kind of certificate: where it comes from and what it is allowed to be.
type Profile struct {
	Name        string
	Backend     string        // the configured backend
	Issuer      string        // backend.CA.Name, "" for the backend's default
	Validity    time.Duration // of a certificate
	Backdate    time.Duration // NotBefore lies this far in the past, for devices whose clock is slow
	KeyUsage    x509.KeyUsage
	ExtKeyUsage []asn1.ObjectIdentifier
}

// Grant is what will be certified. The gateway fills it from request and profile, stages shape it, issuing
// records it before the CA is asked and compares the certificate with it.
type Grant struct {
	Requester      string                  // who authenticated, e.g. "password:factory"; set by Authenticate
	Device         string                  // which device this is; set by NameDevice
	Profile        string                  // Profile.Name
	Backend        string                  // Profile.Backend
	Issuer         string                  // Profile.Issuer
	Subject        []byte                  // DER Name
	SubjectAltName []byte                  // DER GeneralNames, nil for none
	PublicKey      []byte                  // DER SubjectPublicKeyInfo, nil until a generated key is made
	NotBefore      time.Time               // UTC, whole seconds
	NotAfter       time.Time               // UTC, whole seconds
	KeyUsage       x509.KeyUsage           // 0 for no extension
	ExtKeyUsage    []asn1.ObjectIdentifier // nil for no extension
	Extensions     []pkix.Extension        // further ones, certified as they stand
	Replaces       *Replaced               // the certificate that this one succeeds
}

// Replaced identifies a certificate of ours that a renewal succeeds.
type Replaced struct {
	Issuer []byte // DER Name
	Serial []byte // big-endian
}

// Authenticate records who the requester is. Only stages that have proof call it.
func (g *Grant) Authenticate(c Credential) {
	if g.Requester == "" {
		g.Requester = c.String()
	}
}

// NameDevice records which device this is. It reports false when another stage named another device:
// the caller denies then, since no request may speak for two.
func (g *Grant) NameDevice(name string) bool {
	if g.Device == "" {
		g.Device = name
	}
	return g.Device == name
}

// newGrant starts a grant from what is asked for and what the profile gives.
func newGrant(r *Request, p *Profile, now time.Time) *Grant {
	san, _ := r.Extension(oidSubjectAltName)
	notBefore := now.UTC().Truncate(time.Second)
	return &Grant{
		Profile:        p.Name,
		Backend:        p.Backend,
		Issuer:         p.Issuer,
		Subject:        bytes.Clone(r.Subject),
		SubjectAltName: bytes.Clone(san),
		PublicKey:      bytes.Clone(r.PublicKey),
		NotBefore:      notBefore.Add(-p.Backdate),
		// RFC 5280 section 4.1.2.5: the period includes both ends.
		NotAfter:    notBefore.Add(p.Validity - time.Second),
		KeyUsage:    p.KeyUsage,
		ExtKeyUsage: p.ExtKeyUsage,
	}
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
