package serve

import "github.com/prometheus/client_golang/prometheus"

var (
	openConnections = prometheus.NewDesc("muster_connections", "Open connections.", []string{"listener"}, nil)
	shedConnections = prometheus.NewDesc("muster_connections_shed_total",
		"Connections that were closed for a new client's sake, or turned away, by the limit: connections or per-address.", []string{"listener", "limit"}, nil)
)

// Describe and Collect make a Set a prometheus.Collector. A listener counts from when its socket was opened.
func (s *Set) Describe(ch chan<- *prometheus.Desc) { ch <- openConnections; ch <- shedConnections }

// Collect tells of the listeners that are open.
func (s *Set) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, srv := range s.servers {
		u := srv.places.usage()
		ch <- prometheus.MustNewConstMetric(openConnections, prometheus.GaugeValue, float64(u.open), name)
		ch <- prometheus.MustNewConstMetric(shedConnections, prometheus.CounterValue, float64(u.evicted), name, "connections")
		ch <- prometheus.MustNewConstMetric(shedConnections, prometheus.CounterValue, float64(u.crowded), name, "per-address")
	}
}
