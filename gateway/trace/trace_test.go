package trace

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/muster-pki/muster/gateway/trace/tracetest"
)

func options(url string) Options {
	return Options{
		URL: url, Sample: 1, Client: &http.Client{}, Version: "1.2", Instance: "ra1", Spans: NewCounter(), Log: slog.New(slog.DiscardHandler),
		Clock: func() time.Time { return time.Unix(0, 0) },
	}
}

func counted(t *testing.T, o Options, outcome string) float64 {
	t.Helper()
	var m dto.Metric
	if err := o.Spans.WithLabelValues(outcome).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func tracer(t *testing.T, o Options) *Tracer {
	t.Helper()
	made, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close(context.Background()) }) //nolint:errcheck // a second time in some
	return made
}

// ask has a request answered by a handler with two steps below it.
func ask(tr *Tracer, continued bool, header http.Header) (id string) {
	r := httptest.NewRequest(http.MethodPost, "/.well-known/est/secret-path", nil)
	r.Header = header
	tr.Handler("tls", continued, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, outer := Start(r.Context(), "outer")
		outer.Set("muster.stage", "password")
		id = ID(ctx)
		_, inner := Start(ctx, "inner")
		inner.Fail("Internal")
		inner.End()
		outer.End()
		w.WriteHeader(http.StatusServiceUnavailable)
	})).ServeHTTP(httptest.NewRecorder(), r)
	return id
}

func TestTraceArrives(t *testing.T) {
	// The configuration says all, and the environment only where this runs.
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://192.0.2.1:4318")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other=1")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	t.Setenv("OTEL_SERVICE_NAME", "other")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=ra-0,service.version=other")
	c := tracetest.New(t)
	o := options(c.URL)
	o.Headers = map[string]string{"Authorization": "Bearer token"}
	tr := tracer(t, o)
	id := ask(tr, false, nil)
	if err := tr.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := c.Spans()
	if len(spans) != 3 {
		t.Fatalf("%d spans: %v", len(spans), spans)
	}
	inner, outer, root := spans[0], spans[1], spans[2]
	if root.Parent != "" || outer.Parent != root.ID || inner.Parent != outer.ID || len(id) != 32 || root.Trace != id || inner.Trace != id {
		t.Errorf("not one trace: %v", spans)
	}
	if root.Name != "HTTP POST" || root.Attributes["muster.listener"] != "tls" || root.Attributes["http.response.status_code"] != "503" || !root.Failed {
		t.Errorf("root %+v", root)
	}
	if outer.Attributes["muster.stage"] != "password" || !inner.Failed || inner.Why != "Internal" {
		t.Errorf("steps %+v, %+v", outer, inner)
	}
	if r := root.Resource; r["service.name"] != "muster" || r["service.version"] != "1.2" || r["service.instance.id"] != "ra1" || r["k8s.pod.name"] != "ra-0" {
		t.Errorf("resource %v", root.Resource)
	}
	if h := c.Header(); h.Get("Authorization") != "Bearer token" || h.Get("X-Other") != "" {
		t.Errorf("header %v", h)
	}
	if strings.Contains(c.Body(), "secret-path") {
		t.Error("a path that a client chose is in the trace")
	}
	if n := counted(t, o, sent); n != 3 {
		t.Errorf("%v spans counted as sent", n)
	}
}

// A device's word on traces does not count; that of a service of the operator's own does where it was said so.
func TestIncomingParent(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for name, tc := range map[string]struct {
		continued bool
		sent      []string
		sample    float64
		joins     bool
		traced    bool
	}{
		"a device's":                 {false, []string{parent}, 1, false, true},
		"a device that wants traces": {false, []string{parent}, 0, false, false},
		"a proxy's":                  {true, []string{parent}, 0, true, true},
		"a proxy that wants none":    {true, []string{strings.TrimSuffix(parent, "1") + "0"}, 1, false, false},
		"two":                        {true, []string{parent, parent}, 1, false, true},
		"garbage":                    {true, []string{"00-zz-1-1"}, 1, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := tracetest.New(t)
			o := options(c.URL)
			o.Sample = tc.sample
			tr := tracer(t, o)
			got := ask(tr, tc.continued, http.Header{"Traceparent": tc.sent, "Tracestate": {"evil=x"}})
			if err := tr.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			spans := c.Spans()
			if (len(spans) == 3) != tc.traced || (got != "") != tc.traced || tc.traced && (got == id) != tc.joins {
				t.Errorf("%d spans, ID %q", len(spans), got)
			}
			if strings.Contains(c.Body(), "evil") {
				t.Error("the tracestate went on")
			}
		})
	}
}

