// Package ejbca is a backend for EJBCA by its REST API: /v1/certificate/pkcs10enroll with the device's PKCS#10, revoke, search, and the
// CA's certificates and CRL from /v1/ca.
//
// It keeps nothing: any number of replicas run it. EJBCA has no idempotency key; each request has an end entity, or an account binding ID, of
// its own, and what became of it is found by a search for that. What is said here of EJBCA is from the source of EJBCA Community
// (github.com/Keyfactor/ejbca-ce), named by class; it has not been tried with a running server. docs/backends/ejbca.md says which versions.
package ejbca

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

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
	config  *Config
	client  *upstream.Client
	clock   func() time.Time
	known   atomic.Pointer[authority] // as it was last seen, nil before
	checked atomic.Bool               // the search takes the names of the configuration
	// sighted: a search has shown a certificate that was issued under this configuration, so that EJBCA stores them, and shows them to us.
	sighted atomic.Bool
	looked  atomic.Int64 // when that was last tried after an issuance, Unix seconds
}

// Issuer is the name of the one CA.
const Issuer = "ejbca"

// New makes a CA that waits for Configure.
func New(o Options) *CA {
	return &CA{o: o.Filled()}
}

// Validate checks the configuration without touching a file. It fails with INVALID_ARGUMENT.
func (c *CA) Validate(_ context.Context, config []byte) error {
	_, err := frame.Parsed(parseConfig(config))
	return err
}

// Configure reads the files. EJBCA itself need not answer yet.
func (c *CA) Configure(_ context.Context, config []byte) error {
	parsed, err := frame.Parsed(parseConfig(config))
	if err != nil {
		return err
	}
	parsed.Once = true // whether a lost pkcs10enroll issued is known after Config.Settle at the earliest
	r := &running{config: parsed, clock: c.o.Clock}
	if r.client, err = parsed.New(); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	if parsed.Token != "" {
		if _, err := bearer(parsed.Token); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "token: %v", err)
		}
	}
	return c.running.Set(r)
}

// Describe says what EJBCA can do by pkcs10enroll.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	r := c.running.Load()
	if r == nil {
		return nil, backend.Refuse(codes.Unavailable, "not configured yet")
	}
	return &backend.Description{
		Name: "ejbca", Version: c.o.Version, Forms: []backend.Form{backend.FormPKCS10}, Decides: slices.Clone(r.config.decides),
		Idempotency: backend.IdempotencyLookup, Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL},
	}, nil
}
