package cms

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Content types of what travels in envelopes, and of these.
var (
	OIDData           = oidData
	OIDSignedData     = oidSignedData
	OIDEnvelopedData  = oidEnvelopedData
	OIDAsymmetricKeys = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 2, 1, 2, 78, 5} // id-ct-KP-aKeyPackage (RFC 5958 section 1.1)
)

// Envelope is all of an EnvelopedData but the content: everything in it that is random, and who opens it. Sealed again, the
// same content gives the same bytes; another content must not be sealed with it, since key and IV are for one. It can be kept
// as JSON. Key is a secret.
type Envelope struct {
	Cipher Cipher      `json:"c"`
	Key    []byte      `json:"k"` // that the content is encrypted with
	IV     []byte      `json:"v"`
	ID     RecipientID `json:"i"` // of a certificate; may be set before each Seal. A password has none
	To     Wrapped     `json:"t"`
}

// String keeps the key out of logs.
func (e *Envelope) String() string { return "envelope of " + e.Cipher.String() }

// GoString is String.
func (e *Envelope) GoString() string { return e.String() }

// RecipientID names a recipient's certificate or key: KeyID, else Issuer and Serial.
type RecipientID struct {
	Issuer []byte   `json:"i,omitempty"` // DER Name
	Serial *big.Int `json:"s,omitempty"`
	KeyID  []byte   `json:"k,omitempty"` // subjectKeyIdentifier
}

// RecipientOf names a certificate by its subjectKeyIdentifier, or by issuer and serial number where it has none.
func RecipientOf(cert *x509.Certificate) RecipientID {
	if len(cert.SubjectKeyId) > 0 {
		return RecipientID{KeyID: cert.SubjectKeyId}
	}
	return RecipientID{Issuer: cert.RawIssuer, Serial: cert.SerialNumber}
}

// NewEnvelope makes an envelope for one recipient, with a fresh content key and IV. A cipher or key that it cannot work with
// is ErrAlgorithm.
func NewEnvelope(c Cipher, to Recipient) (*Envelope, error) {
	if !c.known() {
		return nil, fmt.Errorf("cms: encrypt: %w: cipher", ErrAlgorithm)
	}
	p := ciphers[c]
	fresh, err := random(p.key + p.block)
	if err != nil {
		return nil, err
	}
	key, iv := fresh[:p.key:p.key], fresh[p.key:]
	if c == DES || c == TripleDES {
		oddParity(key)
	}
	w, err := to.wrap(key)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}
	return &Envelope{Cipher: c, Key: key, IV: iv, To: w}, nil
}

func random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}
	return b, nil
}

// Seal encrypts the content and returns the DER of EnvelopedData, without a ContentInfo around it.
//
//	EnvelopedData ::= SEQUENCE {                    -- RFC 5652 section 6.1
//	    version               INTEGER,
//	    recipientInfos        SET OF RecipientInfo,
//	    encryptedContentInfo  EncryptedContentInfo }
func (e *Envelope) Seal(contentType asn1.ObjectIdentifier, content []byte) ([]byte, error) {
	ciphertext, err := e.encrypt(content)
	if err != nil {
		return nil, err
	}
	version, info, err := e.To.info(e.ID)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}
	out := cryptobyte.NewBuilder(make([]byte, 0, len(ciphertext)+len(info)+128))
	out.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(version)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(info) })
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(contentType)
			e.addCipher(b, cbasn1.SEQUENCE)
			b.AddASN1(tagEncryptedContent, func(b *cryptobyte.Builder) { b.AddBytes(ciphertext) })
		})
	})
	return out.Bytes()
}

// encrypt is the content, padded and encrypted.
func (e *Envelope) encrypt(content []byte) ([]byte, error) {
	if !e.Cipher.known() || len(e.Key) != ciphers[e.Cipher].key || len(e.IV) != ciphers[e.Cipher].block {
		return nil, fmt.Errorf("cms: encrypt: %w: not an envelope that was made here", ErrAlgorithm)
	}
	block, err := e.Cipher.newBlock(e.Key)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}
	ciphertext := pad(content, len(e.IV))
	cipher.NewCBCEncrypter(block, e.IV).CryptBlocks(ciphertext, ciphertext)
	return ciphertext, nil
}

// addCipher writes the AlgorithmIdentifier of the content's encryption.
func (e *Envelope) addCipher(b *cryptobyte.Builder, tag cbasn1.Tag) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(ciphers[e.Cipher].oid)
		b.AddASN1OctetString(e.IV)
	})
}

// SealValue encrypts the content and returns the DER of an EncryptedValue, which came before EnvelopedData in CRMF and CMP. Only an
// envelope of PKCS #1 v1.5 key transport can; ErrAlgorithm otherwise.
//
//	EncryptedValue ::= SEQUENCE {                   -- RFC 4211 appendix B; implicit tags
//	    intendedAlg  [0] AlgorithmIdentifier OPTIONAL,
//	    symmAlg      [1] AlgorithmIdentifier OPTIONAL,
//	    encSymmKey   [2] BIT STRING OPTIONAL,
//	    keyAlg       [3] AlgorithmIdentifier OPTIONAL,
//	    valueHint    [4] OCTET STRING OPTIONAL,
//	    encValue     BIT STRING }
func (e *Envelope) SealValue(content []byte) ([]byte, error) {
	if e.To.Kind != kindTransport || !isPKCS1(e.To.Algorithm) {
		return nil, fmt.Errorf("cms: encrypt: %w: an EncryptedValue is for PKCS #1 v1.5", ErrAlgorithm)
	}
	ciphertext, err := e.encrypt(content)
	if err != nil {
		return nil, err
	}
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		e.addCipher(b, tag(1).Constructed())
		addBits(b, tag(2), e.To.Key)
		b.AddASN1(tag(3).Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidRSA)
			b.AddASN1NULL()
		})
		addBits(b, cbasn1.BIT_STRING, ciphertext)
	})
	return b.Bytes()
}

// addBits writes a BIT STRING of whole octets under a tag.
func addBits(b *cryptobyte.Builder, tag cbasn1.Tag, octets []byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		b.AddUint8(0)
		b.AddBytes(octets)
	})
}

// ContentInfo puts a content, DER, into a ContentInfo.
//
//	ContentInfo ::= SEQUENCE {                      -- RFC 5652 section 3
//	    contentType  OBJECT IDENTIFIER,
//	    content      [0] EXPLICIT ANY }
func ContentInfo(contentType asn1.ObjectIdentifier, content []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(content)+32))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(contentType)
		b.AddASN1(tagContent, func(b *cryptobyte.Builder) { b.AddBytes(content) })
	})
	return b.Bytes()
}

// oddParity sets the lowest bit of each octet as DES has it: some recipients check.
func oddParity(key []byte) {
	for i, b := range key {
		key[i] = b&^1 | byte(bits.OnesCount8(b&^1)+1)&1
	}
}
