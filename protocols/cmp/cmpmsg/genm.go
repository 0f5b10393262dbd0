package cmpmsg

import (
	"encoding/asn1"
	"time"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// General is genm and genp (RFC 9810 sections 5.3.19 and 5.3.20).
type General struct {
	Kind BodyType
	Info []InfoTypeAndValue
}

// Type is Kind.
func (g *General) Type() BodyType { return g.Kind }

// The parsers below read values of InfoTypeAndValue, DER; oid.go says which type has which. Errors are *Error. The
// functions beside them make such values.

const maxValues = 64 // of a value that is a list

// ParseTexts reads a SEQUENCE OF UTF8String: certProfile and suppLangTags. It has at least one element, each at most
// 4096 octets.
func ParseTexts(der []byte) (texts []string, err error) {
	const what = "SEQUENCE OF UTF8String"
	err = parseValue(der, what, func(in *input) {
		in.list(what, 1, maxValues, func(in *input) { texts = append(texts, in.utf8(what)) })
	})
	return whole(texts, err)
}

// MarshalTexts is the way back.
func MarshalTexts(texts ...string) ([]byte, error) {
	return build(func(b *builder) { b.utf8List(texts) })
}

// whole is list, but nil with an error.
func whole[T any](list []T, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return list, nil
}

// ParseSequences reads a SEQUENCE OF what are SEQUENCEs and are not parsed further: certificates of caCerts (at least one),
// CRLs of crls, messages of origPKIMessage.
func ParseSequences(der []byte) (list [][]byte, err error) {
	err = parseValue(der, "SEQUENCE OF SEQUENCE", func(in *input) { list = in.certificates("SEQUENCE OF SEQUENCE", 1, maxValues) })
	return whole(list, err)
}

// MarshalSequences is the way back.
func MarshalSequences(list ...[]byte) ([]byte, error) {
	return build(func(b *builder) { b.certificates(list, "SEQUENCE OF SEQUENCE") })
}

// ParseAlgorithms reads a SEQUENCE OF AlgorithmIdentifier: signKeyPairTypes and encKeyPairTypes.
func ParseAlgorithms(der []byte) (list []AlgorithmIdentifier, err error) {
	const what = "SEQUENCE OF AlgorithmIdentifier"
	err = parseValue(der, what, func(in *input) {
		in.list(what, 1, maxValues, func(in *input) { list = append(list, in.algorithm(what)) })
	})
	return whole(list, err)
}

// MarshalAlgorithms is the way back.
func MarshalAlgorithms(list ...AlgorithmIdentifier) ([]byte, error) {
	return build(func(b *builder) {
		b.sequence(func(b *builder) {
			for i := range list {
				b.algorithm(&list[i])
			}
		})
	})
}

// ParseAlgorithm reads an AlgorithmIdentifier: preferredSymmAlg, keyPairParamRep and the control algId.
func ParseAlgorithm(der []byte) (*AlgorithmIdentifier, error) {
	var a AlgorithmIdentifier
	if err := parseValue(der, "AlgorithmIdentifier", func(in *input) { a = in.algorithm("AlgorithmIdentifier") }); err != nil {
		return nil, err
	}
	return &a, nil
}

// Marshal is the DER of the AlgorithmIdentifier: Raw, or made of the other fields.
func (a *AlgorithmIdentifier) Marshal() ([]byte, error) {
	return build(func(b *builder) { b.algorithm(a) })
}

// ParseOIDs reads a SEQUENCE OF OBJECT IDENTIFIER: unsupportedOIDs.
func ParseOIDs(der []byte) (list []asn1.ObjectIdentifier, err error) {
	const what = "SEQUENCE OF OBJECT IDENTIFIER"
	err = parseValue(der, what, func(in *input) {
		in.list(what, 1, maxValues, func(in *input) { list = append(list, in.oid(what)) })
	})
	return whole(list, err)
}

// MarshalOIDs is the way back.
func MarshalOIDs(list ...asn1.ObjectIdentifier) ([]byte, error) {
	return build(func(b *builder) {
		b.sequence(func(b *builder) {
			for _, oid := range list {
				b.AddASN1ObjectIdentifier(oid)
			}
		})
	})
}

// ParseTime reads a GeneralizedTime: confirmWaitTime.
func ParseTime(der []byte) (t time.Time, err error) {
	err = parseValue(der, "GeneralizedTime", func(in *input) { t = in.generalizedTime("GeneralizedTime") })
	if err != nil {
		return time.Time{}, err
	}
	return t, nil
}

// MarshalTime is the DER GeneralizedTime of t, in UTC, with seconds and without a fraction.
func MarshalTime(t time.Time) ([]byte, error) {
	return build(func(b *builder) { b.AddASN1GeneralizedTime(t.UTC()) })
}

// ParseRootUpdate reads a RootCaKeyUpdateContent: rootCaKeyUpdate.
func ParseRootUpdate(der []byte) (*CAKeyUpdate, error) {
	var u CAKeyUpdate
	if err := parseValue(der, "RootCaKeyUpdateContent", func(in *input) { u = in.rootUpdate() }); err != nil {
		return nil, err
	}
	return &u, nil
}

// MarshalRootUpdate is the way back; V2 is not looked at.
func (u *CAKeyUpdate) MarshalRootUpdate() ([]byte, error) {
	return build(func(b *builder) { b.rootUpdate(u) })
}

// CertReqTemplate is a CertReqTemplateContent (RFC 9810 section 5.3.19.16), whose template never has a public key.
type CertReqTemplate struct {
	Template CertTemplate
	KeySpec  []AttributeTypeAndValue // controls OIDAlgID and OIDRSAKeyLen
}

// ParseCertReqTemplate reads the value of certReqTemplate.
//
//	CertReqTemplateContent ::= SEQUENCE {
//	    certTemplate  CertTemplate,
//	    keySpec       Controls OPTIONAL }
func ParseCertReqTemplate(der []byte) (*CertReqTemplate, error) {
	const what = "CertReqTemplateContent"
	var t CertReqTemplate
	err := parseValue(der, what, func(in *input) {
		in.sequence(what, func(in *input) {
			at := in.s
			if t.Template = in.template("certTemplate"); t.Template.PublicKey != nil {
				in.syntax(at, "certTemplate", "publicKey must not be used")
			}
			if in.next(cbasn1.SEQUENCE) {
				t.KeySpec = in.attributes("keySpec")
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// Marshal is the way back.
func (t *CertReqTemplate) Marshal() ([]byte, error) {
	return build(func(b *builder) {
		if t.Template.PublicKey != nil {
			b.fail("certTemplate: publicKey must not be used")
		}
		b.sequence(func(b *builder) {
			b.template(&t.Template)
			if len(t.KeySpec) > 0 {
				b.attributes(t.KeySpec)
			}
		})
	})
}

// CRLStatus says which CRL is wanted, and which one is known already (RFC 9810 section 5.3.19.17). One of
// DistributionPoint and Issuer is there.
type CRLStatus struct {
	DistributionPoint []byte    // DER DistributionPointName
	Issuer            []byte    // DER GeneralNames
	ThisUpdate        time.Time // zero when absent
}

// ParseCRLStatusList reads the value of crlStatusList.
//
//	CRLStatusListValue ::= SEQUENCE SIZE (1..MAX) OF CRLStatus
//	CRLStatus ::= SEQUENCE {
//	    source      CRLSource,
//	    thisUpdate  Time OPTIONAL }
//	CRLSource ::= CHOICE {
//	    dpn     [0] DistributionPointName,
//	    issuer  [1] GeneralNames }
//	DistributionPointName ::= CHOICE {                  -- RFC 5280 section 4.2.1.13, implicit tags
//	    fullName                 [0] GeneralNames,
//	    nameRelativeToCRLIssuer  [1] RelativeDistinguishedName }
func ParseCRLStatusList(der []byte) (list []CRLStatus, err error) {
	const what = "CRLStatus"
	names := func(in *input) {
		for in.more() {
			in.generalName("GeneralNames")
		}
	}
	err = parseValue(der, what, func(in *input) {
		in.list(what, 1, maxValues, func(in *input) {
			var s CRLStatus
			in.sequence(what, func(in *input) {
				at := in.s
				if !in.tagged(0, "dpn", func(in *input) {
					switch {
					case in.next(constructed(0)):
						der := in.take(constructed(0))
						in.within(der, "fullName", names)
						s.DistributionPoint = keep(der)
					default:
						s.DistributionPoint = keep(in.need(constructed(1), "dpn", "DistributionPointName expected"))
					}
				}) && !in.tagged(1, "issuer", func(in *input) { s.Issuer = keep(in.sequence("GeneralNames", names)) }) {
					in.syntax(at, what, "dpn or issuer expected")
				}
				if in.more() {
					s.ThisUpdate = in.time("thisUpdate")
				}
			})
			list = append(list, s)
		})
	})
	return whole(list, err)
}

// MarshalCRLStatusList is the way back.
func MarshalCRLStatusList(list ...CRLStatus) ([]byte, error) {
	return build(func(b *builder) {
		b.sequence(func(b *builder) {
			for i := range list {
				s := &list[i]
				if (s.DistributionPoint == nil) == (s.Issuer == nil) {
					b.fail("CRLSource: one of dpn and issuer is needed")
					return
				}
				b.sequence(func(b *builder) {
					if s.Issuer != nil {
						b.tagged(1, func(b *builder) { b.element(s.Issuer, "issuer", cbasn1.SEQUENCE) })
					} else {
						b.tagged(0, func(b *builder) { b.element(s.DistributionPoint, "dpn", constructed(0), constructed(1)) })
					}
					if !s.ThisUpdate.IsZero() {
						b.time(s.ThisUpdate)
					}
				})
			}
		})
	})
}

// KemCiphertext is a KemCiphertextInfo (RFC 9810 section 5.1.3.4).
type KemCiphertext struct {
	KEM        AlgorithmIdentifier
	Ciphertext []byte
}

// ParseKemCiphertext reads the value of KemCiphertextInfo.
//
//	KemCiphertextInfo ::= SEQUENCE {
//	    kem  AlgorithmIdentifier,
//	    ct   OCTET STRING }
func ParseKemCiphertext(der []byte) (*KemCiphertext, error) {
	const what = "KemCiphertextInfo"
	var k KemCiphertext
	err := parseValue(der, what, func(in *input) {
		in.sequence(what, func(in *input) {
			k.KEM = in.algorithm("kem")
			k.Ciphertext = in.octets("ct", cms.DefaultSize)
		})
	})
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// Marshal is the way back.
func (k *KemCiphertext) Marshal() ([]byte, error) {
	return build(func(b *builder) {
		b.sequence(func(b *builder) {
			b.algorithm(&k.KEM)
			b.AddASN1OctetString(k.Ciphertext)
		})
	})
}
