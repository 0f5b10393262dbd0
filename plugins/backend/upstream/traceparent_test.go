package upstream

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// A CA is told of the trace only where its configuration says so, and where there is one.
func TestTraceparent(t *testing.T) {
	var heard []string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard = r.Header.Values("traceparent") }))
	defer s.Close()
	traced := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}))
	for name, c := range map[string]struct {
		told, traced bool
	}{"both": {true, true}, "not configured": {false, true}, "not traced": {true, false}} {
		client, err := (&Config{URL: s.URL, Traceparent: c.told, Once: true}).New()
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if c.traced {
			ctx = traced
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r, err := http.NewRequestWithContext(ctx, method, client.URL("/"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Do(ctx, r, 10); err != nil {
				t.Fatal(err)
			}
			if (len(heard) == 1) != (c.told && c.traced) || r.Header.Get("traceparent") != "" {
				t.Errorf("%s, %s: the CA heard %v", name, method, heard)
			}
		}
	}
}
