package cmp

import (
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// certReqTemplate says what a request under the profile is to have (RFC 9810 section 5.3.19.16): the names that the device has
// to give, each with an empty value to be filled in; key usages as they are granted; the keys in keySpec. What the profile makes
// of its own (other names, validity, issuer) is left out, and so is the public key, which MUST NOT stand there.
func (g *general) certReqTemplate(q *question) ([]byte, *refusal) {
	p := q.profile
	wanted := p.NamesWanted()
	var t cmpmsg.CertReqTemplate
	if len(wanted.Subject) > 0 {
		subject, ref := made(blankName(wanted.Subject))
		if ref != nil {
			return nil, ref
		}
		t.Template.Subject = subject
	}
	extensions, err := templateExtensions(p, wanted.SAN)
	if err != nil {
		return made(nil, err)
	}
	if len(extensions) > 0 {
		if t.Template.Extensions, err = asn1.Marshal(extensions); err != nil {
			return made(nil, err)
		}
	}
	if t.KeySpec, err = keySpec(p); err != nil {
		return made(nil, err)
	}
	return made(t.Marshal())
}

// blankName is a Name whose attributes are empty strings.
func blankName(types []asn1.ObjectIdentifier) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, oid := range types {
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oid)
					b.AddASN1(cbasn1.UTF8String, func(*cryptobyte.Builder) {})
				})
			})
		}
	})
	return b.Bytes()
}

// templateExtensions are the names and usages of a template.
func templateExtensions(p *gateway.Profile, names []uint8) ([]stdpkix.Extension, error) {
	var list []stdpkix.Extension
	add := func(oid asn1.ObjectIdentifier, critical bool, write func(*cryptobyte.Builder)) error {
		var b cryptobyte.Builder
		write(&b)
		der, err := b.Bytes()
		list = append(list, stdpkix.Extension{Id: oid, Critical: critical, Value: der})
		return err
	}
	if len(names) > 0 {
		err := add(oidSubjectAltName, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, tag := range names {
					b.AddASN1(contextTag(tag), func(*cryptobyte.Builder) {})
				}
			})
		})
		if err != nil {
			return nil, err
		}
	}
	if p.KeyUsage != 0 {
		if err := add(oidKeyUsage, true, func(b *cryptobyte.Builder) { b.AddBytes(keyUsage(p.KeyUsage)) }); err != nil {
			return nil, err
		}
	}
	if len(p.ExtKeyUsage) > 0 {
		err := add(oidExtKeyUsage, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, oid := range p.ExtKeyUsage {
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

// keyUsage is the DER of KeyUsage ::= BIT STRING (RFC 5280 section 4.2.1.3): bit n of u is bit n of the list, from the left, and
// zeros at the end are left out.
func keyUsage(u x509.KeyUsage) []byte {
	length := bits.Len(uint(u))
	octets := make([]byte, (length+7)/8)
	for i := range length {
		if u&(1<<i) != 0 {
			octets[i/8] |= 0x80 >> (i % 8)
		}
	}
	unused := byte(len(octets)*8 - length)
	return append([]byte{byte(cbasn1.BIT_STRING), byte(len(octets) + 1), unused}, octets...)
}

// keySpec has a control for each kind of key: rsaKeyLen for RSA, algId for the others.
func keySpec(p *gateway.Profile) ([]cmpmsg.AttributeTypeAndValue, error) {
	var list []cmpmsg.AttributeTypeAndValue
	for _, k := range keyTypes(p) {
		control := cmpmsg.AttributeTypeAndValue{Type: cmpmsg.OIDAlgID}
		a, ok := k.algorithm()
		if !ok {
			continue
		}
		var err error
		if k.name == nameRSA {
			control.Type = cmpmsg.OIDRSAKeyLen
			var b cryptobyte.Builder
			b.AddASN1Int64(int64(k.bits))
			control.Value, err = b.Bytes()
		} else {
			control.Value, err = a.Marshal()
		}
		if err != nil {
			return nil, err
		}
		list = append(list, control)
	}
	return list, nil
}
