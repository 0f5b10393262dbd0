package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// kept is something that a CA tells and that anybody may ask for: its certificates, a CRL. It is fetched by one call at a
// time, which belongs to nobody who asks, so that anonymous requests cost the CA nothing. When the CA does not answer,
// what it told last goes on being served for as long as it can be used.
type kept[T any] struct {
	fetch   func(ctx context.Context) (*T, error) // the value is never changed afterwards
	usable  func(v *T) bool                       // nil: always
	due     func(v *T, asked time.Time) bool      // whether v, asked for then, is to be fetched anew
	now     func() time.Time
	timeout time.Duration // of a call
	pause   time.Duration // after a call that failed, where there is nothing to serve

	mu      sync.Mutex
	value   *T            // the last one; nil before the first
	asked   time.Time     // when the last call ended, well or not
	failure error         // of the last call
	asking  chan struct{} // closed when the call under way ends; nil when there is none
	slow    bool          // somebody's patience with that call has run out
	changes int           // how often forget was called
	seen    int           // changes, when the last call began
	missed  bool          // that call was to show a change, and failed
}

const (
	keptPatience = time.Second     // of those who ask, where there is something older to serve
	keptAgain    = 5 * time.Second // after a call failed that was to show a change
)

// current returns the value: a fresh one, or, when the CA does not answer, the last that can be used.
func (k *kept[T]) current(ctx context.Context) (*T, error) {
	impatient := false
	for {
		k.mu.Lock()
		good := k.value != nil && (k.usable == nil || k.usable(k.value))
		if k.asking == nil {
			switch {
			case good && k.seen == k.changes && !k.due(k.value, k.asked) && !(k.missed && k.now().Sub(k.asked) >= keptAgain):
				v := k.value
				k.mu.Unlock()
				return v, nil
			case !good && k.failure != nil && k.seen == k.changes && k.now().Sub(k.asked) < k.pause:
				err := k.failure
				k.mu.Unlock()
				return nil, err
			}
			k.asking = make(chan struct{})
			go k.ask(k.asking, k.changes)
		}
		v, asking, slow := k.value, k.asking, k.slow
		k.mu.Unlock()
		if good && slow {
			return v, nil
		}
		if good && !impatient {
			impatient = true
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, keptPatience)
			defer cancel()
		}
		select {
		case <-asking:
		case <-ctx.Done():
		}
		v, again, err := k.outcome(ctx, asking)
		if !again {
			return v, err
		}
	}
}

// outcome is what to answer once a call has ended, or ctx has. again: the call began before the last change, so that
// what it gave may be what was before.
func (k *kept[T]) outcome(ctx context.Context, asked chan struct{}) (v *T, again bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	good := k.value != nil && (k.usable == nil || k.usable(k.value))
	switch {
	case ctx.Err() == nil && k.seen != k.changes:
		return nil, true, nil
	case good:
		k.slow = k.slow || k.asking == asked
		return k.value, false, nil
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	case k.failure == nil: // it has ended since it came
		return nil, false, errKeptOver
	}
	return nil, false, k.failure
}

var errKeptOver = fmt.Errorf("what the CA gave cannot be used any more")

// forget has the next one who asks wait for a new value: what there is may be out of date.
func (k *kept[T]) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	k.slow = false
}

// ask makes one call.
func (k *kept[T]) ask(done chan struct{}, changes int) {
	ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
	defer cancel()
	v, err := k.call(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missed = k.missed || k.seen != changes
	if err == nil {
		k.value, k.missed = v, false
	}
	k.asked, k.failure, k.asking, k.slow, k.seen = k.now(), err, nil, false, changes
	close(done)
}

// call is fetch, where a panic is a failure.
func (k *kept[T]) call(ctx context.Context) (v *T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return k.fetch(ctx)
}
