package cms

import (
	"crypto"
	"crypto/x509"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// KeyPackage is the DER of an AsymmetricKeyPackage with one key (RFC 5958 section 2; RFC 9483 section 4.1.6). It is the key in the
// clear.
//
//	AsymmetricKeyPackage ::= SEQUENCE SIZE (1..MAX) OF OneAsymmetricKey
func KeyPackage(key crypto.Signer) ([]byte, error) {
	one, err := OneKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(one)
	return PackageOf(one)
}

// PackageOf is the DER of an AsymmetricKeyPackage of one key that is encoded already: as OneKey does, or as PKCS #8, which is a
// OneAsymmetricKey of version 1 and the only one that OpenSSL 3.0 reads.
func PackageOf(one []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(one)+8))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(one) })
	return b.Bytes()
}

// OneKey is the DER of a OneAsymmetricKey: PKCS #8 with the public key, and therefore of version 2. It is the key in the clear.
//
//	OneAsymmetricKey ::= SEQUENCE {                 -- RFC 5958 section 2
//	    version              INTEGER,               -- v2 (1)
//	    privateKeyAlgorithm  AlgorithmIdentifier,
//	    privateKey           OCTET STRING,
//	    attributes           [0] Attributes OPTIONAL,
//	    publicKey            [1] IMPLICIT BIT STRING OPTIONAL }
func OneKey(key crypto.Signer) ([]byte, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cms: key package: %w", err)
	}
	defer clear(pkcs8)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("cms: key package: %w", err)
	}
	var info, algorithm, private, public, ignored cryptobyte.String
	in, pub := cryptobyte.String(pkcs8), cryptobyte.String(spki)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1(&ignored, cbasn1.INTEGER) ||
		!info.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) || !info.ReadASN1Element(&private, cbasn1.OCTET_STRING) ||
		!pub.ReadASN1(&pub, cbasn1.SEQUENCE) || !pub.ReadASN1(&ignored, cbasn1.SEQUENCE) || !pub.ReadASN1(&public, cbasn1.BIT_STRING) {
		return nil, fmt.Errorf("cms: key package: %w: the key", ErrSyntax)
	}
	// Room for all, so that the key is not left behind where a smaller buffer was.
	b := cryptobyte.NewBuilder(make([]byte, 0, len(pkcs8)+len(spki)+32))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddBytes(algorithm)
		b.AddBytes(private)
		b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(public) })
	})
	return b.Bytes()
}
