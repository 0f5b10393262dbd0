package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Recognised is who asks, as an endpoint's query pipeline has found.
type Recognised struct {
	Requester   string       // what it authenticated by
	Device      string       // its one name; never ""
	Inventory   *Device      // its entry, nil when no stage looked it up; nobody changes it
	Certificate *Certificate // the certificate of ours that it has shown to be its own, in force and issued to this device; nil for none
}

// Recognise has the endpoint's query pipeline say which device asks, and answer make what it is told: its words go into
// Result.Answer, its note into the log. A request that no stage names a device for is refused, and so is one by a certificate of
// ours that was issued to no device in particular: it would be good for any. Nothing is stored of an answer. The error is always
// an *Error; one of answer refuses the request.
func (g *Gateway) Recognise(ctx context.Context, r *Request, answer func(context.Context, *Recognised) (told []byte, note string, err error)) (*Result, error) {
	return g.answer(ctx, r, func(ctx context.Context, r *Request, d *decision) (*Result, error) {
		out, err := g.permit(ctx, r, d)
		if err != nil {
			return nil, err
		}
		who, err := g.recognised(ctx, d.grant, out)
		var told []byte
		var note string
		if err == nil {
			told, note, err = answer(ctx, who)
		}
		if err != nil {
			refusal := AsError(err)
			if refusal.Reason == Unavailable || refusal.Reason == Internal {
				return nil, refusal
			}
			return nil, g.refuseAfter(ctx, d, "query", refusal)
		}
		d.note = note
		return &Result{Kind: ResultAnswer, Transaction: r.ID, Answer: told}, nil
	})
}

// recognised is what the pipeline has found, when that is one device.
func (g *Gateway) recognised(ctx context.Context, grant *Grant, out *ruling) (*Recognised, error) {
	if err := known(grant, out); err != nil {
		return nil, err
	}
	if grant.Device == "" {
		return nil, Errorf(NotAuthorized, "the device is not known", "the stages allowed it without saying which device asks: add `inventory`")
	}
	who := &Recognised{Requester: grant.Requester, Device: grant.Device, Inventory: grant.Inventory}
	if grant.Owned == nil {
		return who, nil
	}
	c, err := g.store.Certificate(ctx, grant.Owned.Issuer, grant.Owned.Serial)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, Errorf(Untrusted, "the certificate was not issued here", "certificate %x is not among those issued here", grant.Owned.Serial)
	case err != nil:
		return nil, unavailable("the store cannot be read", err)
	case c.Device == "":
		return nil, Errorf(NotAuthorized, "the certificate is no device's", "certificate %x was issued to no device in particular (transaction %s)", c.Serial, c.Transaction)
	case !c.inForce(g.now()):
		return nil, Errorf(Revoked, "the certificate is not in force", "certificate %x is not in force (transaction %s)", c.Serial, c.Transaction)
	}
	who.Certificate = c
	return who, nil
}

// IssueChallenge makes a secret a challenge, as c says; ID, Hash and Created are filled in here. Where the same one stands
// already, it stays as it is, and is good again for nothing that it was not good for: one that has expired, was used up, or is
// for something else is refused with NotAuthorized. The error is an *Error.
func (g *Gateway) IssueChallenge(ctx context.Context, secret Secret, c IssuedChallenge) error {
	sum := sha256.Sum256(secret)
	c.ID, c.Hash, c.Created = hex.EncodeToString(sum[:8]), sum[:], g.now()
	stands, err := g.store.Challenge(ctx, c.Hash)
	if errors.Is(err, ErrNotFound) {
		event := AuditEvent{
			Kind: "challenge-made", At: c.Created, Actor: c.By, Endpoint: c.Endpoint, Device: c.Device, Subject: c.Subject,
			Note: fmt.Sprintf("challenge %s, good for %d until %s", c.ID, c.Uses, c.NotAfter.UTC().Format(time.RFC3339)),
		}
		failed := g.store.PutChallenge(ctx, &c, event)
		if failed == nil {
			return nil
		}
		if errors.Is(failed, ErrUnaudited) {
			return unavailable("the challenge cannot be recorded", failed)
		}
		if stands, err = g.store.Challenge(ctx, c.Hash); err != nil { // else a twin of the request made it meanwhile
			err = failed
		}
	}
	if err != nil {
		return unavailable("the challenge cannot be recorded", err)
	}
	uses, err := g.store.Uses(ctx, []string{stands.Key()})
	const over = "this request has been answered, and what it was given is used up: begin again"
	switch {
	case err != nil:
		return unavailable("the store cannot be read", err)
	case stands.Endpoint != c.Endpoint || stands.Device != c.Device || stands.Subject != c.Subject || stands.Profile != c.Profile:
		return Errorf(NotAuthorized, over, "challenge %s stands already, for another device, subject, profile or endpoint", c.ID)
	case c.Created.After(stands.NotAfter):
		return Errorf(NotAuthorized, over, "challenge %s, which this request was given before, expired at %s", c.ID, stands.NotAfter.UTC().Format(time.RFC3339))
	case uses[stands.Key()] >= stands.Uses:
		return Errorf(NotAuthorized, over, "challenge %s, which this request was given before, has been used", c.ID)
	}
	return nil
}
