package cmpmsg

import (
	"crypto"
	"crypto/hmac"
	"crypto/pbkdf2"
	_ "crypto/sha1" // HMAC-SHA-1, see ParseMAC
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of what a MAC may make us compute, as docs/cmp.md states them: 100,000 iterations of PBM are as many hashes, 50,000 of
// PBKDF2 twice as many. Half of them where the hash is SHA-384 or SHA-512, which costs three times as much, and half again where PBKDF2's key
// takes two of its outputs: 20 ms of CPU are what a stranger's message may cost.
const (
	minIterations    = 100 // RFC 4211 section 4.4
	maxPBMIterations = 100_000
	maxPBKDF2        = 50_000
	maxSalt          = 128 // octets
	minKeyLength     = 16  // octets of a PBMAC1 key: a shorter one would be guessed in the place of the secret
)

// MAC is a MAC algorithm with its parameters: password-based MAC (RFC 9810 section 5.1.3.1) or PBMAC1 (RFC 8018 section 7.1,
// RFC 9481 section 6.1.2).
type MAC struct {
	pbmac1     bool
	salt       []byte
	hash       AlgorithmIdentifier // owf of PBM, prf of PBKDF2; no OID: the prf by default
	mac        AlgorithmIdentifier
	iterations int
	keyLength  int  // PBMAC1: of the derived key, octets
	keyGiven   bool // keyLength is in the parameters
	algorithm  AlgorithmIdentifier
}

// MACPolicy bounds what a request may make us compute. The zero value allows PBM 100 to 100,000
// iterations, PBMAC1 up to 50,000, half of them with SHA-384 and SHA-512, salts up to 128 bytes, SHA-2 only.
type MACPolicy struct {
	// AllowSHA1 lets SHA-1 be the one-way function of PBM, and HMAC-SHA-1 the MAC and the PRF of PBMAC1.
	AllowSHA1 bool
}

// IsMAC reports whether a protectionAlg names a MAC algorithm, acceptable or not.
func (a *AlgorithmIdentifier) IsMAC() bool {
	if _, ok := macName(a.OID); ok {
		return true
	}
	return macHash(a.OID) != 0
}

// macName names the MAC algorithms of RFC 9481 section 6 and RFC 9810 section 5.1.3, but for HMAC.
func macName(oid asn1.ObjectIdentifier) (name string, ok bool) {
	switch {
	case oid.Equal(OIDPasswordBasedMac):
		return "PasswordBasedMac", true
	case oid.Equal(OIDPBMAC1):
		return "PBMAC1", true
	case oid.Equal(OIDDHBasedMac):
		return "DHBasedMac", true
	case oid.Equal(OIDKemBasedMac):
		return "KemBasedMac", true
	}
	for _, o := range otherMACs {
		if oid.Equal(o.oid) {
			return o.name, true
		}
	}
	return "", false
}

// otherMACs are known as MACs and not supported.
var otherMACs = []struct {
	oid  asn1.ObjectIdentifier
	name string
}{
	{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 8, 1, 1}, "HMAC-MD5"},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 8}, "HMAC-SHA224"},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 19}, "KMAC128"},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 20}, "KMAC256"},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 9}, "AES128-GMAC"},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 29}, "AES192-GMAC"},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 49}, "AES256-GMAC"},
}

// macHash is the hash of an HMAC's OID; 0 when it is none that is supported. HMAC-SHA-1 has two: id-HMAC-SHA1 of RFC 4211,
// which PBM uses, and that of PKCS #5.
func macHash(oid asn1.ObjectIdentifier) crypto.Hash {
	for h, oids := range hmacOIDs {
		if slices.ContainsFunc(oids, oid.Equal) {
			return h
		}
	}
	return 0
}

var hmacOIDs = map[crypto.Hash][]asn1.ObjectIdentifier{
	crypto.SHA1:   {{1, 3, 6, 1, 5, 5, 8, 1, 2}, {1, 2, 840, 113549, 2, 7}},
	crypto.SHA256: {{1, 2, 840, 113549, 2, 9}},
	crypto.SHA384: {{1, 2, 840, 113549, 2, 10}},
	crypto.SHA512: {{1, 2, 840, 113549, 2, 11}},
}

