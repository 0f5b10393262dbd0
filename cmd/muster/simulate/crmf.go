package simulate

import (
	"crypto"
	"crypto/x509"
	"math/big"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// CertRequest is an ir, cr or kur for one key, with proof of possession by signature (RFC 4211 section 4.1). The subject is a DER Name.
func CertRequest(kind cmpmsg.BodyType, subject []byte, key crypto.Signer, controls ...cmpmsg.AttributeTypeAndValue) (*cmpmsg.CertReqMessages, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	m := cmpmsg.CertReqMsg{ReqID: big.NewInt(0), Template: cmpmsg.CertTemplate{Subject: subject, PublicKey: spki}, Controls: controls}
	request, err := m.Request()
	if err != nil {
		return nil, err
	}
	alg, signature, err := pkix.Sign(key, request)
	if err != nil {
		return nil, err
	}
	m.POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPSignature, Signing: &cmpmsg.POPOSigningKey{
		Algorithm: cmpmsg.AlgorithmIdentifier{Raw: alg}, Signature: signature,
	}}
	return &cmpmsg.CertReqMessages{Kind: kind, Messages: []cmpmsg.CertReqMsg{m}}, nil
}

// certConf accepts a certificate, by its hash (RFC 9810 section 5.3.18).
func certConf(der []byte) (*cmpmsg.CertConf, error) {
	algorithm, err := cmpmsg.CertificateAlgorithm(der)
	if err != nil {
		return nil, errNoX509
	}
	hash, err := pkix.SignatureHash(algorithm)
	if err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(der)
	return &cmpmsg.CertConf{Statuses: []cmpmsg.CertStatus{{CertHash: h.Sum(nil), ReqID: big.NewInt(0)}}}, nil
}

// oldCertID names the certificate that is renewed (RFC 4211 section 6.5).
func oldCertID(cert *x509.Certificate) (cmpmsg.AttributeTypeAndValue, error) {
	value, err := (&cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(cert.RawIssuer), Serial: cert.SerialNumber}).Marshal()
	return cmpmsg.AttributeTypeAndValue{Type: cmpmsg.OIDOldCertID, Value: value}, err
}
