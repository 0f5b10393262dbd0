package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Signed is a SignedData (RFC 5652 section 5) with one signer. Its slices are parts of the input, which must not change.
type Signed struct {
	ContentType  asn1.ObjectIdentifier
	Content      []byte              // nil when detached or absent, not nil when empty
	Certificates []*x509.Certificate // at most 16, in the order received, without those that crypto/x509 cannot read
	Signer       *x509.Certificate   // the first of Certificates that the SignerInfo names, by issuer and serial or key identifier; nil when there is none
	Digest       crypto.Hash         // of the SignerInfo; 0 when it is none that this package knows. crypto.MD5 is known by name only
	DigestOID    asn1.ObjectIdentifier
	SignatureOID asn1.ObjectIdentifier // of the SignerInfo's signatureAlgorithm

	attributes []signedAttribute
	rawAttrs   []byte // signedAttrs as received, with their tag [0]; nil when absent
	signature  []byte
}

// signedAttribute keeps its type as octets: a client may send an OBJECT IDENTIFIER that package asn1 cannot hold.
type signedAttribute struct {
	raw, oid, values []byte // element, content of the type, content of the SET
}

// ParseSigned takes a SignedData apart, BER or DER, behind the guard. Nothing is verified. Errors are ErrSyntax and
// ErrLimit. There is exactly one SignerInfo; at most 16 certificates (those that crypto/x509 cannot read and those
// that are not X.509 count, but are left out) and 16 signed attributes, none of them twice.
//
//	SignedData ::= SEQUENCE {                       -- RFC 5652 section 5.1
//	    version           INTEGER,
//	    digestAlgorithms  SET OF DigestAlgorithmIdentifier,
//	    encapContentInfo  EncapsulatedContentInfo,
//	    certificates      [0] IMPLICIT CertificateSet OPTIONAL,
//	    crls              [1] IMPLICIT RevocationInfoChoices OPTIONAL,
//	    signerInfos       SET OF SignerInfo }
func ParseSigned(data []byte, l Limits) (*Signed, error) {
	m, err := openSigned(data, l)
	if err != nil {
		return nil, err
	}
	body, err := m.content(oidSignedData, "a SignedData")
	if err != nil {
		return nil, err
	}
	var version int64
	var set cryptobyte.String
	at := body
	// The version follows from what is inside (section 5.1); nothing is read by it.
	if !body.ReadASN1Integer(&version) || version < 1 || version > 5 {
		return nil, m.fail(ErrSyntax, at, "version of SignedData")
	}
	at = body
	if !body.ReadASN1(&set, cbasn1.SET) {
		return nil, m.fail(ErrSyntax, at, "digestAlgorithms of SignedData")
	}
	s := new(Signed)
	at = body
	if !s.readContent(&body) {
		return nil, m.fail(ErrSyntax, at, "encapContentInfo of SignedData")
	}
	at = body
	var certs cryptobyte.String
	var hasCerts bool
	if !body.ReadOptionalASN1(&certs, &hasCerts, tagCertificates) || !body.SkipOptionalASN1(tagCRLs) {
		return nil, m.fail(ErrSyntax, at, "certificates or crls of SignedData")
	}
	at = body
	if !body.ReadASN1(&set, cbasn1.SET) || !body.Empty() {
		return nil, m.fail(ErrSyntax, at, "signerInfos of SignedData")
	}
	id, err := s.readSigner(m, set)
	if err != nil {
		return nil, err
	}
	// Last, because it costs most.
	if err := s.readCertificates(m, certs, id); err != nil {
		return nil, err
	}
	return s, nil
}

