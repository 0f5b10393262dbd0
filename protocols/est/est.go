// Package est serves Enrollment over Secure Transport (RFC 7030, clarified by RFC 8951): it turns HTTPS requests into
// gateway.Request and gateway.Result into HTTPS answers. cmd/muster makes a Handler and registers it on a listener.
//
// It establishes facts only: the bytes are a certification request, its signature holds, this certificate or name came
// with it. Who may have which certificate is the gateway's pipeline to decide. It keeps no state between requests
// but which answers to Digest challenges have been taken.
package est

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"sync/atomic"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// Gateway is what the adapter asks of the domain.
type Gateway interface {
	// Enroll answers a request. The error is always a *gateway.Error.
	Enroll(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	// Reject takes note of a request that never became one (malformed, wrong type, signature wrong): it is logged,
	// counted and kept for `muster explain`. It returns the error with Transaction set.
	Reject(ctx context.Context, r *gateway.Request, e *gateway.Error) *gateway.Error
	// Accepts reports whether the endpoint looks at credentials of the kind: only then are clients asked for them.
	Accepts(endpoint string, kind gateway.CredentialKind) bool
	// HeldBy returns the newest valid certificate that was issued to the one whom the credential names, under the names, nil
	// when there is none; renews is false when the endpoint renews nothing by the credential alone. The error is a *gateway.Error.
	HeldBy(ctx context.Context, endpoint string, c gateway.Credential, names gateway.Names) (cert *x509.Certificate, renews bool, err error)
	// TrustedRA returns nil when the endpoint knows the credential for that of a registration authority; speaks: one that
	// asks in a device's place. The error is NotAuthorized, or Unavailable when that cannot be told.
	TrustedRA(ctx context.Context, endpoint string, c gateway.Credential, speaks bool) *gateway.Error
	// CACertificates returns the endpoint's CA certificates: the issuing CA first, the root last, then those of a
	// rollover. The error is a *gateway.Error.
	CACertificates(ctx context.Context, endpoint string) ([]*x509.Certificate, error)
	// ProfilesOf returns the profiles that an endpoint offers, its own first. Nobody changes them.
	ProfilesOf(endpoint string) []*gateway.Profile
	// Registered says which identifier is registered for the client that shows the request's credentials. The error is NotAuthorized,
	// Unauthenticated or Busy where its password is not taken, or Unavailable when that cannot be told.
	Registered(ctx context.Context, asks *gateway.Request) (*gateway.Registration, *gateway.Error)
	// RequiresLinking reports whether requests have to be linked to the TLS connection (RFC 7030 section 3.5).
	RequiresLinking(endpoint string) bool
	// CRLs returns those of the endpoint's CA, none where it publishes none. The error is a *gateway.Error.
	CRLs(ctx context.Context, endpoint string) ([]gateway.CurrentCRL, error)
	// Issued reports whether this very certificate was issued through the gateway. The error is a *gateway.Error.
	Issued(ctx context.Context, cert *x509.Certificate) (bool, error)
	// WrappingKey returns the key-encryption key that devices name by the identifier, nil where there is none: that it is the
	// device's, the pipeline of the operation says.
	WrappingKey(ctx context.Context, endpoint string, op gateway.Operation, id []byte) gateway.Secret
	// Renewable returns the certificate with the authority key identifier and serial number that was issued at the endpoint and counts,
	// nil when there is none. The error is a *gateway.Error.
	Renewable(ctx context.Context, endpoint string, authority []byte, serial *big.Int) (*x509.Certificate, error)
	// Query answers who asks for its own certificates. The error is always a *gateway.Error, of UnknownCert when there are none.
	Query(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
}

// Endpoint is one configured EST endpoint, served at /.well-known/est/NAME.
type Endpoint struct {
	Name    string // the label of RFC 7030 section 3.2.2
	Default bool   // served at /.well-known/est too; at most one endpoint of a Handler is
	Config  Config

	announced   *atomic.Pointer[announcement]            // by /csrattrs; set by New
	announcedTo map[string]*atomic.Pointer[announcement] // of an MEF, by type of identifier; likewise
}

// Options make a Handler. All but Identity and Answered are required.
type Options struct {
	Gateway   Gateway
	Endpoints []Endpoint
	Secret    []byte // at least 32 bytes, the same in all replicas: what the adapter hands out is recognized by it
	// Identity is what an endpoint signs keys with that it makes; nil, or an answer of nil, where it makes none.
	Identity func(endpoint string) *gateway.Identity
	// Answered are the answers to Digest challenges that were taken, shared by Handlers that come one after the other: none
	// counts again because a configuration was read again. nil: its own.
	Answered *Answers
	Clock    func() time.Time
	Log      *slog.Logger
}

// Handler serves the configured endpoints. It never changes after New and is safe for concurrent use. Listeners with
// different defaults each have their own.
type Handler struct {
	gateway   Gateway
	endpoints map[string]*Endpoint
	fallback  *Endpoint            // for a path without a label; nil for none
	crls      map[string]*rendered // by endpoint
	secret    []byte
	answered  *Answers // to Digest challenges
	identity  func(endpoint string) *gateway.Identity
	now       func() time.Time
	log       *slog.Logger
}

// New checks the endpoints and makes a Handler. Errors name the endpoint.
func New(o Options) (*Handler, error) {
	if o.Gateway == nil || o.Clock == nil || o.Log == nil {
		return nil, errors.New("est: gateway, clock and log are required")
	}
	if len(o.Secret) < 32 {
		return nil, errors.New("est: a secret of at least 32 bytes is required")
	}
	h := &Handler{gateway: o.Gateway, endpoints: map[string]*Endpoint{}, crls: map[string]*rendered{}, secret: o.Secret, answered: o.Answered,
		identity: o.Identity, now: o.Clock, log: o.Log}
	if h.answered == nil {
		h.answered = &Answers{}
	}
	if h.identity == nil {
		h.identity = func(string) *gateway.Identity { return nil }
	}
	var names wire.Names
	for _, e := range o.Endpoints {
		if err := names.Add(e.Name, e.Default); err != nil {
			return nil, fmt.Errorf("est: endpoint %q: %w", e.Name, err)
		}
		if slices.Contains(operationNames, e.Name) {
			// RFC 7030 section 3.2.2: a label MUST NOT be the same as an operation path segment.
			return nil, fmt.Errorf("est: endpoint %q: an EST operation has this name, choose another (RFC 7030 section 3.2.2)", e.Name)
		}
		if err := e.Config.check(); err != nil {
			return nil, fmt.Errorf("est: endpoint %q: %w", e.Name, err)
		}
		e.Config = e.Config.withDefaults()
		e.announced, e.announcedTo = new(atomic.Pointer[announcement]), newAnnouncedTo()
		h.endpoints[e.Name], h.crls[e.Name] = &e, &rendered{}
		if e.Default {
			h.fallback = &e
		}
	}
	return h, nil
}
