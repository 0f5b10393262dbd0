//go:build cgo

package token

import (
	"bytes"
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
	"math/big"
	"sync"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Of PKCS #11 3.0, which the library's constants lack.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEdDSA               = 0x1057
)

// Key is a private key in the token, with its public key.
type Key struct {
	t      *Token
	label  string
	public crypto.PublicKey

	mu     sync.Mutex
	handle pkcs11.ObjectHandle
	opened int // the opening of the token that handle is of
}

// Public is crypto.Signer's.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Label is the key's CKA_LABEL.
func (k *Key) Label() string { return k.label }

// Key finds the private key with the label, and its public key. ErrNoKey: there is none.
func (t *Token) Key(label string) (*Key, error) {
	k := &Key{t: t, label: label}
	return k, t.do(true, func(m *pkcs11.Ctx, s pkcs11.SessionHandle) (err error) {
		if k.handle, err = findOne(m, s, pkcs11.CKO_PRIVATE_KEY, label); err != nil {
			return err
		}
		k.opened = t.opened
		k.public, err = publicKey(m, s, k.handle, label)
		return err
	})
}

// findOne finds the one object of a class with the label.
func findOne(m *pkcs11.Ctx, s pkcs11.SessionHandle, class uint, label string) (pkcs11.ObjectHandle, error) {
	all, err := find(m, s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	switch {
	case err != nil:
		return 0, err
	case len(all) == 0:
		return 0, ErrNoKey
	case len(all) > 1:
		return 0, fmt.Errorf("several keys in the token have the label %q", label)
	}
	return all[0], nil
}

func find(m *pkcs11.Ctx, s pkcs11.SessionHandle, like ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := m.FindObjectsInit(s, append(like, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))); err != nil {
		return nil, said("C_FindObjectsInit", err)
	}
	found, _, err := m.FindObjects(s, 2)
	if err = errors.Join(err, m.FindObjectsFinal(s)); err != nil {
		return nil, said("C_FindObjects", err)
	}
	return found, nil
}

// publicKey reads the public key of a private one: of the object beside it with the same CKA_ID, or the same label; of an RSA key else
// of its own attributes.
func publicKey(m *pkcs11.Ctx, s pkcs11.SessionHandle, private pkcs11.ObjectHandle, label string) (crypto.PublicKey, error) {
	kind, err := attributes(m, s, private, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_ID)
	if err != nil {
		return nil, err
	}
	class := pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY)
	var beside []pkcs11.ObjectHandle
	if len(kind[1]) > 0 {
		if beside, err = find(m, s, class, pkcs11.NewAttribute(pkcs11.CKA_ID, kind[1])); err != nil {
			return nil, err
		}
	}
	if len(beside) != 1 {
		if beside, err = find(m, s, class, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)); err != nil {
			return nil, err
		}
	}
	from := private
	if len(beside) == 1 {
		from = beside[0]
	}
	switch number(kind[0]) {
	case pkcs11.CKK_RSA:
		v, err := attributes(m, s, from, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		e := new(big.Int).SetBytes(v[1])
		if !e.IsInt64() || e.Int64() > 1<<31-1 {
			return nil, errors.New("an RSA key with an exponent that is not had here")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(v[0]), E: int(e.Int64())}, nil
	case pkcs11.CKK_EC, ckkECEdwards:
		v, err := attributes(m, s, from, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, fmt.Errorf("the public key of %q: %w: it has to be in the token too, under the same CKA_ID", label, err)
		}
		return pointOf(v[0], v[1])
	}
	return nil, errors.New("a key that is neither RSA nor EC nor Ed25519")
}

