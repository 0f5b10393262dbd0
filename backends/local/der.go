package local

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectKeyID        = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage            = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints    = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidIssuingDistribution = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidNameConstraints     = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidCRLDistribution     = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidPolicyMappings      = asn1.ObjectIdentifier{2, 5, 29, 33}
	oidAuthorityKeyID      = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidPolicyConstraints   = asn1.ObjectIdentifier{2, 5, 29, 36}
	oidExtKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidInhibitAnyPolicy    = asn1.ObjectIdentifier{2, 5, 29, 54}
	oidAuthorityInfo       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}
	oidOCSP                = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1}
	oidCAIssuers           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 2}
)

// checkName reads a Name and reports whether it is empty (RFC 5280 section 4.1.2.4):
//
//	RDNSequence ::= SEQUENCE OF SET SIZE (1..MAX) OF SEQUENCE { type OBJECT IDENTIFIER, value ANY }
func checkName(der []byte) (empty bool, err error) {
	in := cryptobyte.String(der)
	var rdns cryptobyte.String
	if !in.ReadASN1(&rdns, cbasn1.SEQUENCE) || !in.Empty() {
		return false, errors.New("not a DER Name")
	}
	empty = rdns.Empty()
	for !rdns.Empty() {
		var rdn cryptobyte.String
		if !rdns.ReadASN1(&rdn, cbasn1.SET) || rdn.Empty() {
			return false, errors.New("not a DER Name: a RelativeDistinguishedName is malformed or empty")
		}
		for !rdn.Empty() {
			var attribute, value cryptobyte.String
			var tag cbasn1.Tag
			var id asn1.ObjectIdentifier
			if !rdn.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&id) ||
				!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
				return false, errors.New("not a DER Name: an attribute is malformed")
			}
		}
	}
	return empty, nil
}

// checkGeneralNames reads the value of a subjectAltName (RFC 5280 section 4.2.1.6):
//
//	GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName
//	GeneralName ::= CHOICE { otherName [0], rfc822Name [1] IA5String, dNSName [2] IA5String, x400Address [3],
//	  directoryName [4] EXPLICIT Name, ediPartyName [5], uniformResourceIdentifier [6] IA5String,
//	  iPAddress [7] OCTET STRING, registeredID [8] OBJECT IDENTIFIER }
func checkGeneralNames(der []byte) error {
	in := cryptobyte.String(der)
	var names cryptobyte.String
	if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !in.Empty() || names.Empty() {
		return errors.New("not DER GeneralNames, or none in them")
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return errors.New("malformed GeneralName")
		}
		ok := false
		switch tag {
		case choice(1), choice(2), choice(6):
			ok = !name.Empty()
			for _, b := range name {
				ok = ok && b < 0x80
			}
		case choice(7):
			ok = len(name) == 4 || len(name) == 16
		case choice(8):
			var b cryptobyte.Builder
			b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(name) })
			whole := cryptobyte.String(b.BytesOrPanic())
			var id asn1.ObjectIdentifier
			ok = whole.ReadASN1ObjectIdentifier(&id)
		case choice(4).Constructed():
			_, err := checkName(name)
			ok = err == nil
		case choice(0).Constructed():
			var id asn1.ObjectIdentifier
			var value cryptobyte.String
			ok = name.ReadASN1ObjectIdentifier(&id) && name.ReadASN1(&value, choice(0).Constructed()) && name.Empty() && oneElement(value)
		case choice(3).Constructed(), choice(5).Constructed():
			ok = !name.Empty()
		}
		if !ok {
			return fmt.Errorf("malformed GeneralName (tag %#x)", uint8(tag))
		}
	}
	return nil
}

func choice(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }

// oneElement reports whether der is one DER element and nothing after it.
func oneElement(der []byte) bool {
	in := cryptobyte.String(der)
	var value cryptobyte.String
	var tag cbasn1.Tag
	return in.ReadAnyASN1(&value, &tag) && in.Empty()
}

// keyIdentifier is method 1 of RFC 7093 section 2: the leftmost 160 bits of the SHA-256 of the subjectPublicKey.
//
//	SubjectPublicKeyInfo ::= SEQUENCE { algorithm AlgorithmIdentifier, subjectPublicKey BIT STRING }
func keyIdentifier(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var body cryptobyte.String
	var key []byte
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !in.Empty() || !body.SkipASN1(cbasn1.SEQUENCE) ||
		!body.ReadASN1BitStringAsBytes(&key) || !body.Empty() {
		return nil, errors.New("not a DER SubjectPublicKeyInfo")
	}
	sum := sha256.Sum256(key)
	return sum[:20], nil
}

