package host_test

import (
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

// BenchmarkLookup is one bare call through host, socket and plugin, one caller at a time.
func BenchmarkLookup(b *testing.B) {
	c, _ := config(b, "")
	p := start(b, c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Lookup(b.Context(), &backend.IssueRequest{ID: "never"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookupParallel is the same from 16 callers for each processor.
func BenchmarkLookupParallel(b *testing.B) {
	c, _ := config(b, "")
	p := start(b, c)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := p.Lookup(b.Context(), &backend.IssueRequest{ID: "never"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
