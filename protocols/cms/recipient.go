package cms

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Recipient is who opens an Envelope: *KeyTransport, *KeyAgreement, *SharedKey or *Password.
type Recipient interface {
	wrap(key []byte) (Wrapped, error)
}

// KeyTransport is a recipient with an RSA key of 1024 to 8192 bits (RFC 5652 section 6.2.1): RSAES-OAEP with SHA-256 and
// MGF1 with SHA-256 (RFC 4055 section 4.1).
type KeyTransport struct {
	Key      *rsa.PublicKey
	PKCS1v15 bool // RSAES-PKCS1-v1_5 instead, for those who know nothing else
}

// KeyAgreement is a recipient with a key on P-256, P-384 or P-521 (RFC 5652 section 6.2.2, RFC 5753 section 3.1): ECDH with
// an ephemeral key, the standard primitive without cofactor, the key derivation of X9.63 with the hash of the curve's size, and
// AES key wrap.
type KeyAgreement struct {
	Key      *ecdsa.PublicKey
	WrapSize int // octets of the key that AES key wrap works with: 16, 24 or 32; 0: 32
}

// SharedKey is a recipient with whom a key-encryption key is shared (RFC 5652 section 6.2.3): AES key wrap (RFC 3565 section 2.3.2). Its
// Envelope.ID is the KeyID by which both sides know the key.
type SharedKey struct{ Key []byte } // 16, 24 or 32 octets

// Password is a recipient who shares a secret (RFC 5652 section 6.2.4): PBKDF2 with HMAC-SHA-256 (RFC 8018 section 5.2), and
// id-alg-PWRI-KEK with AES-256-CBC (RFC 3211 section 2.3.1), which OpenSSL and BouncyCastle know alone.
type Password struct {
	Secret     []byte
	Iterations int // 0: 100,000
}

const passwordIterations = 100_000

// Wrapped is a content key as one recipient opens it: a RecipientInfo without its name for the recipient.
type Wrapped struct {
	Kind      recipientKind `json:"w"`
	Algorithm []byte        `json:"a"`           // DER keyEncryptionAlgorithm
	Origin    []byte        `json:"o,omitempty"` // DER: key agreement, OriginatorPublicKey; password, keyDerivationAlgorithm; each as a SEQUENCE
	Key       []byte        `json:"k"`           // encryptedKey
}

type recipientKind int

const (
	kindTransport recipientKind = iota + 1
	kindAgreement
	kindPassword
	kindShared
)

var (
	oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidPBKDF2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACSHA256  = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidPWRIKEK     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 3, 9}
)

// agreements pairs each curve with its scheme and hash: dhSinglePass-stdDH-sha*kdf-scheme (RFC 5753 section 7.1.4).
var agreements = []struct {
	curve  ecdh.Curve
	hash   crypto.Hash
	scheme asn1.ObjectIdentifier
}{
	{ecdh.P256(), crypto.SHA256, asn1.ObjectIdentifier{1, 3, 132, 1, 11, 1}},
	{ecdh.P384(), crypto.SHA384, asn1.ObjectIdentifier{1, 3, 132, 1, 11, 2}},
	{ecdh.P521(), crypto.SHA512, asn1.ObjectIdentifier{1, 3, 132, 1, 11, 3}},
}

func (r *KeyTransport) wrap(key []byte) (w Wrapped, err error) {
	if r.Key == nil || !EncryptsTo(r.Key) {
		return w, fmt.Errorf("%w: the recipient's key", ErrAlgorithm)
	}
	w.Kind = kindTransport
	var b cryptobyte.Builder
	if r.PKCS1v15 {
		addAlgorithm(&b, oidRSA, true)
		//lint:ignore SA1019 RFC 8894 clients, and CMP clients before EnvelopedData, know no other key transport.
		w.Key, err = rsa.EncryptPKCS1v15(rand.Reader, r.Key, key)
	} else {
		addOAEP(&b)
		w.Key, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, r.Key, key, nil)
	}
	if err != nil {
		return w, err
	}
	w.Algorithm, err = b.Bytes()
	return w, err
}

// EncryptsTo reports whether something can be encrypted for an RSA key: of 1024 to 8192 bits, with an odd exponent of 3 to 2^31-1.
// Signatures are verified with larger exponents too, which crypto/rsa does not encrypt with.
func EncryptsTo(pub *rsa.PublicKey) bool {
	return boundedRSA(pub) && pub.N.Bit(0) == 1 && pub.E >= 3 && pub.E%2 == 1 && int64(pub.E) <= math.MaxInt32
}

// isPKCS1 reports whether the DER of an AlgorithmIdentifier names PKCS #1 v1.5 key transport.
func isPKCS1(algorithm []byte) bool {
	var b cryptobyte.Builder
	addAlgorithm(&b, oidRSA, true)
	return bytes.Equal(algorithm, b.BytesOrPanic())
}

