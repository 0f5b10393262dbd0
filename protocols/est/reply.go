package est

import (
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strconv"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
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
func (x *exchange) writeCertificates(contentType string, certs []*x509.Certificate) *refusal {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	der, err := cms.CertsOnly(raw...)
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	body := encodeBody(der, x.endpoint.Config.Wrap.wraps(x.r.UserAgent()))
	// RFC 8951 section 3 makes receivers ignore it; older clients look for it (RFC 7030 sections 4.1.3, 4.2.3).
	x.w.Header().Set("Content-Transfer-Encoding", "base64")
	x.write(http.StatusOK, contentType, body)
	return nil
}

// encodeBody renders base64 (RFC 4648 section 4), in one line without an end or in lines that all have one.
func encodeBody(der []byte, wrap bool) []byte {
	text := make([]byte, base64.StdEncoding.EncodedLen(len(der)))
	base64.StdEncoding.Encode(text, der)
	if !wrap {
		return text
	}
	lines := make([]byte, 0, len(text)+len(text)/lineLength+1)
	for len(text) > 0 {
		n := min(lineLength, len(text))
		lines = append(append(lines, text[:n]...), '\n')
		text = text[n:]
	}
	return lines
}

// write sends an answer with its length: strongSwan reads no other.
func (x *exchange) write(status int, contentType string, body []byte) {
	header := x.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	x.answered = true
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead {
		return
	}
	if _, err := x.w.Write(body); err != nil {
		// The client is gone; it repeats its request, and gets the same certificate.
		x.h.log.Debug("EST answer not delivered", "id", x.request.ID, "err", err)
	}
}