// digestHash is the hash of a digest's OID, 0 when it is none that is supported.
func digestHash(oid asn1.ObjectIdentifier) crypto.Hash {
	for h, o := range digestOIDs {
		if oid.Equal(o) {
			return h
		}
	}
	return 0
}

var digestOIDs = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA1:   {1, 3, 14, 3, 2, 26},
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}

// ParseMAC reads a protectionAlg that names a MAC. Errors wrap ErrAlgorithm.
//
// The one-way function of PBM is SHA-256, SHA-384 or SHA-512, and its MAC is HMAC with one of these or with SHA-1: that is
// the MAC that RFC 4211 section 4.4 makes mandatory and the one that openssl sends unless it is told otherwise. What has been
// broken in SHA-1, resistance to collisions, is not what HMAC stands on; as a one-way function and in PBMAC1, which is
// younger, SHA-1 needs the policy.
func ParseMAC(a *AlgorithmIdentifier, p MACPolicy) (*MAC, error) {
	name, ok := macName(a.OID)
	if !ok {
		if macHash(a.OID) != 0 {
			return nil, fmt.Errorf("%w: HMAC with no derivation of its key from a secret", ErrAlgorithm)
		}
		return nil, fmt.Errorf("%w: no MAC", ErrAlgorithm)
	}
	m := &MAC{algorithm: *a}
	var read func(*input)
	switch name {
	case "PasswordBasedMac":
		read = m.pbmParameter
	case "PBMAC1":
		m.pbmac1 = true
		read = m.pbmac1Params
	default:
		return nil, fmt.Errorf("%w: %s", ErrAlgorithm, name)
	}
	if a.Parameters == nil {
		return nil, fmt.Errorf("%w: %s without parameters", ErrAlgorithm, name)
	}
	if err := parseValue(a.Parameters, name, read); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrAlgorithm, name, err)
	}
	if err := m.judge(p); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrAlgorithm, name, err)
	}
	return m, nil
}

// pbmParameter reads a PBMParameter.
//
//	PBMParameter ::= SEQUENCE {                         -- RFC 9810 section 5.1.3.1
//	    salt            OCTET STRING,
//	    owf             AlgorithmIdentifier,
//	    iterationCount  INTEGER,
//	    mac             AlgorithmIdentifier }
func (m *MAC) pbmParameter(in *input) {
	in.sequence("PBMParameter", func(in *input) {
		m.salt = in.octets("salt", maxSalt)
		m.hash = in.algorithm("owf")
		m.iterations = int(in.int("iterationCount", minIterations, maxPBMIterations))
		m.mac = in.algorithm("mac")
	})
}

// pbmac1Params reads PBMAC1-params.
//
//	PBMAC1-params ::= SEQUENCE {                        -- RFC 8018 appendix A.5
//	    keyDerivationFunc  AlgorithmIdentifier,         -- id-PBKDF2
//	    messageAuthScheme  AlgorithmIdentifier }
//	PBKDF2-params ::= SEQUENCE {                        -- RFC 8018 appendix A.2
//	    salt            CHOICE { specified OCTET STRING, otherSource AlgorithmIdentifier },
//	    iterationCount  INTEGER (1..MAX),
//	    keyLength       INTEGER (1..MAX) OPTIONAL,
//	    prf             AlgorithmIdentifier DEFAULT algid-hmacWithSHA1 }
//
// BouncyCastle, and the CAs and RAs that are built on it, write id-PBES2 before PBKDF2-params (up to 1.80 at least); what belongs to
// PBES2 is of another shape. Answers say id-PBKDF2, which it takes.
func (m *MAC) pbmac1Params(in *input) {
	in.sequence("PBMAC1-params", func(in *input) {
		at := in.s
		in.sequence("keyDerivationFunc", func(in *input) {
			if oid := in.oid("keyDerivationFunc"); in.ok() && !oid.Equal(OIDPBKDF2) && !oid.Equal(oidPBES2) {
				in.syntax(at, "keyDerivationFunc", "PBKDF2 expected")
			}
			in.sequence("PBKDF2-params", func(in *input) {
				m.salt = in.octets("salt", maxSalt)
				m.iterations = int(in.int("iterationCount", minIterations, maxPBKDF2))
				if m.keyGiven = in.next(cbasn1.INTEGER); m.keyGiven {
					m.keyLength = int(in.int("keyLength", minKeyLength, 64))
				}
				if in.more() {
					m.hash = in.algorithm("prf")
				}
			})
		})
		m.mac = in.algorithm("messageAuthScheme")
	})
}

