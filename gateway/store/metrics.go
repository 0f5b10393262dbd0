package store

import (
	"context"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/muster-pki/muster/gateway"
)

func newCommits() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "muster_store_commit_duration_seconds", Help: "From asking for a commit until it is durable, or has failed, the time in its queue and until the audit sinks have it included.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
	})
}

// Queued are what transactions can be in that somebody, or the CA, still has to do something about.
var Queued = []gateway.State{gateway.StateHeld, gateway.StateIssuing, gateway.StateUnknown, gateway.StateQueued, gateway.StateWaiting, gateway.StateStuck, gateway.StateUnconfirmed, gateway.StateForwarded}

// Metrics are the store's, and those of what it holds. Labels are states, and the backends that configured tells of: what is of none
// of these, which a configuration before had, is "other".
type Metrics struct {
	s          *Store
	configured func() []string // names of backends
	lock       chan struct{}   // holds one element while somebody counts
	next       time.Time       // when is counted again
	counts     []prometheus.Metric
}

const (
	countEvery = 15 * time.Second // what is counted is a walk through index entries
	countWait  = 2 * time.Second
	countRest  = 20 // times as long as a count took, at least: of 100,000 held requests one took 1 s
)

// horizons are what the certificates that end are counted by. Each has those of the ones before.
var horizons = []struct {
	within string
	d      time.Duration
}{{"1d", 24 * time.Hour}, {"7d", 7 * 24 * time.Hour}, {"30d", 30 * 24 * time.Hour}, {"90d", 90 * 24 * time.Hour}}

var (
	transactionsDesc = prometheus.NewDesc("muster_transactions", "Transactions that are not over, by the state in which they are and by their CA.", []string{"backend", "state"}, nil)
	endingDesc       = prometheus.NewDesc("muster_certificates_expiring", "Certificates that are valid, not revoked, and end within that time.", []string{"within"}, nil)
	sizeDesc         = prometheus.NewDesc("muster_store_size_bytes", "Size of the database: SQLite's files with its log, PostgreSQL's pg_database_size.", nil, nil)
	readyDesc        = prometheus.NewDesc("muster_store_up", "1, or 0 while the last commit has failed.", nil, nil)
)

// Metrics makes the collector. It is to be registered once.
func (s *Store) Metrics(configured func() []string) *Metrics {
	return &Metrics{s: s, configured: configured, lock: make(chan struct{}, 1)}
}

// Register registers it, with the pools of connections.
func (m *Metrics) Register(r prometheus.Registerer) error {
	all := []prometheus.Collector{m, m.s.commits, collectors.NewDBStatsCollector(m.s.readDB, "read"), collectors.NewDBStatsCollector(m.s.writeDB, "write")}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Describe is prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	to <- transactionsDesc
	to <- endingDesc
	to <- sizeDesc
	to <- readyDesc
}

// Collect is prometheus.Collector. What cannot be counted now is left out.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	up := 1.0
	if m.s.writer.Healthy() != nil {
		up = 0
	}
	to <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, up)
	ctx, cancel := context.WithTimeout(context.Background(), countWait)
	defer cancel()
	select {
	case m.lock <- struct{}{}:
		defer func() { <-m.lock }()
	case <-ctx.Done():
		return
	}
	if now := m.s.clock(); m.counts == nil || !now.Before(m.next) {
		began := time.Now()
		counts, err := m.count(ctx, now)
		if err != nil {
			m.s.log.Warn("the store cannot be counted for /metrics", "err", err)
		}
		m.counts, m.next = counts, now.Add(max(countEvery, countRest*time.Since(began)))
	}
	for _, c := range m.counts {
		to <- c
	}
}

// The states stand by name: then the index transactions_state answers.
const countQueued = `SELECT backend, state, count(*) FROM transactions
	WHERE state IN ('held', 'issuing', 'unknown', 'queued', 'waiting', 'stuck', 'unconfirmed', 'forwarded') GROUP BY backend, state`

func (m *Metrics) count(ctx context.Context, now time.Time) (out []prometheus.Metric, err error) {
	add := func(d *prometheus.Desc, n int64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...))
	}
	size, err := m.s.size(ctx)
	if err != nil {
		return out, err
	}
	add(sizeDesc, size)

	names, known := m.configured(), map[string]map[gateway.State]int64{}
	for _, name := range append(names, "other") {
		known[name] = map[gateway.State]int64{}
	}
	rows, err := m.s.readDB.QueryContext(ctx, m.s.dialect.sql(countQueued))
	if err != nil {
		return out, err
	}
	err = each(rows, func(scan func(...any) error) error {
		var name string
		var state gateway.State
		var n int64
		err := scan(&name, &state, &n)
		if known[name] == nil {
			name = "other"
		}
		known[name][state] += n
		return err
	})
	if err != nil {
		return out, err
	}
	for name, states := range known {
		for _, state := range Queued {
			add(transactionsDesc, states[state], name, string(state))
		}
	}

	var sum int64
	from := now
	for _, h := range horizons {
		until := now.Add(h.d)
		n, err := m.s.Endings(ctx, from, until.Sub(from), 1)
		if err != nil {
			return out, err
		}
		sum, from = sum+n[0], until
		add(endingDesc, sum, h.within)
	}
	return out, nil
}

// size is the database's, in bytes.
func (s *Store) size(ctx context.Context) (n int64, err error) {
	if s.dialect != &sqliteDialect {
		err = s.readDB.QueryRowContext(ctx, "SELECT pg_database_size(current_database())").Scan(&n)
		return n, err
	}
	var file string
	if err := s.readDB.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&file); err != nil {
		return 0, err
	}
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(file + suffix)
		if err != nil && suffix == "" {
			return 0, err
		}
		if err == nil {
			n += info.Size()
		}
	}
	return n, nil
}
