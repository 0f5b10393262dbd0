package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// BenchmarkEnrollment is what one enrollment asks of the store: the look for a repeat, Begin with a claim, Settle with a
// certificate. CPU is this process's; PostgreSQL's own comes on top.
func BenchmarkEnrollment(b *testing.B) { bench(b, enroll) }

// BenchmarkConfirmed is what one enrollment asks of it whose certificate is confirmed (CMP): two keys, a record of the
// exchange, a look for its wire ID, and Conclude.
func BenchmarkConfirmed(b *testing.B) { bench(b, confirm) }

func bench(b *testing.B, once func(b *testing.B, s storetest.Store)) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		for _, callers := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/callers=%d", kind, callers), func(b *testing.B) {
				var d *database
				if kind == "SQLite" {
					d = newSQLite(b)
				} else {
					d = newPostgres(b, pgtest.Start(b))
				}
				s := d.Open(b, "one", nil)
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ReportAllocs()
				b.ResetTimer()
				before := cpu(b)
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							once(b, s)
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func enroll(b *testing.B, s storetest.Store) {
	tx := newTransaction()
	if _, err := s.Repeat(context.Background(), tx.Repeat, tx.Received); err != gateway.ErrNotFound {
		b.Errorf("Repeat: %v", err)
	}
	epoch, err := s.Begin(context.Background(), &gateway.Beginning{Transaction: tx, Lease: time.Minute,
		Claims: []gateway.Claim{{Key: "count:" + tx.Device, Limit: 1}}})
	if err == nil {
		err = s.Settle(context.Background(), newSettlement(tx, epoch))
	}
	if err != nil {
		b.Error(err)
	}
}

func confirm(b *testing.B, s storetest.Store) {
	tx := newTransaction()
	tx.WireID, tx.Resume, tx.ConfirmWait, tx.Exchange = "wire "+tx.ID, "resume of "+gateway.RepeatKey(tx.ID), time.Hour, make([]byte, 100)
	for _, key := range []gateway.RepeatKey{tx.Repeat, tx.Resume} {
		if _, err := s.Repeat(context.Background(), key, tx.Received); err != gateway.ErrNotFound {
			b.Errorf("Repeat: %v", err)
		}
	}
	epoch, err := s.Begin(context.Background(), &gateway.Beginning{Transaction: tx, Lease: time.Minute,
		Claims: []gateway.Claim{{Key: "count:" + tx.Device, Limit: 1}}})
	if err == nil {
		set := newSettlement(tx, epoch)
		set.State, set.Next, set.Delay = gateway.StateUnconfirmed, gateway.WorkConfirm, time.Hour
		err = s.Settle(context.Background(), set)
	}
	if err == nil {
		_, err = s.ByWireID(context.Background(), tx.Endpoint, tx.WireID)
	}
	if err == nil {
		now := time.Now()
		err = s.Conclude(context.Background(), &gateway.Conclusion{Transaction: tx.ID, State: gateway.StateIssued, Exchange: tx.Exchange,
			Now: now, RepeatUntil: now.Add(10 * time.Minute), Audit: gateway.AuditEvent{Kind: "confirmed", At: now, Transaction: tx.ID}})
	}
	if err != nil {
		b.Error(err)
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOpen: the whole binary is to start in half a second, and tests open stores by the hundred.
func BenchmarkOpen(b *testing.B) {
	for _, what := range []string{"new", "existing"} {
		b.Run(what, func(b *testing.B) {
			d := newSQLite(b)
			for i := 0; b.Loop(); i++ {
				if what == "new" && i > 0 {
					d = newSQLite(b)
				}
				s, err := store.Open(b.Context(), d.dsn, store.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
