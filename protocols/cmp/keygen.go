package cmp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// askKey makes the request one for a key that is made here: the template has no public key, or one without bits (RFC 9810
// section 5.3.4, RFC 9483 section 4.1.6). There is nothing to prove possession of then. BouncyCastle's builder says raVerified where it
// was given no proof: it says nothing here.
func (x *exchange) askKey(m *cmpmsg.CertReqMsg) *refusal {
	if m.POP != nil && m.POP.Kind != cmpmsg.POPRAVerified {
		return rejected(gateway.BadPOP, "the template has no public key, and the request a proof of possession of one: put the key into the template, or leave the proof out to have a key made", nil)
	}
	kind, ref := keyKind(m.Template.PublicKey)
	if ref != nil {
		return ref
	}
	to, ref := x.keyRecipient()
	if ref != nil {
		return ref
	}
	signer, pvno := x.identity, x.pvno
	x.Request.POP = gateway.POPNone
	x.Request.KeyGen = &gateway.KeyGen{Algorithm: kind, Wrap: to.wrap, KeyID: to.id.KeyID, Seal: func(key crypto.Signer) ([]byte, error) {
		return sealKey(key, pvno, signer, to)
	}}
	return nil
}

// keyKind is the kind of key that a SubjectPublicKeyInfo without a key asks for, "" when there is none at all. An RSA key has
// no size there.
//
//	SubjectPublicKeyInfo ::= SEQUENCE {     -- RFC 5280 section 4.1
//	    algorithm         AlgorithmIdentifier,
//	    subjectPublicKey  BIT STRING }      -- of no bits (RFC 9810 section 5.3.4)
func keyKind(spki []byte) (string, *refusal) {
	if spki == nil {
		return "", nil
	}
	in := cryptobyte.String(spki)
	var seq, alg cryptobyte.String
	var oid, curve asn1.ObjectIdentifier
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) {
		return "", rejected(gateway.BadTemplate, "the algorithm of the key to be made does not parse", nil)
	}
	switch oid.String() {
	case "1.2.840.113549.1.1.1": // rsaEncryption
		return gateway.AnyRSA, nil
	case "1.3.101.112":
		return "Ed25519", nil
	case "1.2.840.10045.2.1": // id-ecPublicKey
		if !alg.ReadASN1ObjectIdentifier(&curve) || !alg.Empty() {
			return "", rejected(gateway.BadAlgorithm, "the algorithm of the key to be made names no curve", nil)
		}
		if name, ok := curveNames[curve.String()]; ok {
			return name, nil
		}
		return "", rejected(gateway.BadAlgorithm, "the curve of the key to be made is not one that is served: P-256, P-384, P-521", fmt.Errorf("curve %v", curve))
	}
	return "", rejected(gateway.BadAlgorithm, "keys of the algorithm that is asked for are not made here", fmt.Errorf("algorithm %v", oid))
}

// curveNames are the named curves of RFC 5480 section 2.1.1.1 that are certified, as pkix.KeyName has them.
var curveNames = map[string]string{"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384", "1.3.132.0.35": "P-521"}

// keyRecipient is who a key that is made here is encrypted for: whoever protects the request, by what protects it (RFC 9810
// section 5.2.2). That is the RA where one asks in a device's place.
type keyRecipient struct {
	cms.Recipient
	id   cms.RecipientID
	wrap gateway.WrapKind
}

func (x *exchange) keyRecipient() (*keyRecipient, *refusal) {
	q := x.requester
	if q.mac != nil {
		return &keyRecipient{Recipient: &cms.Password{Secret: q.secret}, wrap: gateway.WrapPassword}, nil
	}
	to := &keyRecipient{id: cms.RecipientOf(q.signer), wrap: gateway.WrapAsymmetric}
	var need x509.KeyUsage
	var name string
	switch pub := q.signer.PublicKey.(type) {
	case *rsa.PublicKey:
		if !cms.EncryptsTo(pub) {
			return nil, rejected(gateway.Unsupported, oddExponent+", as the signer's: use another certificate or a shared secret, or make the key yourself", nil)
		}
		to.Recipient, need, name = &cms.KeyTransport{Key: pub}, x509.KeyUsageKeyEncipherment, "keyEncipherment"
	case *ecdsa.PublicKey:
		to.Recipient, need, name = &cms.KeyAgreement{Key: pub}, x509.KeyUsageKeyAgreement, "keyAgreement"
	default:
		return nil, rejected(gateway.Unsupported, "a key cannot be encrypted for a signer with a key of type "+pkix.KeyName(pub)+": sign with RSA or EC, use a shared secret, or make the key yourself", nil)
	}
	hasUsage := slices.ContainsFunc(q.signer.Extensions, func(e stdpkix.Extension) bool { return e.Id.Equal(oidKeyUsage) })
	if hasUsage && q.signer.KeyUsage&need == 0 {
		return nil, rejected(gateway.Unsupported, "a key cannot be encrypted for the signer, whose certificate does not have the key usage "+name+": use another certificate or a shared secret, or make the key yourself", nil)
	}
	return to, nil
}

// sealKey makes of a key what travels (RFC 9483 section 4.1.6): in an AsymmetricKeyPackage, signed by this server, whose
// certificate says that it makes keys (id-kp-cmKGA), and encrypted for the one recipient.
//
// In version 2 EnvelopedData is not foreseen at all (RFC 9810 section 7). OpenSSL 3.5 asks for keys under it all the same, and reads
// a single key where a package of keys should be; so that is what it gets.
func sealKey(key crypto.Signer, pvno int, signer *gateway.Identity, to *keyRecipient) ([]byte, error) {
	contentType, encode := cms.OIDAsymmetricKeys, cms.KeyPackage
	if pvno < 3 {
		contentType, encode = cms.OIDData, cms.OneKey
	}
	content, err := encode(key)
	if err != nil {
		return nil, err
	}
	defer clear(content)
	signed, err := cms.SignBare(cms.SignOptions{
		ContentType: contentType, Content: content, Key: signer.Key, Certificate: signer.Certificate,
		Certificates: append([]*x509.Certificate{signer.Certificate}, signer.Chain...),
		Digest:       cms.FittingDigest(signer.Key.Public()), ByKeyID: len(signer.Certificate.SubjectKeyId) > 0,
	})
	if err != nil {
		return nil, err
	}
	defer clear(signed)
	e, err := cms.NewEnvelope(cms.AES256, to)
	if err != nil {
		return nil, err
	}
	e.ID = to.id
	return e.Seal(cms.OIDSignedData, signed)
}

// keyGiven is what is said to who asks again for a key that is kept no more.
const keyGiven = "the key was given already, and is not kept: ask for another one in a new request"

// encryptedKey makes an EncryptedKey of an EnvelopedData, whose tag it replaces.
//
//	EncryptedKey ::= CHOICE {               -- RFC 4211 section 6.4
//	    encryptedValue  EncryptedValue,     -- deprecated
//	    envelopedData   [0] EnvelopedData } -- implicit
func encryptedKey(enveloped []byte) []byte {
	der := slices.Clone(enveloped)
	if len(der) > 0 {
		der[0] = byte(cbasn1.Tag(0).ContextSpecific().Constructed())
	}
	return der
}
