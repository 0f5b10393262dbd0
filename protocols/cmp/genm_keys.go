package cmp

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidAES256  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42} // id-aes256-CBC, RFC 9481 section 5

	// curves are the named ones of RFC 5480 section 2.1.1.1.
	curves = map[string]asn1.ObjectIdentifier{
		"P-256": {1, 2, 840, 10045, 3, 1, 7}, "P-384": {1, 3, 132, 0, 34}, "P-521": {1, 3, 132, 0, 35},
	}
)

// keyType is a kind of key that a profile certifies: a curve's name, "Ed25519", or "RSA" with a length in bits.
type keyType struct {
	name string
	bits int
}

const (
	nameRSA     = "RSA"
	nameEd25519 = "Ed25519"
	maxKeyTypes = 24 // what a keySpec lists, which may have 32
)

// keyTypes are those of a profile, in its order, each once. Of RSA>=3072 the usual lengths stand there.
func keyTypes(p *gateway.Profile) []keyType {
	names := p.Keys
	if len(names) == 0 { // all that are read
		names = []string{"P-256", "P-384", "P-521", nameEd25519, "RSA>=" + strconv.Itoa(pkix.MinRSABits)}
	}
	var list []keyType
	add := func(k keyType) {
		if !slices.Contains(list, k) && len(list) < maxKeyTypes {
			list = append(list, k)
		}
	}
	for _, name := range names {
		if digits, ok := strings.CutPrefix(name, "RSA>="); ok {
			from, _ := strconv.Atoi(digits) // the configuration is checked
			for _, bits := range []int{from, 2048, 3072, 4096} {
				if bits >= from {
					add(keyType{nameRSA, bits})
				}
			}
			continue
		}
		if digits, ok := strings.CutPrefix(name, "RSA-"); ok {
			bits, _ := strconv.Atoi(digits)
			add(keyType{nameRSA, bits})
			continue
		}
		add(keyType{name: name})
	}
	return list
}

// algorithm is the AlgorithmIdentifier of a key (RFC 3279 section 2.3.1, RFC 5480 section 2.1.1, RFC 8410 section 3); false for
// one that has none here.
func (k keyType) algorithm() (cmpmsg.AlgorithmIdentifier, bool) {
	switch k.name {
	case nameRSA:
		return cmpmsg.AlgorithmIdentifier{OID: oidRSA, Parameters: asn1.NullBytes}, true
	case nameEd25519:
		return cmpmsg.AlgorithmIdentifier{OID: oidEd25519}, true
	}
	curve, ok := curves[k.name]
	if !ok {
		return cmpmsg.AlgorithmIdentifier{}, false
	}
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(curve)
	return cmpmsg.AlgorithmIdentifier{OID: oidEC, Parameters: b.BytesOrPanic()}, true
}

// algorithms lists those of the keys that pass, RSA once whatever its lengths.
func algorithms(keys []keyType, pass func(keyType) bool) []cmpmsg.AlgorithmIdentifier {
	var list []cmpmsg.AlgorithmIdentifier
	for _, k := range keys {
		a, ok := k.algorithm()
		same := func(o cmpmsg.AlgorithmIdentifier) bool {
			return o.OID.Equal(a.OID) && string(o.Parameters) == string(a.Parameters)
		}
		if ok && pass(k) && !slices.ContainsFunc(list, same) {
			list = append(list, a)
		}
	}
	return list
}

func marshalAlgorithms(list []cmpmsg.AlgorithmIdentifier) ([]byte, *refusal) {
	if len(list) == 0 {
		return nil, unanswered // the list has one element at least
	}
	return made(cmpmsg.MarshalAlgorithms(list...))
}

const signing = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageCertSign | x509.KeyUsageCRLSign

// signKeyPairTypes are the keys for signatures that the profile certifies (RFC 9810 section 5.3.19.2).
func (g *general) signKeyPairTypes(q *question) ([]byte, *refusal) {
	usage := q.profile.KeyUsage
	return marshalAlgorithms(algorithms(keyTypes(q.profile), func(keyType) bool { return usage == 0 || usage&signing != 0 }))
}

// encKeyPairTypes are those for encryption and key agreement (RFC 9810 section 5.3.19.3).
func (g *general) encKeyPairTypes(q *question) ([]byte, *refusal) {
	usage := q.profile.KeyUsage
	return marshalAlgorithms(algorithms(keyTypes(q.profile), func(k keyType) bool {
		switch k.name {
		case nameEd25519:
			return false // it signs, no more (RFC 8410 section 5)
		case nameRSA:
			return usage == 0 || usage&(x509.KeyUsageKeyEncipherment|x509.KeyUsageDataEncipherment) != 0
		}
		return usage == 0 || usage&x509.KeyUsageKeyAgreement != 0
	}))
}

// preferredSymmAlg is AES-256 in CBC mode, without an initialization vector (RFC 9810 section 5.3.19.4, RFC 9481 section 5).
func (g *general) preferredSymmAlg(*question) ([]byte, *refusal) {
	return made((&cmpmsg.AlgorithmIdentifier{OID: oidAES256}).Marshal())
}

// keyPairParam gives the parameters for keys of an algorithm, of the curves the profile's first (RFC 9810 section 5.3.19.8);
// absent when the profile certifies no such keys.
func (g *general) keyPairParam(q *question) ([]byte, *refusal) {
	in := cryptobyte.String(q.Value)
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1ObjectIdentifier(&oid) || !in.Empty() {
		return nil, refused(gateway.Malformed, "the value of keyPairParamReq is not an OBJECT IDENTIFIER", nil)
	}
	for _, k := range keyTypes(q.profile) {
		if a, ok := k.algorithm(); ok && a.OID.Equal(oid) {
			return made(a.Marshal())
		}
	}
	return nil, nil
}
