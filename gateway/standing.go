package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// stands says why a held request cannot be approved as things are now, nil when it can. What the pipeline judged is not
// judged again, and the profile does not shape it anew: what is approved is what was held. But days may have passed, and
// what would be issued has to be something that this gateway issues still: at an endpoint and of a profile that are
// configured, by the same CA, and passing the profile's lints; to a device whose entry counts still; and not in the
// place of a certificate that was revoked. That one only expired meanwhile is no obstacle: who asked had proved in time who
// it was, and it was us who were slow.
//
// The request stays held: the operator denies it, or mends what is wrong.
func (g *Gateway) stands(ctx context.Context, rt *Runtime, t *Transaction, intent *backend.IssueRequest, now time.Time) *Error {
	ctx, cancel := context.WithTimeout(ctx, g.opt.CheckTimeout)
	defer cancel()
	e := rt.Endpoints[t.Endpoint]
	if e == nil {
		return mayNot("the endpoint %s of the request is no longer configured", t.Endpoint)
	}
	p := e.offers(t.Profile)
	if p == nil {
		return mayNot("the endpoint %s no longer offers the profile %s", t.Endpoint, t.Profile)
	}
	if rt.Backends[t.Backend] == nil || rt.descriptions[t.Backend] == nil {
		return unavailable("the CA of the request is no longer configured", fmt.Errorf("%w: %s", errNoBackend, t.Backend))
	}
	if r, ok := p.route(t.Backend); !ok || r.Issuer != intent.Issuer {
		return mayNot("the profile %s is now another CA's than when the request was held", t.Profile)
	}
	if !intent.Template.NotAfter.After(now) {
		return mayNot("the request asks for a certificate until %s, which is over", intent.Template.NotAfter.UTC().Format(time.RFC3339))
	}
	if err := g.deviceStands(ctx, t, now); err != nil {
		return err
	}
	if err := g.replacedStands(ctx, t); err != nil {
		return err
	}
	return g.lintBefore(ctx, rt, p, t.Backend, intent.Issuer, &intent.Template)
}

// mayNot is why a held request cannot be approved, for the operator.
func mayNot(format string, args ...any) *Error {
	why := fmt.Sprintf(format, args...)
	return &Error{Reason: NotAuthorized, Detail: "it cannot be approved: " + why + "; the request stays held", Err: errors.New(why)}
}

// deviceStands looks the device up again that a stage had found in the inventory.
func (g *Gateway) deviceStands(ctx context.Context, t *Transaction, now time.Time) *Error {
	basis := t.basis()
	name := basis.Entry
	if name == "" {
		return nil
	}
	d, err := g.store.Device(ctx, "name", name)
	switch {
	case errors.Is(err, ErrNotFound):
		return mayNot("the device %s is no longer in the inventory", name)
	case err != nil:
		return unavailable("the inventory cannot be read", err)
	}
	if fault := d.Fault(t.Endpoint, now); fault != "" {
		return mayNot("the device %s %s", name, fault)
	}
	if len(d.Profiles) > 0 && !slices.Contains(d.Profiles, t.Profile) {
		return mayNot("the device %s may no longer have the profile %s", name, t.Profile)
	}
	if id := basis.Registered; id != nil && !slices.Contains(d.Identifiers, *id) {
		return mayNot("the entry of device %s no longer registers the %s %s", name, id.Kind, id.Value)
	}
	return nil
}

// replacedStands looks the certificate up again that a renewal was asked with.
func (g *Gateway) replacedStands(ctx context.Context, t *Transaction) *Error {
	r := t.basis().Replaces
	if r == nil {
		return nil
	}
	c, err := g.store.Certificate(ctx, r.Issuer, r.Serial)
	switch {
	case errors.Is(err, ErrNotFound):
		return mayNot("the certificate %x that it renews is not known any more", r.Serial)
	case err != nil:
		return unavailable("the store cannot be read", err)
	case !c.RevokedAt.IsZero():
		return mayNot("the certificate %x that it renews was revoked at %s", r.Serial, c.RevokedAt.UTC().Format(time.RFC3339))
	case c.State != StateIssued:
		return mayNot("the certificate %x that it renews is %s", r.Serial, c.State)
	}
	return nil
}
