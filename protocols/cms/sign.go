package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// SignOptions say what Sign makes.
type SignOptions struct {
	ContentType  asn1.ObjectIdentifier // id-data when nil
	Content      []byte                // nil: no eContent at all; not nil and empty: one without octets
	Key          crypto.Signer         // RSA (PKCS #1 v1.5), ECDSA or Ed25519
	Certificate  *x509.Certificate     // of Key; names the signer by issuer and serial number
	Certificates []*x509.Certificate   // that go with it, in this order; none: not even the signer's
	Digest       crypto.Hash           // SHA-1, SHA-224, SHA-256, SHA-384 or SHA-512; with Ed25519 SHA-512 (RFC 8419 section 2.3)
	Attributes   []Attribute           // beside contentType and messageDigest; no signingTime unless it stands here
	// PlainRSA names the signature algorithm rsaEncryption (RFC 3370 section 3.2), not one with a digest: strongSwan 5.9.8
	// takes no other.
	PlainRSA bool
	// ByKeyID names the signer by the certificate's subjectKeyIdentifier, as RFC 9483 section 4.1.6 has it.
	ByKeyID bool
}

// Sign makes a SignedData in a ContentInfo, DER but for the order of Certificates, with one operation of the key. A digest or key
// that it cannot sign with is ErrAlgorithm; other errors are the key's, or those of attributes that contradict.
//
// The builder of go.mozilla.org/pkcs7 is not used: it always puts in a signingTime of the wall clock, the signer's
// certificate and id-data, finds the signature algorithm by the concrete type of the key (none for a key outside the
// process), has no way to rsaEncryption with attributes, and verifies the chain on the way.
func Sign(o SignOptions) ([]byte, error) {
	signed, err := SignBare(o)
	if err != nil {
		return nil, err
	}
	return ContentInfo(oidSignedData, signed)
}

// SignBare is Sign without the ContentInfo: what is the content of something that says its type elsewhere.
func SignBare(o SignOptions) ([]byte, error) {
	contentType := o.ContentType
	if contentType == nil {
		contentType = oidData
	}
	if o.Key == nil || o.Certificate == nil {
		return nil, fmt.Errorf("cms: sign: no key or no certificate")
	}
	if o.ByKeyID && len(o.Certificate.SubjectKeyId) == 0 {
		return nil, fmt.Errorf("cms: sign: the certificate has no subjectKeyIdentifier")
	}
	digestOID, signatureOID, isRSA, err := o.algorithms()
	if err != nil {
		return nil, err
	}
	h := o.Digest.New()
	h.Write(o.Content)
	attrs, err := o.attributes(contentType, h.Sum(nil))
	if err != nil {
		return nil, err
	}
	toSign := append(appendLength([]byte{byte(cbasn1.SET)}, len(attrs)), attrs...)
	how := crypto.SignerOpts(crypto.Hash(0)) // RFC 8419 section 3.1: Ed25519 signs the attributes as they are
	if _, ok := o.Key.Public().(ed25519.PublicKey); !ok {
		h.Reset()
		h.Write(toSign)
		toSign, how = h.Sum(nil), o.Digest
	}
	signature, err := o.Key.Sign(rand.Reader, toSign, how)
	if err != nil {
		return nil, fmt.Errorf("cms: sign: %w", err)
	}

	size := len(o.Content) + len(attrs) + len(signature) + len(o.Certificate.RawIssuer) + 256
	for _, c := range o.Certificates {
		size += len(c.Raw)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, size))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		// RFC 5652 section 5.1: 1 with id-data and plain certificates and a signer of version 1, else 3.
		version, signerVersion := int64(1), int64(1)
		if o.ByKeyID {
			signerVersion = 3
		}
		if !contentType.Equal(oidData) || o.ByKeyID {
			version = 3
		}
		b.AddASN1Int64(version)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { addAlgorithm(b, digestOID, false) })
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(contentType)
			if o.Content != nil {
				b.AddASN1(tagContent, func(b *cryptobyte.Builder) { b.AddASN1OctetString(o.Content) })
			}
		})
		if len(o.Certificates) > 0 {
			b.AddASN1(tagCertificates, func(b *cryptobyte.Builder) {
				for _, c := range o.Certificates {
					b.AddBytes(c.Raw)
				}
			})
		}
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(signerVersion)
				if o.ByKeyID {
					b.AddASN1(tagKeyID, func(b *cryptobyte.Builder) { b.AddBytes(o.Certificate.SubjectKeyId) })
				} else {
					addIdentifier(b, o.Certificate)
				}
				// RFC 5754 section 2: without parameters; section 3.2: NULL with RSA.
				addAlgorithm(b, digestOID, false)
				b.AddASN1(tagSignedAttrs, func(b *cryptobyte.Builder) { b.AddBytes(attrs) })
				addAlgorithm(b, signatureOID, isRSA)
				b.AddASN1OctetString(signature)
			})
		})
	})
	return b.Bytes()
}

