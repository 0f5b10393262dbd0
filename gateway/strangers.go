package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// strangers keeps the last refusals of those who did not authenticate, in memory only, and counts them for the audit
// trail. Whoever sends garbage can push older garbage out of it, and costs the store nothing.
type strangers struct {
	mu     sync.Mutex
	ring   []*Transaction
	byID   map[string]*Transaction
	next   int
	counts map[string]uint64 // "endpoint reason", of strangers
	known  map[string]uint64 // likewise of those who did authenticate, and whose refusals are not kept: busy, unavailable, ...
	again  map[string]uint64 // "endpoint outcome": answers that changed nothing
}

func newStrangers(size int) *strangers {
	return &strangers{ring: make([]*Transaction, size), byID: make(map[string]*Transaction, size), counts: map[string]uint64{}, known: map[string]uint64{}, again: map[string]uint64{}}
}

// maxLabels bounds the sums: an endpoint's name is the configuration's, but this is kept safe against one that is not.
const maxLabels = 1024

// maxShown bounds what is kept of a text that a stranger chose, in bytes.
const maxShown = 512

// add keeps a refusal, its texts cut short.
func (s *strangers) add(t *Transaction, known bool) {
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
	if known {
		count(s.known, kept.Endpoint+" "+string(t.Reason), 1)
	} else {
		count(s.counts, kept.Endpoint+" "+string(t.Reason), 1)
	}
}

// answered counts an answer that told of what was decided before.
func (s *strangers) answered(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count(s.again, key, 1)
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

// count adds to one of the sums. It needs the lock.
func count(sums map[string]uint64, key string, n uint64) {
	if _, known := sums[key]; !known && len(sums) >= maxLabels {
		key = "other"
	}
	sums[key] += n
}

// sums are what was counted in some time, by the kind of event that says so.
type sums map[string]map[string]uint64

// take returns the sums that are not zero and begins anew.
func (s *strangers) take() sums {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := sums{}
	for kind, counts := range s.kinds() {
		if len(*counts) > 0 {
			taken[kind], *counts = *counts, map[string]uint64{}
		}
	}
	return taken
}

// kinds are the sums by the kind of their event. It needs the lock.
func (s *strangers) kinds() map[string]*map[string]uint64 {
	return map[string]*map[string]uint64{"strangers": &s.counts, "turned-away": &s.known, "answers": &s.again}
}

// giveBack adds a sum that could not be written to what came since.
func (s *strangers) giveBack(kind string, counts map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, n := range counts {
		count(*s.kinds()[kind], key, n)
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

// SumUp commits to the audit trail what was only counted since the last time: how many strangers were refused, how many of those who did
// authenticate were turned away without a record of their own, and how many answers told of what was decided before.
func (g *Gateway) SumUp(ctx context.Context) {
	taken := g.strange.take()
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, kind := range slices.Sorted(maps.Keys(taken)) {
		err := g.store.Record(ctx, AuditEvent{Kind: kind, At: g.now(), Counts: taken[kind]})
		switch {
		case errors.Is(err, ErrUnaudited): // committed all the same
		case err != nil:
			g.log.Error("what was counted could not be summed up", "kind", kind, "err", err)
			g.strange.giveBack(kind, taken[kind])
		}
	}
}

// Ready reports why the gateway cannot issue, nil when it can.
func (g *Gateway) Ready(ctx context.Context) error {
	if len(g.runtime.Load().Endpoints) == 0 {
		return errors.New("no endpoint is configured")
	}
	return g.store.Ready(ctx)
}
