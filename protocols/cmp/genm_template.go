package cmp

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
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
	extensions, err := pkix.TemplateExtensions(wanted.SAN, p.KeyUsage, p.ExtKeyUsage)
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
