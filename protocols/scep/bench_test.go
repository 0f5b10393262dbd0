package scep

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// cpu reports the CPU time of an operation: on a busy machine the time that it took says little.
func cpu(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64((used()-start).Microseconds())/float64(b.N), "cpu-µs/op") }
}

// BenchmarkEnroll is the server's share of a PKIOperation, but for what the gateway does: compare it with BenchmarkCrypto.
func BenchmarkEnroll(b *testing.B) {
	w := newWorld(b, worldOptions{quiet: true})
	cert := w.device(deviceKey())
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultIssued, Certificate: cert}, nil
	}
	message := w.message(wish{})
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		rec := httptest.NewRecorder()
		w.router.ServeHTTP(rec, httptest.NewRequest("POST", "/scep?operation=PKIOperation", bytes.NewReader(message)))
		if rec.Code != 200 {
			b.Fatal(rec.Body)
		}
		w.gateway.enrolled = w.gateway.enrolled[:0]
	}
}

// BenchmarkCrypto is the sum of the RSA-2048 operations that a PKIOperation cannot do without: verify the message,
// decrypt the envelope, verify the request, encrypt the answer, sign it.
func BenchmarkCrypto(b *testing.B) {
	ra, pub, digest := raKey(), &deviceKey().PublicKey, make([]byte, 32)
	signature := must(rsa.SignPKCS1v15(rand.Reader, deviceKey(), crypto.SHA256, digest))
	//lint:ignore SA1019 as protocols/cms does
	encrypted := must(rsa.EncryptPKCS1v15(rand.Reader, &ra.PublicKey, make([]byte, 16)))
	defer cpu(b)()
	for b.Loop() {
		for range 2 {
			if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest, signature); err != nil {
				b.Fatal(err)
			}
		}
		//lint:ignore SA1019 as protocols/cms does
		if err := rsa.DecryptPKCS1v15SessionKey(nil, ra, encrypted, make([]byte, 16)); err != nil {
			b.Fatal(err)
		}
		//lint:ignore SA1019 as protocols/cms does
		if _, err := rsa.EncryptPKCS1v15(rand.Reader, pub, make([]byte, 16)); err != nil {
			b.Fatal(err)
		}
		if _, err := rsa.SignPKCS1v15(rand.Reader, ra, crypto.SHA256, digest); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefuse is what garbage in an envelope costs.
func BenchmarkRefuse(b *testing.B) {
	w := newWorld(b, worldOptions{quiet: true})
	message := w.message(wish{csr: []byte("garbage")})
	defer cpu(b)()
	for b.Loop() {
		w.router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/scep", bytes.NewReader(message)))
		w.gateway.rejected = w.gateway.rejected[:0]
	}
}
