package acme

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Issue is backend.Backend.Issue: it makes an order (RFC 8555 section 7.4), and certifies nothing.
func (ca *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	c, err := ca.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := c.identifiers(r)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	client, err := c.client(ctx)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	o, err := client.AuthorizeOrder(ctx, ids)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	ticket := c.key.id + " " + o.URI
	if _, _, err := c.orderOf(ticket); err != nil || len(ticket)+len(finalizes) > backend.MaxTicket {
		return nil, backend.Refuse(codes.Internal, "the CA's order has no URL that can be asked")
	}
	c.o.Log.Info("an order", "id", r.ID, "url", o.URI, "status", o.Status)
	return &backend.Issuance{Ticket: ticket, RetryAfter: c.pace}, nil
}

// Lookup is backend.Backend.Lookup: the gateway asks it while it has recorded no ticket, and without one nothing is issued.
func (*CA) Lookup(context.Context, *backend.IssueRequest) (*backend.Outcome, error) {
	return &backend.Outcome{State: backend.OutcomeNever}, nil
}

// finalizes ends a ticket under which the order may have been finalized.
const finalizes = " finalizes"

// orderOf is the order's URL in a ticket, and whether it may have been finalized. An order can be seen by the account alone that made it.
func (c *running) orderOf(ticket string) (order string, final bool, err error) {
	ticket, final = strings.CutSuffix(ticket, finalizes)
	account, order, ok := strings.Cut(ticket, " ")
	if u, err := url.Parse(order); !ok || err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(order, " \t") {
		return "", false, backend.Refuse(codes.Unavailable, "the ticket names no order: another backend's, perhaps")
	}
	if account != c.key.id {
		return "", false, backend.Refuse(codes.Unavailable, "the order %s was made with another account key: replicas, and whoever comes after, have the same file account-key", order)
	}
	return order, final, nil
}

// maxSteps of an order in one Poll: answers, finalization, certificate.
const maxSteps = 4

// Poll is backend.Backend.Poll: it does what the order waits for (RFC 8555 section 7.1.6), any number of times and by any replica. A
// finalization that is repeated is refused with orderNotReady: there is one certificate of an order at most (section 7.4). It is sent
// under a ticket that says so, which the gateway has recorded by then.
func (ca *CA) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	c, err := ca.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	order, final, err := c.orderOf(ticket)
	if err != nil {
		return nil, err
	}
	client, err := c.client(ctx)
	if err != nil {
		return nil, c.pollFailed(ctx, err)
	}
	for range maxSteps {
		o, err := client.GetOrder(ctx, order)
		if gone(err) {
			return nil, c.swept(r, order, final, err)
		}
		if err != nil {
			return nil, c.pollFailed(ctx, err)
		}
		switch o.Status {
		case acme.StatusPending:
			asked, err := c.prove(ctx, client, o)
			if errors.Is(err, errNoChallenge) { // nobody will ever finalize it
				return nil, backend.Refuse(codes.FailedPrecondition, "%v", err)
			}
			if err != nil {
				return nil, c.pollFailed(ctx, err)
			}
			if asked {
				continue // it may be content at once
			}
		case acme.StatusReady:
			if !final {
				return &backend.Issuance{Ticket: ticket + finalizes, RetryAfter: c.pace / 10}, nil
			}
			c.cleanUp(ctx, client, o)
			issued, err := c.finalize(ctx, client, o, r.CSR)
			if err != nil {
				return nil, err
			}
			if issued != nil {
				return issued, nil
			}
			continue
		case acme.StatusValid:
			chain, err := client.FetchCert(ctx, o.CertURL, true)
			if err != nil {
				return nil, c.pollFailed(ctx, err)
			}
			return c.issuance(chain)
		case acme.StatusInvalid:
			c.cleanUp(ctx, client, o)
			why := c.why(ctx, client, o)
			c.o.Log.Warn("the order is invalid", "id", r.ID, "url", order, "why", why)
			return nil, backend.Refuse(codes.PermissionDenied, "the order is invalid: %s", why)
		}
		break
	}
	return &backend.Issuance{Ticket: ticket, RetryAfter: c.pace}, nil
}

// lag is how long an order may be unknown to a part of the CA that has not heard of it yet.
const lag = 10 * time.Minute

// gone reports whether the CA says, and not something before it, that there is no such order. RFC 8555 section 6.7 has no type for that: there
// is another type's problem, or none (pebble), and a nonce (section 6.5).
func gone(err error) bool {
	e, ok := errors.AsType[*acme.Error](err)
	return ok && e.StatusCode == http.StatusNotFound && (kind(e) != "" || e.Header.Get("Replay-Nonce") != "")
}

