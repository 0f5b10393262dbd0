package pkix

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// VerifySignature verifies a signature over data made with the private half of pub. algorithm is the DER of an
// AlgorithmIdentifier: RSA PKCS #1 v1.5 and PSS with SHA-2, ECDSA with SHA-2, Ed25519; SHA-1 by AllowSHA1 only.
// Errors are ErrMalformed, ErrAlgorithm and ErrSignature; MD5, and SHA-1 that is not allowed, are ErrAlgorithm and
// ErrWeak at once.
//
// pub is a key that ParsePublicKey or ChainPolicy.Verify has judged, or is going to: here only what would make the check
// expensive, or have it panic, is refused, as ErrAlgorithm.
func VerifySignature(pub crypto.PublicKey, algorithm, data, signature []byte, opts ...Option) error {
	alg, err := parseAlgorithm(algorithm)
	if err != nil {
		return err
	}
	err = judge(opts).verify(pub, alg, data, signature)
	if errors.Is(err, ErrWeak) {
		return fmt.Errorf("%w: %w", ErrAlgorithm, err)
	}
	return err
}

func parseAlgorithm(der []byte) (algorithm, error) {
	input := cryptobyte.String(der)
	alg, err := readAlgorithm(&input)
	if err != nil {
		return algorithm{}, err
	}
	if !input.Empty() {
		return algorithm{}, malformed("AlgorithmIdentifier with trailing data")
	}
	return alg, nil
}

// verify is VerifySignature and CSR.CheckSignature. Errors are ErrWeak, ErrAlgorithm and ErrSignature.
func (j judgement) verify(pub crypto.PublicKey, a algorithm, data, signature []byte) error {
	alg := a.signature()
	if alg == x509.UnknownSignatureAlgorithm {
		return because(ErrAlgorithm, "signature algorithm %v", a.oid)
	}
	hash, err := j.hash(alg)
	if err != nil {
		return err
	}
	signed := digest(hash, data)
	ok := false
	switch key := pub.(type) {
	case *rsa.PublicKey:
		if key.N == nil || key.N.BitLen() > MaxRSABits {
			return because(ErrAlgorithm, "RSA modulus of over %d bits, or none", MaxRSABits)
		}
		switch alg {
		case x509.SHA1WithRSA, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA:
			ok = verifyPKCS1(key, hash, signed, signature)
		case x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
			_, salt, _ := parsePSS(a.params)
			ok = rsa.VerifyPSS(key, hash, signed, signature, &rsa.PSSOptions{SaltLength: salt}) == nil
		default:
			return because(ErrAlgorithm, "%v with an RSA key", alg)
		}
	case *ecdsa.PublicKey:
		if _, known := curveAlgorithm(key.Curve); !known {
			return because(ErrAlgorithm, "elliptic curve")
		}
		switch alg {
		case x509.ECDSAWithSHA1, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
			ok = ecdsa.VerifyASN1(key, signed, signature)
		default:
			return because(ErrAlgorithm, "%v with an EC key", alg)
		}
	case ed25519.PublicKey:
		if alg != x509.PureEd25519 || len(key) != ed25519.PublicKeySize {
			return because(ErrAlgorithm, "%v with an Ed25519 key of %d bytes", alg, len(key))
		}
		ok = ed25519.Verify(key, signed, signature)
	default:
		return because(ErrAlgorithm, "no key")
	}
	if !ok {
		return because(ErrSignature, "%v", alg)
	}
	return nil
}

// digest returns data itself for hash 0: Ed25519 hashes on its own.
func digest(hash crypto.Hash, data []byte) []byte {
	if hash == 0 {
		return data
	}
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}

