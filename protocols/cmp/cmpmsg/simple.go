package cmpmsg

import (
	"encoding/asn1"
	"math/big"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// maxInteger bounds the octets of an INTEGER that is an identifier: RFC 5280 section 4.1.2.2 asks for at most 20 in a
// serial number, and CAs have been seen to go beyond.
const maxInteger = 40

func (in *input) bigInt(what string, maxOctets int) *big.Int {
	at := in.s
	der := in.need(cbasn1.INTEGER, what, "INTEGER expected")
	if der == nil {
		return nil
	}
	if len(der) > maxOctets+4 {
		in.fail(at, cms.ErrLimit, what, "INTEGER is too long")
		return nil
	}
	s, n := cryptobyte.String(der), new(big.Int)
	if !s.ReadASN1Integer(n) {
		in.syntax(at, what, "INTEGER is not DER")
		return nil
	}
	return n
}

// int reads an INTEGER between least and most.
func (in *input) int(what string, least, most int64) int64 {
	at := in.s
	n := in.bigInt(what, maxInteger)
	if n == nil {
		return 0
	}
	if !n.IsInt64() || n.Int64() < least || n.Int64() > most {
		in.syntax(at, what, "INTEGER out of range")
		return 0
	}
	return n.Int64()
}

// implicitInt is bigInt for [n] IMPLICIT INTEGER; nil when it is not next.
func (in *input) implicitInt(n uint8, what string) *big.Int {
	der := in.take(primitive(n))
	if der == nil {
		return nil
	}
	alone := inputOf(retag(der, cbasn1.INTEGER))
	v := alone.bigInt(what, maxInteger)
	if e := alone.d.err; e != nil && in.ok() {
		in.d.err = &Error{Offset: in.d.size - cap(der), What: e.What, Err: e.Err}
	}
	return v
}

// octets reads an OCTET STRING of at most that many octets. Empty is not nil.
func (in *input) octets(what string, most int) []byte {
	der := in.need(cbasn1.OCTET_STRING, what, "OCTET STRING expected")
	if der == nil {
		return nil
	}
	inside := in.open(der)
	if len(inside.s) > most {
		in.fail(der, cms.ErrLimit, what, "OCTET STRING is too long")
		return nil
	}
	return keep(inside.s)
}

// bits reads a BIT STRING.
func (in *input) bits(what string) (v asn1.BitString) {
	der := in.need(cbasn1.BIT_STRING, what, "BIT STRING expected")
	s := cryptobyte.String(der)
	if der != nil && !s.ReadASN1BitString(&v) {
		in.syntax(der, what, "BIT STRING is not DER")
		return asn1.BitString{}
	}
	return v
}

// implicitBits is bits for an element that take returned: the content of a BIT STRING under another tag.
func (in *input) implicitBits(der []byte, what string) (v asn1.BitString) {
	s := cryptobyte.String(retag(der, cbasn1.BIT_STRING))
	if !s.ReadASN1BitString(&v) {
		in.syntax(der, what, "BIT STRING is not DER")
		return asn1.BitString{}
	}
	return v
}

// wholeBits reads a BIT STRING of whole octets: a signature or a MAC.
func (in *input) wholeBits(what string) []byte {
	der := in.need(cbasn1.BIT_STRING, what, "BIT STRING expected")
	if der == nil {
		return nil
	}
	content := in.open(der).s
	if len(content) == 0 || content[0] != 0 {
		in.syntax(der, what, "BIT STRING is not of whole octets")
		return nil
	}
	return keep(content[1:])
}

// maxOID bounds the octets of an OBJECT IDENTIFIER.
const maxOID = 64

func (in *input) oid(what string) asn1.ObjectIdentifier {
	der := in.need(cbasn1.OBJECT_IDENTIFIER, what, "OBJECT IDENTIFIER expected")
	if der == nil {
		return nil
	}
	if len(der) > maxOID+2 {
		in.fail(der, cms.ErrLimit, what, "OBJECT IDENTIFIER is too long")
		return nil
	}
	s := cryptobyte.String(der)
	var v asn1.ObjectIdentifier
	if !s.ReadASN1ObjectIdentifier(&v) {
		in.syntax(der, what, "OBJECT IDENTIFIER cannot be read")
		return nil
	}
	return v
}

func (in *input) null(what string) {
	if der := in.need(cbasn1.NULL, what, "NULL expected"); der != nil && len(der) != 2 {
		in.syntax(der, what, "NULL is not empty")
	}
}

// generalizedTime reads a GeneralizedTime as DER has it (X.690 section 11.7): UTC, with seconds. Fractions of a second,
// which RFC 9810 section 5.2.9 rules out and some clients send, are dropped. Years before 1900 are refused: none is meant, and the zero
// time says absent.
func (in *input) generalizedTime(what string) time.Time {
	der := in.need(cbasn1.GeneralizedTime, what, "GeneralizedTime expected")
	if der == nil {
		return time.Time{}
	}
	const form = "20060102150405Z"
	s := string(in.open(der).s)
	if len(s) > len(form) && len(s) <= len(form)+10 && s[14] == '.' && s[len(s)-1] == 'Z' && s[len(s)-2] != '0' {
		for _, c := range s[15 : len(s)-1] {
			if c < '0' || c > '9' {
				s = ""
				break
			}
		}
		if len(s) > 16 {
			s = s[:14] + "Z"
		}
	}
	t, err := time.Parse(form, s)
	if err != nil || t.Format(form) != s || t.Year() < 1900 {
		in.syntax(der, what, "GeneralizedTime is not YYYYMMDDHHMMSSZ")
		return time.Time{}
	}
	return t
}

// time reads a Time (RFC 5280 section 4.1): CHOICE { UTCTime, GeneralizedTime }.
func (in *input) time(what string) time.Time {
	if !in.next(cbasn1.UTCTime) {
		return in.generalizedTime(what)
	}
	der := in.take(cbasn1.UTCTime)
	s := cryptobyte.String(der)
	var t time.Time
	// 13 octets: with seconds and Z.
	if len(der) != 15 || der[14] != 'Z' || !s.ReadASN1UTCTime(&t) {
		in.syntax(der, what, "UTCTime is not YYMMDDHHMMSSZ")
		return time.Time{}
	}
	return t.UTC()
}

const (
	maxTexts = 32   // strings of a PKIFreeText
	maxText  = 4096 // octets of each
)

func (in *input) utf8(what string) string {
	der := in.need(cbasn1.UTF8String, what, "UTF8String expected")
	if der == nil {
		return ""
	}
	s := in.open(der).s
	switch {
	case len(s) > maxText:
		in.fail(der, cms.ErrLimit, what, "UTF8String is too long")
		return ""
	case !utf8.Valid(s):
		in.syntax(der, what, "UTF8String is not UTF-8")
		return ""
	}
	return string(s)
}

// freeText reads a PKIFreeText: SEQUENCE SIZE (1..MAX) OF UTF8String. Empty is read as absent.
func (in *input) freeText(what string) (texts []string) {
	in.list(what, 0, maxTexts, func(in *input) { texts = append(texts, in.utf8(what)) })
	return texts
}

// algorithm reads an AlgorithmIdentifier.
//
//	AlgorithmIdentifier ::= SEQUENCE {
//	    algorithm   OBJECT IDENTIFIER,
//	    parameters  ANY DEFINED BY algorithm OPTIONAL }
func (in *input) algorithm(what string) (a AlgorithmIdentifier) {
	a.Raw = keep(in.sequence(what, a.content(what)))
	return a
}

func (a *AlgorithmIdentifier) content(what string) func(*input) {
	return func(in *input) {
		a.OID = in.oid(what)
		if in.more() {
			a.Parameters = keep(in.any(what))
		}
	}
}

// certificate reads a CMPCertificate, or a CertificateList: one SEQUENCE, not parsed further.
func (in *input) certificate(what string) []byte {
	return keep(in.need(cbasn1.SEQUENCE, what, "SEQUENCE expected"))
}

// certificates reads a SEQUENCE SIZE (1..MAX) OF CMPCertificate or CertificateList.
func (in *input) certificates(what string, least, most int) (certs [][]byte) {
	in.list(what, least, most, func(in *input) { certs = append(certs, in.certificate(what)) })
	return certs
}
