package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// BenchmarkLimit is Begin with no claim, with one of a number per hour that is empty, nearly full (10,000), and full of uses that
// lapse as fast as others are taken; and with one that has none left.
func BenchmarkLimit(b *testing.B) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		for _, c := range []struct {
			name string
			full int
			step time.Duration // by which the clock goes on with each
		}{{"none", -1, 0}, {"empty", 0, 0}, {"nearly full", 9_999, 0}, {"sliding", 10_000, 360 * time.Millisecond}, {"lost", 10_000, 0}} {
			b.Run(fmt.Sprintf("%s/%s", kind, c.name), func(b *testing.B) {
				var d *database
				if kind == "SQLite" {
					d = newSQLite(b)
				} else {
					d = newPostgres(b, pgtest.Start(b))
				}
				clock := storetest.NewClock()
				s := d.Open(b, "one", clock.Now)
				begin := func(limit int64) error {
					t := newTransaction()
					next := &gateway.Beginning{Transaction: t, Lease: time.Minute}
					if c.full >= 0 {
						next.Claims = []gateway.Claim{{Key: "limit:endpoint:1:e:issued:1h", Limit: limit, Until: clock.Now().Add(time.Hour)}}
					}
					_, err := s.Begin(b.Context(), next)
					return err
				}
				if c.full > 0 {
					d.fill(b, "limit:endpoint:1:e:issued:1h", c.full, clock.Now())
				}
				limit := int64(10_000)
				if c.name == "nearly full" || c.name == "empty" {
					limit += int64(b.N)
				}
				b.ResetTimer()
				before := cpu(b)
				for range b.N {
					clock.Advance(c.step)
					if err := begin(limit); (err != nil) != (c.name == "lost") {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// fill has a claim used, the first to lapse with the next step of the clock.
func (d *database) fill(b *testing.B, key string, n int, now time.Time) {
	const chunk = 500
	for i := 0; i < n; {
		text := "INSERT INTO uses (tx, key, n, until) VALUES "
		for j := range min(chunk, n-i) {
			if j > 0 {
				text += ", "
			}
			text += fmt.Sprintf("('filled %d', '%s', 1, %d)", i, key, now.Add(time.Duration(i+1)*360*time.Millisecond).UnixMicro())
			i++
		}
		d.Exec(b, text)
	}
	d.Exec(b, fmt.Sprintf("INSERT INTO claims (key, used) VALUES ('%s', %d)", key, n))
}
