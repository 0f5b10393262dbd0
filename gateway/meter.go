package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meter is the gateway's metrics. Every label's values are bounded by the code or the configuration, never by clients.
type meter struct {
	requests   *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	stages     *prometheus.CounterVec
	work       *prometheus.CounterVec
	mismatches *prometheus.CounterVec

	confirmations *prometheus.CounterVec

	waiting *prometheus.GaugeVec
	waits   *prometheus.HistogramVec
	away    *prometheus.CounterVec

	breakers *prometheus.GaugeVec
	reroutes *prometheus.CounterVec
	queued   *prometheus.GaugeVec
}

func newMeter(reg prometheus.Registerer) (*meter, error) {
	m := &meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_requests_total", Help: "Requests by outcome (issued, repeated, pending, refused, ...) and reason of refusal.",
		}, []string{"protocol", "endpoint", "operation", "outcome", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "muster_request_duration_seconds", Help: "Time from a request's arrival to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"protocol", "outcome"}),
		stages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_stage_verdicts_total", Help: "Verdicts of pipeline stages.",
		}, []string{"stage", "decision", "reason"}),
		work: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_work_total", Help: "Rows of the work table that were taken up, by what became of them.",
		}, []string{"kind", "outcome"}),
		mismatches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_certificate_mismatches_total", Help: "Certificates that a CA made otherwise than granted. Always an alarm.",
		}, []string{"backend"}),
		confirmations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_confirmations_total", Help: "Certificates that waited to be confirmed, by what became of them (confirmed, rejected, unconfirmed, kept).",
		}, []string{"protocol", "endpoint", "outcome"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "muster_rate_waiting", Help: "Requests that wait for their turn at a CA with a rate.",
		}, []string{"backend"}),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "muster_rate_wait_seconds", Help: "How long requests waited for their turn at a CA with a rate, of those that did.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 11),
		}, []string{"backend"}),
		away: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_rate_turned_away_total", Help: "Requests that were told to come back later, since a CA's rate was reached.",
		}, []string{"backend"}),
		breakers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "muster_breaker_state", Help: "Whether a CA is asked where a standby can be: 0 it is, 1 the next request tries it, 2 it is not.",
		}, []string{"backend"}),
		reroutes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_reroutes_total", Help: "Requests that went to another CA than the one that they were recorded for, which has nothing of them.",
		}, []string{"from", "to"}),
		queued: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "muster_queue_requests", Help: "Requests that are kept until their CA can be asked.",
		}, []string{"backend"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.stages, m.work, m.mismatches, m.confirmations, m.waiting, m.waits, m.away, m.breakers, m.reroutes, m.queued} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *meter) request(p Protocol, endpoint string, op Operation, outcome string, reason Reason, took time.Duration) {
	m.requests.WithLabelValues(string(p), endpoint, string(op), outcome, string(reason)).Inc()
	m.seconds.WithLabelValues(string(p), outcome).Observe(took.Seconds())
}

func (m *meter) verdicts(trail []Judged) {
	for _, j := range trail {
		m.stages.WithLabelValues(j.Stage, string(j.Decision), string(j.Reason)).Inc()
	}
}
