package pkix

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of an RSA key.
const (
	MinRSABits = 2048
	MaxRSABits = 8192
)

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}

	oidP256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384 = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidP521 = asn1.ObjectIdentifier{1, 3, 132, 0, 35}
)

// Option adjusts how keys and signatures are judged. Without any, the bounds of this package hold.
type Option func(*judgement)

type judgement struct {
	blocklist *Blocklist
	allowSHA1 bool
	ignoreKey bool
}

func judge(opts []Option) judgement {
	var j judgement
	for _, o := range opts {
		o(&j)
	}
	return j
}

// WithBlocklist refuses keys on the list; nil is an empty list.
func WithBlocklist(b *Blocklist) Option { return func(j *judgement) { j.blocklist = b } }

// IgnoreKey lets ParseCSR take a request with any key, and any signature: neither is used (RFC 7030 section 4.4.1). CSR.Key is nil
// then; WishedKind says what kind of key it is.
func IgnoreKey() Option { return func(j *judgement) { j.ignoreKey = true } }

// AllowSHA1 lets CSR.CheckSignature and VerifySignature accept SHA-1, for an endpoint whose legacy list says so.
func AllowSHA1() Option { return func(j *judgement) { j.allowSHA1 = true } }

// ParsePublicKey parses a DER SubjectPublicKeyInfo and refuses a key that must not be certified. The answer is
// *rsa.PublicKey (2048 to 8192 bits, exponent odd, 3 to 2^32-1, neither ROCA nor close primes), *ecdsa.PublicKey
// (P-256, P-384, P-521, uncompressed, on the curve) or ed25519.PublicKey (on the curve, not of small order).
// Errors are ErrMalformed, ErrAlgorithm and ErrWeak.
//
// An exponent above 2^31-1 is beyond crypto/rsa; CSR.CheckSignature verifies such keys all the same.
func ParsePublicKey(spki []byte, opts ...Option) (crypto.PublicKey, error) {
	j := judge(opts)
	// SubjectPublicKeyInfo ::= SEQUENCE {          -- RFC 5280 section 4.1
	//     algorithm         AlgorithmIdentifier,
	//     subjectPublicKey  BIT STRING }
	input := cryptobyte.String(spki)
	var outer cryptobyte.String
	if !input.ReadASN1(&outer, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, malformed("SubjectPublicKeyInfo")
	}
	alg, err := readAlgorithm(&outer)
	if err != nil {
		return nil, err
	}
	var bits []byte
	if !outer.ReadASN1BitStringAsBytes(&bits) || !outer.Empty() {
		return nil, malformed("subjectPublicKey")
	}
	if j.blocklist.Contains(spki) {
		return nil, weak("the key is on the blocklist")
	}
	switch {
	case alg.oid.Equal(oidRSA):
		// RFC 3279 section 2.3.1: the parameters are NULL.
		if !alg.null() {
			return nil, malformed("parameters of an RSA key")
		}
		return parseRSA(bits)
	case alg.oid.Equal(oidEC):
		return parseEC(alg.params, bits)
	case alg.oid.Equal(oidEd25519):
		// RFC 8410 section 3: no parameters.
		if alg.params != nil {
			return nil, malformed("parameters of an Ed25519 key")
		}
		return parseEd25519(bits)
	}
	return nil, because(ErrAlgorithm, "public key algorithm %v", alg.oid)
}

// algorithm is an AlgorithmIdentifier (RFC 5280 section 4.1.1.2).
type algorithm struct {
	oid    asn1.ObjectIdentifier
	params []byte // one DER element, nil when absent
}

func (a algorithm) null() bool {
	return len(a.params) == 2 && a.params[0] == byte(cbasn1.NULL) && a.params[1] == 0
}

// AlgorithmIdentifier ::= SEQUENCE {
//
//	algorithm   OBJECT IDENTIFIER,
//	parameters  ANY DEFINED BY algorithm OPTIONAL }
func readAlgorithm(s *cryptobyte.String) (algorithm, error) {
	var a algorithm
	var seq cryptobyte.String
	if !s.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&a.oid) {
		return a, malformed("AlgorithmIdentifier")
	}
	if !seq.Empty() {
		var params cryptobyte.String
		if !seq.ReadAnyASN1Element(&params, new(cbasn1.Tag)) || !seq.Empty() {
			return a, malformed("parameters of %v", a.oid)
		}
		a.params = params
	}
	return a, nil
}

