package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// fleet is n devices with two identifiers each.
func fleet(n int) []*gateway.Device {
	devices := make([]*gateway.Device, n)
	for i := range devices {
		devices[i] = &gateway.Device{
			Name: fmt.Sprintf("device-%07d", i), Vendor: "Example Radio", Profiles: []string{"base-station"}, Enrollments: 1,
			Identifiers: []gateway.DeviceID{{Kind: "serial", Value: serialOf(i)}, {Kind: "imei", Value: fmt.Sprintf("%015d", 350000000000000+i)}},
			Attributes:  map[string]string{"site": fmt.Sprintf("site-%d", i%1000)},
		}
	}
	return devices
}

// serialOf is spread over the index, as serial numbers of several vendors are.
func serialOf(i int) string { return fmt.Sprintf("%08X", uint32(i)*2654435761) }

func importFleet(b *testing.B, s storetest.Store, n int, replace bool) {
	b.Helper()
	added, replaced, err := s.ImportDevices(context.Background(), fleet(n), replace, gateway.AuditEvent{Kind: "devices-imported", At: time.Now()}, nil)
	if err != nil || added+replaced != n {
		b.Fatalf("%d added, %d replaced, %v", added, replaced, err)
	}
}

// BenchmarkDevice is a look-up by identifier, as there is one for each enrollment, in fleets of two sizes.
func BenchmarkDevice(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		s := newSQLite(b).Open(b, "one", nil)
		start := time.Now()
		importFleet(b, s, n, false)
		b.Logf("%d devices were imported in %v", n, time.Since(start).Round(time.Millisecond))
		for name, kind := range map[string]string{"kind=serial": "serial", "kind=any": ""} {
			b.Run(fmt.Sprintf("devices=%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				before := cpu(b)
				for i := range b.N {
					value := serialOf(i * 7919 % n)
					if _, err := s.Device(context.Background(), kind, value); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1000/float64(b.N), "µs/look-up")
				b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// BenchmarkImportDevices is an import of 100,000, and the longest that another commit waited meanwhile.
func BenchmarkImportDevices(b *testing.B) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		for _, replace := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/replace=%t", kind, replace), func(b *testing.B) {
				var longest time.Duration
				for range b.N {
					b.StopTimer()
					var d *database
					if kind == "SQLite" {
						d = newSQLite(b)
					} else {
						d = newPostgres(b, pgtest.Start(b))
					}
					s := d.Open(b, "one", nil)
					if replace {
						importFleet(b, s, 100_000, false)
					}
					stop, stopped := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(stopped)
						for {
							select {
							case <-stop:
								return
							default:
							}
							start := time.Now()
							if err := s.Record(context.Background(), gateway.AuditEvent{Kind: "strangers"}); err != nil {
								b.Error(err)
							}
							longest = max(longest, time.Since(start))
							time.Sleep(5 * time.Millisecond)
						}
					}()
					before := cpu(b)
					b.StartTimer()
					importFleet(b, s, 100_000, replace)
					b.StopTimer()
					b.ReportMetric((cpu(b) - before).Seconds(), "cpu-s/op")
					close(stop)
					<-stopped
				}
				b.ReportMetric(float64(longest.Milliseconds()), "longest-commit-ms")
			})
		}
	}
}
