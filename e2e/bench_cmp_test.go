package e2e

import (
	"net/http"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// cmpCrypto measures what an enrollment over CMP cannot do without, in nanoseconds: what one over EST cannot
// (cryptoPerEnrollment; the proof of possession is the request's signature), and the MACs of four messages, two to verify
// and two to make, of 500 iterations each.
func cmpCrypto(b *testing.B) (ns float64) {
	b.Helper()
	signatures := cryptoPerEnrollment(b)
	mac, part, secret := pbm(b), random(600), random(24)
	const n = 300
	defer ownThread()()
	start := threadTime(b)
	for range n {
		for range 4 {
			mac.Sum(secret, part)
		}
	}
	return signatures + float64((threadTime(b)-start).Nanoseconds())/n
}

// BenchmarkEnrollCMP is the whole way of ir, ip, certConf and pkiConf, protected by MAC, over plain HTTP. cpu-µs/op is what
// gateway and plugin used together; crypto-µs/op is the sum of its crypto operations, measured beside it.
func BenchmarkEnrollCMP(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(strconv.Itoa(clients)+"-clients", func(b *testing.B) {
			g := startIn(b, filepath.Join(b.TempDir(), "data"))
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
			devices := make([]*cmpDevice, b.N+1)
			for i := range devices {
				devices[i] = g.cmpDevice("bench-" + strconv.Itoa(i))
				devices[i].http = client
			}
			if err := devices[b.N].enroll(); err != nil {
				b.Fatal(err)
			}
			crypto := cmpCrypto(b)
			g.measure(b, clients, func(i int) error { return devices[i].enroll() })
			b.ReportMetric(crypto/1000, "crypto-µs/op")
		})
	}
}
