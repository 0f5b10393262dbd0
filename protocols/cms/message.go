package cms

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The readers are ours, on cryptobyte, and not pkcs7.Parse of go.mozilla.org/pkcs7, even behind the guard: that one
// converts BER a second time, drops the error of a SignedData that does not decode, fails as a whole on one
// certificate that crypto/x509 cannot read, knows no signer or recipient by key identifier, keeps no original bytes of
// the signed attributes, and shows nothing of an EnvelopedData but the answer of its Decrypt.

// maxParts is how many certificates, signed attributes or recipients a message may have.
const maxParts = 16

// message is input that has passed the guard.
type message struct {
	der       []byte
	converted bool // not the input but its DER
}

// openSigned passes what is DER already as it is: Check is faster than Normalize, and takes nothing in what a signature
// covers for an encryptedContent.
func openSigned(data []byte, l Limits) (message, error) {
	if err := Check(data, l); !errors.Is(err, ErrNotDER) {
		return message{der: data}, err
	}
	return openAny(data, l)
}

func openAny(data []byte, l Limits) (message, error) {
	der, err := Normalize(data, l)
	if err != nil {
		return message{}, err
	}
	return message{der: der, converted: &der[0] != &data[0]}, nil
}

// fail makes the error for the element at the front of rest, which is a part of m.der.
func (m message) fail(kind error, rest cryptobyte.String, what string) error {
	e := &Error{What: what, Err: kind}
	if !m.converted {
		// A part shares the array's end with the whole.
		e.Offset = max(cap(m.der)-cap(rest), 0)
	}
	return e
}

// content takes the ContentInfo off; name is for the error.
//
//	ContentInfo ::= SEQUENCE {                      -- RFC 5652 section 3
//	    contentType  OBJECT IDENTIFIER,
//	    content      [0] EXPLICIT ANY }
func (m message) content(want asn1.ObjectIdentifier, name string) (inside cryptobyte.String, err error) {
	input := cryptobyte.String(m.der)
	var info, wrapped cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !input.ReadASN1(&info, cbasn1.SEQUENCE) {
		return nil, m.fail(ErrSyntax, input, "not a ContentInfo")
	}
	at := info
	if !readOID(&info, &oid) {
		return nil, m.fail(ErrSyntax, at, "contentType of ContentInfo")
	}
	if !oid.Equal(want) {
		return nil, m.fail(ErrSyntax, at, "not "+name)
	}
	at = info
	if !info.ReadASN1(&wrapped, tagContent) || !info.Empty() ||
		!wrapped.ReadASN1(&inside, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return nil, m.fail(ErrSyntax, at, "content of ContentInfo")
	}
	return inside, nil
}

// identifier names a certificate: of a signer (RFC 5652 section 5.3) or of a recipient (section 6.2.1).
//
//	SignerIdentifier, RecipientIdentifier ::= CHOICE {
//	    issuerAndSerialNumber  SEQUENCE { issuer Name, serialNumber INTEGER },
//	    subjectKeyIdentifier   [0] IMPLICIT OCTET STRING }
type identifier struct {
	issuer []byte // DER; nil with keyID
	serial *big.Int
	keyID  []byte
}

var tagKeyID = cbasn1.Tag(0).ContextSpecific()

func readIdentifier(s *cryptobyte.String) (id identifier, ok bool) {
	var inside cryptobyte.String
	if s.PeekASN1Tag(tagKeyID) {
		ok = s.ReadASN1(&inside, tagKeyID)
		id.keyID = inside
		return id, ok && len(inside) > 0
	}
	id.serial = new(big.Int)
	if !s.ReadASN1(&inside, cbasn1.SEQUENCE) {
		return id, false
	}
	var issuer cryptobyte.String
	if !inside.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !inside.ReadASN1Integer(id.serial) || !inside.Empty() {
		return id, false
	}
	id.issuer = issuer
	return id, true
}

func (id identifier) names(cert *x509.Certificate) bool {
	if id.issuer == nil {
		return len(id.keyID) > 0 && string(id.keyID) == string(cert.SubjectKeyId)
	}
	return cert.SerialNumber != nil && id.serial.Cmp(cert.SerialNumber) == 0 && string(id.issuer) == string(cert.RawIssuer)
}

// namesRaw is names for a certificate that crypto/x509 does not read: by issuer and serial number only.
//
//	TBSCertificate ::= SEQUENCE { version [0] OPTIONAL, serialNumber, signature, issuer, ... }   -- RFC 5280 section 4.1
func (id identifier) namesRaw(cert cryptobyte.String) bool {
	var outer, tbs, skipped, issuer cryptobyte.String
	serial := new(big.Int)
	return id.issuer != nil &&
		cert.ReadASN1(&outer, cbasn1.SEQUENCE) && outer.ReadASN1(&tbs, cbasn1.SEQUENCE) &&
		tbs.SkipOptionalASN1(cbasn1.Tag(0).ContextSpecific().Constructed()) &&
		tbs.ReadASN1Integer(serial) && tbs.ReadASN1(&skipped, cbasn1.SEQUENCE) && tbs.ReadASN1Element(&issuer, cbasn1.SEQUENCE) &&
		id.serial.Cmp(serial) == 0 && string(id.issuer) == string(issuer)
}

// addIdentifier writes IssuerAndSerialNumber.
func addIdentifier(b *cryptobyte.Builder, cert *x509.Certificate) {
	addIssuerAndSerial(b, cert.RawIssuer, cert.SerialNumber)
}

func addIssuerAndSerial(b *cryptobyte.Builder, issuer []byte, serial *big.Int) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(issuer)
		b.AddASN1BigInt(serial)
	})
}

// clipped keeps an append to a part of the message from writing over what follows it. It is never nil.
func clipped(s cryptobyte.String) []byte {
	if len(s) == 0 {
		return []byte{}
	}
	return slices.Clip([]byte(s))
}
