// Package acme is the backend for a CA that speaks ACME (RFC 8555): certificates of TLS servers, for the CSR of a device as it stands.
//
// Exactly once: an order without a certificate harms nobody, and a certificate comes of an order's finalization alone, once. So Issue
// only makes an order, and its URL is the ticket; Poll, which the gateway calls when it has recorded the ticket, finalizes it. An order
// whose ticket was lost is never finalized, and expires. That is why Lookup, which the gateway asks while it has recorded no ticket, can
// say that nothing was issued, whatever became of Issue. Nothing is kept here but the account's key.
package acme

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/crypto/acme"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// Options are what the process gives.
type Options struct {
	Clock   func() time.Time // nil for time.Now
	Log     *slog.Logger     // nil for none
	Version string           // for Describe; "" for "devel"

	pace time.Duration // between polls; 0: a second. Tests do not wait
}

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o      Options
	config *Config
	http   *http.Client
	key    *accountKey
	solve  map[string]solver // by the challenge's type

	account chan *acme.Client // holds one: nil before the account is known
}

var _ backend.Backend = (*CA)(nil)

// New makes a backend that is not configured yet.
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
	if o.pace == 0 {
		o.pace = time.Second
	}
	return &CA{o: o}
}

// Validate is backend.Backend.Validate.
func (c *CA) Validate(_ context.Context, config []byte) error {
	if _, err := parseConfig(config); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

// Configure is backend.Backend.Configure. It makes the account's key where there is none, and does not ask the CA: one that is down
// keeps no gateway from starting.
func (c *CA) Configure(_ context.Context, config []byte) error {
	full, err := parseConfig(config)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	client, err := full.New()
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if full.ExternalAccount != nil {
		if _, err := full.ExternalAccount.secret(); err != nil {
			return backend.Refuse(codes.InvalidArgument, "external-account: %v", err)
		}
	}
	if _, err := readAuthorities(full.Chain); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	solve, err := full.solvers(c.o.Log)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	key, err := openAccountKey(full.AccountKey)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "account-key: %v", err)
	}
	bounded := *client.HTTP()
	bounded.Transport = boundedTransport{bounded.Transport}
	c.config, c.http, c.key, c.solve, c.account = full, &bounded, key, solve, make(chan *acme.Client, 1)
	c.account <- nil
	return nil
}

// Describe is backend.Backend.Describe. The order of names, and whether the first becomes the common name, is the CA's, as are dates and
// usages.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name: "acme", Version: c.o.Version, Forms: []backend.Form{backend.FormPKCS10},
		Decides:     []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage},
		Idempotency: backend.IdempotencyLookup, Capabilities: []backend.Capability{backend.CapPoll, backend.CapRevoke},
	}, nil
}

// maxAnswer bounds a body, in bytes: the library reads what comes.
const maxAnswer = 1 << 20

// boundedTransport cuts answers off.
type boundedTransport struct{ http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxAnswer), res.Body}
	}
	return res, err
}

// nonces is how often a request is sent again whose nonce the CA did not take (RFC 8555 section 6.5).
const nonces = 10

// again is acme.Client.RetryBackoff: a bad nonce is tried at once; whatever else the CA refuses is for the gateway to try.
func again(n int, _ *http.Request, res *http.Response) time.Duration {
	if res.StatusCode >= 400 && res.StatusCode < 500 && res.StatusCode != http.StatusTooManyRequests && n <= nonces {
		return time.Millisecond
	}
	return 0
}

// client is the CA's, with the account known: registered by the first who asks, found by all later ones (RFC 8555 section 7.3).
func (c *CA) client(ctx context.Context) (*acme.Client, error) {
	select {
	case have := <-c.account:
		if have == nil {
			var err error
			if have, err = c.register(ctx); err != nil {
				c.account <- nil
				return nil, err
			}
		}
		c.account <- have
		return have, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget has the account be looked for again: the CA does not know it any more.
func (c *CA) forget() {
	<-c.account
	c.account <- nil
}

func (c *CA) register(ctx context.Context) (*acme.Client, error) {
	client := &acme.Client{Key: c.key, HTTPClient: c.http, DirectoryURL: c.config.URL, RetryBackoff: again, UserAgent: "muster/" + c.o.Version}
	dir, err := client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	have, err := client.GetReg(ctx, "")
	if err == nil {
		if have.Status != "" && have.Status != acme.StatusValid {
			return nil, backend.Refuse(codes.FailedPrecondition, "the account %s is %s: give account-key another file", have.URI, have.Status)
		}
		client.KID = acme.KeyID(have.URI)
		return client, nil
	}
	if err != acme.ErrNoAccount {
		return nil, err
	}
	want := &acme.Account{Contact: c.config.Contact}
	switch {
	case dir.Terms != "" && !c.config.TermsAgreed:
		return nil, backend.Refuse(codes.FailedPrecondition, "the CA has terms of service, %.200s: read them, and say `terms-agreed: true`", printable(dir.Terms))
	case dir.ExternalAccountRequired && c.config.ExternalAccount == nil:
		return nil, backend.Refuse(codes.FailedPrecondition, "the CA binds accounts to its customers' (RFC 8555 section 7.3.4): say `external-account`")
	case c.config.ExternalAccount != nil:
		secret, err := c.config.ExternalAccount.secret()
		if err != nil {
			return nil, backend.Refuse(codes.FailedPrecondition, "external-account: %v", err)
		}
		want.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: c.config.ExternalAccount.KID, Key: secret}
	}
	if _, err := client.Register(ctx, want, acme.AcceptTOS); err != nil && err != acme.ErrAccountAlreadyExists {
		return nil, err
	}
	c.o.Log.Info("an account at the CA", "url", string(client.KID))
	return client, nil
}