// addOAEP writes the AlgorithmIdentifier of RSAES-OAEP with SHA-256 throughout and no label (RFC 4055 section 4.1; the grammar
// stands at readTransport).
func addOAEP(b *cryptobyte.Builder) {
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	hash := digests[0].oid // SHA-256
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidOAEP)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tag(0), func(b *cryptobyte.Builder) { addAlgorithm(b, hash, true) })
			b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidMGF1)
					addAlgorithm(b, hash, true)
				})
			})
		})
	})
}

func (r *KeyAgreement) wrap(key []byte) (w Wrapped, err error) {
	refused := fmt.Errorf("%w: the recipient's key", ErrAlgorithm)
	if r.Key == nil {
		return w, refused
	}
	pub, err := r.Key.ECDH()
	if err != nil {
		return w, refused
	}
	size := r.WrapSize
	if size == 0 {
		size = kekSize
	}
	wrap := wrapOf(size)
	if wrap == nil {
		return w, fmt.Errorf("%w: AES key wrap with %d octets", ErrAlgorithm, size)
	}
	for _, a := range agreements {
		if a.curve != pub.Curve() {
			continue
		}
		ephemeral, err := a.curve.GenerateKey(rand.Reader)
		if err != nil {
			return w, err
		}
		shared, err := ephemeral.ECDH(pub)
		if err != nil {
			return w, err
		}
		kek := deriveX963(a.hash, shared, sharedInfo(wrap, size), size)
		w.Kind = kindAgreement
		if w.Key, err = wrapAES(kek, key); err != nil {
			return w, err
		}
		var algorithm, origin cryptobyte.Builder
		algorithm.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(a.scheme)
			addAlgorithm(b, wrap, false)
		})
		origin.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addAlgorithm(b, oidECPublicKey, false) // RFC 5753 section 3.1.1: the curve is the recipient's
			b.AddASN1BitString(ephemeral.PublicKey().Bytes())
		})
		if w.Algorithm, err = algorithm.Bytes(); err != nil {
			return w, err
		}
		w.Origin, err = origin.Bytes()
		return w, err
	}
	return w, refused
}

// sharedInfo is what goes into the key derivation, for AES key wrap with a key of size octets.
//
//	ECC-CMS-SharedInfo ::= SEQUENCE {               -- RFC 5753 section 7.2
//	    keyInfo      AlgorithmIdentifier,
//	    entityUInfo  [0] EXPLICIT OCTET STRING OPTIONAL,    -- ukm
//	    suppPubInfo  [2] EXPLICIT OCTET STRING }            -- length of the key-encryption key in bits, 32 bits
func sharedInfo(wrap asn1.ObjectIdentifier, size int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addAlgorithm(b, wrap, false)
		b.AddASN1(cbasn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddUint32(uint32(8 * size)) })
		})
	})
	return b.BytesOrPanic()
}

func (r *SharedKey) wrap(key []byte) (w Wrapped, err error) {
	algorithm := wrapOf(len(r.Key))
	if algorithm == nil {
		return w, fmt.Errorf("%w: a shared key that is not one of AES", ErrAlgorithm)
	}
	w.Kind = kindShared
	if w.Key, err = wrapAES(r.Key, key); err != nil {
		return w, err
	}
	var b cryptobyte.Builder
	addAlgorithm(&b, algorithm, false) // RFC 3565 section 2.3.2: no parameters
	w.Algorithm, err = b.Bytes()
	return w, err
}

func (r *Password) wrap(key []byte) (w Wrapped, err error) {
	if len(r.Secret) == 0 {
		return w, errors.New("no secret")
	}
	iterations := r.Iterations
	if iterations == 0 {
		iterations = passwordIterations
	}
	fresh, err := random(2 * aes.BlockSize)
	if err != nil {
		return w, err
	}
	salt, iv := fresh[:aes.BlockSize], fresh[aes.BlockSize:]
	kek, err := pbkdf2.Key(sha256.New, string(r.Secret), salt, iterations, kekSize)
	if err != nil {
		return w, err
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return w, err
	}
	w.Kind = kindPassword
	if w.Key, err = formatPWRI(key, aes.BlockSize); err != nil {
		return w, err
	}
	// RFC 3211 section 2.3.1: encrypted twice, the second time with the last block of the first as the IV.
	mode := cipher.NewCBCEncrypter(block, iv)
	mode.CryptBlocks(w.Key, w.Key)
	mode.CryptBlocks(w.Key, w.Key)
	var algorithm, origin cryptobyte.Builder
	algorithm.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidPWRIKEK)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(ciphers[AES256].oid)
			b.AddASN1OctetString(iv)
		})
	})
	// PBKDF2-params ::= SEQUENCE { salt CHOICE { specified OCTET STRING, ... }, iterationCount INTEGER, keyLength INTEGER OPTIONAL,
	//     prf AlgorithmIdentifier DEFAULT hmacWithSHA1 }           -- RFC 8018 appendix A.2
	origin.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidPBKDF2)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(salt)
			b.AddASN1Int64(int64(iterations))
			b.AddASN1Int64(kekSize)
			addAlgorithm(b, oidHMACSHA256, true)
		})
	})
	if w.Algorithm, err = algorithm.Bytes(); err != nil {
		return w, err
	}
	w.Origin, err = origin.Bytes()
	return w, err
}

