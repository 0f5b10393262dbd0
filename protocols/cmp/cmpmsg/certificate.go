package cmpmsg

import (
	"errors"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// CertificateAlgorithm returns the DER of a certificate's signatureAlgorithm, whose hash makes certHash (RFC 9810 section 5.3.18).
//
//	Certificate ::= SEQUENCE {              -- RFC 5280 section 4.1
//	    tbsCertificate      TBSCertificate,
//	    signatureAlgorithm  AlgorithmIdentifier,
//	    signatureValue      BIT STRING }
func CertificateAlgorithm(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var seq, tbs, alg cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1Element(&tbs, cbasn1.SEQUENCE) || !seq.ReadASN1Element(&alg, cbasn1.SEQUENCE) {
		return nil, errors.New("not a certificate")
	}
	return alg, nil
}
