package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"time"
)

// repeatKey is what two requests share when one is the other again: endpoint, operation, wire ID, requester, content.
// "" when the adapter gave no content, or nothing says who asks: then no request is another's repeat.
//
// Of two that ask for a key, that is the same kind of key, if it is not kept, and never one that is: what is given again of the one
// is of no use to the other.
func repeatKey(r *Request) RepeatKey { return keyOf(r, "", r.WireID, r.Content) }

// resumeKey is what two requests share when one asks in a new exchange for what the other was never seen to get.
func resumeKey(r *Request) RepeatKey { return keyOf(r, "resume", "", r.Resume) }

// keys are a request's, which are hashes over all of the message: computed once.
type keys struct{ repeat, resume RepeatKey }

func keysOf(r *Request) keys { return keys{repeatKey(r), resumeKey(r)} }

func keyOf(r *Request, kind, wireID string, content []byte) RepeatKey {
	if len(content) == 0 || len(r.Credentials) == 0 {
		return ""
	}
	// A challenge is left out: once spent it authenticates nobody, and the signer of the message is there beside it. So is who
	// passed the message on.
	var who []string
	for _, c := range r.Credentials {
		if c.Kind != CredentialChallenge && c.Kind != CredentialNested {
			who = append(who, c.String())
		}
	}
	sort.Strings(who)
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	operation := r.Operation
	if operation == Rekey {
		// By a password alone the same request is a rekey at first, and a renewal once its certificate is the newest.
		operation = Renew
	}
	for _, s := range []string{r.Endpoint, string(operation), wireID} {
		part([]byte(s))
	}
	if kind != "" {
		part([]byte(kind)) // one part more than a repeat key has
	}
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(who))))
	for _, s := range who {
		part([]byte(s))
	}
	part(content)
	if r.KeyGen.bare() {
		part([]byte(r.KeyGen.Algorithm))
	}
	return RepeatKey(hex.EncodeToString(h.Sum(nil)))
}

// repeated answers a request that is another's repeat, before time, counts and quotas are judged: an answer lost on
// its way must not cost a device its enrollment. It returns nil, nil when the request is a new one.
//
// Who asks is established again: by the stages that identify, or, where the pipeline has none, by a credential that
// the adapter has proof of. A stranger learns nothing from it; the pipeline then refuses as it would have anyway.
func (g *Gateway) repeated(ctx context.Context, d *decision, e *Endpoint, k keys) (*Result, error) {
	r, identified := d.request, false
	for i, key := range []RepeatKey{k.repeat, k.resume} {
		if key == "" || i > 0 && r.OnlyRepeat != nil {
			continue
		}
		t, err := g.store.Repeat(ctx, key, g.now())
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !identified && !g.identified(ctx, r, e) {
			return nil, nil
		}
		identified = true
		var res *Result
		if t.Delivery != nil {
			res, err = g.deliverAgain(ctx, d, t)
		} else {
			res, err = g.join(ctx, r, k, t.ID)
		}
		if res != nil || err != nil {
			return res, err
		}
	}
	return nil, nil
}

// joinTwin is join for a request that its stages have allowed, and found its twin with that. The twin began after this request
// came: a key that it got was handed out to somebody who is not known to have lost it, so it stays, and this request comes back.
func (g *Gateway) joinTwin(ctx context.Context, d *decision, k keys, id string) (*Result, error) {
	if d.request.KeyGen.bare() {
		t, err := g.settledOrNot(ctx, id)
		if err != nil {
			return nil, err
		}
		if t.Delivery != nil {
			return g.meanwhile(t)
		}
	}
	return g.join(ctx, d.request, k, id)
}

// identified reports whether it is proven who asks.
func (g *Gateway) identified(ctx context.Context, r *Request, e *Endpoint) bool {
	asked, v := e.pipeline(r.Operation).identify(ctx, r, &Grant{}, g.now)
	if v.Decision != Allow {
		return false
	}
	if asked {
		return true
	}
	for _, c := range r.Credentials {
		if c.Proven() {
			return true
		}
	}
	return false
}

