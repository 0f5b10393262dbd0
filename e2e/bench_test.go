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
	b.ResetTimer()
	used := load(b, []int{g.cmd.Process.Pid, g.plugin()}, n, b.N, operation)
	b.StopTimer()
	b.ReportMetric(used/1000, "cpu-µs/op")
}

// load has n clients run the operation so many times, each number once, and returns what the processes used for one, in nanoseconds.
func load(b *testing.B, processes []int, n, times int, operation func(i int) error) float64 {
	b.Helper()
	used := func() (ns int64) {
		for _, pid := range processes {
			ns += cpu(b, pid)
		}
		return ns
	}
	var next atomic.Int64
	done := make(chan error, n)
	start := used()
	for range n {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= times {
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
	return float64(used()-start) / float64(times)
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

// somethingSigned is a new P-256 key, and what it has signed.
func somethingSigned(b *testing.B) (key *ecdsa.PrivateKey, digest [sha256.Size]byte, signature []byte) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest = sha256.Sum256([]byte("to be signed"))
	if signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
		b.Fatal(err)
	}
	return key, digest, signature
}

// cryptoPerEnrollment measures, on this machine and now, what an enrollment over EST cannot do without, in nanoseconds:
// verifying the request's signature, making the certificate's, verifying it in the CA before it leaves, and once more
// in the gateway before it is handed out. The TLS handshake is not in it: the benchmark's connections stay open.
func cryptoPerEnrollment(b *testing.B) (ns float64) {
	b.Helper()
	key, digest, signature := somethingSigned(b)
	const n = 500
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
	}
	return float64((threadTime(b) - start).Nanoseconds()) / n
}

// BenchmarkEnroll is the whole way: EST over TLS with Basic, pipeline, intent, CA plugin in its own process, outcome, answer.
// cpu-µs/op is what gateway and plugin used together; crypto-µs/op is the sum of its crypto operations, measured beside it.
func BenchmarkEnroll(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(strconv.Itoa(clients)+"-clients", func(b *testing.B) {
			g := startIn(b, filepath.Join(b.TempDir(), "data"))
			devices := make([]*device, b.N)
			for i := range devices {
				devices[i] = newDevice(b, "bench-"+strconv.Itoa(i))
			}
			client := g.client(nil)
			g.mustEnroll(newDevice(b, "warm-up"))
			crypto := cryptoPerEnrollment(b)
			g.measure(b, clients, func(i int) error {
				a, err := g.enroll(b.Context(), client, devices[i])
				if err == nil && a.status != http.StatusOK {
					err = fmt.Errorf("answered %d: %s", a.status, a.body)
				}
				return err
			})
			b.ReportMetric(crypto/1000, "crypto-µs/op")
		})
	}
}
