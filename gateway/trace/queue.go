package trace

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

const (
	queued        = 2048 // spans that wait at most: some 2 MB
	batch         = 512
	exportEvery   = 2 * time.Second
	exportTimeout = 15 * time.Second
	complainEvery = time.Minute
)

// What became of spans, for the metric.
const (
	sent    = "sent"
	dropped = "dropped" // the queue was full
	failed  = "failed"  // the collector did not take them
)

// NewCounter makes Options.Spans, which outlives a Tracer.
func NewCounter() *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_trace_spans_total", Help: "Spans of traces by what became of them: sent, dropped (the queue was full), failed (the collector did not take them).",
	}, []string{"outcome"})
	for _, outcome := range []string{sent, dropped, failed} {
		c.WithLabelValues(outcome)
	}
	return c
}

// queue is a sdk.SpanProcessor that never waits. The SDK's own does not tell how many spans it dropped.
type queue struct {
	exporter sdk.SpanExporter
	spans    chan sdk.ReadOnlySpan
	total    *prometheus.CounterVec
	log      *slog.Logger
	clock    func() time.Time

	flush    chan chan struct{}
	life     context.Context // of exports
	kill     context.CancelFunc
	closed   atomic.Bool
	stop     chan struct{} // closed when no more come
	stopOnce sync.Once
	ended    chan struct{}
	said     time.Time // when a failure was logged last
	since    int       // spans lost since
}

func newQueue(exporter sdk.SpanExporter, total *prometheus.CounterVec, log *slog.Logger, clock func() time.Time) *queue {
	q := &queue{
		exporter: exporter, spans: make(chan sdk.ReadOnlySpan, queued), total: total, log: log, clock: clock,
		flush: make(chan chan struct{}), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	q.life, q.kill = context.WithCancel(context.Background())
	go q.run()
	return q
}

// OnStart is sdk.SpanProcessor.
func (q *queue) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd is sdk.SpanProcessor. It does not wait.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if !q.closed.Load() {
		select {
		case q.spans <- s:
			return
		default:
		}
	}
	q.total.WithLabelValues(dropped).Inc()
}

// ForceFlush is sdk.SpanProcessor.
func (q *queue) ForceFlush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case q.flush <- done:
	case <-q.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown is sdk.SpanProcessor.
func (q *queue) Shutdown(ctx context.Context) error {
	q.closed.Store(true)
	q.stopOnce.Do(func() { close(q.stop) })
	defer q.kill()
	select {
	case <-q.ended:
	case <-ctx.Done():
		q.kill()
		<-q.ended
	}
	return q.exporter.Shutdown(context.WithoutCancel(ctx))
}

func (q *queue) run() {
	defer close(q.ended)
	tick := time.NewTicker(exportEvery)
	defer tick.Stop()
	waiting := make([]sdk.ReadOnlySpan, 0, batch)
	send := func() { q.export(waiting); clear(waiting); waiting = waiting[:0] }
	drain := func() {
		for {
			select {
			case s := <-q.spans:
				if waiting = append(waiting, s); len(waiting) == batch {
					send()
				}
			default:
				send()
				return
			}
		}
	}
	for {
		select {
		case s := <-q.spans:
			if waiting = append(waiting, s); len(waiting) == batch {
				send()
			}
		case <-tick.C:
			send()
		case done := <-q.flush:
			drain()
			close(done)
		case <-q.stop:
			drain()
			return
		}
	}
}

func (q *queue) export(spans []sdk.ReadOnlySpan) {
	if len(spans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(q.life, exportTimeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, spans)
	if err == nil {
		q.total.WithLabelValues(sent).Add(float64(len(spans)))
		return
	}
	q.total.WithLabelValues(failed).Add(float64(len(spans)))
	q.since += len(spans)
	if now := q.clock(); now.Sub(q.said) >= complainEvery && !errors.Is(err, context.Canceled) {
		q.log.Warn("spans of traces are lost: their collector does not take them", "spans", q.since, "err", err)
		q.said, q.since = now, 0
	}
}
