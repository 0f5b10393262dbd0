package mdm

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// render is the one place where a Reason becomes an HTTP status. known is false for a reason that the switch does not name.
func render(reason gateway.Reason) (status int, known bool) {
	switch reason {
	case gateway.Malformed, gateway.Undecryptable, gateway.BadIntegrity, gateway.WrongProtection, gateway.BadAlgorithm, gateway.BadTime,
		gateway.BadPOP, gateway.BadTemplate, gateway.UnknownCert, gateway.DuplicateCert:
		return http.StatusBadRequest, true
	case gateway.Untrusted, gateway.Unauthenticated, gateway.Revoked, gateway.NotAuthorized:
		return http.StatusForbidden, true
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

// Told says by which HTTP status a client is told of a refusal, for `muster pipeline show`.
func Told(reason gateway.Reason) string {
	status, _ := render(reason)
	return fmt.Sprintf("HTTP %d", status)
}

// refuse reports a refusal to the gateway and answers it.
func (x *exchange) refuse(ref *wire.Refusal) {
	e := ref.Err
	if noted := x.h.gateway.Reject(x.R.Context(), x.Request, e); noted != nil {
		e = noted
	}
	x.writeError(e, ref.Status, ref.Allow)
}

// writeError answers with the rendering of e. A check says yes or no: what is the sender's fault is 403, since a proxy that asks
// (nginx's auth_request) takes any other for a fault of ours.
func (x *exchange) writeError(e *gateway.Error, status int, allow string) {
	rendered, _ := render(e.Reason)
	status = cmp.Or(status, rendered)
	if x.checks && status >= 400 && status < 500 && status != http.StatusMethodNotAllowed && status != http.StatusNotFound {
		status = http.StatusForbidden
	}
	x.Error(status, e, allow)
}
