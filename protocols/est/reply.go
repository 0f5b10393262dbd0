package est

import (
	"crypto/x509"
	"encoding/base64"
	"net/http"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// Content types of answers.
const (
	// RFC 7030 section 4.1.3; clients refuse a parameter here.
	typeCACerts = "application/pkcs7-mime"
	// RFC 7030 section 4.2.3.
	typeEnrolled = "application/pkcs7-mime; smime-type=certs-only"
)

// lineLength is that of PEM (RFC 7468 section 2), which base64 readers that insist on lines all take.
const lineLength = 64

// writeCertificates answers with a certs-only Simple PKI Response (RFC 5272 section 4.1) in base64.
func (x *exchange) writeCertificates(contentType string, certs []*x509.Certificate) *wire.Refusal {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	der, err := cms.CertsOnly(raw...)
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	x.writeBase64(contentType, der)
	return nil
}

// writeBase64 answers with DER in base64, with line breaks for whom the endpoint has them.
func (x *exchange) writeBase64(contentType string, der []byte) {
	body := encodeBody(der, x.endpoint.Config.Wrap.wraps(x.R.UserAgent()))
	// RFC 8951 section 3 makes receivers ignore it; older clients look for it (RFC 7030 sections 4.1.3, 4.2.3, 4.5.2).
	x.W.Header().Set("Content-Transfer-Encoding", "base64")
	x.Write(http.StatusOK, contentType, body)
}

// encodeBody renders base64 (RFC 4648 section 4), in one line without an end or in lines that all have one.
func encodeBody(der []byte, wrap bool) []byte { return encodeLines(der, wrap, "\n") }

// encodeLines is encodeBody with another end of lines.
func encodeLines(der []byte, wrap bool, end string) []byte {
	text := make([]byte, base64.StdEncoding.EncodedLen(len(der)))
	base64.StdEncoding.Encode(text, der)
	if !wrap {
		return text
	}
	lines := make([]byte, 0, len(text)+(len(text)/lineLength+1)*len(end))
	for rest := text; len(rest) > 0; {
		n := min(lineLength, len(rest))
		lines = append(append(lines, rest[:n]...), end...)
		rest = rest[n:]
	}
	clear(text) // it may be a key
	return lines
}
