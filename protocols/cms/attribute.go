package cms

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Attribute is a signed attribute with one value.
type Attribute struct {
	Type  asn1.ObjectIdentifier
	Value []byte // DER
}

// AttributePrintable is an attribute with a PrintableString (RFC 8894 section 3.2.1: transactionID, messageType and the
// like). The characters are not checked against the type's alphabet: a server has to return what the client sent.
func AttributePrintable(oid asn1.ObjectIdentifier, value string) Attribute {
	return attribute(oid, cbasn1.PrintableString, []byte(value))
}

// AttributeUTF8 is an attribute with a UTF8String (RFC 8894 section 3.2.1.4.4: failInfoText).
func AttributeUTF8(oid asn1.ObjectIdentifier, value string) Attribute {
	return attribute(oid, cbasn1.UTF8String, []byte(value))
}

// AttributeOctets is an attribute with an OCTET STRING (RFC 8894 section 3.2.1.5: nonces).
func AttributeOctets(oid asn1.ObjectIdentifier, value []byte) Attribute {
	return attribute(oid, cbasn1.OCTET_STRING, value)
}

func attribute(oid asn1.ObjectIdentifier, tag cbasn1.Tag, value []byte) Attribute {
	der := appendLength([]byte{byte(tag)}, len(value))
	return Attribute{Type: oid, Value: append(der, value...)}
}

// StringValue reads an attribute value that is one PrintableString, UTF8String or IA5String: clients mix them up. The
// octets are returned as they are, whatever the type's alphabet.
func StringValue(der []byte) (value string, ok bool) {
	s := cryptobyte.String(der)
	var inside cryptobyte.String
	var tag cbasn1.Tag
	if !s.ReadAnyASN1(&inside, &tag) || !s.Empty() {
		return "", false
	}
	switch tag {
	case cbasn1.PrintableString, cbasn1.UTF8String, cbasn1.IA5String:
		return string(inside), true
	}
	return "", false
}

// OctetsValue reads an attribute value that is one OCTET STRING. The answer is a part of der.
func OctetsValue(der []byte) (value []byte, ok bool) {
	s := cryptobyte.String(der)
	var inside cryptobyte.String
	if !s.ReadASN1(&inside, cbasn1.OCTET_STRING) || !s.Empty() {
		return nil, false
	}
	return inside, true
}
