package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
)

// cryptoPerEnrollment measures, on this machine and now, what an enrollment over EST cannot do without, in nanoseconds:
// verifying the request's signature, making the certificate's, verifying it in the CA before it leaves, and once more
// in the gateway before it is handed out. The TLS handshake is not in it: the benchmark's connections stay open.
func cryptoPerEnrollment(b *testing.B) (ns float64) {
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
			processes := []int{g.cmd.Process.Pid, g.plugin()}
			used := func() (ns int64) {
				for _, pid := range processes {
					ns += cpu(b, pid)
				}
				return ns
			}
			crypto := cryptoPerEnrollment(b)
			var next atomic.Int64
			done := make(chan error)
			start := used()
			b.ResetTimer()
			for range clients {
				go func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= len(devices) {
							done <- nil
							return
						}
						a, err := g.enroll(b.Context(), client, devices[i])
						if err == nil && a.status != http.StatusOK {
							err = os.ErrInvalid
						}
						if err != nil {
							done <- err
							return
						}
					}
				}()
			}
			for range clients {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(used()-start)/float64(b.N)/1000, "cpu-µs/op")
			b.ReportMetric(crypto/1000, "crypto-µs/op")
		})
	}
}
