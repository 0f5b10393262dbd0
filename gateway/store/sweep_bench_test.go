package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// BenchmarkSweep sweeps b.N refusals, in batches as the worker does (but without its second between them), while four clients enrol one
// after the other; and an enrollment without that, to compare.
func BenchmarkSweep(b *testing.B) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		b.Run(kind, func(b *testing.B) {
			var d *database
			if kind == "SQLite" {
				d = newSQLite(b)
			} else {
				d = newPostgres(b, pgtest.Start(b))
			}
			s := d.Open(b, "one", nil)
			id := `printf('%026d', i)`
			if kind == "PostgreSQL" {
				id = `lpad(i::text, 26, '0')`
			}
			d.Exec(b, fmt.Sprintf(refusals, b.N, id, strings.Repeat("0", 4000)))
			b.StopTimer()
			worst(b, "alone", s, func() {
				time.Sleep(3 * time.Second)
			})
			b.StartTimer()
			worst(b, "beside", s, func() {
				o := gateway.SweepOrder{Refused: time.Now()}
				var batches []time.Duration
				swept := 0
				for more := true; more; {
					began := time.Now()
					done, err := s.Sweep(b.Context(), o)
					if err != nil {
						b.Fatal(err)
					}
					more, swept = done.More, swept+done.Refused
					batches = append(batches, time.Since(began))
				}
				if swept != b.N {
					b.Fatalf("swept %d of %d", swept, b.N)
				}
				slices.Sort(batches)
				b.ReportMetric(float64(batches[len(batches)*99/100].Microseconds())/1000, "batch-p99-ms")
				b.ReportMetric(float64(batches[len(batches)/2].Microseconds())/1000, "batch-ms")
			})
		})
	}
}

// refusals inserts b.N of about 4.8 kB.
const refusals = `INSERT INTO transactions (id, wire_id, protocol, endpoint, operation, state, source, credentials, requester, device, subject, verdicts, repeat,
	backend, profile, intent, reason, note, received, updated, ticket)
	WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < %d) SELECT %s, '', 'est', 'est', 'enroll', 'refused', '', '[]', 'device', 'device', '', '["%s"]', '', '', '', '', 'not-authorized', '', 1, 1, '' FROM g`

// worst has clients enrol while something is done, and reports what they wait.
func worst(b *testing.B, what string, s storetest.Store, do func()) {
	var over atomic.Bool
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !over.Load() {
				tx := newTransaction()
				began := time.Now()
				epoch, err := s.Begin(context.Background(), &gateway.Beginning{Transaction: tx, Lease: time.Minute})
				if err == nil {
					err = s.Settle(context.Background(), newSettlement(tx, epoch))
				}
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(began))
				mu.Unlock()
			}
		})
	}
	do()
	over.Store(true)
	wg.Wait()
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, what+"-p99-ms")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-ms")
}
