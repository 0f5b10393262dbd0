package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RFC 5280 section 4.2.1.2: it names keys
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15} // RFC 5280 section 4.2.1.3

// keyRecipient finds the public key that the client names: that of its TLS certificate, by its subjectKeyIdentifier, or where it has
// none by the SHA-1 of the key (RFC 5280 section 4.2.1.2, method 1). Section 4.4.1.2: "the key MUST either explicitly support
// keyTransport or keyAgreement or its use MUST be unrestricted."
func (x *exchange) keyRecipient(id []byte) (*x509.Certificate, cms.Recipient, *wire.Refusal) {
	refused := func(format string, args ...any) (*x509.Certificate, cms.Recipient, *wire.Refusal) {
		return nil, nil, wire.Refused(gateway.BadTemplate, fmt.Sprintf(format, args...), nil)
	}
	cred, ok := x.Request.Credential(gateway.CredentialTLS)
	if !ok {
		return refused("%s names the key of a TLS client certificate, and this client shows none: use %s, or leave both out", nameAsymmDecryptKey, nameDecryptKeyID)
	}
	cert := cred.Chain[0]
	if !bytes.Equal(id, keyIDOf(cert)) {
		return refused("there is no public key under the identifier in %s: it has to be the subjectKeyIdentifier of the TLS client's certificate, or the SHA-1 of its key where it has none",
			nameAsymmDecryptKey)
	}
	var to cms.Recipient
	var need x509.KeyUsage
	var usage string
	switch pub := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if !cms.EncryptsTo(pub) {
			return refused("a key cannot be encrypted for the RSA key of the TLS client's certificate: its size or exponent is not one that serves for that")
		}
		to, need, usage = &cms.KeyTransport{Key: pub}, x509.KeyUsageKeyEncipherment, "keyEncipherment"
	case *ecdsa.PublicKey:
		to, need, usage = &cms.KeyAgreement{Key: pub}, x509.KeyUsageKeyAgreement, "keyAgreement"
	default:
		return refused("a key cannot be encrypted for a TLS client's certificate with a key of type %s: it has to be RSA or EC", pkix.KeyName(pub))
	}
	limited := slices.ContainsFunc(cert.Extensions, func(e stdpkix.Extension) bool { return e.Id.Equal(oidKeyUsage) })
	if limited && cert.KeyUsage&need == 0 {
		return refused("a key cannot be encrypted for the TLS client's certificate, which does not have the key usage %s (RFC 7030 section 4.4.1.2)", usage)
	}
	return cert, to, nil
}

// keyIDOf is what a certificate's key goes by.
func keyIDOf(cert *x509.Certificate) []byte {
	if len(cert.SubjectKeyId) > 0 {
		return cert.SubjectKeyId
	}
	in := cryptobyte.String(cert.RawSubjectPublicKeyInfo)
	var bits []byte
	if !in.ReadASN1(&in, cryptobyteasn1.SEQUENCE) || !in.SkipASN1(cryptobyteasn1.SEQUENCE) || !in.ReadASN1BitStringAsBytes(&bits) {
		return nil
	}
	sum := sha1.Sum(bits) //nolint:gosec // a name, not a proof
	return sum[:]
}

// incapable is the refusal of a client that decrypts nothing that is encrypted here.
func incapable(err error) *gateway.Error {
	what := "none of the algorithms that keys are encrypted with here"
	if e, ok := errors.AsType[*cms.Error](err); ok {
		what = e.What
	}
	return &gateway.Error{Reason: gateway.BadAlgorithm, Detail: "the request's SMIMECapabilities do not have what is needed: " + what, Err: err}
}

// sealKey makes of a key what travels where it is encrypted (section 4.4.2): an AsymmetricKeyPackage (RFC 5958), in SignedData that is
// signed in the name of the gateway as the one that made the key (id-kp-cmKGA), in EnvelopedData.
func sealKey(key crypto.Signer, signer *gateway.Identity, can *cms.Capabilities, to cms.Recipient, name cms.RecipientID) ([]byte, error) {
	if signer == nil {
		return nil, errors.New("the endpoint has no certificate of a key generation authority")
	}
	if err := can.Allow(to); err != nil {
		return nil, incapable(err)
	}
	one, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(one)
	content, err := cms.PackageOf(one)
	if err != nil {
		return nil, err
	}
	defer clear(content)
	signed, err := cms.SignBare(cms.SignOptions{
		ContentType: cms.OIDAsymmetricKeys, Content: content, Key: signer.Key, Certificate: signer.Certificate,
		Certificates: append([]*x509.Certificate{signer.Certificate}, signer.Chain...), Digest: cms.FittingDigest(signer.Key.Public()),
	})
	if err != nil {
		return nil, err
	}
	defer clear(signed)
	e, err := can.Fit(to)
	if err != nil {
		return nil, err
	}
	defer clear(e.Key)
	e.ID = name
	bare, err := e.Seal(cms.OIDSignedData, signed)
	if err != nil {
		return nil, err
	}
	return cms.ContentInfo(cms.OIDEnvelopedData, bare)
}
