package pkix

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// CRL is what a certificate revocation list says of itself. What it lists is not taken apart: a list may have a million
// entries, and who hands it out needs none of them.
type CRL struct {
	Issuer     []byte                    // DER Name
	ThisUpdate time.Time                 // UTC
	NextUpdate time.Time                 // UTC
	Number     *big.Int                  // nil when it has none
	Point      *IssuingDistributionPoint // nil when it has none: then it is of all certificates of its issuer

	tbs       []byte
	algorithm []byte // DER AlgorithmIdentifier
	signature []byte
}

var oidCRLNumber = asn1.ObjectIdentifier{2, 5, 29, 20}

// maxCRLNumber is how many bytes a CRL number may have (RFC 5280 section 5.2.3).
const maxCRLNumber = 20

// ParseCRL reads a version 2 CRL (RFC 5280 section 5.1) without its entries. One without nextUpdate is refused, as the
// profile does. Errors are ErrMalformed.
//
//	CertificateList  ::=  SEQUENCE  {
//	     tbsCertList          SEQUENCE  {
//	          version                 INTEGER { v2(1) },
//	          signature               AlgorithmIdentifier,
//	          issuer                  Name,
//	          thisUpdate              Time,
//	          nextUpdate              Time,
//	          revokedCertificates     SEQUENCE OF SEQUENCE { ... } OPTIONAL,
//	          crlExtensions           [0]  EXPLICIT Extensions OPTIONAL },
//	     signatureAlgorithm   AlgorithmIdentifier,
//	     signatureValue       BIT STRING  }
func ParseCRL(der []byte) (*CRL, error) {
	input := cryptobyte.String(der)
	var list, element, tbs, inner, outer, issuer cryptobyte.String
	var signature asn1.BitString
	if !input.ReadASN1(&list, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, malformed("a CRL")
	}
	if !list.ReadASN1Element(&element, cbasn1.SEQUENCE) || !list.ReadASN1Element(&outer, cbasn1.SEQUENCE) ||
		!list.ReadASN1BitString(&signature) || !list.Empty() || signature.BitLength%8 != 0 {
		return nil, malformed("a CRL")
	}
	c := &CRL{tbs: element, algorithm: outer, signature: signature.Bytes}
	var version int
	if !element.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.ReadASN1Integer(&version) || version != 1 {
		return nil, malformed("a CRL of version 2")
	}
	if !tbs.ReadASN1Element(&inner, cbasn1.SEQUENCE) || !tbs.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !bytes.Equal(inner, outer) {
		return nil, malformed("a CRL's signature algorithm or issuer")
	}
	c.Issuer = issuer
	var ok bool
	if c.ThisUpdate, ok = readTime(&tbs); !ok {
		return nil, malformed("a CRL's thisUpdate")
	}
	if c.NextUpdate, ok = readTime(&tbs); !ok || !c.NextUpdate.After(c.ThisUpdate) {
		return nil, malformed("a CRL's nextUpdate, which has to be there, and after its thisUpdate")
	}
	if !tbs.SkipOptionalASN1(cbasn1.SEQUENCE) {
		return nil, malformed("a CRL's revokedCertificates")
	}
	var extensions cryptobyte.String
	var present bool
	if !tbs.ReadOptionalASN1(&extensions, &present, contextTag(0).Constructed()) || !tbs.Empty() {
		return nil, malformed("a CRL's crlExtensions")
	}
	if !present {
		return c, nil
	}
	all, err := ParseExtensions(extensions)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.Id.Equal(oidIssuingDistributionPoint) {
			if c.Point, err = parseIssuingDistributionPoint(e.Value); err != nil {
				return nil, err
			}
			c.Point.Critical = e.Critical
		}
		if !e.Id.Equal(oidCRLNumber) {
			continue
		}
		value := cryptobyte.String(e.Value)
		number := new(big.Int)
		if len(e.Value) > maxCRLNumber+2 || !value.ReadASN1Integer(number) || !value.Empty() || number.Sign() < 0 {
			return nil, malformed("a CRL's cRLNumber")
		}
		c.Number = number
	}
	return c, nil
}

// readTime reads UTCTime or GeneralizedTime (RFC 5280 section 5.1.2.4).
func readTime(s *cryptobyte.String) (t time.Time, ok bool) {
	if s.PeekASN1Tag(cbasn1.UTCTime) {
		return t, s.ReadASN1UTCTime(&t)
	}
	return t, s.ReadASN1GeneralizedTime(&t)
}

// CheckSignature reports whether the CA's key signed the CRL. Errors are ErrMalformed, ErrAlgorithm and ErrSignature.
func (c *CRL) CheckSignature(ca *x509.Certificate) error {
	if !ca.IsCA || ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return because(ErrSignature, "the certificate is not one that signs CRLs")
	}
	return VerifySignature(ca.PublicKey, c.algorithm, c.tbs, c.signature)
}
