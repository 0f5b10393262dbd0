// Package est is a backend for a CA that is asked over EST (RFC 7030, RFC 8951), as a registration authority: with the
// device's PKCS#10 as it stands, under the RA's own certificate or password.
//
// It keeps nothing: any number of replicas run it. What RFC 7030 does not have, it does not make up: no revocation, no look-up of what
// became of a request. docs/backends/est.md says what that means for an outcome that is not known.
package est

import (
	"context"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/frame"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Options of New. The zero value works.
type Options = frame.Options

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o       Options
	running frame.Once[running]
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
	return &CA{o: o.Filled()}
}

// Validate checks the configuration without touching a file. It fails with INVALID_ARGUMENT.
func (c *CA) Validate(_ context.Context, config []byte) error {
	_, err := frame.Parsed(parseConfig(config))
	return err
}

// Configure reads the files. The CA itself need not answer yet.
func (c *CA) Configure(_ context.Context, config []byte) error {
	parsed, err := frame.Parsed(parseConfig(config))
	if err != nil {
		return err
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
	return c.running.Set(r)
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