// join answers with the outcome of an earlier transaction that asks for the same: the same message again, or, in a new
// exchange, what was asked for in one that broke off. The transaction then goes on in the new exchange.
func (g *Gateway) join(ctx context.Context, r *Request, k keys, id string) (*Result, error) {
	to := g.ForwardsTo(r.Endpoint, r.Operation)
	for {
		t, err := g.settledOrNot(ctx, id)
		if err != nil {
			return nil, err
		}
		same := t.Repeat == k.repeat || t.Resume == "" || t.Resume != k.resume
		switch {
		case same && (t.State == StateForwarded || repeatedAnswer(t, r, g.now()) != nil):
			return g.goOn(ctx, t, r, nil, true)
		case !same && !t.State.Open() && t.Intent == nil:
			return nil, nil // it was passed on, and so is what is asked for now
		case !same && t.Intent == nil && t.Backend != to, !same && t.Intent != nil && to != "":
			return nil, nil // it began under another configuration, and is answered elsewhere
		case same:
			return g.again(r, t)
		case !t.State.Open() && (r.Confirm || t.State != StateIssued):
			return nil, nil // confirmed: what is asked for now is another certificate
		case !t.State.Open():
			t.Exchange = r.Exchange
			return g.again(r, t)
		}
		adoption := &Adoption{Transaction: t.ID, WireID: r.WireID, Repeat: k.repeat, Exchange: r.Exchange, At: g.now()}
		adoption.Audit = resumedAudit(t, r, adoption.At)
		if t.State == StateForwarded {
			return g.goOn(ctx, t, r, adoption, true)
		}
		if r.Message != nil {
			c := messageClaim(r)
			adoption.Claim = &c
		}
		var twin *TwinError
		var lost *ClaimLostError
		switch err := g.store.Adopt(ctx, adoption); {
		case errors.As(err, &twin):
			return nil, nil // the same message made a transaction meanwhile: Begin finds it
		case errors.As(err, &lost):
			return nil, Errorf(lost.Claim.Reason, lost.Claim.Detail, "%s: %w", lost.Claim.Lost, lost)
		case errors.Is(err, ErrStale):
			continue // it was open, and is not: what became of it may be just what is asked for
		case err != nil:
			return nil, err
		}
		t.WireID, t.Exchange = r.WireID, r.Exchange
		return g.again(r, t)
	}
}

// resumedAudit is the event of a transaction that goes on in the exchange of r.
func resumedAudit(t *Transaction, r *Request, at time.Time) AuditEvent {
	now := *t
	now.WireID, now.Updated = r.WireID, at
	now.Note = fmt.Sprintf("goes on in another exchange; the one before had the ID %q", cut(t.WireID, maxNote))
	e := aboutOf(&now, "resumed")
	e.requestedBy(r)
	return e
}

// again is replay, for a request that may have asked for a key.
func (g *Gateway) again(r *Request, t *Transaction) (*Result, error) {
	res, err := g.replay(t)
	return withKey(r, res, err)
}

// settledOrNot returns a transaction, for whose outcome it waits a while when this process is at it.
func (g *Gateway) settledOrNot(ctx context.Context, id string) (*Transaction, error) {
	g.await(ctx, id)
	return g.store.Transaction(ctx, id)
}

// replay answers with the outcome of an earlier transaction, nil when it has none that could be repeated.
func (g *Gateway) replay(t *Transaction) (*Result, error) {
	switch {
	case t.State == StateDenied:
		return nil, denied(t)
	case (t.State == StateIssued || t.State == StateUnconfirmed) && t.Certificate != nil:
		if !t.Certificate.RevokedAt.IsZero() || g.now().After(t.Certificate.NotAfter) {
			return nil, nil // never a certificate that no longer is one
		}
		res, err := resultOf(t)
		if err != nil {
			return nil, err
		}
		res.Repeated = true
		return res, nil
	case t.State.Open():
		return &Result{Kind: ResultPending, Transaction: t.ID, RetryAfter: t.checkAfter(), Repeated: true, Exchange: t.Exchange}, nil
	}
	return nil, nil
}

// checkAfter is when the requester of an open transaction is told to ask again, 0 when nobody knows.
func (t *Transaction) checkAfter() time.Duration {
	if t.State == StateHeld {
		return 0 // a person has to decide: as the endpoint is configured
	}
	return pendingRetry
}

// pendingRetry is when a client may ask again for what the worker is settling.
const pendingRetry = 2 * time.Second

// await waits until this process has settled the transaction, at most TwinWait. It returns at once when it is not at it.
func (g *Gateway) await(ctx context.Context, id string) {
	g.mu.Lock()
	done := g.flights[id]
	g.mu.Unlock()
	if done == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.opt.TwinWait)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// takeOff announces that this process issues the transaction; the returned function announces that it is settled.
func (g *Gateway) takeOff(id string) (land func()) {
	done := make(chan struct{})
	g.mu.Lock()
	g.flights[id] = done
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		delete(g.flights, id)
		g.mu.Unlock()
		close(done)
	}
}

// takeOffAlone is takeOff unless this process is at the transaction already.
func (g *Gateway) takeOffAlone(id string) (land func(), alone bool) {
	g.mu.Lock()
	busy := g.flights[id] != nil
	if !busy {
		g.flights[id] = make(chan struct{})
	}
	done := g.flights[id]
	g.mu.Unlock()
	if busy {
		return nil, false
	}
	return func() {
		g.mu.Lock()
		delete(g.flights, id)
		g.mu.Unlock()
		close(done)
	}, true
}

// resultOf wraps an issued transaction's certificate.
func resultOf(t *Transaction) (*Result, error) {
	leaf, err := x509.ParseCertificate(t.Certificate.DER)
	if err != nil {
		return nil, err
	}
	res := &Result{
		Kind: ResultIssued, Transaction: t.ID, Certificate: leaf, Unconfirmed: t.State == StateUnconfirmed, Exchange: t.Exchange, Key: t.SealedKey,
	}
	if res.Unconfirmed {
		res.ConfirmUntil = t.confirmUntil()
	}
	for _, der := range t.Certificate.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		res.Chain = append(res.Chain, c)
	}
	return res, nil
}