// RSAPublicKey ::= SEQUENCE {              -- RFC 8017 appendix A.1.1
//
//	modulus         INTEGER,
//	publicExponent  INTEGER }
func parseRSA(der []byte) (*rsa.PublicKey, error) {
	input := cryptobyte.String(der)
	var seq, n, e cryptobyte.String
	if !input.ReadASN1(&seq, cbasn1.SEQUENCE) || !input.Empty() ||
		!seq.ReadASN1(&n, cbasn1.INTEGER) || !seq.ReadASN1(&e, cbasn1.INTEGER) || !seq.Empty() {
		return nil, malformed("RSAPublicKey")
	}
	if !positive(n) || !positive(e) {
		return nil, malformed("an integer of RSAPublicKey is not positive or not minimal")
	}
	if len(n) > MaxRSABits/8+1 {
		return nil, weak("RSA modulus of over %d bits", MaxRSABits)
	}
	modulus := new(big.Int).SetBytes(n)
	if bits := modulus.BitLen(); bits < MinRSABits || bits > MaxRSABits {
		return nil, weak("RSA modulus of %d bits, want %d to %d", bits, MinRSABits, MaxRSABits)
	}
	if len(e) > 5 {
		return nil, weak("RSA public exponent of over 32 bits")
	}
	var exponent uint64
	for _, b := range e {
		exponent = exponent<<8 | uint64(b)
	}
	if exponent < 3 || exponent > 1<<32-1 || exponent%2 == 0 {
		return nil, weak("RSA public exponent %d, want odd, 3 to 2^32-1", exponent)
	}
	if int(exponent) < 0 {
		return nil, because(ErrAlgorithm, "RSA public exponent %d on this platform", exponent)
	}
	if err := checkModulus(modulus); err != nil {
		return nil, err
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent)}, nil
}

// positive reports whether the content of an INTEGER is above zero and minimal (X.690 section 8.3.2).
func positive(b []byte) bool {
	switch {
	case len(b) == 0 || b[0]&0x80 != 0:
		return false
	case b[0] == 0:
		return len(b) > 1 && b[1]&0x80 != 0
	}
	return true
}

// ECParameters ::= CHOICE { namedCurve OBJECT IDENTIFIER }   -- RFC 5480 section 2.1.1
// ECPoint ::= OCTET STRING, its content taken as it is       -- RFC 5480 section 2.2
func parseEC(params, point []byte) (*ecdsa.PublicKey, error) {
	in := cryptobyte.String(params)
	var oid asn1.ObjectIdentifier
	if !in.PeekASN1Tag(cbasn1.OBJECT_IDENTIFIER) {
		return nil, because(ErrAlgorithm, "elliptic curve that is not named")
	}
	if !in.ReadASN1ObjectIdentifier(&oid) || !in.Empty() {
		return nil, malformed("ECParameters")
	}
	var curve elliptic.Curve
	switch {
	case oid.Equal(oidP256):
		curve = elliptic.P256()
	case oid.Equal(oidP384):
		curve = elliptic.P384()
	case oid.Equal(oidP521):
		curve = elliptic.P521()
	default:
		return nil, because(ErrAlgorithm, "elliptic curve %v", oid)
	}
	// crypto/x509 and most clients know uncompressed points only.
	if len(point) > 0 && (point[0] == 2 || point[0] == 3) {
		return nil, because(ErrAlgorithm, "compressed point")
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, malformed("%s point: %w", curve.Params().Name, err)
	}
	return pub, nil
}

func parseEd25519(key []byte) (ed25519.PublicKey, error) {
	if len(key) != ed25519.PublicKeySize {
		return nil, malformed("Ed25519 key of %d bytes", len(key))
	}
	if err := checkEdwards(key); err != nil {
		return nil, err
	}
	return append(ed25519.PublicKey(nil), key...), nil
}

// KeyName names algorithm and size as configurations do: "P-256", "RSA-3072", "Ed25519"; "unknown" for any other type.
func KeyName(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown"
}