// FittingDigest is the digest of a key's size (RFC 5754 section 3; RFC 8419 section 2.3 for Ed25519).
func FittingDigest(pub crypto.PublicKey) crypto.Hash {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch bits := pub.Curve.Params().BitSize; {
		case bits > 384:
			return crypto.SHA512
		case bits > 256:
			return crypto.SHA384
		}
	case ed25519.PublicKey:
		return crypto.SHA512
	}
	return crypto.SHA256
}

// algorithms finds the names for the key and the digest.
func (o *SignOptions) algorithms() (digest, signature asn1.ObjectIdentifier, isRSA bool, err error) {
	refused := func(what string) error { return fmt.Errorf("cms: sign: %w: %s", ErrAlgorithm, what) }
	i := slices.IndexFunc(digests, func(d digestAlgorithm) bool { return d.hash == o.Digest && !d.nameOnly })
	if i < 0 {
		return nil, nil, false, refused("digest")
	}
	d := &digests[i]
	switch pub := o.Key.Public().(type) {
	case *rsa.PublicKey:
		if !pub.Equal(o.Certificate.PublicKey) {
			return nil, nil, false, fmt.Errorf("cms: sign: the certificate is not of the key")
		}
		if !boundedRSA(pub) {
			return nil, nil, false, refused("size of the key")
		}
		if o.PlainRSA {
			return d.oid, oidRSA, true, nil
		}
		return d.oid, d.rsa, true, nil
	case *ecdsa.PublicKey:
		if !pub.Equal(o.Certificate.PublicKey) {
			return nil, nil, false, fmt.Errorf("cms: sign: the certificate is not of the key")
		}
		return d.oid, d.ecdsa, false, nil
	case ed25519.PublicKey:
		if !pub.Equal(o.Certificate.PublicKey) {
			return nil, nil, false, fmt.Errorf("cms: sign: the certificate is not of the key")
		}
		if o.Digest != crypto.SHA512 {
			return nil, nil, false, refused("Ed25519 goes with SHA-512")
		}
		return d.oid, oidEd25519, false, nil
	}
	return nil, nil, false, refused("type of the key")
}

// attributes returns the content of signedAttrs: contentType, messageDigest and the others, in the order of DER.
func (o *SignOptions) attributes(contentType asn1.ObjectIdentifier, digest []byte) ([]byte, error) {
	var t cryptobyte.Builder
	t.AddASN1ObjectIdentifier(contentType)
	typeDER, err := t.Bytes()
	if err != nil {
		return nil, fmt.Errorf("cms: sign: content type: %w", err)
	}
	list := append([]Attribute{{oidContentType, typeDER}, AttributeOctets(oidMessageDigest, digest)}, o.Attributes...)
	encoded := make([][]byte, len(list))
	for i, a := range list {
		for _, before := range list[:i] {
			if a.Type.Equal(before.Type) {
				return nil, fmt.Errorf("cms: sign: attribute %v twice", a.Type)
			}
		}
		if err := Check(a.Value, Limits{}); err != nil {
			return nil, fmt.Errorf("cms: sign: attribute %v: %w", a.Type, err)
		}
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(a.Type)
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(a.Value) })
		})
		if encoded[i], err = b.Bytes(); err != nil {
			return nil, fmt.Errorf("cms: sign: attribute: %w", err)
		}
	}
	slices.SortFunc(encoded, bytes.Compare)
	return bytes.Join(encoded, nil), nil
}
