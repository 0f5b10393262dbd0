package store_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
)

// BenchmarkAudit: what signatures and the head file add to a commit with one event.
func BenchmarkAudit(b *testing.B) {
	for _, name := range []string{"plain", "signed, with a head file", "and a file as sink"} {
		guarded := name != "plain"
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			o := store.Options{Instance: "one"}
			if guarded {
				key, err := audit.NewKey()
				if err != nil {
					b.Fatal(err)
				}
				o.AuditKey, o.AuditHead = key, filepath.Join(dir, "audit.head")
			}
			s, err := store.Open(b.Context(), "sqlite:"+filepath.Join(dir, "muster.db"), o)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			if name == "and a file as sink" {
				if err := s.ShipTo(b.Context(), []audit.Sink{audit.NewFileSink(filepath.Join(dir, "audit.jsonl"))}); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := s.Record(context.Background(), gateway.AuditEvent{Kind: "strangers"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerifyAudit reads and verifies a trail in a file.
func BenchmarkVerifyAudit(b *testing.B) {
	const n = 200_000
	dir := b.TempDir()
	dsn := "sqlite:" + filepath.Join(dir, "muster.db")
	s, err := store.Open(b.Context(), dsn, store.Options{Instance: "one"})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Record(b.Context(), gateway.AuditEvent{Kind: "started"}); err != nil {
		b.Fatal(err)
	}
	store.FillAudit(b, s, n)
	defer s.Close()
	for b.Loop() {
		if err := s.VerifyAudit(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
