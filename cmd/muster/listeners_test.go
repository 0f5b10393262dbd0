package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/serve"
)

// The operator's own certificates are told of in time, and only those.
func TestWarnOfEnds(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := func(days int) *tls.Config {
		c := &x509.Certificate{NotBefore: begin, NotAfter: begin.AddDate(0, 0, days)}
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{{0}}, Leaf: c}}}
	}
	for _, tc := range []struct {
		name  string
		spec  serve.Spec
		after int // days
		warns bool
	}{
		{"90 days, a third left", serve.Spec{TLS: leaf(90)}, 60, false},
		{"90 days, a fifth left", serve.Spec{TLS: leaf(90)}, 73, true},
		{"ended", serve.Spec{TLS: leaf(90)}, 91, true},
		{"two years, 31 days left", serve.Spec{TLS: leaf(730)}, 699, false},
		{"two years, 29 days left", serve.Spec{TLS: leaf(730)}, 701, true},
		{"the gateway's own", serve.Spec{TLS: &tls.Config{}}, 900, false},
		{"without TLS", serve.Spec{}, 900, false},
	} {
		var log bytes.Buffer
		p := &process{clock: func() time.Time { return begin.AddDate(0, 0, tc.after) }, log: slog.New(slog.NewTextHandler(&log, nil))}
		p.warnOfEnds(&Runtime{specs: map[string]serve.Spec{"edge": tc.spec}})
		if warned := strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "listener=edge"); warned != tc.warns {
			t.Errorf("%s: %q", tc.name, &log)
		}
	}
}
