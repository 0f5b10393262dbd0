package wire

import (
	"net/http"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// Refusal is a request that ends in the adapter.
type Refusal struct {
	Err *gateway.Error
	// Status overrides what the reason renders as, for what only HTTP knows (404, 405, 413, 415); 0 leaves it to the reason.
	Status int
	Allow  string // Allow header, with 405
}

// Refused makes a refusal that is rendered by its reason.
func Refused(reason gateway.Reason, detail string, cause error) *Refusal {
	return &Refusal{Err: &gateway.Error{Reason: reason, Detail: detail, Err: cause}}
}

// RefusedAs makes a refusal with an HTTP status of its own.
func RefusedAs(status int, reason gateway.Reason, detail string) *Refusal {
	return &Refusal{Status: status, Err: &gateway.Error{Reason: reason, Detail: detail}}
}

// NotAllowed makes the refusal of any other method than those.
func NotAllowed(detail string, methods ...string) *Refusal {
	ref := RefusedAs(http.StatusMethodNotAllowed, gateway.Malformed, detail)
	ref.Allow = strings.Join(methods, ", ")
	return ref
}
