package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
)

// Bounds of an RSA key here, in bits of its modulus. Who may use a key is judged elsewhere: this is what arithmetic is
// done with at all. crypto/rsa has the same lower bound.
const (
	minRSABits = 1024
	maxRSABits = 8192
)

// Verify verifies the signature over Content with the signer's key: messageDigest and contentType attributes too
// (RFC 5652 section 5.4). A digest that is not in accept, MD5 in any case, and a signature algorithm that this package
// does not know are ErrAlgorithm; all else is ErrSignature, and so are no Content and no Signer. The certificate itself
// is not judged.
//
// Known are rsaEncryption and sha*WithRSAEncryption (PKCS #1 v1.5) and ecdsa-with-*; one that names a digest has to name
// that of digestAlgorithm.
func (s *Signed) Verify(accept []crypto.Hash) error {
	if s.Content == nil {
		return unverified("there is no content")
	}
	return s.verify(s.Content, accept)
}

// VerifyDetached is Verify for content that travels apart, such as the body that a header signs. A message with content
// of its own is ErrSignature.
func (s *Signed) VerifyDetached(content []byte, accept []crypto.Hash) error {
	if s.Content != nil {
		return unverified("the message has content of its own")
	}
	return s.verify(content, accept)
}

// SignedHash is what a message with signedAttrs is known again by, once Verify has let it pass: SHA-256 over the signer's key and the
// attributes in the order of DER. What else is in a message can be changed by whoever has it: certificates, unsignedAttrs, which
// certificate of its key signed it, and, since Verify sorts them, the order in which the attributes come.
func (s *Signed) SignedHash() []byte {
	h := sha256.New()
	key := sha256.Sum256(s.Signer.RawSubjectPublicKeyInfo)
	h.Write(key[:])
	for _, a := range s.sorted() {
		h.Write(a.raw)
	}
	return h.Sum(nil)
}

func unverified(why string) error { return fmt.Errorf("cms: %w: %s", ErrSignature, why) }

// This is not the Verify of go.mozilla.org/pkcs7: that one skips contentType, compares signingTime with the wall clock's
// idea of the certificate, hashes attributes that it has encoded again, and verifies a detached message as an empty one.
func (s *Signed) verify(content []byte, accept []crypto.Hash) error {
	if !usable(s.Digest) || !slices.Contains(accept, s.Digest) {
		return fmt.Errorf("cms: %w: digest", ErrAlgorithm)
	}
	kind, named := signatureByOID(s.SignatureOID)
	if kind == signatureUnknown {
		return fmt.Errorf("cms: %w: signature", ErrAlgorithm)
	}
	if named != 0 && named != s.Digest {
		return unverified("signatureAlgorithm and digestAlgorithm differ")
	}
	if s.Signer == nil {
		return unverified("the signer's certificate is not in the message")
	}
	check, err := s.checker(kind)
	if err != nil {
		return err
	}
	h := s.Digest.New()
	h.Write(content)
	digest := h.Sum(nil)
	if s.rawAttrs == nil {
		// RFC 5652 section 5.3: only id-data goes without signed attributes.
		if !s.ContentType.Equal(oidData) {
			return unverified("no signed attributes")
		}
		// Else the attributes of one message would pass for the content of another under the same signature.
		if looksLikeAttributes(content) {
			return unverified("the content reads as signed attributes")
		}
		if !check(digest) {
			return unverified("wrong signature")
		}
		return nil
	}

	if err := s.checkAttributes(digest); err != nil {
		return err
	}
	// RFC 5652 section 5.4: what is hashed is the DER of SET OF Attribute, under its universal tag. DER sorts a SET OF.
	// Nearly all senders do; some hash what they send, unsorted. Both readings have the same attributes.
	h.Reset()
	h.Write([]byte{byte(cbasn1.SET)})
	h.Write(s.rawAttrs[1:])
	if check(h.Sum(digest[:0])) {
		return nil
	}
	if slices.IsSortedFunc(s.attributes, compareRaw) {
		return unverified("wrong signature")
	}
	size := 0
	sorted := s.sorted()
	for i := range sorted {
		size += len(sorted[i].raw)
	}
	h.Reset()
	h.Write(appendLength([]byte{byte(cbasn1.SET)}, size))
	for i := range sorted {
		h.Write(sorted[i].raw)
	}
	if !check(h.Sum(digest[:0])) {
		return unverified("wrong signature")
	}
	return nil
}

// sorted are the attributes as DER has them.
func (s *Signed) sorted() []signedAttribute {
	list := slices.Clone(s.attributes)
	slices.SortFunc(list, compareRaw)
	return list
}

// compareRaw is the order of a SET OF in DER (X.690 section 11.6). No element is the beginning of another one.
func compareRaw(a, b signedAttribute) int { return bytes.Compare(a.raw, b.raw) }

// checkAttributes checks the two attributes that bind the others to the content (RFC 5652 sections 11.1 and 11.2).
func (s *Signed) checkAttributes(digest []byte) error {
	value, ok := s.Attribute(oidContentType)
	element := cryptobyte.String(value)
	var oid asn1.ObjectIdentifier
	if !ok || !readOID(&element, &oid) || !element.Empty() || !oid.Equal(s.ContentType) {
		return unverified("contentType attribute")
	}
	value, ok = s.Attribute(oidMessageDigest)
	if !ok {
		return unverified("messageDigest attribute")
	}
	if got, ok := OctetsValue(value); !ok || !bytes.Equal(got, digest) {
		return unverified("messageDigest is not that of the content")
	}
	return nil
}

// checker returns the function that verifies the signature over a digest with the signer's key.
func (s *Signed) checker(kind signatureKind) (func(digest []byte) bool, error) {
	switch pub := s.Signer.PublicKey.(type) {
	case *rsa.PublicKey:
		if kind != signatureRSA {
			return nil, unverified("signatureAlgorithm is not of the signer's key")
		}
		if !boundedRSA(pub) {
			return nil, unverified("size of the signer's key")
		}
		return func(digest []byte) bool { return rsa.VerifyPKCS1v15(pub, s.Digest, digest, s.signature) == nil }, nil
	case *ecdsa.PublicKey:
		if kind != signatureECDSA {
			return nil, unverified("signatureAlgorithm is not of the signer's key")
		}
		return func(digest []byte) bool { return ecdsa.VerifyASN1(pub, digest, s.signature) }, nil
	}
	return nil, unverified("type of the signer's key")
}

func boundedRSA(pub *rsa.PublicKey) bool {
	bits := pub.N.BitLen()
	return bits >= minRSABits && bits <= maxRSABits
}

// looksLikeAttributes reports whether content is the DER of a SET OF Attribute.
func looksLikeAttributes(content []byte) bool {
	s := cryptobyte.String(content)
	var set cryptobyte.String
	if !s.ReadASN1(&set, cbasn1.SET) || !s.Empty() {
		return false
	}
	for !set.Empty() {
		var one, part cryptobyte.String
		if !set.ReadASN1(&one, cbasn1.SEQUENCE) || !one.ReadASN1(&part, cbasn1.OBJECT_IDENTIFIER) ||
			!one.ReadASN1(&part, cbasn1.SET) || !one.Empty() {
			return false
		}
	}
	return true
}
