package pkix

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// AddKeyUsage adds KeyUsage ::= BIT STRING, a named bit list (RFC 5280 section 4.2.1.3): bit n of u is bit n of the list, from the left,
// and zeros at its end are left out (X.690 section 11.2.2).
func AddKeyUsage(b *cryptobyte.Builder, u x509.KeyUsage) {
	length := bits.Len(uint(u))
	octets := make([]byte, (length+7)/8)
	for i := range length {
		if u&(1<<i) != 0 {
			octets[i/8] |= 0x80 >> (i % 8)
		}
	}
	b.AddASN1(cbasn1.BIT_STRING, func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(len(octets)*8 - length))
		b.AddBytes(octets)
	})
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280 section 4.2.1.6

// TemplateExtensions are those of a template for requests: a subjectAltName whose names, of the GeneralName tags given, are empty,
// for the client to fill in, and the usages as they are certified. What is none is left out.
func TemplateExtensions(names []uint8, usage x509.KeyUsage, purposes []asn1.ObjectIdentifier) ([]pkix.Extension, error) {
	var list []pkix.Extension
	add := func(oid asn1.ObjectIdentifier, critical bool, write cryptobyte.BuilderContinuation) error {
		var b cryptobyte.Builder
		write(&b)
		der, err := b.Bytes()
		list = append(list, pkix.Extension{Id: oid, Critical: critical, Value: der})
		return err
	}
	if len(names) > 0 {
		err := add(oidSubjectAltName, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, tag := range names {
					b.AddASN1(cbasn1.Tag(tag).ContextSpecific(), func(*cryptobyte.Builder) {})
				}
			})
		})
		if err != nil {
			return nil, err
		}
	}
	if usage != 0 {
		if err := add(oidKeyUsage, true, func(b *cryptobyte.Builder) { AddKeyUsage(b, usage) }); err != nil {
			return nil, err
		}
	}
	if len(purposes) > 0 {
		err := add(oidExtKeyUsage, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, oid := range purposes {
					b.AddASN1ObjectIdentifier(oid)
				}
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}
