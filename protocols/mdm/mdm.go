// Package mdm serves Apple's over-the-air profile delivery (Apple, "Over-the-Air Profile Delivery Concepts"), which leads a
// device through SCEP to the configuration that is meant for it, and checks the signatures of its MDM messages for a reverse
// proxy. cmd/muster makes a Handler and registers it on a listener.
//
// It establishes facts only: the answer is signed by a certificate under the device CA, or by this certificate; it states this
// UDID and serial number. Which device that is, and whether it may have a profile, is for the endpoint's query pipeline to
// decide. It keeps no state between requests: what bounds an exchange in time travels in it, authenticated.
package mdm

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// Gateway is what the adapter asks of the domain.
type Gateway interface {
	// Recognise has the endpoint's query pipeline say which device asks, and answer make what it is told. The error is always a
	// *gateway.Error.
	Recognise(ctx context.Context, r *gateway.Request, answer func(context.Context, *gateway.Recognised) ([]byte, string, error)) (*gateway.Result, error)
	// IssueChallenge makes a secret a challenge; one that stands already is not made good again. The error is a *gateway.Error.
	IssueChallenge(ctx context.Context, secret gateway.Secret, c gateway.IssuedChallenge) error
	// Reject takes note of a request that never became one. It returns the error with Transaction set.
	Reject(ctx context.Context, r *gateway.Request, e *gateway.Error) *gateway.Error
	// Authority returns the CA that certifies for an endpoint, with its chain. The error is a *gateway.Error.
	Authority(ctx context.Context, endpoint string) (*gateway.Authority, error)
	// Issued reports whether the gateway had exactly this certificate issued, revoked since or not. The error is a
	// *gateway.Error.
	Issued(ctx context.Context, cert *x509.Certificate) (bool, error)
}

// Endpoint is one configured endpoint, served at /ota/NAME.
type Endpoint struct {
	Name    string
	Default bool // served at /ota too; at most one endpoint of a Handler is
	Config  Config
}

// Options make a Handler. All are required.
type Options struct {
	Gateway   Gateway
	Endpoints []Endpoint
	// Identity returns the key and certificate by which an endpoint signs its profiles. nil while there is none; it may change.
	Identity func(endpoint string) *gateway.Identity
	// Secret is of 32 bytes or more, the same in all replicas: tokens are authenticated, and challenges made, with it.
	Secret []byte
	Clock  func() time.Time
	Log    *slog.Logger
}

// Handler serves the configured endpoints. It never changes after New and is safe for concurrent use.
type Handler struct {
	gateway   Gateway
	endpoints map[string]*endpoint
	fallback  *endpoint // for a path without a name; nil for none
	identity  func(string) *gateway.Identity
	secret    []byte
	now       func() time.Time
	log       *slog.Logger
}

// endpoint is one with the files that its configuration names.
type endpoint struct {
	Endpoint
	devices []deviceCA
	final   *finalProfile
	subject *template
	trust   []*x509.Certificate
}

// minSecret is how many bytes Options.Secret has at least.
const minSecret = 32

// New checks the endpoints, reads the files that they name, and makes a Handler. Errors name the endpoint.
func New(o Options) (*Handler, error) {
	if o.Gateway == nil || o.Identity == nil || o.Clock == nil || o.Log == nil || len(o.Secret) < minSecret {
		return nil, errors.New("mdm: gateway, identity, secret, clock and log are required")
	}
	h := &Handler{gateway: o.Gateway, endpoints: map[string]*endpoint{}, identity: o.Identity, secret: o.Secret, now: o.Clock, log: o.Log}
	var names wire.Names
	for _, e := range o.Endpoints {
		err := names.Add(e.Name, e.Default)
		var made *endpoint
		if err == nil {
			made, err = load(e)
		}
		if err == nil {
			if id := o.Identity(e.Name); id != nil {
				err = checkIdentity(id)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("mdm: endpoint %q: %w", e.Name, err)
		}
		h.endpoints[e.Name] = made
		if e.Default {
			h.fallback = made
		}
	}
	return h, nil
}

// load checks a configuration and reads its files.
func load(e Endpoint) (*endpoint, error) {
	if err := e.Config.check(); err != nil {
		return nil, err
	}
	made := &endpoint{Endpoint: e}
	made.Config = e.Config.withDefaults()
	var err error
	if made.devices, err = readDeviceCAs(made.Config); err != nil {
		return nil, fmt.Errorf("device-ca: %w", err)
	}
	if made.subject, err = parseTemplate(made.Config.SCEP.Subject, deviceValues); err != nil {
		return nil, fmt.Errorf("scep.subject: %w", err)
	}
	if made.trust, err = readCertificates(made.Config, made.Config.Trust); err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	if made.final, err = readFinalProfile(made.Config); err != nil {
		return nil, fmt.Errorf("final-profile: %w", err)
	}
	return made, nil
}

// checkIdentity tells whether an identity can sign profiles.
func checkIdentity(id *gateway.Identity) error {
	switch {
	case id.Key == nil || id.Certificate == nil:
		return errors.New("the identity that signs profiles has no key or no certificate")
	case id.Certificate.KeyUsage != 0 && id.Certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0: // absent, it allows everything (RFC 5280 section 4.2.1.3)
		return errors.New("the keyUsage of the certificate that signs profiles lacks digitalSignature")
	}
	return nil
}
