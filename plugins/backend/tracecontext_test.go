package backend

import (
	"context"
	"log/slog"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// heard is a backend that tells what context its calls have.
type heard struct {
	Backend
	in func(context.Context)
}

func (h heard) Configure(context.Context, []byte) error { return nil }

func (h heard) Revoke(ctx context.Context, _ *RevokeRequest) error {
	h.in(ctx)
	return nil
}

// What a plugin starts by the context of its call is a child of the gateway's span; what is not traced says nothing.
func TestTraceParent(t *testing.T) {
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled})
	const want = "00-01020000000000000000000000000000-0300000000000000-01"
	for name, c := range map[string]struct {
		ctx  context.Context
		want string
	}{
		"traced":      {trace.ContextWithSpanContext(t.Context(), span), want},
		"not sampled": {trace.ContextWithSpanContext(t.Context(), span.WithTraceFlags(0)), ""},
		"no trace":    {t.Context(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, found := "", trace.SpanContext{}
			client := connect(t, func(s *grpc.Server) {
				Register(s, heard{in: func(ctx context.Context) { got, found = TraceParent(ctx), trace.SpanContextFromContext(ctx) }}, slog.New(slog.DiscardHandler))
			})
			if err := client.Configure(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if err := client.Revoke(c.ctx, &RevokeRequest{Issuer: []byte{0x30, 0}, Serial: []byte{1}}); err != nil {
				t.Fatal(err)
			}
			if got != c.want || TraceParent(c.ctx) != c.want {
				t.Errorf("the plugin has %q, want %q", got, c.want)
			}
			if c.want != "" && (!found.IsRemote() || found.TraceID() != span.TraceID()) {
				t.Errorf("a span started there has the parent %v", found)
			}
		})
	}
}