// swept is the error of Poll for an order that is gone: it had expired (RFC 8555 section 7.1.3), or the CA has lost it. One that was
// never finalized has led to nothing. Of another nobody can say but whoever looks at the CA: the request stands until then.
func (c *running) swept(r *backend.IssueRequest, order string, final bool, err error) error {
	switch now := c.o.Clock(); {
	case !r.Asked.IsZero() && now.Before(r.Asked.Add(lag)):
		return backend.Refuse(codes.Unavailable, "the order %s: %s", order, said(err))
	case !final:
		c.o.Log.Warn("the CA does not know the order any more", "id", r.ID, "url", order, "err", said(err))
		return backend.Refuse(codes.FailedPrecondition, "the CA does not know the order %s any more (%s). It was not finalized: nothing was issued. Enroll again", order, said(err))
	}
	c.o.Log.Error("ALARM: the CA does not know an order any more that may have led to a certificate", "id", r.ID, "url", order, "err", said(err))
	return backend.Exhausted(time.Hour, fmt.Sprintf("the CA does not know the order %s any more (%s), and it may have led to a certificate: look there for one with these names, and say what became of the request with muster settle", order, said(err)))
}

// finalizing is how long a Poll waits for the certificate of an order that it has finalized.
const finalizing = 5 * time.Second

// finalize sends the CSR. Its answers: a certificate; nil, when the order has to be looked at again; a refusal, of what the CSR says
// alone: whatever else the CA says may be another tomorrow, and an order that can lead to nothing becomes invalid.
func (c *running) finalize(ctx context.Context, client *acme.Client, o *acme.Order, csr []byte) (*backend.Issuance, error) {
	wait, cancel := context.WithTimeout(ctx, finalizing)
	defer cancel()
	chain, _, err := client.CreateCertFromOrder(wait, o, csr, true)
	switch {
	case err == nil:
		return c.issuance(chain)
	case ctx.Err() == nil && wait.Err() != nil:
		return nil, nil //nolint:nilnil // see above
	}
	if _, ended := errors.AsType[*acme.OrderError](err); ended {
		return nil, nil //nolint:nilnil // see above
	}
	problem, ok := errors.AsType[*acme.Error](err)
	if !ok {
		return nil, c.pollFailed(ctx, err)
	}
	switch kind(problem) {
	case "orderNotReady": // someone else was at it
		return nil, nil //nolint:nilnil // see above
	case "badCSR", "badPublicKey", "badSignatureAlgorithm":
		return nil, backend.Refuse(codes.InvalidArgument, "%s", said(problem))
	}
	return nil, c.pollFailed(ctx, err)
}

// prove has the CA look for the answers to its challenges (RFC 8555 section 7.5), and says whether there were any to be made.
func (c *running) prove(ctx context.Context, client *acme.Client, o *acme.Order) (asked bool, err error) {
	for _, u := range o.AuthzURLs {
		authz, err := client.GetAuthorization(ctx, u)
		if err != nil {
			return false, err
		}
		if authz.Status != acme.StatusPending {
			continue
		}
		ch, solve := c.choose(authz)
		if ch == nil {
			return false, fmt.Errorf("%w for %.100q", errNoChallenge, authz.Identifier.Value)
		}
		if ch.Status != acme.StatusPending { // it is looking
			continue
		}
		what, err := c.challengeOf(client, authz, ch)
		if err != nil {
			return false, err
		}
		if err := solve.present(ctx, what); err != nil {
			return false, err
		}
		if _, err := client.Accept(ctx, ch); err != nil {
			return false, err
		}
		asked = true
	}
	return asked, nil
}

var errNoChallenge = errors.New("the CA offers no challenge that is configured")

// choose takes the challenge that is configured; http-01 before dns-01, which changes a zone.
func (c *running) choose(authz *acme.Authorization) (*acme.Challenge, solver) {
	for _, kind := range []string{http01, dns01} {
		solve := c.solve[kind]
		if solve == nil || kind == http01 && authz.Wildcard || kind == dns01 && authz.Identifier.Type == "ip" {
			continue
		}
		for _, ch := range authz.Challenges {
			if ch.Type == kind {
				return ch, solve
			}
		}
	}
	return nil, nil
}

// cleanUp takes the answers away that nobody looks for any more. It is no matter for the certificate when it fails.
func (c *running) cleanUp(ctx context.Context, client *acme.Client, o *acme.Order) {
	for _, u := range o.AuthzURLs {
		authz, err := client.GetAuthorization(ctx, u)
		if err != nil {
			c.o.Log.Warn("the answer to a challenge stays", "order", o.URI, "err", said(err))
			continue
		}
		ch, solve := c.choose(authz)
		if ch == nil {
			continue
		}
		what, err := c.challengeOf(client, authz, ch)
		if err == nil {
			err = solve.cleanup(ctx, what)
		}
		if err != nil {
			c.o.Log.Warn("the answer to a challenge stays", "order", o.URI, "identifier", authz.Identifier.Value, "err", err)
		}
	}
}

// why is what the CA says of an order that it will not certify: often it stands in a challenge.
func (c *running) why(ctx context.Context, client *acme.Client, o *acme.Order) string {
	var all []string
	if o.Error != nil {
		all = append(all, said(o.Error))
	}
	for _, u := range o.AuthzURLs {
		authz, err := client.GetAuthorization(ctx, u)
		if err != nil || authz.Status == acme.StatusValid || len(all) > 8 {
			continue
		}
		for _, ch := range authz.Challenges {
			if ch.Error != nil {
				all = append(all, authz.Identifier.Value+": "+said(ch.Error))
			}
		}
	}
	if len(all) == 0 {
		return "it expired, perhaps"
	}
	return upstream.Line(strings.Join(all, "; "))
}
