package scep

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// parameter returns the first value of a query parameter as it was sent, still escaped. Names are taken in any case.
// net/url is not asked: it refuses the whole query for one byte that a client forgot to escape, and turns + into space.
func parameter(query, name string) (value string, ok bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if key, value, _ := strings.Cut(pair, "="); strings.EqualFold(key, name) {
			return value, true
		}
	}
	return "", false
}

// Errors of decodeMessage. Their texts are for the client.
var (
	errEmpty     = errors.New("the message is empty: GET wants it in base64 as message=, POST as the body")
	errEscape    = errors.New("the message has a % that begins no escape (RFC 3986 section 2.1)")
	errNotBase64 = errors.New("the message is not base64 (RFC 4648 section 4)")
	errTooLarge  = errors.New("the message is too large")
)

// decodeMessage returns the message of a GET (RFC 8894 section 4.1): base64, which "MUST be escaped". Clients leave + and
// / as they are, have + become a space on the way, wrap lines (%0A), use the URL-safe alphabet, and forget the padding:
// all of that has one meaning only, and is read. limit is in bytes, decoded.
func decodeMessage(value string, limit int64) ([]byte, error) {
	// Three octets for each of base64's four, and room for line breaks; any more is not decoded at all.
	if int64(len(value)) > limit*4+64 {
		return nil, errTooLarge
	}
	text := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		b := value[i]
		if b == '%' {
			if i+2 >= len(value) {
				return nil, errEscape
			}
			high, low := nibble(value[i+1]), nibble(value[i+2])
			if high < 0 || low < 0 {
				return nil, errEscape
			}
			b = byte(high<<4 | low)
			i += 2
		}
		switch b {
		case '\r', '\n', '\t':
		case ' ', '-':
			text = append(text, '+')
		case '_':
			text = append(text, '/')
		default:
			text = append(text, b)
		}
	}
	for n := 0; n < 2 && len(text) > 0 && text[len(text)-1] == '='; n++ {
		text = text[:len(text)-1]
	}
	if len(text) == 0 {
		return nil, errEmpty
	}
	if int64(base64.RawStdEncoding.DecodedLen(len(text))) > limit {
		return nil, errTooLarge
	}
	der := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, err := base64.RawStdEncoding.Decode(der, text)
	if err != nil {
		return nil, errNotBase64
	}
	return der[:n], nil
}

func nibble(b byte) int {
	switch {
	case '0' <= b && b <= '9':
		return int(b - '0')
	case 'a' <= b && b <= 'f':
		return int(b-'a') + 10
	case 'A' <= b && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}

// readMessage takes the message from where the method has it. A POST may repeat it in its query: the body counts.
func (x *exchange) readMessage() ([]byte, *wire.Refusal) {
	if x.R.Method == http.MethodGet {
		limit := x.Limits.MaxBody
		value, _ := parameter(x.R.URL.RawQuery, "message")
		der, err := decodeMessage(value, limit)
		switch {
		case errors.Is(err, errTooLarge):
			return nil, wire.RefusedAs(http.StatusRequestURITooLong, gateway.Malformed, fmt.Sprintf("the message is larger than %d bytes", limit))
		case err != nil:
			return nil, wire.Refused(gateway.Malformed, err.Error(), err)
		}
		return der, nil
	}
	body, ref := x.ReadBody("") // clients announce it as anything
	if ref != nil {
		return nil, ref
	}
	if len(body) == 0 {
		return nil, wire.Refused(gateway.Malformed, errEmpty.Error(), errEmpty)
	}
	return body, nil
}
