// Package scep serves the Simple Certificate Enrolment Protocol (RFC 8894): it turns HTTP requests into gateway.Request
// and gateway.Result into HTTP answers. cmd/muster makes a Handler and registers it on a listener.
//
// It establishes facts only: the message is signed by the holder of this certificate's key, its envelope holds a
// certification request that is signed with its own key, this challenge came with it. Who may have which certificate is
// the gateway's pipeline to decide. It keeps no state between requests.
package scep

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/wire"
)

// Gateway is what the adapter asks of the domain.
type Gateway interface {
	// Enroll answers a request. The error is always a *gateway.Error.
	Enroll(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	// Reject takes note of a request that never became one (malformed, unknown type, signature wrong): it is logged,
	// counted and kept for `muster explain`. It returns the error with Transaction set.
	Reject(ctx context.Context, r *gateway.Request, e *gateway.Error) *gateway.Error
	// Poll answers who asks after an earlier request of his, found by WireID and a proven credential; nothing is judged
	// anew. UnknownCert when he has none. The error is always a *gateway.Error.
	Poll(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	// Authority returns the CA that certifies for an endpoint, with its chain. The error is a *gateway.Error.
	Authority(ctx context.Context, endpoint string) (*gateway.Authority, error)
	// Announced returns the chain that is to follow the endpoint's CA's, nil while its CA has announced none or does not vouch
	// for it. The error is a *gateway.Error.
	Announced(ctx context.Context, endpoint string) ([]*x509.Certificate, error)
	// SignAnnounced has the CA's current key sign a certs-only SignedData of these. The error is a *gateway.Error.
	SignAnnounced(ctx context.Context, endpoint string, content []byte) ([]byte, error)
	// QueryCertificate answers with the certificate that Target names, if it is the requester's, in Certificates; QueryCRL with the
	// CRL of its issuer in Answer. UnknownCert when there is none to tell, and when Target is nil, once the request has passed the
	// pipeline. The error is always a *gateway.Error.
	QueryCertificate(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	QueryCRL(ctx context.Context, r *gateway.Request) (*gateway.Result, error)
	// Issued reports whether the gateway had exactly this certificate issued, revoked since or not. The error is a
	// *gateway.Error.
	Issued(ctx context.Context, cert *x509.Certificate) (bool, error)
}

// Endpoint is one configured SCEP endpoint, served at /scep/NAME.
type Endpoint struct {
	Name    string
	Default bool // served at /scep too; at most one endpoint of a Handler is
	Config  Config
}

// Options make a Handler. All but Rand are required.
type Options struct {
	Gateway   Gateway
	Endpoints []Endpoint
	// Identity returns an endpoint's RA key and certificate: it decrypts requests and signs answers, and is not the
	// issuing CA's (RFC 8894 section 2.1.2). The key is an *rsa.PrivateKey or a cms.HeldKey. nil while there is none; it may change.
	Identity func(endpoint string) *gateway.Identity
	Clock    func() time.Time
	Log      *slog.Logger
	Rand     io.Reader // of nonces; nil: crypto/rand
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
	pause     func(context.Context, time.Duration)           // tests do not wait
	readCSR   func([]byte, []pkix.Option) (*pkix.CSR, error) // tests count
}

// New checks the endpoints and their identities, as far as these are there, and makes a Handler. Errors name the endpoint.
func New(o Options) (*Handler, error) {
	if o.Gateway == nil || o.Identity == nil || o.Clock == nil || o.Log == nil {
		return nil, errors.New("scep: gateway, identity, clock and log are required")
	}
	h := &Handler{gateway: o.Gateway, endpoints: map[string]*Endpoint{}, identity: o.Identity, now: o.Clock, log: o.Log, rand: o.Rand, pause: pause, readCSR: readCSR}
	if h.rand == nil {
		h.rand = rand.Reader
	}
	var names wire.Names
	for _, e := range o.Endpoints {
		if err := names.Add(e.Name, e.Default); err != nil {
			return nil, fmt.Errorf("scep: endpoint %q: %w", e.Name, err)
		}
		if err := e.Config.check(); err != nil {
			return nil, fmt.Errorf("scep: endpoint %q: %w", e.Name, err)
		}
		if id := o.Identity(e.Name); id != nil {
			if _, err := checkIdentity(id); err != nil {
				return nil, fmt.Errorf("scep: endpoint %q: %w", e.Name, err)
			}
		}
		e.Config = e.Config.withDefaults()
		h.endpoints[e.Name] = &e
		if e.Default {
			h.fallback = &e
		}
	}
	return h, nil
}
