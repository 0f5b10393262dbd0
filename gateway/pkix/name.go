package pkix

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Name is a parsed distinguished name in the order of its encoding, most significant first.
type Name []RDN

// RDN is one step of a Name, seldom more than one attribute.
type RDN []NameAttribute

// NameAttribute is an attribute type and value of a Name.
type NameAttribute struct {
	OID   asn1.ObjectIdentifier
	Value []byte // DER of the value
	Text  string // of a string type that is known; "" when not IsText
	// IsText: UTF8String, PrintableString, IA5String, NumericString, VisibleString, BMPString or T61String, well-formed.
	IsText bool
}

const malformedName = "(malformed name)"

// ParseName parses a DER Name. Errors are ErrMalformed.
//
//	Name ::= CHOICE { rdnSequence RDNSequence }     -- RFC 5280 section 4.1.2.4
//	RDNSequence ::= SEQUENCE OF RelativeDistinguishedName
//	RelativeDistinguishedName ::= SET SIZE (1..MAX) OF AttributeTypeAndValue
//	AttributeTypeAndValue ::= SEQUENCE { type OBJECT IDENTIFIER, value ANY }
func ParseName(der []byte) (Name, error) {
	input := cryptobyte.String(der)
	var seq cryptobyte.String
	if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, malformed("Name")
	}
	var name Name
	for !seq.Empty() {
		var set cryptobyte.String
		if !seq.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return nil, malformed("RelativeDistinguishedName %d", len(name))
		}
		var rdn RDN
		for !set.Empty() {
			var pair, value, content cryptobyte.String
			var tag cbasn1.Tag
			var a NameAttribute
			if !set.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1ObjectIdentifier(&a.OID) ||
				!pair.ReadAnyASN1Element(&value, &tag) || !pair.Empty() {
				return nil, malformed("attribute in RelativeDistinguishedName %d", len(name))
			}
			a.Value = value
			if !value.ReadAnyASN1(&content, &tag) {
				return nil, malformed("value of %v", a.OID)
			}
			a.Text, a.IsText = decodeText(tag, content)
			rdn = append(rdn, a)
		}
		name = append(name, rdn)
	}
	return name, nil
}

// Values returns the texts of all attributes with the OID, in order.
func (n Name) Values(oid asn1.ObjectIdentifier) []string {
	var list []string
	for _, rdn := range n {
		for _, a := range rdn {
			if a.IsText && a.OID.Equal(oid) {
				list = append(list, a.Text)
			}
		}
	}
	return list
}

const (
	tagNumericString = cbasn1.Tag(18)
	tagVisibleString = cbasn1.Tag(26)
	tagBMPString     = cbasn1.Tag(30)
)

// decodeText gives the text of a string type as UTF-8; ok is false for other types and for bytes that are not theirs.
func decodeText(tag cbasn1.Tag, b []byte) (text string, ok bool) {
	switch tag {
	case cbasn1.UTF8String:
		return string(b), utf8.Valid(b)
	case cbasn1.PrintableString, cbasn1.IA5String, tagNumericString, tagVisibleString:
		// PrintableString with characters outside of its alphabet ('@', '_', '*') is common.
		for _, c := range b {
			if c >= utf8.RuneSelf {
				return "", false
			}
		}
		return string(b), true
	case cbasn1.T61String:
		// In certificates T61String holds ISO 8859-1, whatever its standard says.
		var s strings.Builder
		for _, c := range b {
			s.WriteRune(rune(c))
		}
		return s.String(), true
	case tagBMPString:
		if len(b)%2 != 0 {
			return "", false
		}
		units := make([]uint16, len(b)/2)
		for i := range units {
			units[i] = uint16(b[2*i])<<8 | uint16(b[2*i+1])
		}
		for _, u := range units {
			if utf16.IsSurrogate(rune(u)) {
				return "", false
			}
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// attributeNames are the short names of RFC 4514 section 3, and those that tools print for the types seen in devices' names.
var attributeNames = []struct {
	oid  asn1.ObjectIdentifier
	name string
}{
	{asn1.ObjectIdentifier{2, 5, 4, 3}, "CN"},
	{asn1.ObjectIdentifier{2, 5, 4, 4}, "SN"},
	{asn1.ObjectIdentifier{2, 5, 4, 5}, "serialNumber"},
	{asn1.ObjectIdentifier{2, 5, 4, 6}, "C"},
	{asn1.ObjectIdentifier{2, 5, 4, 7}, "L"},
	{asn1.ObjectIdentifier{2, 5, 4, 8}, "ST"},
	{asn1.ObjectIdentifier{2, 5, 4, 9}, "STREET"},
	{asn1.ObjectIdentifier{2, 5, 4, 10}, "O"},
	{asn1.ObjectIdentifier{2, 5, 4, 11}, "OU"},
	{asn1.ObjectIdentifier{2, 5, 4, 12}, "title"},
	{asn1.ObjectIdentifier{2, 5, 4, 13}, "description"},
	{asn1.ObjectIdentifier{2, 5, 4, 15}, "businessCategory"},
	{asn1.ObjectIdentifier{2, 5, 4, 17}, "postalCode"},
	{asn1.ObjectIdentifier{2, 5, 4, 41}, "name"},
	{asn1.ObjectIdentifier{2, 5, 4, 42}, "givenName"},
	{asn1.ObjectIdentifier{2, 5, 4, 43}, "initials"},
	{asn1.ObjectIdentifier{2, 5, 4, 44}, "generationQualifier"},
	{asn1.ObjectIdentifier{2, 5, 4, 46}, "dnQualifier"},
	{asn1.ObjectIdentifier{2, 5, 4, 65}, "pseudonym"},
	{asn1.ObjectIdentifier{2, 5, 4, 97}, "organizationIdentifier"},
	{asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, "UID"},
	{asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, "DC"},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, "emailAddress"},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 2}, "unstructuredName"},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 8}, "unstructuredAddress"},
}

