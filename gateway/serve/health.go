package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// NotReady is why a gateway is not ready. Words, which anyone may read, say what cannot be done; Err, for the log, says why.
type NotReady struct {
	Words string
	Err   error
}

func (e *NotReady) Error() string { return e.Words + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *NotReady) Unwrap() error { return e.Err }

// ErrStopping is of a process that was told to end: its load balancer is to send requests elsewhere, its operator knows.
var ErrStopping = errors.New("told to stop")

// words are those of each NotReady in an error, or in the errors that it joins, each once.
func words(err error) (all []string) {
	if n, ok := err.(*NotReady); ok {
		return []string{n.Words}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			for _, w := range words(e) {
				if !slices.Contains(all, w) {
					all = append(all, w)
				}
			}
		}
	}
	return all
}

// Health answers /healthz (the process serves) and /readyz (ready returns nil), and passes everything else on.
// Of why it is not ready only the words of a NotReady stand in the answer, since anyone may ask; the log has all of it.
func Health(ready func(context.Context) error, log *slog.Logger, next http.Handler) http.Handler {
	var told atomic.Pointer[string] // what the log said last
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch r.URL.Path {
		case "/healthz":
		case "/readyz":
			ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
			defer cancel()
			err = ready(ctx)
		default:
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err == nil {
			told.Store(nil)
			io.WriteString(w, "ok\n") //nolint:errcheck // nobody is left to tell
			return
		}
		why := err.Error()
		if last := told.Swap(&why); last == nil || *last != why {
			level := slog.LevelWarn
			if errors.Is(err, ErrStopping) {
				level = slog.LevelInfo
			}
			log.Log(r.Context(), level, "not ready", "err", err)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, strings.TrimSuffix("not ready: "+strings.Join(words(err), "; "), ": ")+"\n") //nolint:errcheck // as above
	})
}
