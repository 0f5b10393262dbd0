package acme

import (
	"context"
	"errors"
	"net"
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
	problems  = "urn:ietf:params:acme:error:" // RFC 8555 section 6.7
	limited   = time.Minute                   // when a rate limit names no time
	maxDetail = 512
)

// kind is the type of a problem within ACME's namespace, "" for another.
func kind(e *acme.Error) string {
	k, _ := strings.CutPrefix(e.ProblemType, problems)
	return k
}

// failed makes the error of Issue. An order may have been made, and no certificate: the code says who can mend it.
func (c *CA) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return backend.Refuse(codes.Unavailable, "%v", ctx.Err())
	}
	if _, ours := status.FromError(err); ours {
		return err
	}
	e, ok := errors.AsType[*acme.Error](err)
	if !ok {
		if op, dial := errors.AsType[*net.OpError](err); dial && op.Op == "dial" {
			return upstream.NotAsked(err)
		}
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
func (c *CA) pollFailed(ctx context.Context, err error) error {
	err = c.failed(ctx, err)
	if _, later := backend.RetryAfter(err); later {
		return err
	}
	return backend.Refuse(codes.Unavailable, "%s", status.Convert(err).Message())
}

// exhausted says when to come again: Retry-After in seconds or as a date (RFC 8555 section 6.6).
func (c *CA) exhausted(e *acme.Error) error {
	a := upstream.Answer{Status: e.StatusCode, Header: e.Header}
	return backend.Exhausted(a.RetryAfter(limited, c.o.Clock()), said(e))
}

// said is an error in one line for the operator, without the URL of the request.
func said(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return printable(err.Error())
}

func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
