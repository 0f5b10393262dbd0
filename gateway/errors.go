package gateway

import (
	"errors"
	"fmt"
	"time"
)

// Reason is why a request failed, in the terms of the domain. Each protocol renders every Reason in one switch.
type Reason string

const (
	Malformed       Reason = "malformed"        // does not parse
	Undecryptable   Reason = "undecryptable"    // between RecipientInfo and a self-verified CSR; one answer for all of it
	BadIntegrity    Reason = "bad-integrity"    // signature or MAC wrong, key ID unknown
	WrongProtection Reason = "wrong-protection" // another kind of protection than the transaction's
	Untrusted       Reason = "untrusted"        // signer known to nobody
	Unauthenticated Reason = "unauthenticated"  // password or challenge missing or wrong
	BadAlgorithm    Reason = "bad-algorithm"
	BadTime         Reason = "bad-time"
	BadPOP          Reason = "bad-pop"
	BadTemplate     Reason = "bad-template" // what is asked for cannot be certified
	UnknownCert     Reason = "unknown-certificate"
	Revoked         Reason = "revoked"
	NotAuthorized   Reason = "not-authorized" // known, but may not
	DuplicateCert   Reason = "duplicate-certificate"
	Unsupported     Reason = "unsupported"
	Busy            Reason = "busy"        // back-pressure
	Unavailable     Reason = "unavailable" // a stage, store, audit sink or CA cannot answer; nothing was recorded
	Internal        Reason = "internal"
)

// Reasons lists them all, so that each protocol's rendering can be tested for completeness.
var Reasons = []Reason{
	Malformed, Undecryptable, BadIntegrity, WrongProtection, Untrusted, Unauthenticated, BadAlgorithm, BadTime, BadPOP,
	BadTemplate, UnknownCert, Revoked, NotAuthorized, DuplicateCert, Unsupported, Busy, Unavailable, Internal,
}

// Error is the one error that leaves the gateway. Only Reason, Detail and RetryAfter may reach a client.
type Error struct {
	Reason      Reason
	Detail      string        // for the client: plain words, nothing about how the decision was made
	RetryAfter  time.Duration // with Busy and Unavailable
	Transaction string        // for `muster explain`; "" when the request never became one
	Err         error         // for the log
}

// Errorf makes an Error whose cause is formatted (with %w) and whose detail is the given text.
func Errorf(reason Reason, detail, format string, args ...any) *Error {
	return &Error{Reason: reason, Detail: detail, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string {
	s := string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an *Error; anything that is not one is Internal, with nothing for the client.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Reason: Internal, Err: err}
}