// info is the DER of the RecipientInfo, and the version of an EnvelopedData with it alone (RFC 5652 section 6.1): 3 with a
// password, 0 with a recipient of version 0, else 2. A shared key has no other name than a KeyID.
//
//	KeyAgreeRecipientInfo ::= [1] IMPLICIT SEQUENCE {       -- RFC 5652 section 6.2.2
//	    version                 INTEGER,                    -- 3
//	    originator              [0] EXPLICIT CHOICE { ..., originatorKey [1] IMPLICIT OriginatorPublicKey },
//	    ukm                     [1] EXPLICIT OCTET STRING OPTIONAL,
//	    keyEncryptionAlgorithm  AlgorithmIdentifier,
//	    recipientEncryptedKeys  SEQUENCE OF SEQUENCE { rid KeyAgreeRecipientIdentifier, encryptedKey OCTET STRING } }
//	KeyAgreeRecipientIdentifier ::= CHOICE {
//	    issuerAndSerialNumber  IssuerAndSerialNumber,
//	    rKeyId                 [0] IMPLICIT SEQUENCE { subjectKeyIdentifier OCTET STRING, ... } }
//	KEKRecipientInfo ::= [2] IMPLICIT SEQUENCE {            -- RFC 5652 section 6.2.3
//	    version                 INTEGER,                    -- 4
//	    kekid                   SEQUENCE { keyIdentifier OCTET STRING, ... },
//	    keyEncryptionAlgorithm  AlgorithmIdentifier,
//	    encryptedKey            OCTET STRING }
//	PasswordRecipientInfo ::= [3] IMPLICIT SEQUENCE {       -- RFC 5652 section 6.2.4
//	    version                 INTEGER,                    -- 0
//	    keyDerivationAlgorithm  [0] IMPLICIT AlgorithmIdentifier OPTIONAL,
//	    keyEncryptionAlgorithm  AlgorithmIdentifier,
//	    encryptedKey            OCTET STRING }
//
// KeyTransRecipientInfo stands at readRecipients.
func (w *Wrapped) info(id RecipientID) (version int64, der []byte, err error) {
	if w.Kind != kindPassword && len(id.KeyID) == 0 && (id.Issuer == nil || id.Serial == nil || w.Kind == kindShared) {
		return 0, nil, errors.New("the recipient has no name")
	}
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	var b cryptobyte.Builder
	switch w.Kind {
	case kindTransport:
		if len(id.KeyID) > 0 {
			version = 2
		}
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(version)
			if len(id.KeyID) > 0 {
				b.AddASN1(tagKeyID, func(b *cryptobyte.Builder) { b.AddBytes(id.KeyID) })
			} else {
				addIssuerAndSerial(b, id.Issuer, id.Serial)
			}
			b.AddBytes(w.Algorithm)
			b.AddASN1OctetString(w.Key)
		})
	case kindAgreement:
		version = 2
		b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
			b.AddASN1Int64(3)
			b.AddASN1(tag(0), func(b *cryptobyte.Builder) { addRetagged(b, tag(1), w.Origin) })
			b.AddBytes(w.Algorithm)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					if len(id.KeyID) > 0 {
						b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddASN1OctetString(id.KeyID) })
					} else {
						addIssuerAndSerial(b, id.Issuer, id.Serial)
					}
					b.AddASN1OctetString(w.Key)
				})
			})
		})
	case kindShared:
		version = 2
		b.AddASN1(tag(2), func(b *cryptobyte.Builder) {
			b.AddASN1Int64(4)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1OctetString(id.KeyID) })
			b.AddBytes(w.Algorithm)
			b.AddASN1OctetString(w.Key)
		})
	case kindPassword:
		version = 3
		b.AddASN1(tag(3), func(b *cryptobyte.Builder) {
			b.AddASN1Int64(0)
			addRetagged(b, tag(0), w.Origin)
			b.AddBytes(w.Algorithm)
			b.AddASN1OctetString(w.Key)
		})
	default:
		return 0, nil, errors.New("the recipient is of no kind")
	}
	der, err = b.Bytes()
	return version, der, err
}

// addRetagged writes a SEQUENCE under an implicit tag.
func addRetagged(b *cryptobyte.Builder, tag cbasn1.Tag, sequence []byte) {
	in := cryptobyte.String(sequence)
	var content cryptobyte.String
	if !in.ReadASN1(&content, cbasn1.SEQUENCE) || !in.Empty() {
		b.SetError(errors.New("not a SEQUENCE"))
		return
	}
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}
