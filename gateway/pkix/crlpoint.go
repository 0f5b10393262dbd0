package pkix

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// IssuingDistributionPoint says which certificates a CRL is of (RFC 5280 section 5.2.5).
type IssuingDistributionPoint struct {
	Critical bool
	URIs     []string // of its distribution point: it is of the certificates that name one of them; nil for those of any
	Narrower bool     // it is of CA or attribute certificates only, of some reasons only, or of other issuers' certificates too
}

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// maxPointNames is how many names a distribution point may have.
const maxPointNames = 64

// parseIssuingDistributionPoint reads the extension's value. A distribution point whose name is none by URI is one that no
// certificate can be found by here: it counts as Narrower. Errors are ErrMalformed.
//
//	IssuingDistributionPoint ::= SEQUENCE {
//	     distributionPoint          [0] DistributionPointName OPTIONAL,
//	     onlyContainsUserCerts      [1] BOOLEAN DEFAULT FALSE,
//	     onlyContainsCACerts        [2] BOOLEAN DEFAULT FALSE,
//	     onlySomeReasons            [3] ReasonFlags OPTIONAL,
//	     indirectCRL                [4] BOOLEAN DEFAULT FALSE,
//	     onlyContainsAttributeCerts [5] BOOLEAN DEFAULT FALSE }
func parseIssuingDistributionPoint(der []byte) (*IssuingDistributionPoint, error) {
	p := &IssuingDistributionPoint{}
	in := cryptobyte.String(der)
	var point, name, names, field cryptobyte.String
	var there bool
	if !in.ReadASN1(&point, cbasn1.SEQUENCE) || !in.Empty() || !point.ReadOptionalASN1(&name, &there, contextTag(0).Constructed()) {
		return nil, malformed("an issuingDistributionPoint")
	}
	if there {
		var tag cbasn1.Tag
		if !name.ReadAnyASN1(&names, &tag) || !name.Empty() {
			return nil, malformed("an issuingDistributionPoint's name")
		}
		for n := 0; tag == contextTag(0).Constructed() && !names.Empty(); n++ { // fullName
			var kind cbasn1.Tag
			if n == maxPointNames || !names.ReadAnyASN1(&field, &kind) {
				return nil, malformed("an issuingDistributionPoint's fullName")
			}
			if kind == contextTag(6) { // uniformResourceIdentifier
				p.URIs = append(p.URIs, string(field))
			}
		}
		p.Narrower = len(p.URIs) == 0
	}
	for n := uint8(1); n <= 5; n++ {
		if !point.ReadOptionalASN1(&field, &there, contextTag(n)) {
			return nil, malformed("an issuingDistributionPoint")
		}
		if there && n > 1 {
			p.Narrower = true // a FALSE, which DER leaves out, too
		}
	}
	if !point.Empty() {
		return nil, malformed("an issuingDistributionPoint")
	}
	return p, nil
}
