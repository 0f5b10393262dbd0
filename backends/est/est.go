// Package est is a backend for a CA that is asked over EST (RFC 7030, RFC 8951), as a registration authority: with the
// device's PKCS#10 as it stands, under the RA's own certificate or password.
//
// It keeps nothing: any number of replicas run it. What RFC 7030 does not have, it does not make up: no revocation, no look-up of what
// became of a request. docs/backends/est.md says what that means for an outcome that is not known.
package est

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Options of New. The zero value works.
type Options struct {
	Clock   func() time.Time // nil for time.Now
	Log     *slog.Logger     // nil for none
	Version string           // for Describe; "" for "devel"
}

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o       Options
	running atomic.Pointer[running]
}

// running is what Configure makes.
type running struct {
	config *Config
	client *upstream.Client
	crl    *upstream.Client
	bag    atomic.Pointer[upstream.Bag] // as it was last seen, nil before
}

// Issuer is the name of the one CA.
const Issuer = "est"

// New makes a CA that waits for Configure.
func New(o Options) *CA {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	return &CA{o: o}
}

// Validate checks the configuration without touching a file. It fails with INVALID_ARGUMENT.
func (c *CA) Validate(_ context.Context, config []byte) error {
	if _, err := parseConfig(config); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

// Configure reads the files. The CA itself need not answer yet.
func (c *CA) Configure(_ context.Context, config []byte) error {
	parsed, err := parseConfig(config)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	parsed.Once = parsed.Repeat == 0
	r := &running{config: parsed}
	if r.client, err = parsed.New(); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	if parsed.Password != "" {
		if _, err := upstream.Secret(parsed.Password); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "password: %v", err)
		}
	}
	if parsed.Chain != "" {
		if _, err := readChain(parsed.Chain); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "chain: %v", err)
		}
	}
	if parsed.CRL != "" { // public: neither the RA's certificate nor its trust goes along
		if r.crl, err = (&upstream.Config{URL: parsed.CRL, Timeout: parsed.Timeout}).New(); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "crl: %v", err)
		}
	}
	if !c.running.CompareAndSwap(nil, r) {
		return backend.Refuse(codes.FailedPrecondition, "the CA is configured already")
	}
	return nil
}

// configured returns what Configure made, and the error of a call whose context is over: it has asked nobody, but an error that
// refuses is not for it to give.
func (c *CA) configured(ctx context.Context) (*running, error) {
	r := c.running.Load()
	if r == nil {
		return nil, backend.Refuse(codes.Unavailable, "not configured yet")
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return r, nil
}

// Describe says what an EST CA can do, and what the configuration declares of this one.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	r := c.running.Load()
	if r == nil {
		return nil, backend.Refuse(codes.Unavailable, "not configured yet")
	}
	d := &backend.Description{
		Name: "est", Version: c.o.Version, Forms: []backend.Form{backend.FormPKCS10}, Decides: slices.Clone(r.config.decides), Idempotency: backend.IdempotencyNone,
	}
	if r.config.Repeat > 0 {
		d.Idempotency = backend.IdempotencyLookup
		d.Capabilities = append(d.Capabilities, backend.CapPoll)
	}
	if r.config.CRL != "" {
		d.Capabilities = append(d.Capabilities, backend.CapCRL)
	}
	return d, nil
}
