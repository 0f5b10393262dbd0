package backend

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// traceKey is the metadata key under which the gateway's span travels with a call that is traced (W3C Trace Context, section 3.2).
const traceKey = "traceparent"

// TraceParent is the span that a call is part of, as W3C Trace Context writes it, "" for a call that is not traced. A plugin that uses
// OpenTelemetry need not ask: a span that it starts by the context of a call is the gateway's child.
func TraceParent(ctx context.Context) string {
	c := trace.SpanContextFromContext(ctx)
	if !c.IsValid() || !c.IsSampled() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-01", c.TraceID(), c.SpanID())
}

// tracing is a connection whose calls tell what span they are part of.
type tracing struct{ grpc.ClientConnInterface }

// Invoke is grpc.ClientConnInterface.
func (t tracing) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return t.ClientConnInterface.Invoke(sendTrace(ctx), method, args, reply, opts...)
}

// NewStream is grpc.ClientConnInterface.
func (t tracing) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return t.ClientConnInterface.NewStream(sendTrace(ctx), d, method, opts...)
}

func sendTrace(ctx context.Context) context.Context {
	if parent := TraceParent(ctx); parent != "" {
		return metadata.AppendToOutgoingContext(ctx, traceKey, parent)
	}
	return ctx
}

// receiveTrace has the context carry the span of the gateway's side.
func receiveTrace(ctx context.Context) context.Context {
	if all := metadata.ValueFromIncomingContext(ctx, traceKey); len(all) == 1 {
		return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceKey: all[0]})
	}
	return ctx
}
