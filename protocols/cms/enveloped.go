package cms

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Enveloped is an EnvelopedData (RFC 5652 section 6) for key transport recipients. It refers to the input, which must
// not change.
type Enveloped struct {
	ContentType asn1.ObjectIdentifier // of the content that is encrypted
	Cipher      Cipher                // CipherUnknown when this package does not know it
	CipherOID   asn1.ObjectIdentifier

	recipients []recipient
	iv         []byte // one block of a known Cipher
	ciphertext []byte
}

// recipient is a KeyTransRecipientInfo.
type recipient struct {
	id        identifier
	transport transport
	key       []byte // encryptedKey
}

// transport is a key transport algorithm. The sender chose it in the clear.
type transport struct {
	kind      transportKind
	hash, mgf crypto.Hash // of RSAES-OAEP
	label     []byte
}

type transportKind int

const (
	transportUnknown transportKind = iota
	transportPKCS1                 // RSAES-PKCS1-v1_5
	transportOAEP                  // RSAES-OAEP
)

var oidEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}

var (
	tagOriginator       = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagEncryptedContent = cbasn1.Tag(0).ContextSpecific()
	tagUnprotected      = cbasn1.Tag(1).ContextSpecific().Constructed()
)

// ParseEnveloped takes an EnvelopedData apart, BER or DER, behind the guard. Errors are ErrSyntax and ErrLimit. At most
// 16 recipients; those that are not for key transport count, but are left out.
//
//	EnvelopedData ::= SEQUENCE {                    -- RFC 5652 section 6.1
//	    version               INTEGER,
//	    originatorInfo        [0] IMPLICIT OriginatorInfo OPTIONAL,
//	    recipientInfos        SET SIZE (1..MAX) OF RecipientInfo,
//	    encryptedContentInfo  EncryptedContentInfo,
//	    unprotectedAttrs      [1] IMPLICIT SET SIZE (1..MAX) OF Attribute OPTIONAL }
func ParseEnveloped(data []byte, l Limits) (*Enveloped, error) {
	m, err := openAny(data, l)
	if err != nil {
		return nil, err
	}
	body, err := m.content(oidEnvelopedData, "an EnvelopedData")
	if err != nil {
		return nil, err
	}
	var version int64
	var set cryptobyte.String
	at := body
	// The version follows from what is inside; nothing is read by it.
	if !body.ReadASN1Integer(&version) || version < 0 || version > 4 {
		return nil, m.fail(ErrSyntax, at, "version of EnvelopedData")
	}
	at = body
	if !body.SkipOptionalASN1(tagOriginator) || !body.ReadASN1(&set, cbasn1.SET) || set.Empty() {
		return nil, m.fail(ErrSyntax, at, "recipientInfos of EnvelopedData")
	}
	e := new(Enveloped)
	if err := e.readRecipients(m, set); err != nil {
		return nil, err
	}
	if err := e.readContent(m, &body); err != nil {
		return nil, err
	}
	at = body
	if !body.SkipOptionalASN1(tagUnprotected) || !body.Empty() {
		return nil, m.fail(ErrSyntax, at, "unprotectedAttrs of EnvelopedData")
	}
	return e, nil
}

// readRecipients reads recipientInfos.
//
//	KeyTransRecipientInfo ::= SEQUENCE {            -- RFC 5652 section 6.2.1
//	    version                 INTEGER,            -- 0 with issuerAndSerialNumber, 2 with subjectKeyIdentifier
//	    rid                     RecipientIdentifier,
//	    keyEncryptionAlgorithm  KeyEncryptionAlgorithmIdentifier,
//	    encryptedKey            OCTET STRING }
func (e *Enveloped) readRecipients(m message, set cryptobyte.String) error {
	for n := 0; !set.Empty(); n++ {
		var element, info, params, key cryptobyte.String
		var tag cbasn1.Tag
		at := set
		if n == maxParts {
			return m.fail(ErrLimit, at, "too many recipients")
		}
		if !set.ReadAnyASN1Element(&element, &tag) {
			return m.fail(ErrSyntax, at, "RecipientInfo")
		}
		if tag != cbasn1.SEQUENCE {
			continue // RFC 5652 section 6.2: key agreement [1] to other [4]
		}
		var version int64
		var oid asn1.ObjectIdentifier
		if !element.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1Integer(&version) || (version != 0 && version != 2) {
			return m.fail(ErrSyntax, at, "version of KeyTransRecipientInfo")
		}
		at = info
		id, ok := readIdentifier(&info)
		if !ok {
			return m.fail(ErrSyntax, at, "rid of KeyTransRecipientInfo")
		}
		at = info
		if !readAlgorithm(&info, &oid, &params) {
			return m.fail(ErrSyntax, at, "keyEncryptionAlgorithm of KeyTransRecipientInfo")
		}
		at = info
		if !info.ReadASN1(&key, cbasn1.OCTET_STRING) || !info.Empty() {
			return m.fail(ErrSyntax, at, "encryptedKey of KeyTransRecipientInfo")
		}
		e.recipients = append(e.recipients, recipient{id: id, transport: readTransport(oid, params), key: key})
	}
	return nil
}

