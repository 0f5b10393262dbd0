package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// SettleStuck ends a transaction of which nobody but the operator knows what became, because its CA cannot be asked (StateStuck) or does
// not say (StateUnknown, StateWaiting), or has yet to be asked (StateQueued; got is nil then), with what he found in the CA's own records: the certificate that was issued, DER, its chain in got where it is not one of the backend's CAs; or nil: nothing was
// issued, and nothing will be. The certificate has to be what was asked for, as if the CA had answered with it; then the device
// gets it when it asks again. After a nil the request has failed, what it had used up is given back, and the device may ask anew.
//
// The error is an *Error: UnknownCert when there is no such transaction; NotAuthorized, wrapping ErrStale, when it is none of these, or the
// CA is just being asked; BadTemplate when the certificate is another one, Unavailable when that cannot be told, with nothing changed.
func (g *Gateway) SettleStuck(ctx context.Context, id string, got *backend.Issuance, actor, note string) (*Transaction, error) {
	t, err := g.store.Transaction(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, &Error{Reason: UnknownCert, Detail: "no such transaction", Err: err}
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	case t.State == StateQueued && t.Intent != nil && got == nil: // which is so, and ends it
	case t.Intent == nil || !slices.Contains([]State{StateStuck, StateUnknown, StateWaiting}, t.State):
		return nil, &Error{Reason: NotAuthorized, Detail: "what became of it is known: it is " + string(t.State), Err: ErrStale}
	}
	w := g.worksFor(t)
	rt := w.runtime.Load()
	a := &ask{t: t, backend: rt.Backends[t.Backend], desc: rt.descriptions[t.Backend], actor: actor, note: note}
	failure := error(nil)
	if got == nil {
		failure = backend.Refuse(codes.FailedPrecondition, "%s", byHand("nothing was issued", a))
	} else {
		var wrong *Error
		if got, wrong = w.foundByHand(ctx, a, got); wrong != nil {
			return nil, wrong
		}
		if t.ConfirmWait > 0 { // its requester has stopped asking, maybe
			t.ConfirmWait = max(t.ConfirmWait, heldConfirmWait)
		}
	}
	if t.State != StateStuck {
		if a.epoch, err = g.store.LeaseWork(ctx, id, g.lease()); errors.Is(err, ErrStale) {
			return nil, &Error{Reason: NotAuthorized, Detail: "the CA is being asked just now: try again", Err: err}
		} else if err != nil {
			return nil, unavailable("the outcome cannot be recorded", err)
		}
	}
	if t.State == StateQueued { // its turn may have come meanwhile
		if now, err := g.store.Transaction(ctx, id); err != nil || now.State != StateQueued {
			return nil, &Error{Reason: NotAuthorized, Detail: "the CA was asked just now: see what became of it", Err: errors.Join(ErrStale, err)}
		}
	}
	if _, _, err := w.settle(ctx, a, got, failure); err != nil {
		switch {
		case errors.Is(err, ErrStale):
			return nil, &Error{Reason: NotAuthorized, Detail: "what became of it is known meanwhile", Err: ErrStale}
		case errors.Is(err, ErrCertificateExists):
			return nil, notAskedFor(err)
		}
		return nil, unavailable("the outcome cannot be recorded", err)
	}
	g.log.Info("settled by hand", "id", id, "backend", t.Backend, "issued", got != nil, "actor", actor, "note", note)
	if t, err = g.store.Transaction(ctx, id); err != nil {
		return nil, unavailable("the outcome is recorded; the store cannot be read", err)
	}
	return t, nil
}

// notAskedFor is the error of a certificate that cannot be what an operator looked for. Nothing is changed.
func notAskedFor(why error) *Error {
	return &Error{Reason: BadTemplate, Detail: "it is not the certificate that was asked for: " + why.Error(), Err: why}
}

// foundByHand is the issuance whole, held against the intent and its CA: a wrong file must not revoke another's certificate.
func (g *Gateway) foundByHand(ctx context.Context, a *ask, got *backend.Issuance) (*backend.Issuance, *Error) {
	noCA := func(err error) *Error {
		return unavailable("what the CA's own certificates are is not known: "+err.Error(), err)
	}
	if len(got.Chain) == 0 {
		known := g.runtime.Load().authorities[a.t.Backend]
		if known == nil {
			return nil, noCA(fmt.Errorf("%w: %s", errNoBackend, a.t.Backend))
		}
		ca, err := known.authority(ctx, a.t.Intent.Issuer)
		if err != nil {
			return nil, noCA(err)
		}
		whole := &backend.Issuance{Certificate: got.Certificate}
		for _, c := range ca.Chain {
			whole.Chain = append(whole.Chain, c.Raw)
		}
		got = whole
	}
	leaf, chain, err := g.compare(a.t.Intent, a.decides(), got)
	if err != nil {
		return nil, notAskedFor(err)
	}
	switch foreign, unknown := g.ofItsCA(ctx, a, chain); {
	case unknown != nil:
		return nil, noCA(unknown)
	case foreign != nil:
		return nil, notAskedFor(foreign)
	}
	switch c, err := g.store.Certificate(ctx, leaf.RawIssuer, leaf.SerialNumber.Bytes()); {
	case err == nil:
		return nil, notAskedFor(fmt.Errorf("transaction %s has it", c.Transaction))
	case !errors.Is(err, ErrNotFound):
		return nil, unavailable("the store cannot be read", err)
	}
	return got, nil
}

// byHand is the note of an outcome that an operator found.
func byHand(what string, a *ask) string {
	text := what + ", says " + a.actor
	if a.note != "" {
		text += ": " + a.note
	}
	return text
}
