package acme

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

const (
	problems = "urn:ietf:params:acme:error:" // RFC 8555 section 6.7
	limited  = time.Minute                   // when a rate limit names no time
)

// kind is the type of a problem within ACME's namespace, "" for another.
func kind(e *acme.Error) string {
	k, _ := strings.CutPrefix(e.ProblemType, problems)
	return k
}

// rpcError is one that says itself what it means: ours, and upstream.Client's below the library's.
type rpcError interface {
	error
	GRPCStatus() *status.Status
}

// failed makes the error of Issue. An order may have been made, and no certificate: the code says who can mend it.
func (c *running) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return backend.Refuse(codes.Unavailable, "%v", ctx.Err())
	}
	if ours, ok := errors.AsType[rpcError](err); ok {
		return ours.GRPCStatus().Err()
	}
	e, ok := errors.AsType[*acme.Error](err)
	if !ok {
		return backend.Refuse(codes.Unavailable, "%s", said(err))
	}
	switch kind(e) {
	case "rateLimited":
		return c.exhausted(e)
	case "rejectedIdentifier", "unsupportedIdentifier", "malformed", "badPublicKey", "badSignatureAlgorithm", "dns", "caa", "compound":
		return backend.Refuse(codes.InvalidArgument, "%s", said(e))
	case "unauthorized", "userActionRequired", "externalAccountRequired", "invalidContact", "unsupportedContact":
		return backend.Refuse(codes.PermissionDenied, "%s", said(e))
	case "accountDoesNotExist":
		c.forget()
		return backend.Refuse(codes.Unavailable, "%s", said(e))
	}
	if e.StatusCode == http.StatusTooManyRequests || e.StatusCode == http.StatusServiceUnavailable {
		return c.exhausted(e)
	}
	return backend.Refuse(codes.Unavailable, "%s", said(e))
}

// pollFailed makes the error of Poll: none refuses the request, which is what the order's state alone does.
func (c *running) pollFailed(ctx context.Context, err error) error {
	err = c.failed(ctx, err)
	if _, later := backend.RetryAfter(err); later {
		return err
	}
	return backend.Refuse(codes.Unavailable, "%s", status.Convert(err).Message())
}

// exhausted says when to come again: Retry-After in seconds or as a date (RFC 8555 section 6.6).
func (c *running) exhausted(e *acme.Error) error {
	a := upstream.Answer{Status: e.StatusCode, Header: e.Header}
	return backend.Exhausted(a.RetryAfter(limited, c.o.Clock()), said(e))
}

// said is an error, perhaps in the CA's words, in one line for the operator, without the URL of the request. There is nothing to hide in it
// (upstream.Answer.Hide): what a CA is sent are signatures (RFC 8555 section 6.2), a MAC by the binding's key, its own tokens, and CSRs.
func said(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return upstream.Line(err.Error())
}
