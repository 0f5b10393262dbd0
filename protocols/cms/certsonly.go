package cms

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

var (
	tagContent      = cbasn1.Tag(0).ContextSpecific().Constructed() // ContentInfo.content, EncapsulatedContentInfo.eContent
	tagCertificates = cbasn1.Tag(0).ContextSpecific().Constructed() // SignedData.certificates
	tagCRLs         = cbasn1.Tag(1).ContextSpecific().Constructed() // SignedData.crls
)

// CertsOnly builds the degenerate SignedData that carries DER certificates and no signature: EST's certs-only message
// (RFC 7030 sections 4.1.3 and 4.2.3, RFC 8951) and SCEP's GetCACert (RFC 8894 section 4.2.1.2). At least one certificate.
// Each must be one DER SEQUENCE, else the error is ErrSyntax, ErrLimit or ErrNotDER.
//
// The encoding is DER but for the order of the certificates, which is the one given. CertificateSet is a SET OF, whose
// order carries no meaning and which DER would sort; but clients take the first certificate for the one they asked
// for, and nothing here is signed that needs it sorted (RFC 5652 section 5.1 asks for no more than BER).
//
//	ContentInfo ::= SEQUENCE {                      -- RFC 5652 section 3
//	    contentType  OBJECT IDENTIFIER,
//	    content      [0] EXPLICIT ANY }
//	SignedData ::= SEQUENCE {                       -- RFC 5652 section 5.1
//	    version           INTEGER,                  -- 1: certificates only, content id-data
//	    digestAlgorithms  SET OF DigestAlgorithmIdentifier,
//	    encapContentInfo  SEQUENCE { eContentType OBJECT IDENTIFIER, eContent [0] EXPLICIT OCTET STRING OPTIONAL },
//	    certificates      [0] IMPLICIT CertificateSet OPTIONAL,
//	    crls              [1] IMPLICIT RevocationInfoChoices OPTIONAL,
//	    signerInfos       SET OF SignerInfo }
func CertsOnly(certs ...[]byte) ([]byte, error) {
	if len(certs) == 0 {
		return nil, &Error{What: "no certificate", Err: ErrSyntax}
	}
	for _, c := range certs {
		if err := Check(c, Limits{}); err != nil {
			return nil, err
		}
		if c[0] != tagSequence {
			return nil, &Error{What: "not a certificate", Err: ErrSyntax}
		}
	}
	return degenerate(tagCertificates, certs)
}

// CRLsOnly builds the degenerate SignedData that carries DER CRLs (RFC 5280 section 5.1) and nothing else: the crls-only message of
// RFC 8295 section 4.2. At least one; each must be one DER SEQUENCE, else the error is ErrSyntax. They may be large and are not
// looked into: the caller has parsed them.
func CRLsOnly(crls ...[]byte) ([]byte, error) {
	if len(crls) == 0 {
		return nil, &Error{What: "no CRL", Err: ErrSyntax}
	}
	for _, c := range crls {
		s := cryptobyte.String(c)
		if !s.SkipASN1(cbasn1.SEQUENCE) || !s.Empty() {
			return nil, &Error{What: "not a CRL", Err: ErrSyntax}
		}
	}
	return degenerate(tagCRLs, crls)
}

// degenerate builds a SignedData with one list of elements, in the order given, and no signature. Version 1 goes with CRLs as
// well (RFC 5652 section 5.1).
func degenerate(tag cbasn1.Tag, elements [][]byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(tagContent, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {})
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) })
				b.AddASN1(tag, func(b *cryptobyte.Builder) {
					for _, e := range elements {
						b.AddBytes(e)
					}
				})
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {})
			})
		})
	})
	return b.Bytes()
}

// ParseCertsOnly returns the DER certificates of a degenerate SignedData in their order, through the guard. A signature,
// content, or a certificate that is not an X.509 certificate is ErrSyntax; CRLs are skipped. None at all is an empty list.
// The certificates themselves are not parsed.
func ParseCertsOnly(data []byte, l Limits) (certs [][]byte, err error) {
	der, err := Normalize(data, l)
	if err != nil {
		return nil, err
	}
	bad := func(what string) ([][]byte, error) { return nil, &Error{What: what, Err: ErrSyntax} }
	input := cryptobyte.String(der)
	var info, content, signed, encap, set cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !input.ReadASN1(&info, cbasn1.SEQUENCE) || !input.Empty() ||
		!info.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidSignedData) ||
		!info.ReadASN1(&content, tagContent) || !info.Empty() ||
		!content.ReadASN1(&signed, cbasn1.SEQUENCE) || !content.Empty() {
		return bad("not a SignedData")
	}
	var version int64
	// RFC 5652 section 5.1: 1, or 3 with other content types and signer identifiers.
	if !signed.ReadASN1Integer(&version) || (version != 1 && version != 3) {
		return bad("version of SignedData")
	}
	if !signed.ReadASN1(&set, cbasn1.SET) {
		return bad("digestAlgorithms of SignedData")
	}
	if !signed.ReadASN1(&encap, cbasn1.SEQUENCE) || !encap.ReadASN1ObjectIdentifier(&oid) || !encap.Empty() {
		return bad("content in a certs-only message")
	}
	if signed.PeekASN1Tag(tagCertificates) {
		if !signed.ReadASN1(&set, tagCertificates) {
			return bad("certificates of SignedData")
		}
		for !set.Empty() {
			var c cryptobyte.String
			if !set.ReadASN1Element(&c, cbasn1.SEQUENCE) {
				return bad("not an X.509 certificate")
			}
			certs = append(certs, c)
		}
	}
	if !signed.SkipOptionalASN1(tagCRLs) || !signed.ReadASN1(&set, cbasn1.SET) || !signed.Empty() {
		return bad("signerInfos of SignedData")
	}
	if !set.Empty() {
		return bad("signature in a certs-only message")
	}
	return certs, nil
}
