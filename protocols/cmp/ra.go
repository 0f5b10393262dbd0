package cmp

import (
	"crypto/x509"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// trustedRA returns nil when the message is signed by a registration authority that may ask in a device's place. What it may
// ask for is the pipeline's to say.
func (x *exchange) trustedRA() *gateway.Error {
	c, ok := x.Request.Credential(gateway.CredentialSigner)
	if !ok {
		return gateway.Errorf(gateway.NotAuthorized, "", "an RA signs its messages")
	}
	return x.h.gateway.TrustedRA(x.R.Context(), x.endpoint.Name, c, true)
}

// raVerified takes an RA's word for the possession of the key: "An end entity MUST NOT use raVerified" (RFC 9810 section
// 5.2.8.1).
func (x *exchange) raVerified() *refusal {
	switch e := x.trustedRA(); {
	case e == nil:
		x.Request.POP = gateway.POPRA
		return nil
	case e.Reason == gateway.NotAuthorized:
		return rejected(gateway.NotAuthorized, "raVerified is for registration authorities: prove possession of the key with a signature", e.Err)
	default:
		return &refusal{Refusal: wire.Refusal{Err: e}, rejection: true}
	}
}

// updated is the certificate that a kur updates: the signer's, or the one that oldCertId names when an RA asks (RFC 9810 section
// 5.3.5).
func (x *exchange) updated(m *cmpmsg.CertReqMsg) (*x509.Certificate, *refusal) {
	signer := x.requester.signer
	value, ok := m.Control(cmpmsg.OIDOldCertID)
	if !ok {
		return signer, nil
	}
	id, err := cmpmsg.ParseCertID(value)
	if err != nil {
		return signer, nil // checkOldCertID says so
	}
	issuer, ok := cmpmsg.DirectoryName(id.Issuer)
	if !ok || pkix.SameName(issuer, signer.RawIssuer) && id.Serial.Cmp(signer.SerialNumber) == 0 {
		return signer, nil
	}
	if e := x.trustedRA(); e != nil {
		if e.Reason == gateway.NotAuthorized {
			return signer, nil // as from everybody: it does not name the signer
		}
		return nil, &refusal{Refusal: wire.Refusal{Err: e}, rejection: true}
	}
	old, err := x.h.gateway.IssuedAs(x.R.Context(), issuer, id.Serial)
	switch {
	case err != nil:
		return nil, &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}, rejection: true}
	case old == nil:
		return nil, rejected(gateway.UnknownCert, "oldCertId names no certificate that was issued here", nil)
	}
	return old, nil
}