// pointOf reads CKA_EC_PARAMS and CKA_EC_POINT, the point in an OCTET STRING as PKCS #11 wants it, or bare.
func pointOf(params, point []byte) (crypto.PublicKey, error) {
	var inside cryptobyte.String
	if in := cryptobyte.String(point); in.ReadASN1(&inside, cbasn1.OCTET_STRING) && in.Empty() {
		point = inside
	}
	for _, c := range curves {
		if bytes.Equal(params, der(c.oid)) {
			pub, err := ecdsa.ParseUncompressedPublicKey(c.curve, point)
			if err != nil {
				return nil, errors.New("the token's public key is no point of its curve")
			}
			return pub, nil
		}
	}
	if (bytes.Equal(params, edwardsName) || bytes.Equal(params, der(oidEd25519))) && len(point) == ed25519.PublicKeySize {
		return ed25519.PublicKey(bytes.Clone(point)), nil
	}
	return nil, errors.New("a curve other than P-256, P-384, P-521 and Ed25519")
}

var (
	curves = []struct {
		kind  string
		curve elliptic.Curve
		oid   asn1.ObjectIdentifier // RFC 5480 section 2.1.1.1
	}{
		{"P-256", elliptic.P256(), asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
		{"P-384", elliptic.P384(), asn1.ObjectIdentifier{1, 3, 132, 0, 34}},
		{"P-521", elliptic.P521(), asn1.ObjectIdentifier{1, 3, 132, 0, 35}},
	}
	oidEd25519  = asn1.ObjectIdentifier{1, 3, 101, 112}                                // RFC 8410
	edwardsName = append([]byte{0x13, 12}, "edwards25519"...)                          // PrintableString: PKCS #11 section 6.3.11
	rsaBits     = map[string]int{"RSA-2048": 2048, "RSA-3072": 3072, "RSA-4096": 4096} // by kind
)

func der(oid asn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic()
}

func attributes(m *pkcs11.Ctx, s pkcs11.SessionHandle, o pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	var ask []*pkcs11.Attribute
	for _, t := range types {
		ask = append(ask, pkcs11.NewAttribute(t, nil))
	}
	got, err := m.GetAttributeValue(s, o, ask)
	if err != nil {
		return nil, said("C_GetAttributeValue", err)
	}
	var values [][]byte
	for _, a := range got {
		values = append(values, a.Value)
	}
	return values, nil
}

// number reads a CK_ULONG, which is as the machine has it.
func number(v []byte) uint {
	for _, n := range []uint{pkcs11.CKK_RSA, pkcs11.CKK_EC, ckkECEdwards} {
		if bytes.Equal(v, pkcs11.NewAttribute(0, n).Value) {
			return n
		}
	}
	return ^uint(0)
}

// Generate makes a key of a kind (P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072, RSA-4096) that never leaves the token.
func (t *Token) Generate(kind, label string) (*Key, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
	}
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
	}
	mechanism := uint(0)
	switch bits := rsaBits[kind]; {
	case bits > 0:
		mechanism = pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
		public = append(public, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true))
		private = append(private, pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true))
	case kind == "Ed25519":
		mechanism = ckmECEdwardsKeyPairGen
		public = append(public, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, edwardsName))
	default:
		for _, c := range curves {
			if c.kind == kind {
				mechanism = pkcs11.CKM_EC_KEY_PAIR_GEN
				public = append(public, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, der(c.oid)))
			}
		}
		if mechanism == 0 {
			return nil, fmt.Errorf("keys of kind %q are not made here", kind)
		}
	}
	// Not again: what became of the first would not be known.
	err := t.do(false, func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		if _, err := findOne(m, s, pkcs11.CKO_PRIVATE_KEY, label); !errors.Is(err, ErrNoKey) {
			return errors.Join(err, fmt.Errorf("there is a key with the label %q", label))
		}
		_, _, err := m.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, public, private)
		if err != nil {
			return said("C_GenerateKeyPair", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.c.Log.Info("made a key in the token", "token", t.c.Label, "label", label, "kind", kind)
	return t.Key(label)
}

// SPKI is the key's SubjectPublicKeyInfo, DER.
func (k *Key) SPKI() ([]byte, error) { return x509.MarshalPKIXPublicKey(k.public) }
