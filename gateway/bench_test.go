package gateway_test

import (
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// BenchmarkEnroll is the core alone: pipeline, two commits on SQLite, a CA in this process, the comparison. The CA's own
// work is in it too: one signature, and x509's verification of it.
func BenchmarkEnroll(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(strconv.Itoa(callers)+"-callers", func(b *testing.B) {
			w := newWorld(b, backendtest.FaultPlan{})
			requests := make([]*gateway.Request, b.N)
			for i := range requests {
				requests[i] = w.request("device-" + strconv.Itoa(i))
			}
			var next atomic.Int64
			done := make(chan error, callers)
			start := used(b)
			b.ResetTimer()
			for range callers {
				go func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= len(requests) {
							done <- nil
							return
						}
						if _, err := w.gw.Enroll(b.Context(), requests[i]); err != nil {
							done <- err
							return
						}
					}
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64((used(b)-start).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// used is the CPU time of this process so far.
func used(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
