package est

import (
	"bytes"
	"encoding/base64"
	"errors"
)

// Errors of decodeBody. Their texts are for the client.
var (
	errEmpty     = errors.New("the request has no body: send the PKCS#10 request in base64")
	errPEM       = errors.New("the body is PEM: send the base64 alone, without the BEGIN and END lines (RFC 8951 section 3)")
	errDER       = errors.New("the body is binary DER: send it in base64 (RFC 8951 section 3)")
	errNotBase64 = errors.New("the body is not base64 (RFC 4648 section 4)")
)

// decodeBody returns the DER that a body carries. The body is base64 as in RFC 4648 section 4 with white space (CR, LF,
// space, tab) anywhere (RFC 8951 section 3.1), whatever a Content-Transfer-Encoding says (section 3). What senders
// mistake for it, PEM and bare DER, is told apart in the error.
func decodeBody(body []byte) ([]byte, error) {
	text := body
	if bytes.ContainsAny(body, " \t\r\n") {
		text = make([]byte, 0, len(body))
		for _, b := range body {
			if b != ' ' && b != '\t' && b != '\r' && b != '\n' {
				text = append(text, b)
			}
		}
	}
	if len(text) == 0 {
		return nil, errEmpty
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(der, text)
	switch {
	case err == nil:
		return der[:n], nil
	case bytes.Contains(body, []byte("-----BEGIN ")):
		return nil, errPEM
	case looksLikeDER(body):
		return nil, errDER
	default:
		return nil, errNotBase64
	}
}

// looksLikeDER reports whether a body that is not base64 begins as a DER SEQUENCE of about its own length.
func looksLikeDER(b []byte) bool {
	if len(b) < 2 || b[0] != 0x30 {
		return false
	}
	// Long form lengths (and BER's indefinite one) are no ASCII; a short form covers exactly the rest.
	return b[1] >= 0x80 || int(b[1]) == len(b)-2
}
