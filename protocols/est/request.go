package est

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// maxPeerCertificates is how many certificates a TLS client may send.
const maxPeerCertificates = 16

// certification is a PKCS#10 request whose signature holds, with the attributes that EST knows.
type certification struct {
	*pkix.CSR
	attributes
}

// parseCertification reads the DER of a PKCS#10 request (RFC 2986) within the bounds of protocols/cms and
// gateway/pkix, and verifies its signature: proof of possession (RFC 7030 section 4.2.1).
// With a refusal, c is set if the request parsed, so that the refusal can name its subject.
func parseCertification(der []byte) (*certification, *wire.Refusal) {
	c, ref := readCertification(der)
	if ref != nil {
		return c, ref
	}
	switch err := c.CheckSignature(); {
	case err == nil:
	case errors.Is(err, pkix.ErrWeak), errors.Is(err, pkix.ErrAlgorithm):
		return c, wire.Refused(gateway.BadAlgorithm, "the request's signature algorithm is not accepted: "+err.Error(), err)
	default:
		return c, wire.Refused(gateway.BadPOP, "the request's signature does not verify with the key in it", err)
	}
	return c, c.readAttributes()
}

// readCertification is parseCertification without signature and attributes.
func readCertification(der []byte, opts ...pkix.Option) (*certification, *wire.Refusal) {
	if err := cms.Check(der, cms.Limits{Size: len(der)}); err != nil { // the size is bounded by max-body
		return nil, wire.Refused(gateway.Malformed, "the base64 does not hold a PKCS#10 request in DER: "+err.Error(), err)
	}
	csr, err := pkix.ParseCSR(der, opts...)
	switch {
	case err == nil:
	case errors.Is(err, pkix.ErrWeak), errors.Is(err, pkix.ErrAlgorithm):
		return nil, wire.Refused(gateway.BadAlgorithm, "the request's key or algorithm is not accepted: "+err.Error(), err)
	default:
		return nil, wire.Refused(gateway.Malformed, "the base64 does not hold a PKCS#10 request in DER: "+err.Error(), err)
	}
	return &certification{CSR: csr}, nil
}

// readAttributes reads the attributes that EST knows, and judges their form.
func (c *certification) readAttributes() *wire.Refusal {
	var err error
	if c.attributes, err = parseAttributes(c.Attributes); err != nil {
		return wire.Refused(gateway.Malformed, err.Error(), err)
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			if _, err := pkix.ParseGeneralNames(e.Value); err != nil {
				return wire.Refused(gateway.Malformed, "the request's subjectAltName does not parse: "+err.Error(), err)
			}
		}
	}
	if c.otp {
		// RFC 7894 section 4: an attribute that is included has to be processed, or the request is not valid.
		return wire.Refused(gateway.BadTemplate, "the request carries an otpChallenge, which this endpoint does not evaluate (RFC 7894)", nil)
	}
	return nil
}

// fill writes what the request asks for into r, which has its credentials already, and what exchange.link found.
func (c *certification) fill(r *gateway.Request, op gateway.Operation) *wire.Refusal {
	r.Operation = op
	r.CSR = c.Raw
	r.Subject = c.Subject
	r.PublicKey = c.PublicKey
	r.Extensions = c.Extensions
	r.NewNames = c.newNames
	if op != gateway.Enroll {
		if ref := c.succeed(r); ref != nil {
			return ref
		}
	}
	if len(r.Credentials) == 0 {
		// Nobody says who asks, so it is the key: a client that was told to come back has to find its request again.
		sum := sha256.Sum256(c.PublicKey)
		r.Credentials = []gateway.Credential{{Kind: gateway.CredentialKey, ID: hex.EncodeToString(sum[:])}}
	}
	var err error
	if r.Content, err = c.content(); err != nil {
		return wire.Refused(gateway.Malformed, "the request cannot be encoded again", err)
	}
	return nil
}

// succeed makes r a renewal or a rekey of the TLS client's certificate, or of the one that findHeld has found (RFC 7030
// section 4.2.2: the same public key renews, another one rekeys).
func (c *certification) succeed(r *gateway.Request) *wire.Refusal {
	if tls, ok := r.Credential(gateway.CredentialTLS); ok {
		r.OldCert = tls.Chain[0]
	} else if _, ok := r.Credential(gateway.CredentialPassword); !ok {
		return wire.Refused(gateway.Unauthenticated, "re-enrolling needs TLS client authentication with the certificate to be renewed", nil)
	}
	if r.OldCert == nil {
		return nil // the pipeline refuses it, when it has compared the password
	}
	r.Operation = gateway.Rekey
	if key, ok := r.OldCert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && key.Equal(c.Key) {
		r.Operation = gateway.Renew
	}
	return nil
}