// readTransport tells the key transport algorithm; one that cannot be read is unknown.
//
//	RSAES-OAEP-params ::= SEQUENCE {                -- RFC 4055 section 4.1
//	    hashFunc     [0] AlgorithmIdentifier DEFAULT sha1,
//	    maskGenFunc  [1] AlgorithmIdentifier DEFAULT mgf1SHA1,
//	    pSourceFunc  [2] AlgorithmIdentifier DEFAULT pSpecifiedEmpty }
func readTransport(oid asn1.ObjectIdentifier, params cryptobyte.String) transport {
	if oid.Equal(oidRSA) {
		return transport{kind: transportPKCS1}
	}
	if !oid.Equal(oidOAEP) {
		return transport{}
	}
	t := transport{kind: transportOAEP, hash: crypto.SHA1, mgf: crypto.SHA1}
	var body, field, inner cryptobyte.String
	var present, ok bool
	var name asn1.ObjectIdentifier
	if params.Empty() {
		return t
	}
	if !params.ReadASN1(&body, cbasn1.SEQUENCE) {
		return transport{}
	}
	hash := func(s *cryptobyte.String) (h crypto.Hash, ok bool) {
		var none cryptobyte.String
		if !readAlgorithm(s, &name, &none) || !s.Empty() {
			return 0, false
		}
		h = digestByOID(name)
		return h, usable(h)
	}
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	if !body.ReadOptionalASN1(&field, &present, tag(0)) {
		return transport{}
	}
	if present {
		if t.hash, ok = hash(&field); !ok {
			return transport{}
		}
	}
	if !body.ReadOptionalASN1(&field, &present, tag(1)) {
		return transport{}
	}
	if present {
		if !readAlgorithm(&field, &name, &inner) || !field.Empty() || !name.Equal(oidMGF1) {
			return transport{}
		}
		if t.mgf, ok = hash(&inner); !ok {
			return transport{}
		}
	}
	if !body.ReadOptionalASN1(&field, &present, tag(2)) || !body.Empty() {
		return transport{}
	}
	if present {
		var label cryptobyte.String
		if !readAlgorithm(&field, &name, &inner) || !field.Empty() || !name.Equal(oidLabel) ||
			!inner.ReadASN1(&label, cbasn1.OCTET_STRING) {
			return transport{}
		}
		t.label = label
	}
	return t
}

// readContent reads what is encrypted.
//
//	EncryptedContentInfo ::= SEQUENCE {             -- RFC 5652 section 6.1
//	    contentType                 OBJECT IDENTIFIER,
//	    contentEncryptionAlgorithm  AlgorithmIdentifier,    -- the IV is its parameter (RFC 3370 section 5.1, RFC 3565)
//	    encryptedContent            [0] IMPLICIT OCTET STRING OPTIONAL }
func (e *Enveloped) readContent(m message, body *cryptobyte.String) error {
	var info, params, iv, octets cryptobyte.String
	at := *body
	if !body.ReadASN1(&info, cbasn1.SEQUENCE) || !readOID(&info, &e.ContentType) {
		return m.fail(ErrSyntax, at, "encryptedContentInfo of EnvelopedData")
	}
	at = info
	if !readAlgorithm(&info, &e.CipherOID, &params) {
		return m.fail(ErrSyntax, at, "contentEncryptionAlgorithm")
	}
	if e.Cipher = cipherByOID(e.CipherOID); e.Cipher.known() {
		if !params.ReadASN1(&iv, cbasn1.OCTET_STRING) || !params.Empty() || len(iv) != ciphers[e.Cipher].block {
			return m.fail(ErrSyntax, at, "initialization vector of contentEncryptionAlgorithm")
		}
		e.iv = iv
	}
	at = info
	// The guard has joined segments to [0] primitive. Constructed and without any it stays as it was.
	if !info.ReadOptionalASN1(&octets, nil, tagEncryptedContent) ||
		info.PeekASN1Tag(tagOriginator) && (!info.ReadASN1(&octets, tagOriginator) || !octets.Empty()) || !info.Empty() {
		return m.fail(ErrSyntax, at, "encryptedContent")
	}
	e.ciphertext = octets
	return nil
}

// For reports whether one of the recipients is the certificate (by issuer and serial, or key identifier).
func (e *Enveloped) For(cert *x509.Certificate) bool { return e.recipient(cert) != nil }

func (e *Enveloped) recipient(cert *x509.Certificate) *recipient {
	for i := range e.recipients {
		if e.recipients[i].id.names(cert) {
			return &e.recipients[i]
		}
	}
	return nil
}