// readContent reads the content and its type.
//
//	EncapsulatedContentInfo ::= SEQUENCE {          -- RFC 5652 section 5.2
//	    eContentType  OBJECT IDENTIFIER,
//	    eContent      [0] EXPLICIT OCTET STRING OPTIONAL }
func (s *Signed) readContent(body *cryptobyte.String) bool {
	var encap, wrapped, octets cryptobyte.String
	if !body.ReadASN1(&encap, cbasn1.SEQUENCE) || !readOID(&encap, &s.ContentType) {
		return false
	}
	if encap.Empty() {
		return true
	}
	if !encap.ReadASN1(&wrapped, tagContent) || !encap.Empty() ||
		!wrapped.ReadASN1(&octets, cbasn1.OCTET_STRING) || !wrapped.Empty() {
		return false
	}
	s.Content = clipped(octets)
	return true
}

var (
	tagSignedAttrs   = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagUnsignedAttrs = cbasn1.Tag(1).ContextSpecific().Constructed()
)

// readSigner reads the one SignerInfo of signerInfos.
//
//	SignerInfo ::= SEQUENCE {                       -- RFC 5652 section 5.3
//	    version             INTEGER,                -- 1 with issuerAndSerialNumber, 3 with subjectKeyIdentifier
//	    sid                 SignerIdentifier,
//	    digestAlgorithm     DigestAlgorithmIdentifier,
//	    signedAttrs         [0] IMPLICIT SET SIZE (1..MAX) OF Attribute OPTIONAL,
//	    signatureAlgorithm  SignatureAlgorithmIdentifier,
//	    signature           OCTET STRING,
//	    unsignedAttrs       [1] IMPLICIT SET SIZE (1..MAX) OF Attribute OPTIONAL }
func (s *Signed) readSigner(m message, set cryptobyte.String) (id identifier, err error) {
	var info, params, signature cryptobyte.String
	at := set
	if set.Empty() {
		return id, m.fail(ErrSyntax, at, "no SignerInfo")
	}
	if !set.ReadASN1(&info, cbasn1.SEQUENCE) {
		return id, m.fail(ErrSyntax, at, "SignerInfo")
	}
	if !set.Empty() {
		return id, m.fail(ErrSyntax, set, "more than one SignerInfo")
	}
	var version int64
	at = info
	// Nothing depends on it: the sid's own tag tells its kind.
	if !info.ReadASN1Integer(&version) || (version != 1 && version != 3) {
		return id, m.fail(ErrSyntax, at, "version of SignerInfo")
	}
	at = info
	id, ok := readIdentifier(&info)
	if !ok {
		return id, m.fail(ErrSyntax, at, "sid of SignerInfo")
	}
	at = info
	// RFC 5754 section 2: parameters are NULL or absent; nothing depends on them.
	if !readAlgorithm(&info, &s.DigestOID, &params) {
		return id, m.fail(ErrSyntax, at, "digestAlgorithm of SignerInfo")
	}
	s.Digest = digestByOID(s.DigestOID)
	if info.PeekASN1Tag(tagSignedAttrs) {
		if err := s.readAttributes(m, &info); err != nil {
			return id, err
		}
	}
	at = info
	if !readAlgorithm(&info, &s.SignatureOID, &params) {
		return id, m.fail(ErrSyntax, at, "signatureAlgorithm of SignerInfo")
	}
	at = info
	if !info.ReadASN1(&signature, cbasn1.OCTET_STRING) {
		return id, m.fail(ErrSyntax, at, "signature of SignerInfo")
	}
	s.signature = clipped(signature)
	at = info
	if !info.SkipOptionalASN1(tagUnsignedAttrs) || !info.Empty() {
		return id, m.fail(ErrSyntax, at, "unsignedAttrs of SignerInfo")
	}
	return id, nil
}

