package acme

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// Issue is backend.Backend.Issue: it makes an order (RFC 8555 section 7.4), and certifies nothing.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if err := ctx.Err(); err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%v", err)
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
	if _, err := c.orderOf(ticket); err != nil || len(ticket) > backend.MaxTicket {
		return nil, backend.Refuse(codes.Internal, "the CA's order has no URL that can be asked")
	}
	c.o.Log.Info("an order", "id", r.ID, "url", o.URI, "status", o.Status)
	return &backend.Issuance{Ticket: ticket, RetryAfter: c.o.pace}, nil
}

// Lookup is backend.Backend.Lookup: the gateway asks it while it has recorded no ticket, and without one nothing is issued.
func (c *CA) Lookup(ctx context.Context, _ *backend.IssueRequest) (*backend.Outcome, error) {
	return &backend.Outcome{State: backend.OutcomeNever}, nil
}

// orderOf is the order's URL in a ticket. An order can be seen by the account alone that made it.
func (c *CA) orderOf(ticket string) (string, error) {
	account, order, ok := strings.Cut(ticket, " ")
	if u, err := url.Parse(order); !ok || err != nil || u.Scheme != "https" || u.Host == "" {
		return "", backend.Refuse(codes.Unavailable, "the ticket names no order: another backend's, perhaps")
	}
	if account != c.key.id {
		return "", backend.Refuse(codes.Unavailable, "the order %s was made with another account key: replicas, and whoever comes after, have the same file account-key", order)
	}
	return order, nil
}

// maxSteps of an order in one Poll: answers, finalization, certificate.
const maxSteps = 4

// Poll is backend.Backend.Poll: it does what the order waits for (RFC 8555 section 7.1.6), any number of times and by any replica. A
// finalization that is repeated is refused with orderNotReady: there is one certificate of an order at most.
func (c *CA) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	order, err := c.orderOf(ticket)
	if err != nil {
		return nil, err
	}
	client, err := c.client(ctx)
	if err != nil {
		return nil, c.pollFailed(ctx, err)
	}
	for range maxSteps {
		o, err := client.GetOrder(ctx, order)
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
	return &backend.Issuance{Ticket: ticket, RetryAfter: c.o.pace}, nil
}

// finalizing is how long a Poll waits for the certificate of an order that it has finalized.
const finalizing = 5 * time.Second

// finalize sends the CSR. Its answers: a certificate; nil, when the order has to be looked at again; a refusal, of what the CSR says
// alone: whatever else the CA says may be another tomorrow, and an order that can lead to nothing becomes invalid.
func (c *CA) finalize(ctx context.Context, client *acme.Client, o *acme.Order, csr []byte) (*backend.Issuance, error) {
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
func (c *CA) prove(ctx context.Context, client *acme.Client, o *acme.Order) (asked bool, err error) {
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
func (c *CA) choose(authz *acme.Authorization) (*acme.Challenge, solver) {
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
func (c *CA) cleanUp(ctx context.Context, client *acme.Client, o *acme.Order) {
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
func (c *CA) why(ctx context.Context, client *acme.Client, o *acme.Order) string {
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
	return printable(strings.Join(all, "; "))
}
