package pkix

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"

	_ "crypto/sha1"   // for crypto.Hash.New
	_ "crypto/sha256" // for crypto.Hash.New
	_ "crypto/sha512" // for crypto.Hash.New

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidRSAPSS = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidMGF1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
)

// Signature algorithms without parameters of their own (RFC 8017 appendix C, RFC 5758 section 3.2, RFC 8410 section 3).
var signatureAlgorithms = []struct {
	oid asn1.ObjectIdentifier
	alg x509.SignatureAlgorithm
}{
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, x509.MD5WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, x509.SHA1WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, x509.SHA256WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, x509.SHA384WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, x509.SHA512WithRSA},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}, x509.ECDSAWithSHA1},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, x509.ECDSAWithSHA256},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, x509.ECDSAWithSHA384},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, x509.ECDSAWithSHA512},
	{oidEd25519, x509.PureEd25519},
}

var hashes = []struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
	pss  x509.SignatureAlgorithm
}{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256, x509.SHA256WithRSAPSS},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384, x509.SHA384WithRSAPSS},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512, x509.SHA512WithRSAPSS},
}

// signature names the algorithm, 0 when it is unknown or its parameters are wrong.
func (a algorithm) signature() x509.SignatureAlgorithm {
	if a.oid.Equal(oidRSAPSS) {
		alg, _, ok := parsePSS(a.params)
		if !ok {
			return x509.UnknownSignatureAlgorithm
		}
		return alg
	}
	for _, s := range signatureAlgorithms {
		if !s.oid.Equal(a.oid) {
			continue
		}
		// RFC 4055 section 5: NULL or absent is accepted. RFC 5758 wants ECDSA's absent, yet NULL is sent and harmless.
		if a.params == nil || (a.null() && s.alg != x509.PureEd25519) {
			return s.alg
		}
	}
	return x509.UnknownSignatureAlgorithm
}

// parsePSS reads the parameters of RSASSA-PSS. The hash is SHA-2, the same in the mask; defaults mean SHA-1 and are
// refused with it.
//
//	RSASSA-PSS-params ::= SEQUENCE {                -- RFC 4055 section 3.1
//	    hashAlgorithm     [0] HashAlgorithm DEFAULT sha1Identifier,
//	    maskGenAlgorithm  [1] MaskGenAlgorithm DEFAULT mgf1SHA1Identifier,
//	    saltLength        [2] INTEGER DEFAULT 20,
//	    trailerField      [3] INTEGER DEFAULT 1 }
func parsePSS(params []byte) (alg x509.SignatureAlgorithm, salt int, ok bool) {
	in := cryptobyte.String(params)
	var seq, field cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return 0, 0, false
	}
	explicit := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	if !seq.ReadASN1(&field, explicit(0)) {
		return 0, 0, false
	}
	hash, err := readAlgorithm(&field)
	if err != nil || !field.Empty() || !seq.ReadASN1(&field, explicit(1)) {
		return 0, 0, false
	}
	mask, err := readAlgorithm(&field)
	if err != nil || !field.Empty() || !mask.oid.Equal(oidMGF1) {
		return 0, 0, false
	}
	maskParams := cryptobyte.String(mask.params)
	maskHash, err := readAlgorithm(&maskParams)
	if err != nil || !maskParams.Empty() || !maskHash.oid.Equal(hash.oid) {
		return 0, 0, false
	}
	trailer := 1
	if !seq.ReadOptionalASN1Integer(&salt, explicit(2), 20) ||
		!seq.ReadOptionalASN1Integer(&trailer, explicit(3), 1) || !seq.Empty() || trailer != 1 {
		return 0, 0, false
	}
	// crypto/rsa takes 0 for "any length"; the upper bound is what the largest key has room for.
	if salt < 1 || salt > MaxRSABits/8 {
		return 0, 0, false
	}
	for _, h := range hashes {
		if h.oid.Equal(hash.oid) && (hash.params == nil || hash.null()) && (maskHash.params == nil || maskHash.null()) {
			return h.pss, salt, true
		}
	}
	return 0, 0, false
}

// CheckSignature verifies that the request is signed with the key that it carries, the proof of possession.
// Errors are ErrSignature (does not verify), ErrWeak (MD5, and SHA-1 without AllowSHA1) and ErrAlgorithm (unknown, or
// made for another kind of key).
func (c *CSR) CheckSignature(opts ...Option) error {
	if err := judge(opts).verify(c.Key, c.algorithm, c.RawInfo, c.Signature); err != nil {
		return fmt.Errorf("signature of the request: %w", err)
	}
	return nil
}

// hash returns what the algorithm hashes with, 0 for Ed25519, and refuses algorithms that are not to be used.
func (j judgement) hash(alg x509.SignatureAlgorithm) (crypto.Hash, error) {
	switch alg {
	case x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		return crypto.SHA256, nil
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		return crypto.SHA384, nil
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		return crypto.SHA512, nil
	case x509.PureEd25519:
		return 0, nil
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		if j.allowSHA1 {
			return crypto.SHA1, nil
		}
		return 0, weak("signature algorithm %v", alg)
	case x509.MD2WithRSA, x509.MD5WithRSA:
		return 0, weak("signature algorithm %v", alg)
	}
	return 0, because(ErrAlgorithm, "signature algorithm %v", alg)
}

// verifyPKCS1 is rsa.VerifyPKCS1v15, and the same by hand for exponents that crypto/rsa refuses (above 2^31-1).
func verifyPKCS1(key *rsa.PublicKey, hash crypto.Hash, digest, sig []byte) bool {
	if key.E <= 1<<31-1 {
		return rsa.VerifyPKCS1v15(key, hash, digest, sig) == nil
	}
	size := (key.N.BitLen() + 7) / 8
	s := new(big.Int).SetBytes(sig)
	if len(sig) != size || s.Cmp(key.N) >= 0 {
		return false
	}
	info := digestInfo(hash, digest)
	if info == nil || size < len(info)+11 {
		return false
	}
	// EM = 00 01 FF..FF 00 DigestInfo, compared whole (RFC 8017 section 8.2.2).
	want := bytes.Repeat([]byte{0xff}, size)
	want[0], want[1] = 0, 1
	want[size-len(info)-1] = 0
	copy(want[size-len(info):], info)
	got := s.Exp(s, big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, size))
	return subtle.ConstantTimeCompare(got, want) == 1
}

// DigestInfo ::= SEQUENCE {                       -- RFC 8017 appendix A.2.4
//
//	digestAlgorithm  AlgorithmIdentifier,
//	digest           OCTET STRING }
func digestInfo(hash crypto.Hash, digest []byte) []byte {
	for _, h := range hashes {
		if h.hash != hash {
			continue
		}
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(h.oid)
				b.AddASN1NULL()
			})
			b.AddASN1OctetString(digest)
		})
		return b.BytesOrPanic()
	}
	return nil
}