// judge checks the algorithms inside of the parameters.
func (m *MAC) judge(p MACPolicy) error {
	if len(m.salt) == 0 {
		return errors.New("no salt")
	}
	for _, a := range []*AlgorithmIdentifier{&m.hash, &m.mac} {
		// Absent, or NULL: RFC 9481 section 2 and RFC 8018 appendix B.1.2.
		if a.Parameters != nil && !slices.Equal(a.Parameters, []byte{5, 0}) {
			return errors.New("parameters where there are none")
		}
	}
	hash, mac := m.hashes()
	if hash == 0 || mac == 0 {
		return errors.New("unknown hash or MAC in it")
	}
	if hash == crypto.SHA1 && !p.AllowSHA1 {
		return errors.New("SHA-1 derives the key")
	}
	most := maxPBMIterations
	if m.pbmac1 {
		most = maxPBKDF2
	}
	if hash.Size() > crypto.SHA256.Size() {
		most /= 2
	}
	if !m.pbmac1 {
		return m.within(most)
	}
	if mac == crypto.SHA1 && !p.AllowSHA1 {
		return errors.New("HMAC-SHA-1")
	}
	if !m.keyGiven {
		m.keyLength = mac.Size()
	}
	if m.keyLength > mac.Size() {
		return errors.New("keyLength beyond the size of the hash")
	}
	if m.keyLength > hash.Size() {
		most /= 2
	}
	return m.within(most)
}

func (m *MAC) within(most int) error {
	if m.iterations > most {
		return fmt.Errorf("iterationCount: %d, with this hash and key at most %d", m.iterations, most)
	}
	return nil
}

// hashes are those that derive the key and make the MAC; 0 for unknown ones.
func (m *MAC) hashes() (derive, mac crypto.Hash) {
	mac = macHash(m.mac.OID)
	switch {
	case !m.pbmac1:
		return digestHash(m.hash.OID), mac
	case m.hash.OID == nil:
		return crypto.SHA1, mac
	default:
		return macHash(m.hash.OID), mac
	}
}

// NewPBM makes a password-based MAC: owf SHA-256, SHA-384 or SHA-512, mac the hash of the HMAC, these or SHA-1. The bounds
// of ParseMAC hold; errors wrap ErrAlgorithm.
func NewPBM(owf, mac crypto.Hash, iterations int, salt []byte) (*MAC, error) {
	m := &MAC{salt: slices.Clone(salt), iterations: iterations}
	if oids := hmacOIDs[mac]; oids != nil {
		m.mac.OID = oids[0]
	}
	m.hash.OID = digestOIDs[owf]
	return m.made()
}

// NewPBMAC1 makes a PBMAC1 with PBKDF2: prf and mac are the hashes of the HMACs, SHA-256, SHA-384 or SHA-512; the key is as
// long as the hash of mac. The bounds of ParseMAC hold; errors wrap ErrAlgorithm.
func NewPBMAC1(prf, mac crypto.Hash, iterations int, salt []byte) (*MAC, error) {
	if hmacOIDs[mac] == nil {
		return nil, fmt.Errorf("%w: no HMAC of that hash", ErrAlgorithm)
	}
	m := &MAC{pbmac1: true, salt: slices.Clone(salt), iterations: iterations, keyGiven: true, keyLength: mac.Size()}
	for to, h := range map[*AlgorithmIdentifier]crypto.Hash{&m.hash: prf, &m.mac: mac} {
		if oids := hmacOIDs[h]; oids != nil {
			to.OID = oids[len(oids)-1]
			to.Parameters = []byte{5, 0}
		}
	}
	return m.made()
}

