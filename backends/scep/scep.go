// Package scep is a backend for a CA that is asked over SCEP (RFC 8894), as a registration authority: with the device's PKCS#10 as
// it stands, in a message that the RA signs.
//
// It keeps nothing: any number of replicas run it. The transactionID follows from the request's ID. docs/backends/scep.md says
// what the CA has to accept, and what it cannot be asked.
package scep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	crl    *upstream.Client // of a URL; nil for none
	server atomic.Pointer[server]
}

// Issuer is the name of the one CA.
const Issuer = "scep"

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
	parsed.Once = parsed.Lookup == ""
	r := &running{config: parsed}
	if r.client, err = parsed.New(); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	if _, err := r.signer(c.o.Clock()); err != nil {
		return err
	}
	if parsed.Roots != "" {
		if _, err := upstream.ReadBag(parsed.Roots); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "roots: %v", err)
		}
	}
	if parsed.CRL != "" && parsed.CRL != crlGetCRL { // public: nothing of the RA's goes along
		if r.crl, err = (&upstream.Config{URL: parsed.CRL, Timeout: parsed.Timeout}).New(); err != nil {
			return backend.Refuse(codes.FailedPrecondition, "crl: %v", err)
		}
	}
	return c.running.Set(r)
}

// Describe says what a SCEP CA can do, and what the configuration declares of this one.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	r := c.running.Load()
	if r == nil {
		return nil, backend.Refuse(codes.Unavailable, "not configured yet")
	}
	d := &backend.Description{
		Name: "scep", Version: c.o.Version, Forms: []backend.Form{backend.FormPKCS10}, Decides: slices.Clone(r.config.decides),
		Idempotency: backend.IdempotencyNone, Capabilities: []backend.Capability{backend.CapPoll},
	}
	if r.config.Lookup != "" {
		d.Idempotency = backend.IdempotencyLookup
	}
	if r.config.CRL != "" {
		d.Capabilities = append(d.Capabilities, backend.CapCRL)
	}
	return d, nil
}

// transactionID (RFC 8894 section 3.2.1.1) follows from the request's ID alone: whoever settles the request finds it by that. 40
// characters, as those of clients that hash their key with SHA-1: some CAs take no more.
func transactionID(id string) string {
	sum := sha256.Sum256([]byte("muster scep transaction\x00" + id))
	return hex.EncodeToString(sum[:20])
}
