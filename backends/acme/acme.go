// Package acme is the backend for a CA that speaks ACME (RFC 8555): certificates of TLS servers, for the CSR of a device as it stands.
//
// Exactly once: an order without a certificate harms nobody, and a certificate comes of an order's finalization alone, once. So Issue
// only makes an order, and its URL is the ticket; Poll, which the gateway calls when it has recorded the ticket, finalizes it. An order
// whose ticket was lost is never finalized, and expires. That is why Lookup, which the gateway asks while it has recorded no ticket, can
// say that nothing was issued, whatever became of Issue. The ticket also says whether a finalization may have been sent: that tells of an
// order that the CA does not know any more whether it can have led to a certificate. Nothing is kept here but the account's key.
package acme

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"golang.org/x/crypto/acme"
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
	pace    time.Duration // between polls. Tests do not wait
	running frame.Once[running]
}

// running is what Configure makes.
type running struct {
	o      Options
	pace   time.Duration
	config *Config
	http   *http.Client
	key    *accountKey
	solve  map[string]solver // by the challenge's type

	account chan *acme.Client // holds one: nil before the account is known
}

var _ backend.Backend = (*CA)(nil)

// New makes a backend that is not configured yet.
func New(o Options) *CA { return &CA{o: o.Filled(), pace: time.Second} }

// Validate is backend.Backend.Validate.
func (c *CA) Validate(_ context.Context, config []byte) error {
	_, err := frame.Parsed(parseConfig(config))
	return err
}

// Configure is backend.Backend.Configure. It makes the account's key where there is none, and does not ask the CA: one that is down
// keeps no gateway from starting.
func (c *CA) Configure(_ context.Context, config []byte) error {
	full, err := frame.Parsed(parseConfig(config))
	if err != nil {
		return err
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
	r := &running{o: c.o, pace: c.pace, config: full, key: key, solve: solve, account: make(chan *acme.Client, 1)}
	r.http = &http.Client{Transport: transport{client}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r.account <- nil
	return c.running.Set(r)
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

// maxAnswer bounds a body, in bytes.
const maxAnswer = 1 << 20

// transport has the library ask by upstream.Client: answers are bounded, and errors say whether anybody was asked. Connections are kept
// (no upstream.Config.Once): any request may be sent again. An order whose answer was lost is never finalized, and of one that was
// finalized the state says so (RFC 8555 section 7.1.6), where a connection for each of an order's dozen requests would be felt.
type transport struct{ client *upstream.Client }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := t.client.Do(r.Context(), r, maxAnswer)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(a.Status), StatusCode: a.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.Header, Body: io.NopCloser(bytes.NewReader(a.Body)), ContentLength: int64(len(a.Body)), Request: r,
	}, nil
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
func (c *running) client(ctx context.Context) (*acme.Client, error) {
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
func (c *running) forget() {
	<-c.account
	c.account <- nil
}

func (c *running) register(ctx context.Context) (*acme.Client, error) {
	client := &acme.Client{Key: c.key, HTTPClient: c.http, DirectoryURL: c.config.URL, RetryBackoff: again, UserAgent: "muster/" + c.o.Version}
	dir, err := client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	have, err := client.GetReg(ctx, "")
	if err == nil {
		if have.Status != "" && have.Status != acme.StatusValid {
			return nil, backend.Refuse(codes.FailedPrecondition, "the account %s is %s: give account-key another file", upstream.Line(have.URI), upstream.Line(have.Status))
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
		return nil, backend.Refuse(codes.FailedPrecondition, "the CA has terms of service, %s: read them, and say `terms-agreed: true`", upstream.Line(dir.Terms))
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
