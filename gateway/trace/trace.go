// Package trace makes OpenTelemetry traces of requests, and sends them to a collector (OTLP over HTTP).
//
// A trace begins with Handler or Begin. What happens further down is told by Start, which goes by its context alone: where that is of no
// request that is traced, it returns what it was given, and allocates nothing. So those who are traced know no tracer, and without one
// nothing is done.
//
// Attributes are what the log has of a request or less: no subject, no name of a device, no secret, nothing that a client chose. A span
// that finds no place in the queue is dropped, and counted: no request ever waits for a collector.
package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of all spans.
const scope = "github.com/muster-pki/muster"

// Options say where traces go, and of how many requests.
type Options struct {
	URL      string            // of the collector; without a path that is /v1/traces (OTLP specification, "OTLP/HTTP Request")
	Sample   float64           // share of requests, 0 to 1
	Headers  map[string]string // of each request to the collector, credentials for one
	Client   *http.Client      // that reaches it
	Version  string            // of this program
	Instance string            // its name among its replicas
	Spans    *prometheus.CounterVec
	Log      *slog.Logger
	Clock    func() time.Time
}

// Tracer begins traces. nil is one that begins none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	queue    *queue
	client   *http.Client
}

// Endpoint is the URL that spans are sent to, by the one that is configured.
func Endpoint(configured string) (string, error) {
	u, err := url.Parse(configured)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("want http://HOST:PORT or https://HOST:PORT, the collector's receiver of OTLP over HTTP (port 4318 mostly)")
	case u.User != nil:
		return "", errors.New("credentials do not stand in a URL: put them into a file (headers)")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("want a URL without a query")
	case u.Path == "" || u.Path == "/":
		u.Path = "/v1/traces"
	}
	return u.String(), nil
}

// New makes a Tracer. The collector need not answer. Of the OTEL_* variables OTEL_RESOURCE_ATTRIBUTES alone is read.
func New(o Options) (*Tracer, error) {
	endpoint, err := Endpoint(o.URL)
	if err != nil {
		return nil, err
	}
	// Each option that has a variable is given here, so that the variable does not count.
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithHeaders(o.Headers),
		otlptracehttp.WithHTTPClient(o.Client), otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}))
	if err != nil {
		return nil, fmt.Errorf("the exporter of traces: %w", err)
	}
	return with(o, exporter), nil
}

func with(o Options, exporter sdk.SpanExporter) *Tracer {
	q := newQueue(exporter, o.Spans, o.Log, o.Clock)
	p := sdk.NewTracerProvider(
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(o.Sample))), sdk.WithSpanProcessor(q),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "muster"), attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Instance))),
		sdk.WithRawSpanLimits(sdk.SpanLimits{AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 0, LinkCountLimit: 0}),
	)
	return &Tracer{provider: p, tracer: p.Tracer(scope), queue: q, client: o.Client}
}

// Flush sends what waits. Tests call it.
func (t *Tracer) Flush(ctx context.Context) error { return t.provider.ForceFlush(ctx) }

// Close sends what waits, within ctx, and ends. Spans that end later are dropped.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	defer t.client.CloseIdleConnections()
	return t.queue.Shutdown(ctx) // the provider's does nothing once ctx has ended
}

// Begin begins a trace, if its turn has come: of something that no request caused.
func (t *Tracer) Begin(ctx context.Context, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithNewRoot())
	return ctx, Span{s}
}

// Span is one step of a request. The zero value is of none that is traced.
type Span struct{ s trace.Span }

// Start begins a step of what ctx is about.
func Start(ctx context.Context, name string) (context.Context, Span) {
	above := trace.SpanFromContext(ctx)
	if !above.IsRecording() {
		return ctx, Span{}
	}
	ctx, s := above.TracerProvider().Tracer(scope).Start(ctx, name)
	return ctx, Span{s}
}

// Set says something of the step. What a client chose is no value.
func (s Span) Set(key, value string) {
	if s.s != nil && value != "" {
		s.s.SetAttributes(attribute.String(key, value))
	}
}

// Number is Set of a number.
func (s Span) Number(key string, value int) {
	if s.s != nil {
		s.s.SetAttributes(attribute.Int(key, value))
	}
}

// Fail says that the step failed. why is a word of ours, not an error's text: that may quote what a client sent.
func (s Span) Fail(why string) {
	if s.s != nil {
		s.s.SetStatus(codes.Error, why)
	}
}

// End ends the step.
func (s Span) End() {
	if s.s != nil {
		s.s.End()
	}
}

// ID is the trace's, 32 hexadecimal digits; "" where ctx is of no request that is traced.
func ID(ctx context.Context) string {
	c := trace.SpanContextFromContext(ctx)
	if !c.IsSampled() || !c.HasTraceID() {
		return ""
	}
	return c.TraceID().String()
}

// Current is the step that ctx is in. Whoever began it ends it.
func Current(ctx context.Context) Span {
	s := trace.SpanFromContext(ctx)
	if !s.IsRecording() {
		return Span{}
	}
	return Span{s}
}

// Recording reports whether the step is one of a trace.
func (s Span) Recording() bool { return s.s != nil }
