package gateway

import (
	"context"
	"errors"
	"slices"
)

// Poll answers a protocol's question after an earlier request (SCEP CertPoll), found by r.WireID at r.Endpoint: its
// certificate, pending, or the refusal that it ended with. Only its own requester is answered: a credential of r that is
// proven has to be one of the transaction's; of several transactions with that ID it is the requester's own. Anyone else is
// told what somebody is told who asks after nothing: UnknownCert. Nothing is judged anew, and nothing is issued. The error is an *Error.
func (g *Gateway) Poll(ctx context.Context, r *Request) (*Result, error) {
	return g.answer(ctx, r, g.poll)
}

func (g *Gateway) poll(ctx context.Context, r *Request, d *decision) (*Result, error) {
	if _, err := d.at(g.runtime.Load()); err != nil {
		return nil, err
	}
	var proven []string
	for _, c := range r.Credentials {
		if c.Proven() {
			proven = append(proven, c.String())
		}
	}
	t, err := g.store.AskedUnder(ctx, r.Endpoint, r.WireID, proven)
	if err == nil && t.State.Open() {
		t, err = g.settledOrNot(ctx, t.ID)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, Errorf(UnknownCert, "no such request", "nobody with the credentials of this message has asked for anything under this transaction ID")
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	case !slices.ContainsFunc(proven, func(c string) bool { return slices.Contains(t.Credentials, c) }):
		return nil, Errorf(UnknownCert, "no such request", "transaction %s is another requester's", t.ID)
	}
	res, err := g.replay(t)
	switch {
	case err != nil:
		g.Heard(t.ID, "poll", "denied", r.Source)
		return nil, notGivenAgain(err)
	case res != nil:
		g.Heard(t.ID, "poll", string(res.Kind), r.Source)
		d.note = "asks after " + t.ID
		return res, nil
	}
	g.Heard(t.ID, "poll", string(t.State), r.Source)
	switch t.State {
	case StateFailed, StateRefused:
		return nil, &Error{Reason: orDefault(t.Reason, NotAuthorized), Detail: "the request was refused", Err: errors.New("transaction " + t.ID + ": " + t.Note)}
	}
	return nil, Errorf(Revoked, "the certificate is no longer valid", "transaction %s is %s", t.ID, t.State)
}

// DerivesSubject reports whether the endpoint's profile with the name gives a subject whatever is asked for, so that a request
// needs none; for "" whether one of those that it offers does, since a stage may choose that one for the device.
func (g *Gateway) DerivesSubject(endpoint, profile string) bool {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return false
	}
	derives := func(p *Profile) bool { return p != nil && p.Shaper != nil && p.Shaper.DerivesSubject() }
	if profile == "" {
		for _, p := range e.Profiles {
			if derives(p) {
				return true
			}
		}
	}
	return derives(e.offers(profile))
}
