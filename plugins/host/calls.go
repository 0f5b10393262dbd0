package host

import (
	"context"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

var (
	_ backend.Backend   = (*Plugin)(nil)
	_ backend.CMSSigner = (*Plugin)(nil)
	_ backend.Exchanger = (*Plugin)(nil)
	_ backend.Roller    = (*Plugin)(nil)
	_ backend.KeyHolder = (*Plugin)(nil)

	_ backend.OCSPResponder = (*Plugin)(nil)
)

// call makes one call: deadline, wait for the plugin, hooks. A call whose plugin dies under it fails with
// UNAVAILABLE at once.
func call[T any](p *Plugin, ctx context.Context, method string, fn func(ctx context.Context, api *backend.Client) (T, error)) (T, error) {
	return called(p, ctx, method, false, fn)
}

// called is call, past a Hold if it says so.
func called[T any](p *Plugin, ctx context.Context, method string, past bool, fn func(ctx context.Context, api *backend.Client) (T, error)) (out T, err error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.cfg.CallTimeout)
		defer cancel()
	}
	start := p.cfg.Clock()
	ctx, end := p.cfg.OnBegin(ctx, p.cfg.Name, method)
	defer func() {
		end(status.Code(err))
		p.cfg.OnCall(p.cfg.Name, method, status.Code(err), p.cfg.Clock().Sub(start))
	}()
	i, err := p.acquire(ctx, past)
	if err != nil {
		return out, err
	}
	defer p.release()
	out, err = fn(ctx, i.api)
	switch {
	case err == nil:
		i.served.Store(true)
	case i.isBroken() && ctx.Err() == nil && !backend.Definite(err):
		// Whatever gRPC made of the end of its connection. A refusal arrived whole before it.
		err = status.Errorf(codes.Unavailable, "%s (the plugin died)", status.Convert(err).Message())
	case ctx.Err() == nil: // the process lives, and said no
		i.served.Store(true)
	}
	return out, err
}

// done is the result of a call that has none.
type done = struct{}

// Validate is Backend.Validate, by the plugin that runs.
func (p *Plugin) Validate(ctx context.Context, config []byte) error {
	_, err := call(p, ctx, "Validate", func(ctx context.Context, api *backend.Client) (done, error) {
		return done{}, api.Validate(ctx, config)
	})
	return err
}

// Configure is Backend.Configure. It is refused: Start has done it.
func (p *Plugin) Configure(context.Context, []byte) error {
	return status.Errorf(codes.FailedPrecondition, "%s: the plugin has been configured by its host", p.cfg.Name)
}

// Describe is Backend.Describe, answered from what the plugin said at its start.
func (p *Plugin) Describe(context.Context) (*backend.Description, error) { return p.Description(), nil }

// CACertificates is Backend.CACertificates.
func (p *Plugin) CACertificates(ctx context.Context) ([]backend.CA, error) {
	return call(p, ctx, "CACertificates", func(ctx context.Context, api *backend.Client) ([]backend.CA, error) {
		return api.CACertificates(ctx)
	})
}

// Issue is Backend.Issue.
func (p *Plugin) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	issuance, err := call(p, ctx, "Issue", func(ctx context.Context, api *backend.Client) (*backend.Issuance, error) {
		return api.Issue(ctx, r)
	})
	p.noteAbility(err)
	return issuance, err
}

// Lookup is Backend.Lookup.
func (p *Plugin) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	return call(p, ctx, "Lookup", func(ctx context.Context, api *backend.Client) (*backend.Outcome, error) {
		return api.Lookup(ctx, r)
	})
}

// Poll is Backend.Poll.
func (p *Plugin) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	return call(p, ctx, "Poll", func(ctx context.Context, api *backend.Client) (*backend.Issuance, error) {
		return api.Poll(ctx, r, ticket)
	})
}

// Revoke is Backend.Revoke.
func (p *Plugin) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	_, err := call(p, ctx, "Revoke", func(ctx context.Context, api *backend.Client) (done, error) {
		return done{}, api.Revoke(ctx, r)
	})
	return err
}

// CRL is Backend.CRL.
func (p *Plugin) CRL(ctx context.Context, issuer string, w io.Writer) error {
	_, err := call(p, ctx, "CRL", func(ctx context.Context, api *backend.Client) (done, error) {
		return done{}, api.CRL(ctx, issuer, w)
	})
	return err
}

// SignCMS is CMSSigner.SignCMS.
func (p *Plugin) SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error) {
	return call(p, ctx, "SignCMS", func(ctx context.Context, api *backend.Client) ([]byte, error) {
		return api.SignCMS(ctx, issuer, content)
	})
}

// OCSP is OCSPResponder.OCSP.
func (p *Plugin) OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error) {
	return call(p, ctx, "OCSP", func(ctx context.Context, api *backend.Client) ([]byte, error) {
		return api.OCSP(ctx, issuer, request)
	})
}

// Exchange is Exchanger.Exchange.
func (p *Plugin) Exchange(ctx context.Context, id string, message []byte) ([]byte, error) {
	return call(p, ctx, "Exchange", func(ctx context.Context, api *backend.Client) ([]byte, error) {
		return api.Exchange(ctx, id, message)
	})
}

// Rollover is Roller.Rollover.
func (p *Plugin) Rollover(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
	return call(p, ctx, "Rollover", func(ctx context.Context, api *backend.Client) (*backend.CA, error) {
		return api.Rollover(ctx, r)
	})
}

// PublicKey is KeyHolder.PublicKey.
func (p *Plugin) PublicKey(ctx context.Context, label string) ([]byte, error) {
	return call(p, ctx, "PublicKey", func(ctx context.Context, api *backend.Client) ([]byte, error) {
		return api.PublicKey(ctx, label)
	})
}

// Sign is KeyHolder.Sign.
func (p *Plugin) Sign(ctx context.Context, r *backend.SignRequest) ([]byte, error) {
	return call(p, ctx, "Sign", func(ctx context.Context, api *backend.Client) ([]byte, error) {
		return api.Sign(ctx, r)
	})
}

// Decrypt is KeyHolder.Decrypt.
func (p *Plugin) Decrypt(ctx context.Context, r *backend.DecryptRequest) ([]byte, error) {
	return call(p, ctx, "Decrypt", func(ctx context.Context, api *backend.Client) ([]byte, error) {
		return api.Decrypt(ctx, r)
	})
}
