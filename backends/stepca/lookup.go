package stepca

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// clockSlack is by how much older than Asked the token of a Lookup says to be: the call that it asks about was made before.
const clockSlack = 2 * time.Minute

// Lookup finds out whether the request reached the CA, by using up its jti with a token that nothing can be signed by. step-ca records a
// jti before it looks at anything else of a token (authority.authorizeToken), in its database for good.
//
//   - The jti was new: the request never reached the CA, and from now on it is refused there. `never`.
//   - It was used: the certificate was made, is being made, or was refused. It is asked for again by a fresh token. The same
//     issuing key, serial number, dates and content make the same certificate, byte for byte: `issued`.
//
// Without a database a CA that started anew has forgotten the jti. It refuses tokens from before its start, and the one here is: its
// request is asked for again, which is the same certificate too.
func (c *CA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	run, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	if run.describe.Idempotency != backend.IdempotencyLookup {
		return nil, backend.Refuse(codes.Unimplemented, "step-ca cannot say what became of a request")
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	v, err := run.look(ctx)
	if err != nil {
		return nil, reached(err)
	}
	if len(r.CSR) == 0 {
		return nil, backend.Refuse(codes.InvalidArgument, "no PKCS#10 request")
	}
	q, refusal := v.prepare(r, run.config.Template)
	at := c.o.Clock()
	if !r.Asked.IsZero() && r.Asked.Before(at) {
		at = r.Asked.Add(-clockSlack)
	}
	fresh, err := c.useUp(ctx, run, r, tokenID(r.ID), at)
	if err != nil {
		return nil, err
	}
	if fresh {
		if again, err := c.useUp(ctx, run, r, tokenID(r.ID), at); err != nil || again {
			return nil, backend.Refuse(codes.Unavailable, "step-ca does not remember the tokens that it has seen (%v)", err)
		}
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	switch {
	case refusal != nil:
		return nil, backend.Refuse(codes.Unavailable, "step-ca has had this request, and it cannot be asked for again: %v", refusal)
	case run.foreign.Load():
		return nil, backend.Refuse(codes.FailedPrecondition, "%s", foreignText)
	case !v.repeats():
		return nil, backend.Refuse(codes.Unavailable, "step-ca has had this request, and its issuing key has changed to one whose signatures differ each time: look for serial number %s at the CA", q.content.SerialNumber)
	case !r.Asked.IsZero() && v.chain[0].NotBefore.After(r.Asked): // a repeat would be another issuer's, and a second one
		return nil, backend.Refuse(codes.Unavailable, "step-ca has had this request, and its issuing certificate is from after that: look at the CA for what the former one issued")
	}
	a, err := c.sign(ctx, run, r, q, freshID())
	if err != nil {
		return nil, err
	}
	issuance, err := c.signed(ctx, run, q, a)
	if err != nil {
		return nil, err
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: issuance}, nil
}

// useUp uses up a jti by a good token from which nothing can be signed: it is bound to another PKCS#10, has no content for the template, and asks
// for dates in the past. It reports whether the jti was new: whatever is refused after the token was taken is 400 or 403, and 401 before
// it, which is a jti that was used, a token from before the CA's start, or a provisioner that has another key. step-ca tells
// these apart in its log only.
func (c *CA) useUp(ctx context.Context, run *running, r *backend.IssueRequest, jti string, at time.Time) (fresh bool, err error) {
	token, err := run.signer.sign(&claims{
		Issuer: run.signer.name, Subject: "muster", Audience: run.audience("sign"), ID: jti, IssuedAt: at.Unix(),
		Expires: c.o.Clock().Add(lifetime).Unix(), Confirm: &cnf{Fingerprint: base64.RawURLEncoding.EncodeToString(make([]byte, 32))},
	})
	if err != nil {
		return false, backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	past := *r
	past.Template.NotBefore, past.Template.NotAfter = time.Unix(0, 0), time.Unix(1, 0)
	a, err := run.post(ctx, "/1.0/sign", token, signBody(&past, token))
	switch {
	case err != nil:
		return false, err
	case a.Status == http.StatusUnauthorized:
		return false, nil
	case a.Status == http.StatusForbidden || a.Status == http.StatusBadRequest:
		return true, nil
	}
	return false, backend.Refuse(codes.Unavailable, "HTTP %d to a token that asks for nothing: %s", a.Status, message(a))
}
