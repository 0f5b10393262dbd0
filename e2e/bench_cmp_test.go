package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// measure has n clients run the operation b.N times, each number once, and reports what gateway and plugin used together.
func (g *instance) measure(b *testing.B, n int, operation func(i int) error) {
	b.Helper()
	processes := []int{g.cmd.Process.Pid, g.plugin()}
	used := func() (ns int64) {
		for _, pid := range processes {
			ns += cpu(b, pid)
		}
		return ns
	}
	var next atomic.Int64
	done := make(chan error, n)
	start := used()
	b.ResetTimer()
	for range n {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					done <- nil
					return
				}
				if err := operation(i); err != nil {
					done <- fmt.Errorf("operation %d: %w", i, err)
					return
				}
			}
		}()
	}
	for range n {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(used()-start)/float64(b.N)/1000, "cpu-µs/op")
}

// ownThread keeps the goroutine on its thread until release, so that threadTime is its own.
func ownThread() (release func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

// threadTime is the CPU time that this thread has used: on a machine that others use too, the time that something took says little.
func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// cmpCrypto measures, on this machine and now, what an enrollment over CMP cannot do without, in nanoseconds: verifying the
// proof of possession, making the certificate's signature, verifying it in the CA before it leaves and in the gateway
// before it is handed out; and the MACs of four messages, two to verify and two to make, of 500 iterations each.
func cmpCrypto(b *testing.B) (ns float64) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("to be signed"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	mac, part, secret := pbm(b), random(600), random(24)
	const n = 300
	defer ownThread()()
	start := threadTime(b)
	for range n {
		if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil { // deterministic, as the CA does it
			b.Fatal(err)
		}
		for range 3 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("the signature does not verify")
			}
		}
		for range 4 {
			mac.Sum(secret, part)
		}
	}
	return float64((threadTime(b) - start).Nanoseconds()) / n
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
