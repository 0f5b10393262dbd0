package gateway

import (
	"context"
	"errors"
	"sync"
)

// strangers keeps the last refusals of those who did not authenticate, in memory only, and counts them for the audit
// trail. Whoever sends garbage can push older garbage out of it, and costs the store nothing.
type strangers struct {
	mu     sync.Mutex
	ring   []*Transaction
	byID   map[string]*Transaction
	next   int
	counts map[string]uint64 // "endpoint reason"
}

func newStrangers(size int) *strangers {
	return &strangers{ring: make([]*Transaction, size), byID: make(map[string]*Transaction, size), counts: map[string]uint64{}}
}

// maxLabels bounds the sums: an endpoint's name is the configuration's, but this is kept safe against one that is not.
const maxLabels = 1024

// maxShown bounds what is kept of a text that a stranger chose, in bytes.
const maxShown = 512

// add keeps a refusal, its texts cut short.
func (s *strangers) add(t *Transaction) {
	kept := *t
	for _, text := range []*string{&kept.WireID, &kept.Endpoint, &kept.Source, &kept.Requester, &kept.Device, &kept.Subject, &kept.Note} {
		*text = cut(*text, maxShown)
	}
	kept.Credentials = nil
	for _, c := range t.Credentials[:min(len(t.Credentials), maxCredentials)] {
		kept.Credentials = append(kept.Credentials, cut(c, maxShown))
	}
	kept.Verdicts = shortened(t.Verdicts)
	if len(kept.Facts) > maxStrangersFacts {
		kept.Facts = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.ring[s.next]; old != nil && s.byID[old.ID] == old {
		delete(s.byID, old.ID)
	}
	s.ring[s.next], s.byID[t.ID] = &kept, &kept
	s.next = (s.next + 1) % len(s.ring)
	s.count(kept.Endpoint+" "+string(t.Reason), 1)
}

// maxCredentials bounds how many of a stranger's credentials are kept.
const maxCredentials = 8

// shortened copies verdicts with their notes cut short.
func shortened(verdicts []Judged) []Judged {
	if verdicts == nil {
		return nil
	}
	out := make([]Judged, len(verdicts))
	for i, j := range verdicts {
		j.Note, j.Parts = cut(j.Note, maxShown), shortened(j.Parts)
		out[i] = j
	}
	return out
}

// count needs the lock.
func (s *strangers) count(key string, n uint64) {
	if _, known := s.counts[key]; !known && len(s.counts) >= maxLabels {
		key = "other"
	}
	s.counts[key] += n
}

// take returns the sums and begins anew.
func (s *strangers) take() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.counts
	s.counts = map[string]uint64{}
	return counts
}

// giveBack adds sums that could not be written to those since.
func (s *strangers) giveBack(counts map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, n := range counts {
		s.count(key, n)
	}
}

// Explain returns a transaction with all its verdicts: from the store, or a stranger's refusal that is still
// remembered. ErrNotFound when it is neither.
func (g *Gateway) Explain(ctx context.Context, id string) (*Transaction, error) {
	g.strange.mu.Lock()
	t := g.strange.byID[id]
	g.strange.mu.Unlock()
	if t != nil {
		return t, nil
	}
	return g.store.Transaction(ctx, id)
}

// Strangers lists the remembered refusals of those who did not authenticate, newest first, at most limit.
func (g *Gateway) Strangers(limit int) []*Transaction {
	s := g.strange
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Transaction
	for i := range s.ring {
		t := s.ring[(s.next-1-i+2*len(s.ring))%len(s.ring)]
		if t == nil || len(out) == limit {
			break
		}
		out = append(out, t)
	}
	return out
}

// SumUp commits to the audit trail how many strangers were refused since the last time.
func (g *Gateway) SumUp(ctx context.Context) {
	counts := g.strange.take()
	if len(counts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err := g.store.Record(ctx, AuditEvent{Kind: "strangers", At: g.now(), Counts: counts})
	if err == nil {
		return
	}
	g.log.Error("refusals of strangers could not be summed up", "err", err)
	g.strange.giveBack(counts)
}

// Ready reports why the gateway cannot issue, nil when it can.
func (g *Gateway) Ready(ctx context.Context) error {
	if len(g.runtime.Load().Endpoints) == 0 {
		return errors.New("no endpoint is configured")
	}
	return g.store.Ready(ctx)
}
