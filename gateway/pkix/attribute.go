package pkix

import (
	"encoding/asn1"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AttributeType is a type of attribute in a subject.
type AttributeType struct {
	Name  string // the long name; the dotted OID when it has none here
	OID   asn1.ObjectIdentifier
	Bound int // upper bound of a value, in characters (RFC 5280 appendix A.1; 128 where it gives none that fits a name of today)
}

const otherBound = 128

// OIDCommonName is commonName's.
var OIDCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// attributeTypes are those that configurations name and stages judge.
var attributeTypes = []AttributeType{
	{"commonName", OIDCommonName, 64},
	{"serialNumber", asn1.ObjectIdentifier{2, 5, 4, 5}, 64},
	{"organizationName", asn1.ObjectIdentifier{2, 5, 4, 10}, 64},
	{"organizationalUnitName", asn1.ObjectIdentifier{2, 5, 4, 11}, 64},
	{"countryName", asn1.ObjectIdentifier{2, 5, 4, 6}, 2},
	{"stateOrProvinceName", asn1.ObjectIdentifier{2, 5, 4, 8}, 128},
	{"localityName", asn1.ObjectIdentifier{2, 5, 4, 7}, 128},
	{"streetAddress", asn1.ObjectIdentifier{2, 5, 4, 9}, 128},
	{"postalCode", asn1.ObjectIdentifier{2, 5, 4, 17}, 40},
	{"title", asn1.ObjectIdentifier{2, 5, 4, 12}, 64},
	{"surname", asn1.ObjectIdentifier{2, 5, 4, 4}, 128},
	{"givenName", asn1.ObjectIdentifier{2, 5, 4, 42}, 128},
	{"name", asn1.ObjectIdentifier{2, 5, 4, 41}, 128},
	{"pseudonym", asn1.ObjectIdentifier{2, 5, 4, 65}, 128},
	{"dnQualifier", asn1.ObjectIdentifier{2, 5, 4, 46}, 128},
	{"organizationIdentifier", asn1.ObjectIdentifier{2, 5, 4, 97}, 128},
	{"userId", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, 128},
	{"domainComponent", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, 128},
	{"emailAddress", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, 255},
}

// AttributeTypes lists those with a long name.
func AttributeTypes() []AttributeType { return slices.Clone(attributeTypes) }

// AttributeTypeOf describes the type with the OID.
func AttributeTypeOf(oid asn1.ObjectIdentifier) AttributeType {
	for _, a := range attributeTypes {
		if a.OID.Equal(oid) {
			return a
		}
	}
	return AttributeType{oid.String(), oid, otherBound}
}

// AttributeTypeNamed finds a type by its long name, by its short name (RFC 4514 section 3), both in any case, or as a
// dotted OID.
func AttributeTypeNamed(name string) (AttributeType, bool) {
	for _, a := range attributeTypes {
		if strings.EqualFold(a.Name, name) {
			return a, true
		}
	}
	oid, ok := AttributeOID(name)
	if !ok {
		if oid, ok = ParseOID(name); !ok {
			return AttributeType{}, false
		}
	}
	return AttributeTypeOf(oid), true
}

// ParseOID reads a dotted OID of 2 to 32 arcs (X.660: the first is 0 to 2, the second below 40 under 0 and 1).
func ParseOID(s string) (asn1.ObjectIdentifier, bool) {
	parts := strings.Split(s, ".")
	if len(parts) < 2 || len(parts) > 32 {
		return nil, false
	}
	oid := make(asn1.ObjectIdentifier, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || len(p) > 1 && p[0] == '0' {
			return nil, false
		}
		oid[i] = int(n)
	}
	return oid, oid[0] < 2 && oid[1] < 40 || oid[0] == 2
}

// IsPrintable reports whether s holds only characters that show what they are: no control characters, no line
// separators, no marks that change the direction of what follows.
func IsPrintable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// IsHostName reports whether s is a host name in the preferred syntax (RFC 1034 section 3.5 as RFC 1123 section 2.1
// changed it), with underscores, which devices' names have.
func IsHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// IsMailbox reports whether s is an address as a certificate has it (RFC 5280 section 4.2.1.6): a Mailbox, with neither
// phrase nor comment nor angle brackets.
func IsMailbox(s string) bool {
	local, host, ok := strings.Cut(s, "@")
	return ok && local != "" && IsHostName(host) && !strings.ContainsAny(local, `<>()[],;:\"`)
}

// IsURI reports whether s is a URI as a certificate has it, a reference without a scheme too ("//m2m.example.com/S98821"):
// what crypto/x509 does not read it could not read in the issued certificate either. A host is a name or an address (RFC
// 5280 section 4.2.1.6).
func IsURI(s string) bool {
	// What RFC 3986 has in no place is read by url.Parse in some: quotation marks and brackets break out of what shows them.
	if strings.ContainsAny(s, "\"<>\\^`{|} ") {
		return false
	}
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	if u.Host == "" {
		return true
	}
	_, err = netip.ParseAddr(u.Hostname())
	return err == nil || IsHostName(u.Hostname())
}
