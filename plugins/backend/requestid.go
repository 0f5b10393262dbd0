package backend

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// requestIDKey is the metadata key under which the gateway's transaction ID travels with every call.
const requestIDKey = "muster-request-id"

type requestIDContext struct{}

// WithRequestID marks a call as made for the gateway's transaction with the given ID. It reaches the plugin, so
// that its log lines can name it; only IssueRequest.ID is an idempotency key.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDContext{}, id)
}

// RequestID returns the ID that WithRequestID set, in the gateway or on its other side in the plugin; "" without.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDContext{}).(string)
	return id
}

// sendRequestID puts the ID into the metadata, preferring the one that the call names.
func sendRequestID(ctx context.Context, id string) context.Context {
	if id == "" {
		id = RequestID(ctx)
	}
	if !printable(id, MaxName) || id == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, requestIDKey, id)
}

// receiveRequestID takes the ID out of the metadata.
func receiveRequestID(ctx context.Context) context.Context {
	if ids := metadata.ValueFromIncomingContext(ctx, requestIDKey); len(ids) == 1 && printable(ids[0], MaxName) {
		return WithRequestID(ctx, ids[0])
	}
	return ctx
}

// printable reports whether s is ASCII without control characters and at most limit long.
func printable(s string, limit int) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) <= limit
}
