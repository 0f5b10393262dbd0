package backend

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The codes of errors that a plugin has use for, so that it need not import gRPC's.
const (
	InvalidArgument    = codes.InvalidArgument
	NotFound           = codes.NotFound
	AlreadyExists      = codes.AlreadyExists
	PermissionDenied   = codes.PermissionDenied
	FailedPrecondition = codes.FailedPrecondition
	Unavailable        = codes.Unavailable
)

// Refuse makes a definite refusal when code is one of those that Backend names: nothing was issued.
// The message reaches the gateway's log and `muster explain`, never the device.
func Refuse(code codes.Code, format string, args ...any) error {
	return status.Errorf(code, format, args...)
}

// Exhausted makes the definite refusal of a CA that has no room now and says when to come back.
func Exhausted(retryAfter time.Duration, message string) error {
	s, err := status.New(codes.ResourceExhausted, message).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	if err != nil {
		return status.Error(codes.ResourceExhausted, message)
	}
	return s.Err()
}

// Reason and domain of Unable's ErrorInfo.
const (
	unable = "UNABLE"
	domain = "muster.backend.v1"
)

// Unable is UNAVAILABLE of a CA that can issue nothing at all until something of its own is mended, such as its disk. It is
// no refusal: whether something was issued is not known. Until an Issue has another end the gateway says that it is not ready.
func Unable(format string, args ...any) error {
	s := status.Newf(codes.Unavailable, format, args...)
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Reason: unable, Domain: domain}); err == nil {
		s = with
	}
	return s.Err()
}

// IsUnable reports whether an error is Unable's.
func IsUnable(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == unable && info.GetDomain() == domain {
			return true
		}
	}
	return false
}

// notAsked is the error of a call that did not reach the CA.
type notAsked struct{ error }

func (e notAsked) Unwrap() error { return e.error }

// NotAsked marks an error of a call that was never made. It crosses no process: whoever made the call says it.
func NotAsked(err error) error { return notAsked{err} }

// IsNotAsked reports whether an error is NotAsked's.
func IsNotAsked(err error) bool {
	_, ok := errors.AsType[notAsked](err)
	return ok
}

// RetryAfter returns the delay of an error's RetryInfo, and whether it carries one.
func RetryAfter(err error) (time.Duration, bool) {
	for _, d := range status.Convert(err).Details() {
		if ri, ok := d.(*errdetails.RetryInfo); ok {
			return ri.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// Definite reports whether an error of Issue proves that nothing was issued and nothing will be. It is false for nil.
// An error of another call proves nothing by its code.
func Definite(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.FailedPrecondition, codes.Unimplemented:
		return true
	case codes.ResourceExhausted:
		// gRPC itself answers RESOURCE_EXHAUSTED for a message over its size limit, perhaps after the CA signed:
		// only a CA that names a delay has said it.
		_, ok := RetryAfter(err)
		return ok
	}
	return false
}
