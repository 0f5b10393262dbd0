// Package tracetest is an OTLP/HTTP receiver for tests.
package tracetest

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that a collector was sent.
type Span struct {
	Name, Trace, ID, Parent string // IDs in hexadecimal, Parent "" at the root
	Attributes              map[string]string
	Resource                map[string]string
	Failed                  bool
	Why                     string // of Failed
}

// Collector takes spans.
type Collector struct {
	URL string // http://HOST:PORT

	mu     sync.Mutex
	spans  []Span
	header http.Header // of the last request
	body   []byte      // of all, decompressed
}

// New starts a collector, which ends with the test.
func New(t testing.TB) *Collector {
	c := &Collector{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s, %s", r.URL, r.Header)
		}
		in := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Errorf("gzip: %v", err)
				return
			}
			in = z
		}
		body, err := io.ReadAll(in)
		var sent coltrace.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &sent)
		}
		if err != nil {
			t.Errorf("what was exported: %v", err)
			return
		}
		c.take(&sent, r.Header, body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	c.URL = s.URL
	return c
}

func (c *Collector) take(sent *coltrace.ExportTraceServiceRequest, h http.Header, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header, c.body = h.Clone(), append(c.body, body...)
	for _, r := range sent.ResourceSpans {
		for _, s := range r.ScopeSpans {
			for _, one := range s.Spans {
				c.spans = append(c.spans, Span{
					Name: one.Name, Trace: hex.EncodeToString(one.TraceId), ID: hex.EncodeToString(one.SpanId), Parent: hex.EncodeToString(one.ParentSpanId),
					Attributes: values(one.Attributes), Resource: values(r.Resource.GetAttributes()),
					Failed: one.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR, Why: one.Status.GetMessage(),
				})
			}
		}
	}
}

func values(all []*common.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range all {
		m[kv.Key] = kv.Value.GetStringValue()
		if n, ok := kv.Value.Value.(*common.AnyValue_IntValue); ok {
			m[kv.Key] = strconv.FormatInt(n.IntValue, 10)
		}
	}
	return m
}

// Spans are those that came.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Header is that of the last request.
func (c *Collector) Header() http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.header
}

// Body is all that came, decompressed.
func (c *Collector) Body() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.body)
}
