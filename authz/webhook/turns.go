package webhook

import (
	"context"
	"fmt"
	"sync"
)

// maxWaiting is how many questions wait for a turn. Who waits has one of the gateway's places for requests, of which a service that is
// slow must not have all: further ones are refused at once.
const maxWaiting = 128

// deviceShare is the part of the turns, one in so many, that one device may have or wait for: else it asks in the time of all others.
const deviceShare = 4

// turns are had by the questions under way. It is safe for concurrent use.
type turns struct {
	under chan struct{} // has one for each question under way

	mu     sync.Mutex
	asking int            // questions under way, and those that wait
	by     map[string]int // of them, those about each device that is known
}

func newTurns(n int) *turns { return &turns{under: make(chan struct{}, n), by: map[string]int{}} }

// take waits for a turn, for a question about a device; "" is one that is not known. The turn is to be given back once.
func (t *turns) take(ctx context.Context, device string) (giveBack func(), err error) {
	if err := t.enter(device); err != nil {
		return nil, err
	}
	select {
	case t.under <- struct{}{}:
		return func() { <-t.under; t.leave(device) }, nil
	case <-ctx.Done():
		t.leave(device)
		return nil, fmt.Errorf("no turn came in time, %d questions are under way: %w", cap(t.under), ctx.Err())
	}
}

func (t *turns) enter(device string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asking >= cap(t.under)+maxWaiting {
		return fmt.Errorf("no turn: %d questions are under way, and %d wait", cap(t.under), maxWaiting)
	}
	if share := max(cap(t.under)/deviceShare, 1); device != "" {
		if t.by[device] >= share {
			return fmt.Errorf("no turn: %d questions about the same device are under way", share)
		}
		t.by[device]++
	}
	t.asking++
	return nil
}

func (t *turns) leave(device string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asking--
	if device == "" {
		return
	}
	if t.by[device]--; t.by[device] == 0 {
		delete(t.by, device)
	}
}
