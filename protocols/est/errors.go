package est

import (
	"fmt"
	"net/http"

	"github.com/muster-pki/muster/gateway"
)

// statusOf is the one place where a Reason becomes an HTTP status (RFC 7030 section 4.2.3: a suitable 4xx or 5xx code).
// challenge is whether a challenge can be offered: without one, 401 would break RFC 9110 section 15.5.2.
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

// Told says by which HTTP status a client is told of a refusal, for `muster pipeline show`. passwords: the endpoint takes them.
func Told(reason gateway.Reason, passwords bool) string {
	status, _ := statusOf(reason, passwords)
	return fmt.Sprintf("HTTP %d", status)
}

// writeError answers with the rendering of e, as one line of plain text (RFC 8951 section 5.1) that says what the
// client did wrong, and the reference under which the operator finds all the rest.
func (x *exchange) writeError(e *gateway.Error, status int, allow string) {
	challenge := x.R.TLS != nil && x.endpoint != nil && x.h.gateway.Accepts(x.endpoint.Name, gateway.CredentialPassword)
	if status == 0 {
		status, _ = statusOf(e.Reason, challenge)
	}
	if status == http.StatusUnauthorized {
		// Spelled as the RFCs have it, not as net/http would (Www-Authenticate): libest compares it letter by letter.
		x.W.Header()["WWW-Authenticate"] = x.challenges()
	}
	if status == http.StatusUnauthorized && x.wordless(status) {
		return
	}
	x.Error(status, e, allow)
}

// wordless answers without a text where the client gives up for it: BouncyCastle's ESTService, which names itself in no
// User-Agent, does not read what comes with 401 and 202, and then closes the connection as broken instead of going on.
func (x *exchange) wordless(status int) bool {
	if x.R.UserAgent() != "" {
		return false
	}
	x.Write(status, "text/plain; charset=utf-8", nil)
	return true
}
