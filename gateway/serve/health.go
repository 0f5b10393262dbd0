package serve

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// Health answers /healthz (the process serves) and /readyz (ready returns nil), and passes everything else on.
// Why it is not ready stands in the log, not in the answer: anyone may ask.
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
			log.Warn("not ready", "err", err)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "not ready\n") //nolint:errcheck // as above
	})
}
