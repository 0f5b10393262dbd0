package cmpmsg

import (
	"errors"
	"fmt"

	"github.com/muster-pki/muster/protocols/cms"
)

// ErrAlgorithm is wrapped by the errors of ParseMAC: a MAC algorithm, or parameters of one, that is not accepted.
var ErrAlgorithm = errors.New("algorithm not accepted")

// Error is where and why a message does not parse.
type Error struct {
	Offset int    // byte offset into the message, or into the value for the parsers of values
	What   string // in plain words; never taken from the input
	Body   bool   // header and protection are intact: only the body is at fault
	Err    error  // cms.ErrSyntax, cms.ErrLimit or cms.ErrNotDER
}

func (e *Error) Error() string {
	return fmt.Sprintf("cmp: %v at byte %d: %s", e.Err, e.Offset, e.What)
}

func (e *Error) Unwrap() error { return e.Err }

// fromGuard is an error of cms.Check in the terms of this package.
func fromGuard(err error) *Error {
	var g *cms.Error
	if errors.As(err, &g) {
		return &Error{Offset: g.Offset, What: g.What, Err: g.Err}
	}
	return &Error{What: "refused by the guard", Err: cms.ErrSyntax}
}
