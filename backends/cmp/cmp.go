// Package cmp is a backend whose CA is another CMP server's (RFC 9810 over HTTP, RFC 9811): as a registration authority it asks for
// what the gateway has granted, under protection of its own; and it passes messages of devices on as they are, or within nested ones
// (RFC 9483).
//
// It keeps nothing: several replicas run it, and a process that dies loses nothing. What makes a request the same request (the
// transactionID, its senderNonce, and with Config.Repeats the whole message) follows from the gateway's ID and from what is asked for.
// docs/backends/cmp.md says what the CA owes for that.
package cmp

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/frame"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Options of New. The zero value works.
type Options = frame.Options

// CA implements backend.Backend and backend.Exchanger. Calls are concurrent.
type CA struct {
	o    Options
	open frame.Once[running]
}

// running is what Configure opens.
type running struct {
	*Config
	log    *slog.Logger
	now    func() time.Time
	client *upstream.Client
	asked  *recent                   // what this process has asked for
	found  atomic.Pointer[authority] // the CA, as it was last found; nil while it never was
	issued latest                    // its last certificate
}

// New makes a backend that is to be configured.
func New(o Options) *CA {
	return &CA{o: o.Filled()}
}

// Validate is backend.Backend.
func (*CA) Validate(_ context.Context, text []byte) error {
	_, err := parse(text)
	return err
}

func parse(text []byte) (*Config, error) {
	c := new(Config)
	err := strictyaml.Decode("config", text, c)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return c, nil
}

// Configure is backend.Backend. The CA is not asked: it may be away when the gateway starts.
func (ca *CA) Configure(_ context.Context, text []byte) error {
	c, err := parse(text)
	if err != nil {
		return err
	}
	c.Once = c.isRA() && !c.Repeats
	r := &running{Config: c, log: ca.o.Log, now: ca.o.Clock, asked: newRecent()}
	if r.client, err = c.Config.New(); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if _, err := c.identity(); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if c.Chain != "" {
		if _, err := r.authority(context.Background()); err != nil {
			return backend.Refuse(codes.InvalidArgument, "%v", err)
		}
	}
	return ca.open.Set(r)
}

// asks is running for a call that needs protection of the RA's own.
func (ca *CA) asks(ctx context.Context, call string) (*running, error) {
	r, err := ca.open.Get(ctx)
	if err == nil && !r.isRA() {
		return nil, backend.Refuse(codes.Unimplemented, "%s: it has no protection of its own (sign or mac), and passes messages on alone", call)
	}
	return r, err
}

// Describe is backend.Backend.
func (ca *CA) Describe(ctx context.Context) (*backend.Description, error) {
	r, err := ca.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	d := &backend.Description{Name: "cmp", Version: ca.o.Version, Idempotency: backend.IdempotencyNone}
	if r.isRA() {
		d.Forms = append(d.Forms, backend.FormTemplate)
		if r.Request == requestP10CR {
			d.Forms = []backend.Form{backend.FormPKCS10}
		}
		d.Decides = slices.Clone(r.Decides)
		d.Capabilities = append(d.Capabilities, backend.CapPoll)
		if r.Repeats {
			d.Idempotency = backend.IdempotencyNative
		}
		if r.revokes() {
			d.Capabilities = append(d.Capabilities, backend.CapRevoke)
		}
		if r.CRL {
			d.Capabilities = append(d.Capabilities, backend.CapCRL)
		}
	}
	if r.Exchange != "" {
		d.Forms, d.Capabilities = append(d.Forms, backend.FormExchange), append(d.Capabilities, backend.CapExchange)
	}
	return d, nil
}

// CACertificates is backend.Backend.
func (ca *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	r, err := ca.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	if !r.isRA() && r.Chain == "" {
		return nil, backend.Refuse(codes.Unimplemented, "it passes messages on and knows no CA: name its certificates in chain")
	}
	a, err := r.authority(ctx)
	if err != nil {
		return nil, err
	}
	return []backend.CA{{Name: r.name(), Chain: a.chain, Rollover: a.rollover}}, nil
}

// CRL is backend.Backend.
func (ca *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	r, err := ca.asks(ctx, "CRL")
	switch {
	case err != nil:
		return err
	case !r.Config.CRL:
		return backend.Refuse(codes.Unimplemented, "CRL: the configuration does not say that the CA has one (crl: true)")
	case issuer != "" && issuer != r.name():
		return backend.Refuse(codes.NotFound, "there is no CA %q", issuer)
	}
	der, err := r.currentCRL(ctx)
	if err != nil {
		return err
	}
	_, err = w.Write(der)
	return err
}
