package est

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// refusal is a request that ends in the adapter. status overrides what the reason renders as, for what only HTTP
// knows (404, 405, 413, 415); 0 leaves it to the reason.
type refusal struct {
	err    *gateway.Error
	status int
	allow  string // Allow header, with 405
}

// refused makes a refusal that is rendered by its reason.
func refused(reason gateway.Reason, detail string, cause error) *refusal {
	return &refusal{err: &gateway.Error{Reason: reason, Detail: detail, Err: cause}}
}

// statusOf is the one place where a Reason becomes an HTTP status (RFC 7030 section 4.2.3: a suitable 4xx or 5xx code).
// challenge is whether a Basic challenge can be offered: without one, 401 would break RFC 9110 section 15.5.2.
// known is false for a reason that the switch does not name.
func statusOf(reason gateway.Reason, challenge bool) (status int, known bool) {
	switch reason {
	case gateway.Malformed, gateway.Undecryptable, gateway.BadIntegrity, gateway.WrongProtection, gateway.BadAlgorithm,
		gateway.BadTime, gateway.BadPOP, gateway.BadTemplate, gateway.UnknownCert:
		return http.StatusBadRequest, true
	case gateway.Unauthenticated:
		if challenge {
			return http.StatusUnauthorized, true
		}
		return http.StatusForbidden, true
	case gateway.Untrusted, gateway.Revoked, gateway.NotAuthorized:
		return http.StatusForbidden, true
	case gateway.DuplicateCert:
		return http.StatusConflict, true
	case gateway.Unsupported:
		return http.StatusNotImplemented, true
	case gateway.Busy, gateway.Unavailable:
		return http.StatusServiceUnavailable, true
	case gateway.Internal:
		return http.StatusInternalServerError, true
	default:
		return http.StatusInternalServerError, false
	}
}

// writeError answers with the rendering of e, as one line of plain text (RFC 8951 section 5.1) that says what the
// client did wrong, and the reference under which the operator finds all the rest.
func (x *exchange) writeError(e *gateway.Error, status int, allow string) {
	challenge := x.r.TLS != nil && x.endpoint != nil && x.h.gateway.Accepts(x.endpoint.Name, gateway.CredentialPassword)
	if status == 0 {
		status, _ = statusOf(e.Reason, challenge)
	}
	header := x.w.Header()
	switch status {
	case http.StatusUnauthorized:
		// RFC 7617 section 2. The realm is the endpoint's name, which needs no quoting (labelForm).
		header.Set("WWW-Authenticate", `Basic realm="`+x.endpoint.Name+`", charset="UTF-8"`)
	case http.StatusMethodNotAllowed:
		header.Set("Allow", allow)
	case http.StatusRequestEntityTooLarge:
		header.Set("Connection", "close") // the rest of the body is not read
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", x.retryAfter(e.RetryAfter))
	}
	detail := e.Detail
	if detail == "" {
		detail = strings.ToLower(http.StatusText(status))
	}
	x.write(status, "text/plain; charset=utf-8", []byte(line(detail, e.Transaction)))
}

// maxDetail is how many bytes of a detail go out: it may quote a parser.
const maxDetail = 400

// line is one line of text with the reference to a transaction.
func line(detail, transaction string) string {
	detail = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, detail)
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "..."
	}
	if transaction != "" {
		detail += " (reference " + transaction + ")"
	}
	return detail + "\n"
}

// retryAfter renders a delay in whole seconds, at least one (RFC 9110 section 10.2.3), the endpoint's where none is known.
func (x *exchange) retryAfter(d time.Duration) string {
	if d <= 0 {
		d = defaultRetryAfter
		if x.endpoint != nil {
			d = time.Duration(x.endpoint.Config.RetryAfter)
		}
	}
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}
