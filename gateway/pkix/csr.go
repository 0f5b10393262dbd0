package pkix

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxEntries caps attributes and extensions of a request: the search for duplicates stays cheap.
const maxEntries = 64

var (
	oidExtensionRequest  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}     // RFC 2985 section 5.4.2
	oidMSExtensions      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 14} // szOID_CERT_EXTENSIONS of old Windows clients
	oidChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}      // RFC 2985 section 5.4.1
)

// CSR is a PKCS#10 certification request (RFC 2986). Its byte slices point into the input.
type CSR struct {
	Raw                []byte                  // DER CertificationRequest
	RawInfo            []byte                  // DER CertificationRequestInfo, which the signature covers
	Subject            []byte                  // DER Name
	PublicKey          []byte                  // DER SubjectPublicKeyInfo
	Key                crypto.PublicKey        // as ParsePublicKey gives it
	Attributes         []Attribute             // in the order of the request, extensionRequest among them
	Extensions         []pkix.Extension        // what extensionRequest asks for, no OID twice
	SignatureAlgorithm x509.SignatureAlgorithm // 0 when it is not one that is known here
	Signature          []byte

	algorithm algorithm
}

// Attribute is an attribute of a request.
type Attribute struct {
	OID    asn1.ObjectIdentifier
	Values [][]byte // DER of each value, at least one
}

// ParseCSR parses a DER PKCS#10 request. The key is judged as by ParsePublicKey before anything is computed with it;
// the signature is not verified: that is CheckSignature. Attributes and extensions that occur twice are refused.
// Errors are ErrMalformed, ErrAlgorithm and ErrWeak.
//
//	CertificationRequest ::= SEQUENCE {             -- RFC 2986 section 4
//	    certificationRequestInfo  CertificationRequestInfo,
//	    signatureAlgorithm        AlgorithmIdentifier,
//	    signature                 BIT STRING }
//	CertificationRequestInfo ::= SEQUENCE {
//	    version        INTEGER { v1(0) },
//	    subject        Name,
//	    subjectPKInfo  SubjectPublicKeyInfo,
//	    attributes     [0] IMPLICIT SET OF Attribute }
//
// An absent attributes field is taken for an empty one: some clients leave it out.
func ParseCSR(der []byte, opts ...Option) (*CSR, error) {
	input := cryptobyte.String(der)
	var outer, info, subject, spki cryptobyte.String
	if !input.ReadASN1(&outer, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, malformed("CertificationRequest")
	}
	c := &CSR{Raw: der}
	if !outer.ReadASN1Element(&info, cbasn1.SEQUENCE) {
		return nil, malformed("CertificationRequestInfo")
	}
	c.RawInfo = info
	var err error
	if c.algorithm, err = readAlgorithm(&outer); err != nil {
		return nil, err
	}
	if !outer.ReadASN1BitStringAsBytes(&c.Signature) || !outer.Empty() {
		return nil, malformed("signature of the request")
	}

	var version int64
	if !info.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1Integer(&version) {
		return nil, malformed("version of the request")
	}
	if version != 0 {
		return nil, malformed("version %d of the request, want 0", version)
	}
	if !info.ReadASN1Element(&subject, cbasn1.SEQUENCE) {
		return nil, malformed("subject of the request")
	}
	if _, err := ParseName(subject); err != nil {
		return nil, err
	}
	if !info.ReadASN1Element(&spki, cbasn1.SEQUENCE) {
		return nil, malformed("subjectPKInfo of the request")
	}
	c.Subject, c.PublicKey = subject, spki
	if !info.Empty() {
		var set cryptobyte.String
		if !info.ReadASN1(&set, cbasn1.Tag(0).ContextSpecific().Constructed()) || !info.Empty() {
			return nil, malformed("attributes of the request")
		}
		if c.Attributes, err = parseAttributes(set); err != nil {
			return nil, err
		}
	}
	if c.Extensions, err = requestedExtensions(c.Attributes); err != nil {
		return nil, err
	}
	if !judge(opts).ignoreKey {
		if c.Key, err = ParsePublicKey(spki, opts...); err != nil {
			return nil, err
		}
	}
	c.SignatureAlgorithm = c.algorithm.signature()
	return c, nil
}