// content is what has to be equal for a repeat to be the same request. A client makes a new signature each time, and
// another challenge on each connection (RFC 7030 section 4.2.3): neither is part of it.
//
//	Content ::= SEQUENCE {
//	    version      INTEGER (1),
//	    publicKey    SubjectPublicKeyInfo,
//	    subject      Name,
//	    extensions   SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, BOOLEAN, OCTET STRING },        -- sorted by encoding
//	    attributes   SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, SEQUENCE OF ANY } }             -- likewise
func (c *certification) content() ([]byte, error) {
	extensions, attributes, err := c.canonical()
	if err != nil {
		return nil, err
	}
	return sequence(func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddBytes(c.PublicKey)
		b.AddBytes(c.Subject)
		addAll(b, extensions)
		addAll(b, attributes)
	})
}

// canonical encodes the extensions and attributes that are part of content.
func (c *certification) canonical() (extensions, attributes [][]byte, err error) {
	for _, e := range c.Extensions {
		der, err := sequence(func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(e.Id)
			b.AddASN1Boolean(e.Critical)
			b.AddASN1OctetString(e.Value)
		})
		if err != nil {
			return nil, nil, err
		}
		extensions = append(extensions, der)
	}
	for _, a := range c.Attributes {
		if isChallenge(a.OID) || a.OID.Equal(oidExtensionRequest) { // the latter's extensions stand above
			continue
		}
		der, err := sequence(func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(a.OID)
			addAll(b, a.Values)
		})
		if err != nil {
			return nil, nil, err
		}
		attributes = append(attributes, der)
	}
	return extensions, attributes, nil
}

// isChallenge names the attributes that a repeat may carry with another value, or not at all.
func isChallenge(oid asn1.ObjectIdentifier) bool {
	return oid.Equal(oidChallengePassword) || oid.Equal(oidIdentityLinking) || oid.Equal(oidOTPChallenge) || oid.Equal(oidRevocationChallenge)
}

// subjectAltName is the value of the first such extension, as Request.Extension has it; nil for none.
func subjectAltName(list []stdpkix.Extension) []byte {
	if i := slices.IndexFunc(list, func(e stdpkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) }); i >= 0 {
		return list[i].Value
	}
	return nil
}

func sequence(f cryptobyte.BuilderContinuation) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, f)
	return b.Bytes()
}

// addAll adds a SEQUENCE of the elements, sorted.
func addAll(b *cryptobyte.Builder, elements [][]byte) {
	elements = slices.Clone(elements)
	slices.SortFunc(elements, bytes.Compare)
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, e := range elements {
			b.AddBytes(e)
		}
	})
}

// tlsCredential is the certificate that a client authenticated with in the handshake (RFC 7030 section 3.3.2).
func tlsCredential(chain []*x509.Certificate) (gateway.Credential, *wire.Refusal) {
	if len(chain) > maxPeerCertificates {
		return gateway.Credential{}, wire.Refused(gateway.Malformed, "the TLS client sent more than 16 certificates", nil)
	}
	return gateway.Credential{Kind: gateway.CredentialTLS, ID: gateway.Fingerprint(chain[0]), Chain: chain}, nil
}

const (
	maxUserName = 255  // bytes
	maxPassword = 1024 // bytes
)

// passwordCredential judges a user name and password as RFC 7617 section 2 writes them: no control characters. The
// user name may be empty (RFC 7030 section 3.2.3).
func passwordCredential(user, password string) (gateway.Credential, *wire.Refusal) {
	if len(password) > maxPassword {
		return gateway.Credential{}, wire.Refused(gateway.Malformed, "the password is too long", nil)
	}
	if ref := checkUser(user); ref != nil {
		return gateway.Credential{}, ref
	}
	if strings.ContainsFunc(password, unicode.IsControl) {
		return gateway.Credential{}, wire.Refused(gateway.Malformed, "the password has characters that HTTP Basic does not allow (RFC 7617 section 2)", nil)
	}
	return gateway.Credential{Kind: gateway.CredentialPassword, ID: user, Secret: gateway.Secret(password)}, nil
}

// checkUser judges a user name, which is logged and stored.
func checkUser(user string) *wire.Refusal {
	if len(user) > maxUserName {
		return wire.Refused(gateway.Malformed, "the user name is too long", nil)
	}
	if !utf8.ValidString(user) || strings.ContainsFunc(user, unicode.IsControl) {
		return wire.Refused(gateway.Malformed, "the user name has characters that HTTP does not allow in one (RFC 7617 section 2)", nil)
	}
	return nil
}
