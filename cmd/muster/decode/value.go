package decode

import (
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/pkix"
)

// This file shows single ASN.1 values. Nothing here fails: what does not have the form that its place asks for is shown
// in hexadecimal, since a broken value is what the reader of a capture looks for.

// contextTag is the tag number n of context class.
func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }

// readAlgorithm reads an AlgorithmIdentifier (RFC 5280 section 4.1.1.2); params is nil when absent.
func readAlgorithm(s *cryptobyte.String) (oid asn1.ObjectIdentifier, params []byte, ok bool) {
	var seq cryptobyte.String
	if !s.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&oid) {
		return nil, nil, false
	}
	if !seq.Empty() {
		params = seq
	}
	return oid, params, true
}

// readWholeAlgorithm is readAlgorithm of DER that is nothing else.
func readWholeAlgorithm(der []byte) (oid asn1.ObjectIdentifier, params []byte, ok bool) {
	in := cryptobyte.String(der)
	oid, params, ok = readAlgorithm(&in)
	return oid, params, ok && in.Empty()
}

// algorithmOf names the algorithm of a DER AlgorithmIdentifier.
func algorithmOf(der []byte) string {
	oid, params, ok := readWholeAlgorithm(der)
	if !ok {
		return "(not an AlgorithmIdentifier) " + hexOf(der)
	}
	return algorithmName(oid, params)
}

// algorithmName names an algorithm with those of its parameters that are part of what an engineer calls it.
func algorithmName(oid asn1.ObjectIdentifier, params []byte) string {
	name := oidName(oid)
	in := cryptobyte.String(params)
	var hash asn1.ObjectIdentifier
	switch oid.String() {
	case "1.2.840.10045.2.1": // the curve (RFC 5480 section 2.1.1)
		if in.ReadASN1ObjectIdentifier(&hash) {
			return name + " " + oidName(hash)
		}
	case "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.7":
		// RSASSA-PSS-params and RSAES-OAEP-params ::= SEQUENCE { hashAlgorithm [0] DEFAULT sha1, ... }
		digest := "SHA-1"
		var seq, explicit cryptobyte.String
		if in.ReadASN1(&seq, cbasn1.SEQUENCE) && seq.PeekASN1Tag(contextTag(0).Constructed()) &&
			seq.ReadASN1(&explicit, contextTag(0).Constructed()) {
			if oid, _, ok := readAlgorithm(&explicit); ok {
				digest = oidName(oid)
			}
		}
		return name + " with " + digest
	}
	return name
}

// valueText shows one DER value on one line.
func valueText(der []byte) string {
	in := cryptobyte.String(der)
	var content cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&content, &tag) || !in.Empty() {
		return hexOf(der)
	}
	return primitive(tag, content, der)
}

// primitive shows an element by its type; der is the whole of it.
func primitive(tag cbasn1.Tag, content, der []byte) string {
	in := cryptobyte.String(der)
	switch tag {
	case cbasn1.BOOLEAN:
		if len(content) == 1 {
			return fmt.Sprint(content[0] != 0)
		}
	case cbasn1.INTEGER:
		if n := new(big.Int); len(content) <= maxViewHex && in.ReadASN1Integer(n) {
			return n.String()
		}
	case cbasn1.ENUM:
		var n int
		if in.ReadASN1Enum(&n) {
			return fmt.Sprint(n)
		}
	case cbasn1.NULL:
		return "NULL"
	case cbasn1.OBJECT_IDENTIFIER:
		var oid asn1.ObjectIdentifier
		if in.ReadASN1ObjectIdentifier(&oid) {
			return oidName(oid)
		}
	case cbasn1.UTCTime, cbasn1.GeneralizedTime:
		if t, ok := readTime(&in); ok {
			return words.Moment(t)
		}
	case cbasn1.UTF8String, cbasn1.PrintableString, cbasn1.IA5String, cbasn1.T61String, cbasn1.Tag(18), cbasn1.Tag(26):
		return quoted(string(content))
	case cbasn1.Tag(30): // BMPString
		if len(content)%2 == 0 {
			units := make([]uint16, 0, len(content)/2)
			for i := 0; i < len(content); i += 2 {
				units = append(units, uint16(content[i])<<8|uint16(content[i+1]))
			}
			return quoted(string(utf16.Decode(units)))
		}
	case cbasn1.BIT_STRING, cbasn1.OCTET_STRING:
		return hexOf(content)
	}
	return hexOf(der)
}

