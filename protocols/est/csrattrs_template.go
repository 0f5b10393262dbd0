package est

import (
	"encoding/asn1"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// Attributes of RFC 9908 (section 3.4, appendix A).
var (
	oidRequestTemplate          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 61} // id-aa-certificationRequestInfoTemplate
	oidExtensionRequestTemplate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 62} // id-aa-extensionReqTemplate
)

// requestTemplate is a certification request with what is asked for filled in, and without what is not (RFC 9908 section
// 3.4). It is nil when nothing is asked for. An attribute of the subject without a value is the client's to fill in.
//
//	CertificationRequestInfoTemplate ::= SEQUENCE {           -- implicit tags
//	    version        INTEGER { v1(0) },
//	    subject        NameTemplate OPTIONAL,
//	    subjectPKInfo  [0] SubjectPublicKeyInfoTemplate OPTIONAL,
//	    attributes     [1] SET OF Attribute }
//	NameTemplate ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value ANY OPTIONAL }
//	SubjectPublicKeyInfoTemplate ::= SEQUENCE {
//	    algorithm         AlgorithmIdentifier,
//	    subjectPublicKey  BIT STRING OPTIONAL }
func requestTemplate(p *gateway.Profile, key *askedKey, wanted gateway.NamesWanted) ([]byte, error) {
	extensions, err := pkix.TemplateExtensions(wanted.SAN, p.KeyUsage, p.ExtKeyUsage)
	if err != nil {
		return nil, err
	}
	if len(wanted.Subject) == 0 && key == nil && len(extensions) == 0 {
		return nil, nil
	}
	return sequence(func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		if len(wanted.Subject) > 0 { // MUST be absent otherwise
			b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, oid := range wanted.Subject {
					b.AddASN1(cryptobyteasn1.SET, func(b *cryptobyte.Builder) {
						b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) })
					})
				}
			})
		}
		if key != nil {
			b.AddASN1(cryptobyteasn1.Tag(0).ContextSpecific().Constructed(), key.addTemplate)
		}
		b.AddASN1(cryptobyteasn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			if len(extensions) == 0 {
				return
			}
			// ExtensionReqTemplate is for values that the client completes; extensionRequest MUST be used otherwise.
			oid := oidExtensionRequest
			if len(wanted.SAN) > 0 {
				oid = oidExtensionRequestTemplate
			}
			value, err := asn1.Marshal(extensions)
			if err != nil {
				b.SetError(err)
				return
			}
			addAttribute(b, oid, value)
		})
	})
}

// addTemplate adds the fields of SubjectPublicKeyInfoTemplate. An RSA key's size is that of a modulus which stands there
// for no other purpose; other keys MUST NOT have one.
func (k *askedKey) addTemplate(b *cryptobyte.Builder) {
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(k.algorithm)
		switch {
		case k.curve != nil:
			b.AddASN1ObjectIdentifier(k.curve)
		case k.bits > 0:
			b.AddASN1NULL()
		}
	})
	if k.bits > 0 {
		b.AddASN1(cryptobyteasn1.BIT_STRING, func(b *cryptobyte.Builder) {
			b.AddUint8(0)
			b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) { // RSAPublicKey, RFC 8017 appendix A.1.1
				modulus := new(big.Int).Lsh(big.NewInt(1), uint(k.bits))
				b.AddASN1BigInt(modulus.Sub(modulus, big.NewInt(1)))
				b.AddASN1Int64(65537)
			})
		})
	}
}
