package cms

import (
	"crypto"
	_ "crypto/md5" // so that crypto.MD5 can be named; nothing here computes it
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// digestAlgorithm is a message digest and the signature algorithms that name it.
type digestAlgorithm struct {
	hash            crypto.Hash
	oid, rsa, ecdsa asn1.ObjectIdentifier
	nameOnly        bool // neither Verify nor Sign takes it
}

// digests are those that clients of RFC 8894 name (RFC 3370, RFC 5754).
var digests = []digestAlgorithm{
	{hash: crypto.SHA256,
		oid:   asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1},
		rsa:   asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11},
		ecdsa: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	{hash: crypto.SHA384,
		oid:   asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2},
		rsa:   asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12},
		ecdsa: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	{hash: crypto.SHA512,
		oid:   asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3},
		rsa:   asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13},
		ecdsa: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
	{hash: crypto.SHA224,
		oid:   asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 4},
		rsa:   asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 14},
		ecdsa: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1}},
	{hash: crypto.SHA1,
		oid:   asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26},
		rsa:   asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5},
		ecdsa: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}},
	{hash: crypto.MD5, nameOnly: true,
		oid: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5},
		rsa: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}},
}

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // rsaEncryption: key transport, and a signature of any digest
	oidOAEP    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidLabel   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 9} // id-pSpecified
)

// digestByOID returns 0 for a digest that is not known.
func digestByOID(oid asn1.ObjectIdentifier) crypto.Hash {
	for i := range digests {
		if digests[i].oid.Equal(oid) {
			return digests[i].hash
		}
	}
	return 0
}

// usable reports whether h is a digest that Verify and Sign can work with.
func usable(h crypto.Hash) bool {
	for i := range digests {
		if digests[i].hash == h {
			return !digests[i].nameOnly
		}
	}
	return false
}

type signatureKind int

const (
	signatureUnknown signatureKind = iota
	signatureRSA                   // PKCS #1 v1.5
	signatureECDSA
)

// signatureByOID tells the kind of a signature algorithm and the digest that it names: 0 for rsaEncryption, which names
// none (RFC 3370 section 3.2).
func signatureByOID(oid asn1.ObjectIdentifier) (signatureKind, crypto.Hash) {
	if oid.Equal(oidRSA) {
		return signatureRSA, 0
	}
	for i := range digests {
		switch {
		case digests[i].rsa.Equal(oid):
			return signatureRSA, digests[i].hash
		case digests[i].ecdsa.Equal(oid):
			return signatureECDSA, digests[i].hash
		}
	}
	return signatureUnknown, 0
}

// maxOID is how many octets an OBJECT IDENTIFIER may have: what is kept of a message for logs stays short.
const maxOID = 64

func readOID(s *cryptobyte.String, oid *asn1.ObjectIdentifier) bool {
	look := *s
	var raw cryptobyte.String
	return look.ReadASN1(&raw, cbasn1.OBJECT_IDENTIFIER) && len(raw) <= maxOID && s.ReadASN1ObjectIdentifier(oid)
}

// readAlgorithm reads an AlgorithmIdentifier. params is the element, empty when there is none.
//
//	AlgorithmIdentifier ::= SEQUENCE {              -- RFC 5280 section 4.1.1.2
//	    algorithm   OBJECT IDENTIFIER,
//	    parameters  ANY DEFINED BY algorithm OPTIONAL }
func readAlgorithm(s *cryptobyte.String, oid *asn1.ObjectIdentifier, params *cryptobyte.String) bool {
	var alg cryptobyte.String
	var tag cbasn1.Tag
	if !s.ReadASN1(&alg, cbasn1.SEQUENCE) || !readOID(&alg, oid) {
		return false
	}
	*params = nil
	return alg.Empty() || alg.ReadAnyASN1Element(params, &tag) && alg.Empty()
}

// addAlgorithm writes an AlgorithmIdentifier with NULL parameters or none.
func addAlgorithm(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, null bool) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if null {
			b.AddASN1(cbasn1.NULL, func(*cryptobyte.Builder) {})
		}
	})
}