// readTime reads a Time (RFC 5280 section 4.1).
func readTime(s *cryptobyte.String) (t time.Time, ok bool) {
	if s.PeekASN1Tag(cbasn1.UTCTime) {
		return t, s.ReadASN1UTCTime(&t)
	}
	return t, s.ReadASN1GeneralizedTime(&t)
}

// each calls f for every element inside a DER SEQUENCE or SET; false when der is none.
func each(der []byte, tag cbasn1.Tag, f func(element []byte)) bool {
	in := cryptobyte.String(der)
	var list cryptobyte.String
	if !in.ReadASN1(&list, tag) || !in.Empty() {
		return false
	}
	for !list.Empty() {
		var one cryptobyte.String
		var t cbasn1.Tag
		if !list.ReadAnyASN1Element(&one, &t) {
			return false
		}
		f(one)
	}
	return true
}

// malformedName is what pkix.FormatName calls what is none.
const malformedName = "(malformed name)"

// nameText is a DER Name as RFC 4514 writes it. The empty name is called what CMP calls it (RFC 9810 section 5.1.1).
func nameText(der []byte) string {
	if name, err := pkix.ParseName(der); err == nil && len(name) == 0 {
		return "NULL-DN"
	}
	return pkix.FormatName(der)
}

// generalName shows a DER GeneralName (RFC 5280 section 4.2.1.6); a directoryName as it is, all else with its kind.
func generalName(der []byte) string {
	in := cryptobyte.String(der)
	var content cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&content, &tag) || !in.Empty() {
		return "(not a GeneralName) " + hexOf(der)
	}
	switch tag {
	case contextTag(4).Constructed():
		return nameText(content)
	case contextTag(1):
		return "email:" + string(content)
	case contextTag(2):
		return "DNS:" + string(content)
	case contextTag(6):
		return "URI:" + string(content)
	case contextTag(7):
		if addr, ok := netip.AddrFromSlice(content); ok {
			return "IP:" + addr.String()
		}
		return "IP:" + hexOf(content)
	case contextTag(8):
		oid := cryptobyte.String(append([]byte{6, byte(len(content))}, content...))
		var id asn1.ObjectIdentifier
		if len(content) < 0x80 && oid.ReadASN1ObjectIdentifier(&id) {
			return "registeredID:" + id.String()
		}
	case contextTag(0).Constructed():
		var id asn1.ObjectIdentifier
		var value cryptobyte.String
		if content.ReadASN1ObjectIdentifier(&id) && content.ReadASN1(&value, contextTag(0).Constructed()) {
			return "otherName " + id.String() + ":" + valueText(value)
		}
	}
	return "(GeneralName) " + hexOf(der)
}

// generalNames shows a DER GeneralNames.
func generalNames(der []byte) string {
	var out []string
	if !each(der, cbasn1.SEQUENCE, func(one []byte) { out = append(out, generalName(one)) }) {
		return "(not GeneralNames) " + hexOf(der)
	}
	return strings.Join(out, ", ")
}

// serialText is a serial number as the gateway shows it: hexadecimal.
func serialText(n *big.Int) string {
	switch {
	case n == nil:
		return ""
	case n.Sign() == 0:
		return "00"
	case n.Sign() < 0:
		return "-" + hexOf(n.Bytes())
	}
	return hexOf(n.Bytes())
}

// issuerAndSerial shows a DER IssuerAndSerialNumber (RFC 5652 section 10.2.4).
func issuerAndSerial(der []byte) string {
	in := cryptobyte.String(der)
	var seq, issuer cryptobyte.String
	serial := new(big.Int)
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !seq.ReadASN1Integer(serial) {
		return "(not an IssuerAndSerialNumber) " + hexOf(der)
	}
	return "serial " + serialText(serial) + " of " + nameText(issuer)
}
