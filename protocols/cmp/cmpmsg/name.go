package cmpmsg

import (
	"math/big"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// generalName reads a GeneralName (RFC 5280 section 4.2.1.6) and returns its DER. A directoryName is looked through as far
// as the form of a Name goes.
func (in *input) generalName(what string) []byte {
	at := in.s
	der := in.any(what)
	if der == nil {
		return nil
	}
	switch cbasn1.Tag(der[0]) {
	case constructed(4):
		in.within(der, what, func(in *input) { in.name(what) })
	case constructed(0), constructed(3), constructed(5), primitive(1), primitive(2), primitive(6), primitive(7), primitive(8):
	default:
		in.syntax(at, what, "GeneralName expected")
	}
	return keep(der)
}

// maxRDNs bounds the attributes of a Name; real ones have a dozen.
const maxRDNs = 32

// name reads a Name and returns its DER.
//
//	Name ::= CHOICE { rdnSequence  RDNSequence }
//	RDNSequence ::= SEQUENCE OF RelativeDistinguishedName
//	RelativeDistinguishedName ::= SET SIZE (1..MAX) OF AttributeTypeAndValue
func (in *input) name(what string) []byte {
	n := 0
	return keep(in.sequence(what, func(in *input) {
		for in.more() {
			rdn := in.need(cbasn1.SET, what, "RelativeDistinguishedName expected")
			in.within(rdn, what, func(in *input) {
				if in.s.Empty() {
					in.syntax(rdn, what, "RelativeDistinguishedName is empty")
				}
				for ; in.more(); n++ {
					if n == maxRDNs {
						in.tooMany(what)
						return
					}
					in.sequence(what, func(in *input) {
						in.oid(what)
						in.any(what)
					})
				}
			})
		}
	}))
}

// DirectoryName returns the DER Name in a GeneralName, and whether it is a directoryName.
func DirectoryName(generalName []byte) (name []byte, ok bool) {
	err := parseValue(generalName, "GeneralName", func(in *input) {
		in.within(in.need(constructed(4), "GeneralName", "directoryName expected"), "directoryName", func(in *input) {
			name = in.name("directoryName")
		})
	})
	if err != nil {
		return nil, false
	}
	return name, true
}

// GeneralDirectoryName returns the DER GeneralName, a directoryName, of a DER Name. A name that is none gives nil, which no
// message can be made of.
func GeneralDirectoryName(name []byte) []byte {
	if err := parseValue(name, "Name", func(in *input) { in.name("Name") }); err != nil {
		return nil
	}
	der, err := build(func(b *builder) { b.tagged(4, func(b *builder) { b.element(name, "Name", cbasn1.SEQUENCE) }) })
	if err != nil {
		return nil
	}
	return der
}

// IsNullDN reports whether a GeneralName is a directoryName without any RDN: the sender or recipient that has no name
// (RFC 9810 section 5.1.1), as a new device has none.
func IsNullDN(generalName []byte) bool {
	name, ok := DirectoryName(generalName)
	return ok && len(name) == 2
}

// CertID names a certificate (RFC 4211 section 6.5).
//
//	CertId ::= SEQUENCE {
//	    issuer        GeneralName,
//	    serialNumber  INTEGER }
type CertID struct {
	Issuer []byte // DER GeneralName; DirectoryName takes the Name out
	Serial *big.Int
}

func (in *input) certID(what string) (id CertID) {
	in.sequence(what, func(in *input) {
		id.Issuer = in.generalName(what + " issuer")
		id.Serial = in.bigInt(what+" serialNumber", maxInteger)
	})
	return id
}

// ParseCertID reads the value of an oldCertID control, DER. Errors are *Error.
func ParseCertID(der []byte) (*CertID, error) {
	var id CertID
	if err := parseValue(der, "CertId", func(in *input) { id = in.certID("CertId") }); err != nil {
		return nil, err
	}
	return &id, nil
}

// Marshal is the DER of the CertId.
func (id *CertID) Marshal() ([]byte, error) { return build(func(b *builder) { b.certID(id) }) }
