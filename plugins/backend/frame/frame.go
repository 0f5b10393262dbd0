// Package frame is what backends have in common around the CA that they ask: what the process gives them, what a configuration that will
// not do is, and what Configure makes, once.
package frame

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// Options are what the process gives a backend. The zero value works.
type Options struct {
	Clock   func() time.Time // nil for time.Now
	Log     *slog.Logger     // nil for none
	Version string           // for Describe; "" for "devel"
}

// Filled has the defaults in the place of what is missing.
func (o Options) Filled() Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	return o
}

// Parsed makes INVALID_ARGUMENT of what is wrong with a configuration: frame.Parsed(parseConfig(text)).
func Parsed[C any](config C, err error) (C, error) {
	if err != nil {
		return config, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return config, nil
}

// Once holds what Configure makes of a configuration. Its zero value is not configured yet.
type Once[R any] struct{ at atomic.Pointer[R] }

// Set takes what Configure has made; FAILED_PRECONDITION when there is one already.
func (o *Once[R]) Set(r *R) error {
	if !o.at.CompareAndSwap(nil, r) {
		return backend.Refuse(codes.FailedPrecondition, "the CA is configured already")
	}
	return nil
}

// Load returns it, nil before Configure.
func (o *Once[R]) Load() *R { return o.at.Load() }

// Get returns it, and the error of a call whose context is over: it has asked nobody, but an error that refuses is not for it to give.
func (o *Once[R]) Get(ctx context.Context) (*R, error) {
	r := o.at.Load()
	if r == nil {
		return nil, backend.Refuse(codes.Unavailable, "not configured yet")
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return r, nil
}
