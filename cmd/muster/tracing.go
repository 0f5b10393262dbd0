package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway/trace"
	"github.com/muster-pki/muster/plugins/host"
)

// TracingConfig says where traces of requests go (OpenTelemetry, OTLP over HTTP).
type TracingConfig struct {
	// OTLP is the collector's URL: http://127.0.0.1:4318. Without a path it is /v1/traces.
	OTLP string `yaml:"otlp,required"`
	// Sample is the share of requests that are traced, 0 to 1. Default: 0.01
	Sample *float64 `yaml:"sample"`
	// CA is a PEM file with the roots that the collector's certificate is checked against. Default: those of the system.
	CA string `yaml:"ca"`
	// Headers is a file of lines NAME: VALUE that go with what is sent, as the collector's token, which only the gateway's user may
	// read. Default: none.
	Headers string `yaml:"headers"`
	// Continue are listeners, by name, whose clients say what trace a request is part of (traceparent), and whether it is traced:
	// those that a proxy or a service of yours alone reaches. Default: none, a device's word does not count.
	Continue []string `yaml:"continue"`
}

const (
	defaultSample     = 0.01
	maxTraceHeaders   = 16
	traceCloseTimeout = 3 * time.Second // a collector that is down delays the gateway's end by that
)

// What a line of the file of headers may have, of what RFC 9110 section 5 allows.
var (
	headerName  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	headerValue = regexp.MustCompile(`^[\x20-\x7e]+$`)
)

// tracing checks what can be told of traces without their files.
func (f *review) tracing() {
	t := f.c.Tracing
	if t == nil {
		return
	}
	if _, err := trace.Endpoint(t.OTLP); err != nil {
		f.fail(at("tracing", "otlp"), "%v", err)
	}
	if t.Sample != nil && !(*t.Sample >= 0 && *t.Sample <= 1) { // NaN is neither
		f.fail(at("tracing", "sample"), "want a share of requests between 0 and 1, as 0.01")
	}
	if t.CA != "" && !strings.HasPrefix(t.OTLP, "https:") {
		f.fail(at("tracing", "ca"), "only an https address has a certificate to check")
	}
	for i, l := range t.Continue {
		f.known(at("tracing", "continue", fmt.Sprint(i)), "listener", l, f.c.Listeners)
	}
	if _, err := t.headers(f.c); err != nil {
		f.fail(at("tracing", "headers"), "%v", err)
	}
	if _, err := t.client(f.c); err != nil {
		f.fail(at("tracing", "ca"), "%v", err)
	}
}

// headers reads the file of headers. Its errors do not quote it.
func (t *TracingConfig) headers(c *Config) (map[string]string, error) {
	all := map[string]string{}
	if t.Headers == "" {
		return all, nil
	}
	file := c.path(t.Headers)
	text, err := readBoundedFile(file, 64<<10)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, errors.Join(fmt.Errorf("%s is accessible to others: chmod 600", file), err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || !headerName.MatchString(name) || !headerValue.MatchString(value) {
			return nil, fmt.Errorf("%s, line %d: want NAME: VALUE", file, n)
		}
		if all[name] = value; len(all) > maxTraceHeaders {
			return nil, fmt.Errorf("%s: more than %d headers", file, maxTraceHeaders)
		}
	}
	return all, lines.Err()
}

// client reaches the collector, and nobody else: neither a proxy of the environment nor where a redirect points.
func (t *TracingConfig) client(c *Config) (*http.Client, error) {
	own := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := readBoundedFile(c.path(t.CA), maxSinkCA)
		if err != nil {
			return nil, err
		}
		if own.RootCAs = x509.NewCertPool(); !own.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", t.CA)
		}
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: own, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// tracerOf makes what begins traces by a configuration: nil where it says nothing of them.
func (p *process) tracerOf(c *Config) (*trace.Tracer, error) {
	t := c.Tracing
	if t == nil {
		return nil, nil
	}
	headers, err := t.headers(c)
	if err != nil {
		return nil, c.fault(at("tracing", "headers"), "%v", err)
	}
	client, err := t.client(c)
	if err != nil {
		return nil, c.fault(at("tracing", "ca"), "%v", err)
	}
	sample := defaultSample
	if t.Sample != nil {
		sample = *t.Sample
	}
	made, err := trace.New(trace.Options{
		URL: t.OTLP, Sample: sample, Headers: headers, Client: client, Version: version(), Instance: p.instance, Spans: p.spans, Log: p.log, Clock: p.clock,
	})
	if err != nil {
		return nil, c.fault(at("tracing"), "%v", err)
	}
	return made, nil
}

// traced is what a listener serves, with traces.
func (rt *Runtime) traced(listener string, h http.Handler) http.Handler {
	continued := rt.cfg.Tracing != nil && slices.Contains(rt.cfg.Tracing.Continue, listener)
	return rt.tracer.Handler(listener, continued, h)
}

// begin begins a trace of work, by the configuration that is in force.
func (p *process) begin(ctx context.Context, name string) (context.Context, trace.Span) {
	if rt := p.runtime.Load(); rt != nil {
		return rt.tracer.Begin(ctx, name)
	}
	return ctx, trace.Span{}
}

// closeTracer sends what waits.
func (p *process) closeTracer(t *trace.Tracer) {
	ctx, cancel := context.WithTimeout(context.Background(), traceCloseTimeout)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		p.log.Warn("the last spans of traces", "err", err)
	}
}

// traceCalls has each call of a plugin be a step of what it is made for.
func traceCalls(h *host.Config) {
	nothing := func(codes.Code) {}
	h.OnBegin = func(ctx context.Context, name, method string) (context.Context, func(codes.Code)) {
		ctx, span := trace.Start(ctx, "CA call")
		if !span.Recording() {
			return ctx, nothing
		}
		span.Set("muster.backend", name)
		span.Set("rpc.method", method)
		return ctx, func(code codes.Code) {
			if code != codes.OK {
				span.Fail(code.String())
			}
			span.End()
		}
	}
}