// Attribute ::= SEQUENCE {                        -- RFC 2986 section 4.1
//
//	type    OBJECT IDENTIFIER,
//	values  SET SIZE(1..MAX) OF ANY }
func parseAttributes(set cryptobyte.String) ([]Attribute, error) {
	var list []Attribute
	for !set.Empty() {
		if len(list) == maxEntries {
			return nil, malformed("over %d attributes", maxEntries)
		}
		var seq, values cryptobyte.String
		var a Attribute
		if !set.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&a.OID) ||
			!seq.ReadASN1(&values, cbasn1.SET) || !seq.Empty() || values.Empty() {
			return nil, malformed("attribute %d of the request", len(list))
		}
		for _, other := range list {
			if other.OID.Equal(a.OID) {
				return nil, malformed("attribute %v occurs twice", a.OID)
			}
		}
		for !values.Empty() {
			var v cryptobyte.String
			if len(a.Values) == maxEntries || !values.ReadAnyASN1Element(&v, new(cbasn1.Tag)) {
				return nil, malformed("values of attribute %v", a.OID)
			}
			a.Values = append(a.Values, v)
		}
		list = append(list, a)
	}
	return list, nil
}

// requestedExtensions collects the extensions of extensionRequest and of its Microsoft twin.
func requestedExtensions(attributes []Attribute) ([]pkix.Extension, error) {
	var list []pkix.Extension
	for _, a := range attributes {
		if !a.OID.Equal(oidExtensionRequest) && !a.OID.Equal(oidMSExtensions) {
			continue
		}
		// RFC 2985 section 5.4.2: SINGLE VALUE TRUE.
		if len(a.Values) != 1 {
			return nil, malformed("extensionRequest of %d values", len(a.Values))
		}
		var err error
		if list, err = parseExtensions(list, a.Values[0]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ParseExtensions parses a DER Extensions field as it stands in extensionRequest and in a CRMF template:
// no OID twice, at most 64. Errors are ErrMalformed.
func ParseExtensions(der []byte) ([]pkix.Extension, error) { return parseExtensions(nil, der) }

// Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension      -- RFC 5280 section 4.1
// Extension  ::= SEQUENCE {
//
//	extnID     OBJECT IDENTIFIER,
//	critical   BOOLEAN DEFAULT FALSE,
//	extnValue  OCTET STRING }
//
// An empty sequence is let through: it asks for nothing, and clients send it.
func parseExtensions(list []pkix.Extension, der []byte) ([]pkix.Extension, error) {
	input := cryptobyte.String(der)
	var seq cryptobyte.String
	if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, malformed("Extensions")
	}
	for !seq.Empty() {
		if len(list) == maxEntries {
			return nil, malformed("over %d extensions", maxEntries)
		}
		var one, value cryptobyte.String
		var e pkix.Extension
		if !seq.ReadASN1(&one, cbasn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&e.Id) {
			return nil, malformed("extension %d", len(list))
		}
		if one.PeekASN1Tag(cbasn1.BOOLEAN) && !one.ReadASN1Boolean(&e.Critical) {
			return nil, malformed("critical of extension %v", e.Id)
		}
		if !one.ReadASN1(&value, cbasn1.OCTET_STRING) || !one.Empty() {
			return nil, malformed("value of extension %v", e.Id)
		}
		e.Value = value
		for _, other := range list {
			if other.Id.Equal(e.Id) {
				return nil, malformed("extension %v occurs twice", e.Id)
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// Attribute returns the attribute with the OID, and whether there is one.
func (c *CSR) Attribute(oid asn1.ObjectIdentifier) (Attribute, bool) {
	for _, a := range c.Attributes {
		if a.OID.Equal(oid) {
			return a, true
		}
	}
	return Attribute{}, false
}

// ChallengePassword returns the text of the challengePassword attribute (RFC 2985 section 5.4.1, a single
// DirectoryString; IA5String is let through) and whether there is one. It is a secret. A value that is no text, or
// more than one, is ErrMalformed.
func (c *CSR) ChallengePassword() (password string, present bool, err error) {
	a, ok := c.Attribute(oidChallengePassword)
	if !ok {
		return "", false, nil
	}
	if len(a.Values) != 1 {
		return "", true, malformed("challengePassword of %d values", len(a.Values))
	}
	in := cryptobyte.String(a.Values[0])
	var content cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&content, &tag) || !in.Empty() {
		return "", true, malformed("challengePassword")
	}
	text, ok := decodeText(tag, content)
	if !ok {
		return "", true, malformed("challengePassword is not text")
	}
	return text, true, nil
}
