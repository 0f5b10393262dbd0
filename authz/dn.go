package authz

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway/pkix"
)

// attribute is one attribute of a Name, its value as UTF-8.
type attribute struct {
	oid   string // dotted
	value string
}

// maxAttributes bounds a Name.
const maxAttributes = 32

// The string types that a subject may have (RFC 5280 section 4.1.2.4). TeletexString, BMPString and UniversalString
// are kept there for names of old only, and readers differ over what they say.
const (
	tagUTF8String      = 0x0c
	tagNumericString   = 0x12
	tagPrintableString = 0x13
	tagIA5String       = 0x16
)

// parseName reads a DER Name whose values every reader understands alike.
func parseName(der []byte) ([]attribute, error) {
	name, err := pkix.ParseName(der)
	if err != nil {
		return nil, err
	}
	var all []attribute
	for _, rdn := range name {
		for _, a := range rdn {
			oid := a.OID.String()
			if len(all) == maxAttributes {
				return nil, fmt.Errorf("more than %d attributes", maxAttributes)
			}
			if err := readable(a); err != nil {
				return nil, fmt.Errorf("%s: %w", attributeName(oid), err)
			}
			all = append(all, attribute{oid, a.Text})
		}
	}
	return all, nil
}

func readable(a pkix.NameAttribute) error {
	tag := a.Value[0]
	switch tag {
	case tagUTF8String, tagIA5String:
	case tagNumericString:
		if strings.Trim(a.Text, "0123456789 ") != "" {
			return errors.New("a NumericString of other characters than digits")
		}
	case tagPrintableString:
		// "*" and "&" are not in the alphabet, but crypto/x509 reads them too; what it does not read it could not
		// read in the issued certificate either.
		for _, c := range []byte(a.Text) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(" '()+,-./:=?*&", c) >= 0) {
				return fmt.Errorf("byte %#02x in a PrintableString", c)
			}
		}
	default:
		return fmt.Errorf("%s, where UTF8String, PrintableString, IA5String and NumericString are read", stringType(tag))
	}
	if !a.IsText {
		return errors.New("invalid characters")
	}
	if !printable(a.Text) {
		return errors.New("control or invisible characters")
	}
	return nil
}

// stringType names a string type of old (X.680 table 8), another type by its tag.
func stringType(tag byte) string {
	switch tag {
	case 0x14:
		return "TeletexString"
	case 0x1a:
		return "VisibleString"
	case 0x1c:
		return "UniversalString"
	case 0x1e:
		return "BMPString"
	}
	return fmt.Sprintf("ASN.1 tag %#02x", tag)
}

// printable reports whether s holds only characters that show what they are.
func printable(s string) bool { return pkix.IsPrintable(s) }

// Kinds of subjectAltName that stages judge.
const (
	sanDNS   = "dns"
	sanIP    = "ip"
	sanEmail = "email"
	sanURI   = "uri"
	sanOther = "other"
)

var sanKinds = []string{sanDNS, sanIP, sanEmail, sanURI}

// maxNames is how many names pkix reads of one subjectAltName.
const maxNames = 128

// generalName is one name of a subjectAltName.
type generalName struct {
	kind string
	text string
	ip   netip.Addr // with sanIP
}

func (n generalName) String() string { return n.kind + ":" + n.text }

// namesOf lists the names by kind; those of kinds that are not read become one entry that counts them.
func namesOf(names *pkix.GeneralNames) []generalName {
	var all []generalName
	for _, s := range names.DNS {
		all = append(all, generalName{kind: sanDNS, text: s})
	}
	for _, ip := range names.IP {
		all = append(all, generalName{kind: sanIP, text: ip.String(), ip: ip})
	}
	for _, s := range names.Email {
		all = append(all, generalName{kind: sanEmail, text: s})
	}
	for _, s := range names.URI {
		all = append(all, generalName{kind: sanURI, text: s})
	}
	if names.Other > 0 {
		all = append(all, generalName{kind: sanOther, text: strconv.Itoa(names.Other)})
	}
	return all
}

// parseNames reads DER GeneralNames.
func parseNames(der []byte) ([]generalName, error) {
	names, err := pkix.ParseGeneralNames(der)
	if err != nil {
		return nil, err
	}
	return namesOf(names), nil
}

func listNames(all []generalName) string {
	words := make([]string, len(all))
	for i, n := range all {
		words[i] = n.String()
	}
	return strings.Join(words, ", ")
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// sanOf returns the DER GeneralNames of a certificate's subjectAltName, nil when it has none.
func sanOf(cert *x509.Certificate) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			return e.Value
		}
	}
	return nil
}

// formatSAN writes DER GeneralNames for the operator.
func formatSAN(der []byte) string {
	if der == nil {
		return "(none)"
	}
	all, err := parseNames(der)
	if err != nil {
		return "(malformed)"
	}
	return cutName(listNames(all))
}

// maxShownName bounds a name in a note, in bytes: what is said behind it must not be pushed out by a long one.
const maxShownName = 256

func cutName(s string) string {
	if len(s) <= maxShownName {
		return s
	}
	return strings.ToValidUTF8(s[:maxShownName], "") + "..."
}

// formatSubject writes a DER Name for the operator.
func formatSubject(der []byte) string {
	if isEmptyName(der) {
		return "(none)"
	}
	return cutName(pkix.FormatName(der))
}

func isEmptyName(der []byte) bool {
	return len(der) == 0 || len(der) == 2 && der[0] == 0x30 && der[1] == 0
}

const (
	oidCommonName  = "2.5.4.3"
	oidCountryName = "2.5.4.6"
)

// attributeOID finds an attribute type by its long name, by its short name (RFC 4514 section 3), or as a dotted OID.
func attributeOID(name string) (oid string, ok bool) {
	a, ok := pkix.AttributeTypeNamed(name)
	return a.OID.String(), ok
}

// attributeType describes the type with the dotted OID.
func attributeType(oid string) pkix.AttributeType {
	id, _ := pkix.ParseOID(oid)
	return pkix.AttributeTypeOf(id)
}

// attributeName is the long name of an attribute type, else its OID.
func attributeName(oid string) string { return attributeType(oid).Name }

func attributeBound(oid string) int { return attributeType(oid).Bound }

func attributeNames() []string {
	var names []string
	for _, a := range pkix.AttributeTypes() {
		names = append(names, a.Name)
	}
	return names
}