// csrKey returns the SubjectPublicKeyInfo of a PKCS #10 request, DER (RFC 2986 section 4):
//
//	CertificationRequest ::= SEQUENCE { certificationRequestInfo, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING }
//	CertificationRequestInfo ::= SEQUENCE { version INTEGER, subject Name, subjectPKInfo SubjectPublicKeyInfo, attributes [0] }
func csrKey(csr []byte) ([]byte, error) {
	in := cryptobyte.String(csr)
	var body, info, key cryptobyte.String
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !in.Empty() || !body.ReadASN1(&info, cbasn1.SEQUENCE) ||
		!body.SkipASN1(cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.BIT_STRING) || !body.Empty() ||
		!info.SkipASN1(cbasn1.INTEGER) || !info.SkipASN1(cbasn1.SEQUENCE) || !info.ReadASN1Element(&key, cbasn1.SEQUENCE) {
		return nil, errors.New("not a DER CertificationRequest")
	}
	return key, nil
}

// extension makes an extension from what build writes.
func extension(id asn1.ObjectIdentifier, critical bool, build func(b *cryptobyte.Builder)) (pkix.Extension, error) {
	var b cryptobyte.Builder
	build(&b)
	value, err := b.Bytes()
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("extension %s: %w", id, err)
	}
	return pkix.Extension{Id: id, Critical: critical, Value: value}, nil
}

// notCA is BasicConstraints of an end entity: cA is FALSE, and DER leaves a default out (RFC 5280 section 4.2.1.9).
func notCA(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {})
}

// keyUsage writes KeyUsage ::= BIT STRING, a named bit list: DER cuts the zeros at its end (RFC 5280 section 4.2.1.3).
// Bit n of x509.KeyUsage is bit n of the list.
func keyUsage(b *cryptobyte.Builder, u x509.KeyUsage) {
	octets := []byte{bits.Reverse8(uint8(u)), bits.Reverse8(uint8(u >> 8))}
	length := bits.Len16(uint16(u))
	octets = octets[:(length+7)/8]
	b.AddASN1(cbasn1.BIT_STRING, func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(len(octets)*8 - length))
		b.AddBytes(octets)
	})
}

// purposes writes ExtKeyUsageSyntax ::= SEQUENCE SIZE (1..MAX) OF OBJECT IDENTIFIER (RFC 5280 section 4.2.1.12).
func purposes(b *cryptobyte.Builder, ids []asn1.ObjectIdentifier) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, id := range ids {
			b.AddASN1ObjectIdentifier(id)
		}
	})
}

func uri(b *cryptobyte.Builder, s string) {
	b.AddASN1(choice(6), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

// distributionPoint writes the first field of a DistributionPoint and of an IssuingDistributionPoint: all the URLs lead to the same CRL.
//
//	distributionPoint [0] DistributionPointName OPTIONAL
//	DistributionPointName ::= CHOICE { fullName [0] GeneralNames, nameRelativeToCRLIssuer [1] }
func distributionPoint(b *cryptobyte.Builder, urls []string) {
	b.AddASN1(choice(0).Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(choice(0).Constructed(), func(b *cryptobyte.Builder) {
			for _, u := range urls {
				uri(b, u)
			}
		})
	})
}

// crlDistributionPoints is the extension of a certificate whose CRL is at any of the URLs (RFC 5280 section 4.2.1.13).
func crlDistributionPoints(urls []string) (pkix.Extension, error) {
	return extension(oidCRLDistribution, false, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { distributionPoint(b, urls) })
		})
	})
}

// issuingDistributionPoint is the extension of a CRL of the certificates which name one of the URLs (RFC 5280 section 5.2.5):
//
//	IssuingDistributionPoint ::= SEQUENCE { distributionPoint [0], onlyContainsUserCerts [1] BOOLEAN DEFAULT FALSE, ... }
func issuingDistributionPoint(urls []string) (pkix.Extension, error) {
	return extension(oidIssuingDistribution, true, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			distributionPoint(b, urls)
			b.AddASN1(choice(1), func(b *cryptobyte.Builder) { b.AddUint8(0xff) }) // no CA is certified here
		})
	})
}

// ownExtensions makes what every certificate of the issuer carries: the authority key identifier, and where its CRL,
// its OCSP responder and its certificate are, as configured (RFC 5280 sections 4.2.1.1, 4.2.1.13, 4.2.2.1).
func ownExtensions(g *generation, c *Issuer) ([]pkix.Extension, error) {
	aki, err := extension(oidAuthorityKeyID, false, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(choice(0), func(b *cryptobyte.Builder) { b.AddBytes(g.cert.SubjectKeyId) })
		})
	})
	if err != nil {
		return nil, err
	}
	own := []pkix.Extension{aki}
	if len(c.CRL) > 0 {
		crl, err := crlDistributionPoints(crlURIs(c.CRL, g.crlName()))
		if err != nil {
			return nil, err
		}
		own = append(own, crl)
	}
	if len(c.OCSP)+len(c.CAIssuers) > 0 {
		aia, err := extension(oidAuthorityInfo, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				access := func(method asn1.ObjectIdentifier, urls []string) {
					for _, u := range urls {
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(method)
							uri(b, u)
						})
					}
				}
				access(oidOCSP, c.OCSP)
				access(oidCAIssuers, c.CAIssuers)
			})
		})
		if err != nil {
			return nil, err
		}
		own = append(own, aia)
	}
	return own, nil
}
