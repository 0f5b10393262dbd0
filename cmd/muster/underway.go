package main

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	// retireSoonest is for those who took hold of a Runtime uncounted, such as the worker: their calls of its plugins have begun by
	// then, and a plugin ends the calls that have begun.
	retireSoonest = 2 * time.Second
	// retireLatest is more than the limits of a connection, a pipeline and a CA leave a request.
	retireLatest = 3 * time.Minute
)

// underway counts the requests that go by a Runtime. Its zero value is ready.
type underway struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // made by ended, closed when nobody is left
}

func (u *underway) enter() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n++
}

func (u *underway) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n--; u.n == 0 && u.idle != nil {
		close(u.idle)
		u.idle = nil
	}
}

// ended is closed once nobody is under way.
func (u *underway) ended() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	idle := make(chan struct{})
	if u.n == 0 {
		close(idle)
		return idle
	}
	if u.idle == nil {
		u.idle = idle
	}
	return u.idle
}

// leaves returns when no request needs the Runtime any more, or one before it, which may have plugins in common with it that a later one
// has not; and at latest or at the end in any case.
func (rt *Runtime) leaves(latest <-chan time.Time, end <-chan struct{}) {
	for _, left := range []<-chan struct{}{rt.underway.ended(), rt.before} {
		if left == nil {
			continue
		}
		select {
		case <-left:
		case <-latest:
			return
		case <-end:
			return
		}
	}
}

// counted is a handler whose requests are under way until they are answered.
func (u *underway) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.enter()
		defer u.leave()
		h.ServeHTTP(w, r)
	})
}

// turns has those who change what runs do it one after the other.
type turns chan struct{}

func newTurns() turns { return make(turns, 1) }

// take waits for one's turn; the error is the context's.
func (t turns) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turns) give() { <-t }
