package est

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// Attributes of a certification request that EST gives a meaning to.
var (
	oidChallengePassword   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}         // RFC 2985 section 5.4.1
	oidExtensionRequest    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}        // RFC 2985 section 5.4.2
	oidOTPChallenge        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 56} // RFC 7894 section 3.1
	oidRevocationChallenge = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 57} // RFC 7894 section 3.2
	oidIdentityLinking     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 58} // RFC 7894 section 3.3
	oidChangeSubjectName   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 7, 36}         // RFC 6402 section 2.8
)

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280 section 4.2.1.6

// nameChallengePassword is what the attribute is called in binding.
const nameChallengePassword = "challengePassword"

// maxChallenge is the upper bound of challengePassword and of RFC 7894's attributes, in bytes of content.
const maxChallenge = 255

// attributes is what a request's attributes say.
type attributes struct {
	bindings []binding      // channel bindings: challengePassword, estIdentityLinking
	newNames *gateway.Names // ChangeSubjectName
	otp      bool           // there is an otpChallenge
}

// parseAttributes reads the attributes that EST knows, each of which has one value. That none stands twice was seen to
// by pkix.ParseCSR. Errors are for the client.
func parseAttributes(list []pkix.Attribute) (attributes, error) {
	var a attributes
	for _, attr := range list {
		var name string
		switch {
		case attr.OID.Equal(oidChallengePassword):
			name = nameChallengePassword
		case attr.OID.Equal(oidIdentityLinking):
			name = "estIdentityLinking"
		case attr.OID.Equal(oidOTPChallenge):
			name = "otpChallenge"
		case attr.OID.Equal(oidChangeSubjectName):
			name = "ChangeSubjectName"
		default:
			continue
		}
		if len(attr.Values) != 1 {
			return attributes{}, fmt.Errorf("the request's attribute %s has %d values instead of one", name, len(attr.Values))
		}
		switch name {
		case "ChangeSubjectName":
			names, err := parseChangeSubjectName(attr.Values[0])
			if err != nil {
				return attributes{}, fmt.Errorf("the request's attribute ChangeSubjectName does not parse: %w", err)
			}
			a.newNames = names
		case "otpChallenge":
			a.otp = true
		default:
			value, err := parseDirectoryString(attr.Values[0])
			if err != nil {
				return attributes{}, fmt.Errorf("the request's attribute %s %w", name, err)
			}
			a.bindings = append(a.bindings, binding{name, value})
		}
	}
	return a, nil
}

// parseDirectoryString returns the bytes of one of the 8-bit string types. Every channel binding fits into them.
//
//	DirectoryString ::= CHOICE {
//	    teletexString    TeletexString (SIZE (1..MAX)),
//	    printableString  PrintableString (SIZE (1..MAX)),
//	    universalString  UniversalString (SIZE (1..MAX)),
//	    utf8String       UTF8String (SIZE (1..MAX)),
//	    bmpString        BMPString (SIZE (1..MAX)) }
//
// IA5String (RFC 2985 section 5.4.1 before its revision) is read too.
func parseDirectoryString(der []byte) (string, error) {
	s := cryptobyte.String(der)
	var content cryptobyte.String
	var tag cryptobyteasn1.Tag
	if !s.ReadAnyASN1(&content, &tag) || !s.Empty() {
		return "", errors.New("does not parse")
	}
	switch tag {
	case cryptobyteasn1.UTF8String, cryptobyteasn1.PrintableString, cryptobyteasn1.T61String, cryptobyteasn1.IA5String:
	default:
		return "", errors.New("is not a PrintableString or UTF8String")
	}
	if len(content) > maxChallenge {
		return "", fmt.Errorf("is longer than %d bytes", maxChallenge)
	}
	return string(content), nil
}

// tagSubjectAlt is the tag that erratum 3943 of RFC 6402 gives subjectAlt, so that it differs from subject.
const tagSubjectAlt = cryptobyteasn1.Tag(1) | 0xa0

// parseChangeSubjectName reads the names to change to. A field that is absent stays nil: that name is to be removed.
//
//	ChangeSubjectName ::= SEQUENCE {                        -- RFC 6402 section 2.8, erratum 3943
//	    subject     Name OPTIONAL,
//	    subjectAlt  [1] SubjectAltName OPTIONAL }           -- GeneralNames; implicit tags
//	(WITH COMPONENTS {..., subject PRESENT} | COMPONENTS {..., subjectAlt PRESENT})
//
// Senders that follow the text before the erratum leave the tag out: a GeneralName then tells the two apart, since its
// tags are all context-specific, and a Name holds SETs only.
func parseChangeSubjectName(der []byte) (*gateway.Names, error) {
	s := cryptobyte.String(der)
	var seq cryptobyte.String
	if !s.ReadASN1(&seq, cryptobyteasn1.SEQUENCE) || !s.Empty() {
		return nil, errors.New("not a SEQUENCE")
	}
	if seq.Empty() {
		return nil, errors.New("neither subject nor subjectAlt is present")
	}
	names := &gateway.Names{}
	if seq.PeekASN1Tag(cryptobyteasn1.SEQUENCE) && !beginsWithGeneralName(seq) {
		var name cryptobyte.String
		if !seq.ReadASN1Element(&name, cryptobyteasn1.SEQUENCE) {
			return nil, errors.New("subject is not a Name")
		}
		if _, err := pkix.ParseName(name); err != nil {
			return nil, fmt.Errorf("subject: %w", err)
		}
		names.Subject = name
	}
	if !seq.Empty() {
		var content cryptobyte.String
		var tag cryptobyteasn1.Tag
		if !seq.ReadAnyASN1(&content, &tag) || (tag != tagSubjectAlt && tag != cryptobyteasn1.SEQUENCE) || !seq.Empty() {
			return nil, errors.New("subjectAlt is not GeneralNames")
		}
		var b cryptobyte.Builder
		b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(content) })
		san, err := b.Bytes()
		if err != nil {
			return nil, err
		}
		if _, err := pkix.ParseGeneralNames(san); err != nil {
			return nil, fmt.Errorf("subjectAlt: %w", err)
		}
		names.SubjectAltName = san
	}
	return names, nil
}

// beginsWithGeneralName reports whether the next element is a SEQUENCE whose first element is context-specific.
func beginsWithGeneralName(s cryptobyte.String) bool {
	var content cryptobyte.String
	return s.ReadASN1(&content, cryptobyteasn1.SEQUENCE) && len(content) > 0 && content[0]&0xc0 == 0x80
}
