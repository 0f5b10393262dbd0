package local

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // names of hashes in requests: RFC 5019 section 2.1.1
	_ "crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// OCSPResponseStatus values: responses without a signature (RFC 6960 section 4.2.1).
const (
	ocspMalformed    = 1
	ocspUnauthorized = 6
)

// ocspError is an OCSPResponse without responseBytes.
func ocspError(status byte) []byte { return []byte{0x30, 0x03, 0x0a, 0x01, status} }

var (
	oidBasicOCSP   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidOCSPNonce   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	oidOCSPNoCheck = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	oidSHA1        = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256      = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

var (
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
)

// ocspHashes are the hashes by which a CertID may name its issuer: each costs a signature of its own for a certificate.
// RFC 5019 clients take SHA-1, where nothing rests on its strength: a CertID that fits no CA is not answered.
var ocspHashes = map[crypto.Hash]asn1.ObjectIdentifier{crypto.SHA1: oidSHA1, crypto.SHA256: oidSHA256}

// certID names a certificate: of which CA, and its serial number.
type certID struct {
	hash     crypto.Hash // 0 for one that is not in ocspHashes
	nameHash string
	keyHash  string
	serial   string // big-endian magnitude without leading zeros
}

// ocspRequest is what of a request counts.
type ocspRequest struct {
	certs    int // how many it asks about; cert is the first
	cert     certID
	nonce    []byte // contents of the extension's OCTET STRING; nil for none
	critical bool   // it has a critical extension that is not known here
}

// maxOCSPCerts bounds the requests in one. More than one is not answered anyway.
const maxOCSPCerts = 32

var errNotOCSP = errors.New("not a DER OCSPRequest")

// parseOCSPRequest reads a request. Its signature, if it has one, says nothing here: everybody is answered.
//
//	OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
//	TBSRequest ::= SEQUENCE { version [0] EXPLICIT Version DEFAULT v1, requestorName [1] EXPLICIT GeneralName OPTIONAL,
//	     requestList SEQUENCE OF Request, requestExtensions [2] EXPLICIT Extensions OPTIONAL }
//	Request ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }
func parseOCSPRequest(der []byte) (*ocspRequest, error) {
	in := cryptobyte.String(der)
	var outer, tbs, list, extensions cryptobyte.String
	var has bool
	version := 0
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!outer.SkipOptionalASN1(choice(0).Constructed()) || !outer.Empty() ||
		!tbs.ReadOptionalASN1Integer(&version, choice(0).Constructed(), 0) || version != 0 ||
		!tbs.SkipOptionalASN1(choice(1).Constructed()) || !tbs.ReadASN1(&list, cbasn1.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&extensions, &has, choice(2).Constructed()) || !tbs.Empty() || list.Empty() {
		return nil, errNotOCSP
	}
	r := &ocspRequest{}
	if has && !r.readExtensions(extensions, true) {
		return nil, errNotOCSP
	}
	for ; !list.Empty(); r.certs++ {
		var one, single cryptobyte.String
		if r.certs == maxOCSPCerts || !list.ReadASN1(&one, cbasn1.SEQUENCE) {
			return nil, errNotOCSP
		}
		id, ok := readCertID(&one)
		if !ok || !one.ReadOptionalASN1(&single, &has, choice(0).Constructed()) || !one.Empty() ||
			has && !r.readExtensions(single, false) {
			return nil, errNotOCSP
		}
		if r.certs == 0 {
			r.cert = id
		}
	}
	return r, nil
}

// readCertID reads one.
//
//	CertID ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING, issuerKeyHash OCTET STRING,
//	     serialNumber INTEGER }
func readCertID(in *cryptobyte.String) (id certID, ok bool) {
	var body, algorithm, name, key, serial cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) ||
		!body.ReadASN1(&name, cbasn1.OCTET_STRING) || !body.ReadASN1(&key, cbasn1.OCTET_STRING) ||
		!body.ReadASN1(&serial, cbasn1.INTEGER) || !body.Empty() || len(serial) == 0 {
		return id, false
	}
	for hash, known := range ocspHashes {
		if oid.Equal(known) {
			id.hash = hash
		}
	}
	id.nameHash, id.keyHash = string(name), string(key)
	id.serial = string(bytes.TrimLeft(serial, "\x00"))
	return id, true
}