// Without a tracer, and for a request whose turn has not come, a step allocates nothing.
func TestNothingWithoutTrace(t *testing.T) {
	h := http.NewServeMux()
	if (*Tracer)(nil).Handler("tls", true, h) != http.Handler(h) {
		t.Error("a handler stands before the listener's without tracing")
	}
	if err := (*Tracer)(nil).Close(t.Context()); err != nil {
		t.Error(err)
	}
	o := options("http://127.0.0.1:1")
	o.Sample = 0
	out, _ := tracer(t, o).Begin(t.Context(), "work")
	deep := context.WithValue(t.Context(), key{}, 1)
	for name, ctx := range map[string]context.Context{"no tracer": deep, "not sampled": out} {
		if n := testing.AllocsPerRun(100, func() {
			ctx, s := Start(ctx, "stage")
			s.Set("muster.stage", "password")
			s.Number("n", 1)
			s.Fail("")
			s.End()
			if ID(ctx) != "" {
				t.Error("an ID")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

type key struct{}

// BenchmarkStart is a step of a request that is not traced.
func BenchmarkStart(b *testing.B) {
	ctx := context.WithValue(b.Context(), key{}, 1)
	b.ReportAllocs()
	for b.Loop() {
		_, s := Start(ctx, "stage")
		s.Set("muster.stage", "password")
		s.End()
	}
}

// stuck is an exporter that takes nothing until it is told to.
type stuck struct {
	began chan struct{}
	gives chan error
}

func (s stuck) ExportSpans(ctx context.Context, _ []sdk.ReadOnlySpan) error {
	s.began <- struct{}{}
	select {
	case err := <-s.gives:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (stuck) Shutdown(context.Context) error { return nil }

// Nobody waits for a collector that hangs: what finds no place is dropped, and counted.
func TestCollectorHangs(t *testing.T) {
	e := stuck{make(chan struct{}, 100), make(chan error)}
	o := options("http://127.0.0.1:1")
	var said bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&said, nil))
	o.Clock = func() time.Time { return time.Unix(1e9, 0) }
	tr := with(o, e)
	const more = 100
	end := func(n int) {
		for range n {
			_, s := tr.Begin(context.Background(), "work")
			s.End()
		}
	}
	end(batch)
	<-e.began // it has a batch now, and hangs
	end(queued + more)
	if n := counted(t, o, dropped); n != more {
		t.Errorf("%v dropped, want %d", n, more)
	}
	// And the end of the process waits no longer than it is told to.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tr.Close(ended); err != nil {
		t.Error(err)
	}
	end(1)
	if n := counted(t, o, dropped); n != more+1 {
		t.Errorf("after the end: %v dropped", n)
	}
	if n := counted(t, o, failed); n != batch+queued {
		t.Errorf("%v failed, want %d", n, batch+queued)
	}
}

// A collector that does not take spans is told of once a minute, without what it is sent.
func TestCollectorRefuses(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	defer s.Close()
	o := options(s.URL)
	o.Headers = map[string]string{"Authorization": "Bearer hidden-token"}
	var said bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&said, nil))
	o.Clock = func() time.Time { return time.Unix(1e9, 0) }
	tr := tracer(t, o)
	for range 2 {
		ask(tr, false, nil)
		if err := tr.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := counted(t, o, failed); n != 6 {
		t.Errorf("%v failed", n)
	}
	if text := said.String(); strings.Count(text, "are lost") != 1 || strings.Contains(text, "hidden") {
		t.Error(text)
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:4318": "http://127.0.0.1:4318/v1/traces", "https://otel.example/": "https://otel.example/v1/traces", "https://otel.example/in/v1/traces": "https://otel.example/in/v1/traces",
		"127.0.0.1:4318": "", "grpc://127.0.0.1:4317": "", "https://user:secret@otel.example": "", "https://otel.example?a=b": "", "": "",
	} {
		got, err := Endpoint(in)
		if got != want || (err == nil) != (want != "") || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if slices.Contains(methods, "") {
		t.Error("a method without a name")
	}
}

// With a tracer its connections end: a reload leaves none behind.
func TestCloseEndsConnections(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	closed := make(chan struct{}, 10)
	srv.Config.ConnState = func(_ net.Conn, to http.ConnState) {
		if to == http.StateClosed {
			closed <- struct{}{}
		}
	}
	srv.Start()
	defer srv.Close()
	o := options(srv.URL)
	o.Client = &http.Client{Transport: &http.Transport{}}
	tr := tracer(t, o)
	ask(tr, false, http.Header{})
	if err := tr.Close(t.Context()); err != nil || counted(t, o, sent) == 0 {
		t.Fatal(err, counted(t, o, sent))
	}
	<-closed
}
