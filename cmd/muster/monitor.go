package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// condition is the metrics of what runs, as the configuration in force has it. Its labels are names of the configuration and of CAs.
type condition struct{ p *process }

var (
	buildDesc    = prometheus.NewDesc("muster_build_info", "1, with what this program is.", []string{"version", "goversion"}, nil)
	readyDesc    = prometheus.NewDesc("muster_ready", "What /readyz says: 1, or 0 while requests cannot be recorded or no CA of a profile can issue.", nil, nil)
	pluginUpDesc = prometheus.NewDesc("muster_plugin_up", "1, or 0 while the CA's plugin does not run, or says that its CA can issue nothing.", []string{"backend"}, nil)
	caEndsDesc   = prometheus.NewDesc("muster_ca_certificate_expiry_timestamp_seconds",
		"When a CA's certificate ends, Unix time; position 0 is the CA's own, 1 the one above it, and so on.", []string{"backend", "ca", "position"}, nil)
	tlsEndsDesc = prometheus.NewDesc("muster_listener_certificate_expiry_timestamp_seconds", "When a listener's TLS certificate ends, Unix time.", []string{"listener"}, nil)
	raEndsDesc  = prometheus.NewDesc("muster_ra_certificate_expiry_timestamp_seconds", "When the RA certificate of an endpoint ends, Unix time.", []string{"endpoint"}, nil)
)

// Describe is prometheus.Collector.
func (condition) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildDesc, readyDesc, pluginUpDesc, caEndsDesc, tlsEndsDesc, raEndsDesc} {
		to <- d
	}
}

// Collect is prometheus.Collector.
func (c condition) Collect(to chan<- prometheus.Metric) {
	is := func(d *prometheus.Desc, yes bool, labels ...string) {
		v := 0.0
		if yes {
			v = 1
		}
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ends := func(d *prometheus.Desc, at time.Time, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(at.Unix()), labels...)
	}
	is(buildDesc, true, version(), runtime.Version())
	ctx, cancel := context.WithTimeout(context.Background(), sinkWait)
	defer cancel()
	is(readyDesc, c.p.ready(ctx) == nil)
	rt := c.p.runtime.Load()
	if rt == nil {
		return
	}
	for name, r := range rt.plugins {
		is(pluginUpDesc, r.plugin.Healthy() == nil, name)
	}
	for name, cas := range rt.cas {
		seen := map[string]bool{} // a metric twice would fail the scrape
		for _, ca := range cas {
			if seen[ca.Name] {
				continue
			}
			seen[ca.Name] = true
			for i, der := range ca.Chain {
				if cert, err := x509.ParseCertificate(der); err == nil { // it was when the configuration was put into force
					ends(caEndsDesc, cert.NotAfter, name, ca.Name, strconv.Itoa(i))
				}
			}
		}
	}
	for name, spec := range rt.specs {
		if spec.TLS == nil {
			continue
		}
		shown := c.p.own.Certificate()
		if len(spec.TLS.Certificates) > 0 {
			shown = &spec.TLS.Certificates[0]
		}
		if leaf := leafIn(shown); leaf != nil {
			ends(tlsEndsDesc, leaf.NotAfter, name)
		}
	}
	for endpoint, now := range rt.identities {
		if id := now(); id != nil && id.Certificate != nil {
			ends(raEndsDesc, id.Certificate.NotAfter, endpoint)
		}
	}
}

// leafIn is a TLS certificate, parsed; nil for none.
func leafIn(c *tls.Certificate) *x509.Certificate {
	if c == nil || len(c.Certificate) == 0 {
		return nil
	}
	if c.Leaf != nil {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// backendNames are those of the configuration in force.
func (p *process) backendNames() []string {
	if rt := p.runtime.Load(); rt != nil {
		return byName(rt.cfg.Backends)
	}
	return nil
}

// registerStore registers the metrics that need the store.
func (p *process) registerStore() error {
	for _, c := range []prometheus.Collector{sinkMetrics{p}, condition{p}, p.spans} {
		if err := p.registry.Register(c); err != nil {
			return err
		}
	}
	return p.store.Metrics(p.backendNames).Register(p.registry)
}
