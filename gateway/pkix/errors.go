// Package pkix judges what a device presents: public keys, PKCS#10 requests, names and certificate chains.
// Protocol adapters parse requests with it, the stages of authz verify device certificates with it.
//
// It is a leaf: it knows neither the gateway nor any protocol, opens no file and keeps no state. Bounds are
// checked on the bytes, before any arithmetic, so every call is cheap whatever it is given. It grants nothing:
// a key or a chain that passes here is sound, whether it may enrol is for a stage to say.
package pkix

import (
	"errors"
	"fmt"
)

// Every error of this package is one of these, by errors.Is.
var (
	// ErrMalformed: the bytes do not have the form that the standard demands.
	ErrMalformed = errors.New("malformed")
	// ErrWeak: a key outside the bounds, broken or on the blocklist; MD5; SHA-1 where it is not allowed.
	ErrWeak = errors.New("weak key or algorithm")
	// ErrAlgorithm: an algorithm that is not supported, or that does not fit the key.
	ErrAlgorithm = errors.New("unsupported algorithm")
	// ErrSignature: a signature does not verify.
	ErrSignature = errors.New("signature does not verify")

	// ErrUntrusted: no path from the certificate to a root.
	ErrUntrusted = errors.New("no trusted path")
	// ErrExpired: a certificate of the path is not valid at the time, not yet or no longer.
	ErrExpired = errors.New("outside its validity period")
	// ErrRevoked: a certificate of the path is revoked.
	ErrRevoked = errors.New("revoked")
	// ErrRevocationUnknown: whether a certificate of the path is revoked cannot be told.
	ErrRevocationUnknown = errors.New("revocation status unknown")
	// ErrUsage: the certificate may not be used for this: a CA, another key usage, name constraints.
	ErrUsage = errors.New("not valid for this use")
)

func malformed(format string, args ...any) error { return because(ErrMalformed, format, args...) }

func weak(format string, args ...any) error { return because(ErrWeak, format, args...) }

func because(kind error, format string, args ...any) error {
	return fmt.Errorf("%w: %w", kind, fmt.Errorf(format, args...))
}