// Sign signs data with the algorithm that fits the key (ECDSA with the hash of the curve's size, RSA PKCS #1 v1.5 with
// SHA-256, Ed25519) and returns the DER of its AlgorithmIdentifier. The same data gives the same signature, byte for byte
// (RFC 6979 for ECDSA), when the key is one of the standard library's. Errors are ErrAlgorithm for a key that none fits,
// and the key's own.
func Sign(key crypto.Signer, data []byte) (algorithm, signature []byte, err error) {
	alg, err := fitting(key)
	if err != nil {
		return nil, nil, err
	}
	hash, err := judgement{}.hash(alg)
	if err != nil {
		return nil, nil, err
	}
	// crypto/ecdsa takes no source of randomness for a wish for RFC 6979. Keys elsewhere may need one.
	var random io.Reader = rand.Reader
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		random = nil
	}
	signature, err = key.Sign(random, digest(hash, data), hash)
	if err != nil {
		return nil, nil, fmt.Errorf("signing with %s: %w", KeyName(key.Public()), err)
	}
	return identifier(alg), signature, nil
}

// SignatureAlgorithm returns the DER of the AlgorithmIdentifier that Sign uses with the key. The error is ErrAlgorithm.
func SignatureAlgorithm(key crypto.Signer) ([]byte, error) {
	alg, err := fitting(key)
	if err != nil {
		return nil, err
	}
	return identifier(alg), nil
}

// fitting names the algorithm that Sign uses with the key.
func fitting(key crypto.Signer) (x509.SignatureAlgorithm, error) {
	if key == nil {
		return 0, because(ErrAlgorithm, "no key to sign with")
	}
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, nil
	case *ecdsa.PublicKey:
		if alg, ok := curveAlgorithm(pub.Curve); ok {
			return alg, nil
		}
		return 0, because(ErrAlgorithm, "no signature on the curve of this key")
	case ed25519.PublicKey:
		return x509.PureEd25519, nil
	}
	return 0, because(ErrAlgorithm, "no signature with a key of type %T", key.Public())
}

// curveAlgorithm pairs a curve with the hash of its size (RFC 5480 section 4).
func curveAlgorithm(curve elliptic.Curve) (x509.SignatureAlgorithm, bool) {
	switch curve {
	case elliptic.P256():
		return x509.ECDSAWithSHA256, true
	case elliptic.P384():
		return x509.ECDSAWithSHA384, true
	case elliptic.P521():
		return x509.ECDSAWithSHA512, true
	}
	return 0, false
}

// identifier writes the AlgorithmIdentifier of an algorithm that Sign uses. RSA's parameters are NULL
// (RFC 4055 section 5), the others' absent (RFC 5758 section 3.2, RFC 8410 section 3).
func identifier(alg x509.SignatureAlgorithm) []byte {
	var oid asn1.ObjectIdentifier
	for _, s := range signatureAlgorithms {
		if s.alg == alg {
			oid = s.oid
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if alg == x509.SHA256WithRSA {
			b.AddASN1NULL()
		}
	})
	return b.BytesOrPanic()
}

// SignatureHash returns the hash of a signature algorithm, given as the DER of an AlgorithmIdentifier: for Ed25519, which
// has none of its own, SHA-512 (RFC 9481 section 3.3). It is what a CMP certHash is made with (RFC 9810 section 5.3.18).
// It names SHA-1 too: which algorithms are to be used is not said here. Errors are ErrMalformed and ErrAlgorithm (unknown,
// and MD5).
func SignatureHash(algorithm []byte) (crypto.Hash, error) {
	a, err := parseAlgorithm(algorithm)
	if err != nil {
		return 0, err
	}
	hash, err := judgement{allowSHA1: true}.hash(a.signature())
	switch {
	case err != nil:
		return 0, because(ErrAlgorithm, "no hash for signature algorithm %v", a.oid)
	case hash == 0:
		return crypto.SHA512, nil
	}
	return hash, nil
}

// SignatureName is how people call a signature algorithm, given as the DER of an AlgorithmIdentifier: "ECDSA-SHA256"; its OID
// where it is none that this package knows.
func SignatureName(algorithm []byte) string {
	a, err := parseAlgorithm(algorithm)
	if err != nil {
		return "an algorithm that does not parse"
	}
	if alg := a.signature(); alg != x509.UnknownSignatureAlgorithm {
		return alg.String()
	}
	return a.oid.String()
}