// readAttributes reads signedAttrs.
//
//	Attribute ::= SEQUENCE {                        -- RFC 5652 section 5.3
//	    attrType    OBJECT IDENTIFIER,
//	    attrValues  SET OF ANY }
func (s *Signed) readAttributes(m message, info *cryptobyte.String) error {
	var raw, list cryptobyte.String
	at := *info
	if look := *info; !info.ReadASN1Element(&raw, tagSignedAttrs) || !look.ReadASN1(&list, tagSignedAttrs) || list.Empty() {
		return m.fail(ErrSyntax, at, "signedAttrs of SignerInfo")
	}
	s.rawAttrs = clipped(raw)
	for !list.Empty() {
		var element, body, oid, values cryptobyte.String
		at := list
		if len(s.attributes) == maxParts {
			return m.fail(ErrLimit, at, "too many signed attributes")
		}
		if look := list; !list.ReadASN1Element(&element, cbasn1.SEQUENCE) || !look.ReadASN1(&body, cbasn1.SEQUENCE) ||
			!body.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) || !body.ReadASN1(&values, cbasn1.SET) || !body.Empty() {
			return m.fail(ErrSyntax, at, "Attribute in signedAttrs")
		}
		// RFC 5652 section 5.3: signedAttrs hold no two of one type. Which one counts would be up to the reader.
		for i := range s.attributes {
			if bytes.Equal(s.attributes[i].oid, oid) {
				return m.fail(ErrSyntax, at, "signed attribute of a type that was there before")
			}
		}
		s.attributes = append(s.attributes, signedAttribute{raw: element, oid: oid, values: values})
	}
	return nil
}

// readCertificates reads CertificateSet and finds the signer's. What crypto/x509 cannot read is an error only if it
// would be that one.
func (s *Signed) readCertificates(m message, set cryptobyte.String, id identifier) error {
	for n := 0; !set.Empty(); n++ {
		var element cryptobyte.String
		var tag cbasn1.Tag
		at := set
		if n == maxParts {
			return m.fail(ErrLimit, at, "too many certificates")
		}
		if !set.ReadAnyASN1Element(&element, &tag) {
			return m.fail(ErrSyntax, at, "certificates of SignedData")
		}
		if tag != cbasn1.SEQUENCE {
			continue // RFC 5652 section 10.2.2: attribute certificates and other kinds
		}
		cert, err := x509.ParseCertificate(clipped(element))
		if err != nil {
			if s.Signer == nil && id.namesRaw(element) {
				return m.fail(ErrSyntax, at, "the signer's certificate")
			}
			continue
		}
		s.Certificates = append(s.Certificates, cert)
		if s.Signer == nil && id.names(cert) {
			s.Signer = cert
		}
	}
	return nil
}

// Attribute returns the DER of the one value of a signed attribute, and whether it is there with exactly one value.
func (s *Signed) Attribute(oid asn1.ObjectIdentifier) (value []byte, ok bool) {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	der, err := b.Bytes()
	if err != nil {
		return nil, false
	}
	var want cryptobyte.String
	if element := cryptobyte.String(der); !element.ReadASN1(&want, cbasn1.OBJECT_IDENTIFIER) {
		return nil, false
	}
	for i := range s.attributes {
		if a := &s.attributes[i]; bytes.Equal(want, a.oid) {
			return a.value()
		}
	}
	return nil, false
}

func (a *signedAttribute) value() ([]byte, bool) {
	values := cryptobyte.String(a.values)
	var one cryptobyte.String
	var tag cbasn1.Tag
	if !values.ReadAnyASN1Element(&one, &tag) || !values.Empty() {
		return nil, false
	}
	return clipped(one), true
}

// Attributes returns the signed attributes that have one value, in the order received, for display. Those whose type
// package asn1 cannot hold are left out.
func (s *Signed) Attributes() []Attribute {
	var list []Attribute
	for i := range s.attributes {
		value, ok := s.attributes[i].value()
		element := cryptobyte.String(s.attributes[i].raw)
		var body cryptobyte.String
		var oid asn1.ObjectIdentifier
		if ok && element.ReadASN1(&body, cbasn1.SEQUENCE) && readOID(&body, &oid) {
			list = append(list, Attribute{Type: oid, Value: value})
		}
	}
	return list
}