// made is m as it would be received.
func (m *MAC) made() (*MAC, error) {
	if err := m.encode(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAlgorithm, err)
	}
	return ParseMAC(&m.algorithm, MACPolicy{})
}

// encode sets algorithm from the other fields.
func (m *MAC) encode() error {
	params, err := build(func(b *builder) {
		b.sequence(func(b *builder) {
			if !m.pbmac1 {
				b.AddASN1OctetString(m.salt)
				b.algorithm(&m.hash)
				b.AddASN1Int64(int64(m.iterations))
				b.algorithm(&m.mac)
				return
			}
			b.sequence(func(b *builder) {
				b.AddASN1ObjectIdentifier(OIDPBKDF2)
				b.sequence(func(b *builder) {
					b.AddASN1OctetString(m.salt)
					b.AddASN1Int64(int64(m.iterations))
					if m.keyGiven {
						b.AddASN1Int64(int64(m.keyLength))
					}
					if m.hash.OID != nil {
						b.algorithm(&m.hash)
					}
				})
			})
			b.algorithm(&m.mac)
		})
	})
	if err != nil {
		return err
	}
	oid := OIDPasswordBasedMac
	if m.pbmac1 {
		oid = OIDPBMAC1
	}
	m.algorithm = AlgorithmIdentifier{OID: oid, Parameters: params}
	m.algorithm.Raw, err = build(func(b *builder) { b.algorithm(&m.algorithm) })
	return err
}

// Again returns the same algorithm and parameters with another salt, for an answer protected as its request was. The salt
// is not empty and has at most 128 octets; with any other the MAC is the same as before.
func (m *MAC) Again(salt []byte) *MAC {
	c := *m
	if len(salt) == 0 || len(salt) > maxSalt {
		return &c
	}
	c.salt = slices.Clone(salt)
	if c.encode() != nil {
		c = *m
	}
	return &c
}

// Algorithm is the protectionAlg.
func (m *MAC) Algorithm() AlgorithmIdentifier { return m.algorithm }

// Sum computes the MAC of data under the shared secret. It is nil when no key can be derived, which happens in FIPS 140-only
// mode, whose PBKDF2 has bounds of its own.
func (m *MAC) Sum(secret, data []byte) []byte {
	key := m.key(secret)
	if key == nil {
		return nil
	}
	_, mac := m.hashes()
	h := hmac.New(mac.New, key)
	h.Write(data)
	return h.Sum(nil)
}

// Verify compares in constant time.
func (m *MAC) Verify(secret, data, mac []byte) bool {
	sum := m.Sum(secret, data)
	return sum != nil && hmac.Equal(sum, mac)
}

// key derives the key of the HMAC. In PBM that is the last output of the one-way function, all of it (RFC 9810 section
// 5.1.3.1): HMAC takes keys of any size, so none of the MACs here requires a longer or a shorter one, and expansion,
// which is for those that do, never takes place.
func (m *MAC) key(secret []byte) []byte {
	hash, _ := m.hashes()
	if m.pbmac1 {
		key, err := pbkdf2.Key(hash.New, string(secret), m.salt, m.iterations, m.keyLength)
		if err != nil {
			return nil
		}
		return key
	}
	h := hash.New()
	h.Write(secret)
	h.Write(m.salt)
	key := h.Sum(nil)
	for range m.iterations - 1 {
		h.Reset()
		h.Write(key)
		key = h.Sum(key[:0])
	}
	return key
}

// String says how the MAC is made, without the salt: "PBM (SHA-256, HMAC-SHA-1, 500 iterations)".
func (m *MAC) String() string {
	derive, mac := m.hashes()
	kind, prefix := "PBM", ""
	if m.pbmac1 {
		kind, prefix = "PBMAC1", "HMAC-"
	}
	return fmt.Sprintf("%s (%s%v, HMAC-%v, %d iterations)", kind, prefix, derive, mac, m.iterations)
}
