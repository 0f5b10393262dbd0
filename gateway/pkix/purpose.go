package pkix

import (
	"crypto/x509"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// hasPurpose reports whether the certificate's extended key usage lists the OID. The extension is read anew:
// crypto/x509 sorts it into purposes that it knows and others, and its names for the known ones are no OIDs.
//
//	ExtKeyUsageSyntax ::= SEQUENCE SIZE (1..MAX) OF KeyPurposeId     -- RFC 5280 section 4.2.1.12
//	KeyPurposeId ::= OBJECT IDENTIFIER
func hasPurpose(c *x509.Certificate, want asn1.ObjectIdentifier) bool {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidExtKeyUsage) {
			continue
		}
		input := cryptobyte.String(e.Value)
		var seq cryptobyte.String
		if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() {
			return false
		}
		found := false
		for !seq.Empty() {
			var oid asn1.ObjectIdentifier
			if !seq.ReadASN1ObjectIdentifier(&oid) {
				return false
			}
			found = found || oid.Equal(want)
		}
		return found
	}
	return false
}

// KeyUsages are the names of KeyUsage's bits (RFC 5280 section 4.2.1.3), in their order.
var KeyUsages = []string{
	"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign",
	"encipherOnly", "decipherOnly",
}
