package gateway

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Message is what a transaction's requester has sent since it began: polls, repetitions, confirmations. Equal ones are counted
// together, so that a device that polls for days costs one row.
type Message struct {
	Transaction string
	Kind        string // "poll", "repeat", "confirm", "reject", "revocation"
	Note        string // what was answered, in a few words of ours
	Source      string // the last one's address
	Count       int64
	First, Last time.Time
}

// Messages is the part of the Store that keeps them. They are for `muster explain` only, and nothing depends on them: the
// gateway gathers them and commits them every second, many at once, without anybody waiting.
type Messages interface {
	// Heard adds to the rows with the same transaction, kind and note. Transactions that it does not know are left out.
	Heard(ctx context.Context, messages []Message) error
	// Messages returns those of a transaction, by First.
	Messages(ctx context.Context, transaction string) ([]Message, error)
}

// heard gathers messages until they are committed.
type heard struct {
	mu      sync.Mutex
	waiting map[heardKey]*Message
}

type heardKey struct{ transaction, kind, note string }

// maxHeard bounds what is gathered; what comes beyond it within a second is not noted.
const maxHeard = 4096

// Heard takes note of a later message of a transaction's requester, for `muster explain`. It never waits.
func (g *Gateway) Heard(transaction, kind, note string, source netip.Addr) {
	now := g.now()
	g.heard.add(Message{Transaction: transaction, Kind: kind, Note: cut(note, maxShown), Source: addressOf(source), Count: 1, First: now, Last: now})
}

func addressOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (h *heard) add(m Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := heardKey{m.Transaction, m.Kind, m.Note}
	if known := h.waiting[key]; known != nil {
		known.Count += m.Count
		known.Last, known.Source = m.Last, m.Source
		return
	}
	if len(h.waiting) >= maxHeard {
		return
	}
	if h.waiting == nil {
		h.waiting = map[heardKey]*Message{}
	}
	h.waiting[key] = &m
}

func (h *heard) take() []Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Message
	for _, m := range h.waiting {
		all = append(all, *m)
	}
	h.waiting = nil
	return all
}

// keepHeard commits what was gathered. What cannot be committed is forgotten: it proves nothing, and a store that fails has
// other worries.
func (g *Gateway) keepHeard(ctx context.Context) {
	all := g.heard.take()
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := g.store.Heard(ctx, all); err != nil {
		g.log.Warn("later messages of requesters could not be noted", "err", err)
	}
}

// Messages returns what a transaction's requester has sent since it began, what is not committed yet included.
func (g *Gateway) Messages(ctx context.Context, transaction string) ([]Message, error) {
	g.keepHeard(ctx)
	return g.store.Messages(ctx, transaction)
}
