package scep

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// announces reports whether GetNextCACert has an answer now. A CA that cannot be asked has none.
func (x *exchange) announces() bool {
	next, err := x.h.gateway.Announced(x.R.Context(), x.endpoint.Name)
	return err == nil && len(next) > 0 && notRSA(next) == nil
}

// notRSA returns the first certificate whose key SCEP clients cannot encrypt to, nil for none.
func notRSA(certs []*x509.Certificate) *x509.Certificate {
	for _, c := range certs {
		if _, ok := c.PublicKey.(*rsa.PublicKey); !ok {
			return c
		}
	}
	return nil
}

// nextCACert answers RFC 8894 section 4.7: the chain that the CA has announced, vouched for by the CA's present key.
//
//	SignedData {                                    -- section 4.7.1, signed by the current CA
//	    eContentType  id-data,
//	    eContent      the DER of a degenerate certificates-only SignedData (section 3.4) }
//
// The CA's own key is at the backend, which signs that and nothing else. Who asks cannot decrypt anything by the answer and
// trusts it by its signature, so that what came back is looked at before it goes out.
func (x *exchange) nextCACert() *wire.Refusal {
	ctx := x.R.Context()
	next, err := x.h.gateway.Announced(ctx, x.endpoint.Name)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	if len(next) == 0 {
		return wire.Refused(gateway.Unsupported, "the CA has announced no next certificate: GetCACaps says when it has", nil)
	}
	if c := notRSA(next); c != nil {
		return wire.Refused(gateway.Internal, "", fmt.Errorf("the next CA certificate %q has no RSA key: a SCEP endpoint needs an issuing CA with an RSA chain", c.Subject))
	}
	raw := make([][]byte, 0, len(next))
	for i, c := range next {
		if i == 0 || x.endpoint.shows(c) {
			raw = append(raw, c.Raw)
		}
	}
	content, err := cms.CertsOnly(raw...)
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	ca, err := x.h.gateway.Authority(ctx, x.endpoint.Name)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	der, err := x.h.gateway.SignAnnounced(ctx, x.endpoint.Name, content)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	if err := vouches(der, content, ca); err != nil {
		return wire.Refused(gateway.Internal, "", fmt.Errorf("what the CA signed as its announcement: %w", err))
	}
	x.Write(http.StatusOK, "application/x-x509-next-ca-cert", der)
	return nil
}

// vouches checks that a SignedData holds the content and is signed by the CA's key.
func vouches(der, content []byte, ca *gateway.Authority) error {
	s, err := cms.ParseSigned(der, cms.Limits{Size: len(der)})
	switch {
	case err != nil:
		return err
	case !s.ContentType.Equal(oidData) || !bytes.Equal(s.Content, content):
		return errors.New("its content is another one")
	case s.Signer == nil || !bytes.Equal(s.Signer.Raw, ca.Chain[0].Raw):
		return errors.New("it is not signed by the current CA")
	}
	return s.Verify([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512})
}
