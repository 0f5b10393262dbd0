package groupcommit

import "runtime"

// AwaitQueued returns when n units wait in the queue.
func AwaitQueued(w *Writer, n int) {
	for queued := 0; queued < n; runtime.Gosched() {
		w.mu.Lock()
		queued = len(w.queue)
		w.mu.Unlock()
	}
}

// AwaitClosing returns when Close was called.
func AwaitClosing(w *Writer) {
	for closed := false; !closed; runtime.Gosched() {
		w.mu.Lock()
		closed = w.closed
		w.mu.Unlock()
	}
}
