package store_test

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/plugins/backend"
)

// What waits is counted by state and CA, CAs that are configured no more together; and not at each scrape.
func TestMetrics(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "muster.db"), store.Options{
		Instance: "test", Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	reg := prometheus.NewRegistry()
	if err := s.Metrics(func() []string { return []string{"corp", "idle"} }).Register(reg); err != nil {
		t.Fatal(err)
	}
	begin := func(id, ca string) {
		t.Helper()
		tx := &gateway.Transaction{
			ID: id, Protocol: gateway.EST, Endpoint: "ran", Operation: gateway.Enroll, State: gateway.StateIssuing, Backend: ca, Received: now, Updated: now,
			Repeat: gateway.RepeatKey(id), Intent: &backend.IssueRequest{ID: id},
		}
		if _, err := s.Begin(t.Context(), &gateway.Beginning{Transaction: tx, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	value := func(name string, labels ...string) float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				var have []string
				for _, l := range m.Label {
					have = append(have, l.GetValue())
				}
				if f.GetName() == name && slices.Equal(have, labels) {
					if f.GetType() == dto.MetricType_HISTOGRAM {
						return float64(m.Histogram.GetSampleCount())
					}
					return m.Gauge.GetValue()
				}
			}
		}
		return -1
	}
	begin("a", "corp")
	begin("b", "gone")
	begin("c", "gone before")
	if one, rest, none := value("muster_transactions", "corp", "issuing"), value("muster_transactions", "other", "issuing"), value("muster_transactions", "idle", "stuck"); one != 1 || rest != 2 || none != 0 {
		t.Errorf("%v at corp, %v at others, %v at idle", one, rest, none)
	}
	if n := value("muster_transactions", "gone", "issuing"); n != -1 {
		t.Errorf("a CA of before is a label: %v", n)
	}
	begin("d", "corp")
	if n := value("muster_transactions", "corp", "issuing"); n != 1 {
		t.Errorf("%v: counted at each scrape", n)
	}
	now = now.Add(time.Minute)
	if n := value("muster_transactions", "corp", "issuing"); n != 2 {
		t.Errorf("%v a minute later", n)
	}
	if n := value("muster_certificates_expiring", "90d"); n != 0 {
		t.Errorf("%v certificates end", n)
	}
	if size, up, commits := value("muster_store_size_bytes"), value("muster_store_up"), value("muster_store_commit_duration_seconds"); size < 4096 || up != 1 || commits < 4 {
		t.Errorf("size %v, up %v, commits %v", size, up, commits)
	}
}
