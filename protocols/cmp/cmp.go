// Package cmp serves the Certificate Management Protocol (RFC 9810) over HTTP (RFC 9811): it turns PKIMessages into
// gateway.Request and gateway.Result into PKIMessages. cmd/muster makes a Handler and registers it on a listener.
//
// It establishes facts only: the protection holds, possession of the key is proven, this is who signed, this message
// belongs to that transaction. Who may have which certificate is the gateway's pipeline to decide. It keeps no state
// between messages: what a later one needs is in the record that the gateway stores with the transaction (record.go).
package cmp

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// Gateway is what the adapter asks of the domain. Every error is a *gateway.Error.
type Gateway interface {
	Informer
	// Enroll answers a request. Result.Exchange is Request.Exchange of the request that began the transaction.
	Enroll(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	// Revoke answers a request to revoke a certificate (Request.Target). Result.Exchange is as Enroll's.
	Revoke(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	// ForwardsTo returns the backend that the endpoint passes requests for the operation on to, "" when they are answered here.
	ForwardsTo(endpoint string, op gateway.Operation) string
	// Forward passes a later message on, of a transaction whose first one was (Result.Answer).
	Forward(ctx context.Context, transaction string, r *gateway.Request) (*gateway.Result, error)
	// Reject takes note of a request that never became one (malformed, wrong protection, no proof of possession): it is
	// logged, counted and kept for `muster explain`. It returns the error with Transaction set.
	Reject(ctx context.Context, r *gateway.Request, e *gateway.Error) *gateway.Error
	// Confirm ends an unconfirmed transaction and returns it as it stands afterwards. The error wraps gateway.ErrStale
	// when it was no longer unconfirmed.
	Confirm(ctx context.Context, c *gateway.Confirmation) (*gateway.Transaction, error)
	// ByWireID returns the newest transaction of the endpoint with the transactionID, nil when there is none.
	ByWireID(ctx context.Context, endpoint, wireID string) (*gateway.Transaction, error)
	// CrossCertificates returns those that lead from the root of a chain to the roots of other generations, none while no CA
	// changes over.
	CrossCertificates(ctx context.Context, endpoint string, chain []*x509.Certificate) []*x509.Certificate
	// DerivesSubject reports whether a profile of the endpoint, the one with the name or for "" any, gives a subject whatever is
	// asked for.
	DerivesSubject(endpoint, profile string) bool
	// Heard takes note of a message that changes nothing, for `muster explain`.
	Heard(transaction, kind, note string, source netip.Addr)
	// TrustedRA returns nil when the credential is that of a registration authority here: one that asks in a device's place
	// when speaks is set, else one that passes on what devices have protected will do.
	TrustedRA(ctx context.Context, endpoint string, c gateway.Credential, speaks bool) *gateway.Error
	// IssuedAs returns the certificate that was issued here under issuer and serial number, nil when there is none.
	IssuedAs(ctx context.Context, issuer []byte, serial *big.Int) (*x509.Certificate, error)
	// SharedSecret returns the secret under a reference, nil when there is none.
	SharedSecret(ctx context.Context, endpoint string, reference []byte) (gateway.Secret, error)
}

// Endpoint is one configured CMP endpoint, served at /.well-known/cmp/p/NAME and /cmp/NAME.
type Endpoint struct {
	Name    string // the arbitrary label of RFC 9811 section 3.4
	Default bool   // served at /.well-known/cmp and /cmp too; at most one endpoint of a Handler is
	Config  Config
	Renews  bool // it has a pipeline for renewals
}

// Options make a Handler. All but Rand are required.
type Options struct {
	Gateway   Gateway
	Endpoints []Endpoint
	// Identity returns the key that an endpoint signs its answers with, its certificate and chain, root included; nil
	// while there is none, and nothing is answered then.
	Identity func(endpoint string) *gateway.Identity
	Clock    func() time.Time
	Log      *slog.Logger
	Rand     io.Reader // nil: crypto/rand
}

// Handler serves the configured endpoints. It never changes after New and is safe for concurrent use. Listeners with
// different defaults each have their own.
type Handler struct {
	gateway   Gateway
	endpoints map[string]*Endpoint
	fallback  *Endpoint // for a path without a name; nil for none
	identity  func(string) *gateway.Identity
	now       func() time.Time
	log       *slog.Logger
	rand      io.Reader
}

// New checks the endpoints and makes a Handler. Errors name the endpoint.
func New(o Options) (*Handler, error) {
	if o.Gateway == nil || o.Identity == nil || o.Clock == nil || o.Log == nil {
		return nil, errors.New("cmp: gateway, identity, clock and log are required")
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	h := &Handler{
		gateway: o.Gateway, endpoints: map[string]*Endpoint{}, identity: o.Identity, now: o.Clock, log: o.Log, rand: o.Rand,
	}
	var names wire.Names
	for _, e := range o.Endpoints {
		if err := names.Add(e.Name, e.Default); err != nil {
			return nil, fmt.Errorf("cmp: endpoint %q: %w", e.Name, err)
		}
		if e.Name == labelPrefix || slices.Contains(operationLabels, e.Name) {
			return nil, fmt.Errorf("cmp: endpoint %q: CMP uses this path segment itself, choose another name (RFC 9811 section 3.4)", e.Name)
		}
		if err := e.Config.check(); err != nil {
			return nil, fmt.Errorf("cmp: endpoint %q: %w", e.Name, err)
		}
		e.Config = e.Config.WithDefaults()
		h.endpoints[e.Name] = &e
		if e.Default {
			h.fallback = &e
		}
	}
	return h, nil
}
