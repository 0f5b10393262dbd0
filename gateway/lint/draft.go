package lint

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/plugins/backend"
)

// draft is the DER of a certificate with the template's content, as issuer would make it, but for its signature, which is
// zeros, and what a CA adds of its own (where its CRL is). Nobody can take it for a certificate.
//
//	Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue BIT STRING }      -- RFC 5280 section 4.1
func draft(t *backend.Template, issuer *x509.Certificate) ([]byte, error) {
	if issuer == nil {
		return nil, errors.New("the issuing CA is not known")
	}
	algorithm, size, err := signature(issuer)
	if err != nil {
		return nil, err
	}
	extensions, err := extensions(t, issuer)
	if err != nil {
		return nil, err
	}
	if t.NotBefore.Year() > 9999 || t.NotAfter.Year() > 9999 {
		return nil, errors.New("the validity is beyond the year 9999")
	}
	subject := t.Subject
	if len(subject) == 0 {
		subject = emptyName
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // v3
			b.AddASN1(cbasn1.INTEGER, func(b *cryptobyte.Builder) {
				serial := sha256.Sum256(t.PublicKey)
				b.AddBytes(append([]byte{0x40}, serial[:15]...)) // positive, as long as many
			})
			b.AddBytes(algorithm)
			b.AddBytes(issuer.RawSubject)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addTime(b, t.NotBefore)
				addTime(b, t.NotAfter)
			})
			b.AddBytes(subject)
			b.AddBytes(t.PublicKey)
			b.AddASN1(cbasn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, e := range extensions {
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(e.Id)
							if e.Critical {
								b.AddASN1Boolean(true)
							}
							b.AddASN1OctetString(e.Value)
						})
					}
				})
			})
		})
		b.AddBytes(algorithm)
		b.AddASN1BitString(make([]byte, size))
	})
	return b.Bytes()
}

// addTime writes Time (RFC 5280 section 4.1.2.5): UTCTime through the year 2049.
func addTime(b *cryptobyte.Builder, t time.Time) {
	t = t.UTC()
	if y := t.Year(); 1950 <= y && y < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

var emptyName = []byte{0x30, 0}

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// extensions are those of the template, and those that every CA sets. Which are critical: RFC 5280 section 4.2.1.
func extensions(t *backend.Template, issuer *x509.Certificate) ([]stdpkix.Extension, error) {
	var list []stdpkix.Extension
	var errs []error
	add := func(id asn1.ObjectIdentifier, critical bool, build func(b *cryptobyte.Builder)) {
		var b cryptobyte.Builder
		build(&b)
		value, err := b.Bytes()
		if err != nil {
			errs = append(errs, fmt.Errorf("extension %s: %w", id, err))
		}
		list = append(list, stdpkix.Extension{Id: id, Critical: critical, Value: value})
	}
	add(oidBasicConstraints, true, func(b *cryptobyte.Builder) { b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {}) })
	if t.KeyUsage != 0 {
		add(oidKeyUsage, true, func(b *cryptobyte.Builder) { addKeyUsage(b, t.KeyUsage) })
	}
	if len(t.ExtKeyUsage) > 0 {
		add(oidExtKeyUsage, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, id := range t.ExtKeyUsage {
					b.AddASN1ObjectIdentifier(id)
				}
			})
		})
	}
	if len(t.SubjectAltName) > 0 {
		add(oidSubjectAltName, len(t.Subject) <= len(emptyName), func(b *cryptobyte.Builder) { b.AddBytes(t.SubjectAltName) })
	}
	add(oidSubjectKeyID, false, func(b *cryptobyte.Builder) {
		id := sha256.Sum256(t.PublicKey)
		b.AddASN1OctetString(id[:20])
	})
	if len(issuer.SubjectKeyId) > 0 {
		add(oidAuthorityKeyID, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(issuer.SubjectKeyId) })
			})
		})
	}
	return append(list, t.Extensions...), errors.Join(errs...)
}

// addKeyUsage writes a named bit list: DER cuts the zeros at its end. Bit n of x509.KeyUsage is bit n of the list.
func addKeyUsage(b *cryptobyte.Builder, u x509.KeyUsage) {
	octets := []byte{bits.Reverse8(uint8(u)), bits.Reverse8(uint8(u >> 8))}
	length := bits.Len16(uint16(u))
	octets = octets[:(length+7)/8]
	b.AddASN1(cbasn1.BIT_STRING, func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(len(octets)*8 - length))
		b.AddBytes(octets)
	})
}

// signature is the AlgorithmIdentifier that a CA with the issuer's key signs by, and how long its signatures are.
func signature(issuer *x509.Certificate) (algorithm []byte, size int, err error) {
	var oid asn1.ObjectIdentifier
	null := false
	switch k := issuer.PublicKey.(type) {
	case *rsa.PublicKey: // RFC 4055 section 5
		oid, null, size = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, true, k.Size()
	case *ecdsa.PublicKey: // RFC 5758 section 3.2
		size = k.Curve.Params().BitSize / 4
		switch bits := k.Curve.Params().BitSize; {
		case bits > 384:
			oid = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
		case bits > 256:
			oid = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
		default:
			oid = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
		}
	case ed25519.PublicKey: // RFC 8410 section 3
		oid, size = asn1.ObjectIdentifier{1, 3, 101, 112}, ed25519.SignatureSize
	default:
		return nil, 0, fmt.Errorf("the issuing CA has a key of type %T", k)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if null {
			b.AddASN1NULL()
		}
	})
	algorithm, err = b.Bytes()
	return algorithm, size, err
}