// AttributeOID returns the type of a short name as FormatName prints it, in any case, and whether it is known.
func AttributeOID(name string) (asn1.ObjectIdentifier, bool) {
	for _, a := range attributeNames {
		if strings.EqualFold(a.name, name) {
			return a.oid, true
		}
	}
	return nil, false
}

// FormatName writes a DER Name as RFC 4514 does, last RDN first, for logs and screens. It never fails: bytes that are
// no Name give "(malformed name)". Control and other unprintable characters are escaped, so the answer is one line.
func FormatName(der []byte) string {
	name, err := ParseName(der)
	if err != nil {
		return malformedName
	}
	return name.String()
}

// String is the name as RFC 4514 writes it.
func (n Name) String() string {
	var s strings.Builder
	for i := len(n) - 1; i >= 0; i-- {
		if i < len(n)-1 {
			s.WriteByte(',')
		}
		for j, a := range n[i] {
			if j > 0 {
				s.WriteByte('+')
			}
			a.write(&s)
		}
	}
	return s.String()
}

func (a NameAttribute) write(s *strings.Builder) {
	for _, known := range attributeNames {
		if known.oid.Equal(a.OID) {
			s.WriteString(known.name)
			s.WriteByte('=')
			if a.IsText {
				escapeValue(s, a.Text)
			} else {
				s.WriteString("#" + hex.EncodeToString(a.Value))
			}
			return
		}
	}
	// RFC 4514 section 2.4: with a dotted type, the value is the hexadecimal of its encoding.
	s.WriteString(a.OID.String() + "=#" + hex.EncodeToString(a.Value))
}

// escapeValue writes a value as RFC 4514 section 2.4 does; what is unprintable becomes \XX of its UTF-8.
func escapeValue(s *strings.Builder, text string) {
	const digits = "0123456789abcdef"
	for i, r := range text {
		size := utf8.RuneLen(r)
		switch {
		case strings.ContainsRune(`"+,;<>\`, r),
			r == '#' && i == 0,
			r == ' ' && (i == 0 || i == len(text)-1):
			s.WriteByte('\\')
			s.WriteRune(r)
		case unicode.IsPrint(r):
			s.WriteRune(r)
		default:
			for _, c := range []byte(text[i : i+size]) {
				s.WriteByte('\\')
				s.WriteByte(digits[c>>4])
				s.WriteByte(digits[c&15])
			}
		}
	}
}

// SameName reports whether two DER Names are the same name. Equal bytes are; otherwise types, order and characters
// must be equal and only the string type may differ (PrintableString "x" is UTF8String "x"). Case and spaces are never
// folded as RFC 5280 section 7.1 would: two devices must not become one. It serves to find an issuer that a client
// encoded anew, and the certificate that one means which asks for its renewal by its names.
func SameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err := ParseName(a)
	if err != nil {
		return false
	}
	y, err := ParseName(b)
	if err != nil || len(x) != len(y) {
		return false
	}
	for i := range x {
		if len(x[i]) != len(y[i]) {
			return false
		}
		for j, p := range x[i] {
			q := y[i][j]
			if !p.Same(q) {
				return false
			}
		}
	}
	return true
}

// Same reports whether two attributes have the same type and value; as in SameName, only the string type may differ.
func (a NameAttribute) Same(b NameAttribute) bool {
	return a.OID.Equal(b.OID) && (a.IsText && b.IsText && a.Text == b.Text || bytes.Equal(a.Value, b.Value))
}
