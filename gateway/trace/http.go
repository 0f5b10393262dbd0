package trace

import (
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// methods are those that a span's name tells: a client can make up others.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions}

// Handler begins a trace with each request whose turn has come. With continued, one that says of which trace it is part (traceparent,
// W3C Trace Context) goes on with that, and its caller decides whether it is traced: for listeners that devices do not reach by themselves.
func (t *Tracer) Handler(listener string, continued bool, next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if continued {
			ctx = propagation.TraceContext{}.Extract(ctx, parentOnly{r.Header})
		}
		name := "HTTP"
		if slices.Contains(methods, r.Method) {
			name = "HTTP " + r.Method
		}
		ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
		if !s.IsRecording() {
			next.ServeHTTP(w, r)
			return
		}
		defer s.End()
		s.SetAttributes(attribute.String("muster.listener", listener))
		out := &answer{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(out, r.WithContext(ctx))
		s.SetAttributes(attribute.Int("http.response.status_code", out.status))
		if out.status >= http.StatusInternalServerError {
			Span{s}.Fail("")
		}
	})
}

// parentOnly carries the traceparent: a tracestate may be of any content, and nothing here needs one.
type parentOnly struct{ h http.Header }

func (p parentOnly) Get(key string) string {
	// Of several the first would be one that whoever is before the proxy has sent.
	if key != "traceparent" || len(p.h.Values(key)) != 1 {
		return ""
	}
	return p.h.Get(key)
}

func (parentOnly) Set(string, string) {}
func (parentOnly) Keys() []string     { return []string{"traceparent"} }

// answer keeps the status of an answer.
type answer struct {
	http.ResponseWriter
	status int
	begun  bool
}

// WriteHeader is http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if !a.begun && status >= 200 {
		a.status, a.begun = status, true
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
