package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sort"
	"time"
)

// repeatKey is what two requests share when one is the other again: endpoint, operation, wire ID, requester, content.
// "" when the adapter gave no content, or nothing says who asks: then no request is another's repeat.
func repeatKey(r *Request) RepeatKey {
	if len(r.Content) == 0 || len(r.Credentials) == 0 {
		return ""
	}
	// A challenge is left out: once spent it authenticates nobody, and the signer of the message is there beside it.
	var who []string
	for _, c := range r.Credentials {
		if c.Kind != CredentialChallenge {
			who = append(who, c.String())
		}
	}
	sort.Strings(who)
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	for _, s := range []string{r.Endpoint, string(r.Operation), r.WireID} {
		part([]byte(s))
	}
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(who))))
	for _, s := range who {
		part([]byte(s))
	}
	part(r.Content)
	return RepeatKey(hex.EncodeToString(h.Sum(nil)))
}

// repeated answers a request that is another's repeat, before time, counts and quotas are judged: an answer lost on
// its way must not cost a device its enrollment. It returns nil, nil when the request is a new one.
//
// Who asks is established again: by the stages that identify, or, where the pipeline has none, by a credential that
// the adapter has proof of. A stranger learns nothing from it; the pipeline then refuses as it would have anyway.
func (g *Gateway) repeated(ctx context.Context, r *Request, e *Endpoint, key RepeatKey) (*Result, error) {
	if key == "" {
		return nil, nil
	}
	t, err := g.store.Repeat(ctx, key, g.now())
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	asked, v := e.pipeline(r.Operation).identify(ctx, r, &Grant{}, g.now)
	if v.Decision != Allow {
		return nil, nil
	}
	if !asked {
		proven := false
		for _, c := range r.Credentials {
			proven = proven || c.Proven()
		}
		if !proven {
			return nil, nil
		}
	}
	return g.replay(ctx, t.ID)
}

// replay answers with the outcome of an earlier transaction, for which it waits a while when this process is at it.
func (g *Gateway) replay(ctx context.Context, id string) (*Result, error) {
	g.await(ctx, id)
	t, err := g.store.Transaction(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case t.State == StateIssued && t.Certificate != nil:
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
		return &Result{Kind: ResultPending, Transaction: t.ID, RetryAfter: pendingRetry, Repeated: true}, nil
	}
	return nil, nil
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

// resultOf wraps an issued transaction's certificate.
func resultOf(t *Transaction) (*Result, error) {
	leaf, err := x509.ParseCertificate(t.Certificate.DER)
	if err != nil {
		return nil, err
	}
	res := &Result{Kind: ResultIssued, Transaction: t.ID, Certificate: leaf}
	for _, der := range t.Certificate.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		res.Chain = append(res.Chain, c)
	}
	return res, nil
}
