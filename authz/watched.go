package authz

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// watchFresh is for how long a look at a file or folder counts for everybody.
	watchFresh = time.Second
	// watchStale is when nobody may go by a look any more, even while another request is at a new one.
	watchStale = 2 * time.Second
)

// watched is a file or folder that may change at any time: what was changed counts within watchStale. It is looked at when
// somebody asks, at most once per watchFresh; there is no goroutine.
type watched[T any] struct {
	path string
	now  func() time.Time
	read func(last *T, at time.Time) (*T, error) // last is nil at first; what it returns is kept with an error too

	turn   chan struct{} // holds one element while somebody looks
	latest atomic.Pointer[seen[T]]
}

// seen is what was there at a time.
type seen[T any] struct {
	at   time.Time
	what *T
	err  error
}

func newWatched[T any](path string, now func() time.Time, read func(last *T, at time.Time) (*T, error)) *watched[T] {
	return &watched[T]{path: path, now: now, read: read, turn: make(chan struct{}, 1)}
}

// look returns what is there, as old as watchStale at most. Requests that come while another one looks go by the look
// before, unless it is stale. The error is the context's, or read's.
func (w *watched[T]) look(ctx context.Context) (*T, error) {
	last := w.latest.Load()
	if w.within(last, watchFresh) {
		return last.what, last.err
	}
	select {
	case w.turn <- struct{}{}:
	default:
		if w.within(last, watchStale) {
			return last.what, last.err
		}
		select {
		case w.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: nobody could look in time: %w", w.path, ctx.Err())
		}
	}
	defer func() { <-w.turn }()
	if last = w.latest.Load(); w.within(last, watchFresh) {
		return last.what, last.err
	}
	var before *T
	if last != nil {
		before = last.what
	}
	// The time before the look: what changes during it is found by the next one.
	next := &seen[T]{at: w.now()}
	next.what, next.err = w.read(before, next.at)
	w.latest.Store(next)
	return next.what, next.err
}

// within reports whether the look is no older than that. A clock that went back ends it.
func (w *watched[T]) within(l *seen[T], age time.Duration) bool {
	if l == nil {
		return false
	}
	gone := w.now().Sub(l.at)
	return gone >= 0 && gone < age
}
