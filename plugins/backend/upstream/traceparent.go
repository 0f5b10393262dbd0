package upstream

import (
	"net/http"

	"github.com/muster-pki/muster/plugins/backend"
)

// telling is a transport whose requests say what trace they are part of (Config.Traceparent).
type telling struct{ http.RoundTripper }

// RoundTrip is http.RoundTripper.
func (t telling) RoundTrip(r *http.Request) (*http.Response, error) {
	if parent := backend.TraceParent(r.Context()); parent != "" {
		r = r.Clone(r.Context()) // a RoundTripper changes no request
		r.Header.Set("traceparent", parent)
	}
	return t.RoundTripper.RoundTrip(r)
}