// readExtensions looks for the nonce and for what is critical.
//
//	Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
//	Nonce ::= OCTET STRING (SIZE (1..128))  -- RFC 9654
func (r *ocspRequest) readExtensions(in cryptobyte.String, ofRequest bool) bool {
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for !list.Empty() {
		var one, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&one, cbasn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&oid) ||
			one.PeekASN1Tag(cbasn1.BOOLEAN) && !one.ReadASN1Boolean(&critical) || !one.ReadASN1(&value, cbasn1.OCTET_STRING) || !one.Empty() {
			return false
		}
		switch {
		case ofRequest && oid.Equal(oidOCSPNonce):
			var nonce cryptobyte.String
			if !value.ReadASN1(&nonce, cbasn1.OCTET_STRING) || !value.Empty() || len(nonce) == 0 || len(nonce) > maxNonce || r.nonce != nil {
				return false
			}
			r.nonce = nonce
		case critical:
			r.critical = true
		}
	}
	return true
}

const maxNonce = 128

// ocspStatus is what the ledger knows of a certificate.
type ocspStatus struct {
	generation int
	notAfter   time.Time
	revoked    time.Time // zero: it is not
	reason     int
}

// ocspData writes a ResponseData about one certificate. The responder is named by its key, which is shorter (RFC 5019 section 2.2.3).
//
//	ResponseData ::= SEQUENCE { version [0] EXPLICIT DEFAULT v1, responderID CHOICE { byName [1] Name, byKey [2] OCTET STRING },
//	     producedAt GeneralizedTime, responses SEQUENCE OF SingleResponse, responseExtensions [1] EXPLICIT Extensions OPTIONAL }
//	SingleResponse ::= SEQUENCE { certID CertID, certStatus CertStatus, thisUpdate GeneralizedTime,
//	     nextUpdate [0] EXPLICIT GeneralizedTime OPTIONAL, singleExtensions [1] EXPLICIT Extensions OPTIONAL }
//	CertStatus ::= CHOICE { good [0] IMPLICIT NULL, revoked [1] IMPLICIT RevokedInfo, unknown [2] IMPLICIT NULL }
//	RevokedInfo ::= SEQUENCE { revocationTime GeneralizedTime, revocationReason [0] EXPLICIT CRLReason OPTIONAL }
func ocspData(responder []byte, id *certID, s *ocspStatus, this, next time.Time, nonce []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(choice(2).Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(responder) })
		b.AddASN1GeneralizedTime(this)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(ocspHashes[id.hash])
						b.AddASN1NULL()
					})
					b.AddASN1OctetString([]byte(id.nameHash))
					b.AddASN1OctetString([]byte(id.keyHash))
					b.AddASN1BigInt(new(big.Int).SetBytes([]byte(id.serial)))
				})
				if s.revoked.IsZero() {
					b.AddASN1(choice(0), func(*cryptobyte.Builder) {})
				} else {
					b.AddASN1(choice(1).Constructed(), func(b *cryptobyte.Builder) {
						b.AddASN1GeneralizedTime(s.revoked)
						if s.reason != 0 { // unspecified is left out: RFC 5280 section 5.3.1
							b.AddASN1(choice(0).Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(s.reason)) })
						}
					})
				}
				b.AddASN1GeneralizedTime(this)
				b.AddASN1(choice(0).Constructed(), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(next) })
			})
		})
		if nonce != nil {
			b.AddASN1(choice(1).Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidOCSPNonce)
						b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(nonce) })
					})
				})
			})
		}
	})
	return b.Bytes()
}

// ocspAnswer wraps what was signed, and the responder's certificate, as an OCSPResponse. signed holds the first three fields.
//
//	OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, responseBytes [0] EXPLICIT SEQUENCE { responseType OID, response OCTET STRING } }
//	BasicOCSPResponse ::= SEQUENCE { tbsResponseData, signatureAlgorithm, signature BIT STRING, certs [0] EXPLICIT SEQUENCE OF Certificate }
func ocspAnswer(signed []byte, responder *x509.Certificate) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(signed)+len(responder.Raw)+64))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0) // successful
		b.AddASN1(choice(0).Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidBasicOCSP)
				b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddBytes(signed)
						b.AddASN1(choice(0).Constructed(), func(b *cryptobyte.Builder) {
							b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(responder.Raw) })
						})
					})
				})
			})
		})
	})
	return b.Bytes()
}
