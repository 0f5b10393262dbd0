package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway/admin"
)

// sinkStates is what the admin API says of the audit trail's sinks.
func (p *process) sinkStates(ctx context.Context) (all []admin.Sink) {
	states, err := p.store.Sinks(ctx)
	if err != nil {
		p.log.Warn("how far the sinks of the audit trail are cannot be told", "err", err)
	}
	for _, s := range states {
		sink := admin.Sink{Name: s.Name, Lag: s.Lag, Down: s.Since.UTC()}
		if s.Since.IsZero() {
			sink.Down = time.Time{}
		}
		if s.Err != nil {
			sink.Error = s.Err.Error()
		}
		all = append(all, sink)
	}
	return all
}

// sinkMetrics are those of the audit trail's sinks. Their label is bounded by the configuration.
type sinkMetrics struct{ p *process }

var (
	sinkLag = prometheus.NewDesc("muster_audit_sink_lag_records", "Records of the audit trail that a sink does not have yet.", []string{"sink"}, nil)
	sinkUp  = prometheus.NewDesc("muster_audit_sink_up", "1, or 0 while nothing new is begun since a sink of the audit trail fails or is behind.", []string{"sink"}, nil)
)

// Describe is prometheus.Collector.
func (sinkMetrics) Describe(to chan<- *prometheus.Desc) { to <- sinkLag; to <- sinkUp }

// sinkWait bounds how long a scrape waits for the store.
const sinkWait = 2 * time.Second

// Collect is prometheus.Collector.
func (m sinkMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), sinkWait)
	defer cancel()
	for _, s := range m.p.sinkStates(ctx) {
		up := 1.0
		if !s.Down.IsZero() {
			up = 0
		}
		to <- prometheus.MustNewConstMetric(sinkLag, prometheus.GaugeValue, float64(s.Lag), s.Name)
		to <- prometheus.MustNewConstMetric(sinkUp, prometheus.GaugeValue, up, s.Name)
	}
}
