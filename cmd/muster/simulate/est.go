package simulate

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"net/http"

	"github.com/muster-pki/muster/protocols/cms"
)

// EST is a client of RFC 7030: /simpleenroll with HTTP Basic, /simplereenroll with the certificate as the TLS client's.
type EST struct {
	link           *link
	user, password string
}

// NewEST makes one for the service at the target's URL (https://HOST/.well-known/est, with a label where there is one).
func NewEST(t Target, user, password string) (*EST, error) {
	l, err := newLink(t)
	if err == nil && l.tls == nil {
		err = errPlainEST
	}
	return &EST{l, user, password}, err
}

// Ask makes one try.
func (e *EST) Ask(ctx context.Context, d Device) Answer {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: d.Subject}, d.Key)
	if err != nil {
		return Answer{Refused: "making the request: " + err.Error()}
	}
	c := call{
		method: http.MethodPost, path: "/simpleenroll", contentType: "application/pkcs10", body: []byte(base64.StdEncoding.EncodeToString(csr)),
		user: e.user, password: e.password, base64: true,
	}
	if d.Cert != nil {
		c.path, c.user, c.cert, c.key = "/simplereenroll", "", d.Cert, d.Key
	}
	res, err := e.link.do(ctx, c)
	switch {
	case err != nil:
		return broken(err)
	case res.status == http.StatusAccepted: // RFC 7030 section 4.2.3
		return res.away("202")
	case res.status != http.StatusOK:
		return res.failed()
	}
	der, err := base64.StdEncoding.AppendDecode(nil, bytes.Join(bytes.Fields(res.body), nil))
	if err != nil {
		return Answer{Refused: "the answer is not base64"}
	}
	return onlyCertificate(der)
}

// onlyCertificate reads a certs-only message with one certificate.
func onlyCertificate(der []byte) Answer {
	certs, err := cms.ParseCertsOnly(der, cms.Limits{})
	switch {
	case err != nil:
		return Answer{Refused: "the answer is no certs-only message: " + err.Error()}
	case len(certs) != 1:
		return Answer{Refused: "the answer does not have one certificate"}
	}
	return Answer{Cert: bytes.Clone(certs[0])}
}
