package local

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// BenchmarkOCSP: an answer that is kept, one that is signed, one about a certificate that was never issued.
func BenchmarkOCSP(b *testing.B) {
	for _, name := range []string{IssuerEC, IssuerRSA} {
		c := open(b, standing(b), Options{}, "ocsp: {keep: 1000000}")
		q := request(b, "a")
		q.Issuer = name
		leaf, ca := issue(b, c, q), c.open.Load().issuer(name).cert
		ask := func(request []byte) error {
			_, err := c.OCSP(b.Context(), name, request)
			return err
		}
		known := question(b, leaf, ca, crypto.SHA1)
		stranger := *leaf
		var strange [][]byte
		for n := range 1000 {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
			stranger.SerialNumber = stranger.SerialNumber.SetBytes(positive(sum[:serialSize]))
			strange = append(strange, question(b, &stranger, ca, crypto.SHA1))
		}

		b.Run(name+"/kept/callers=1", func(b *testing.B) { measure(b, 1, func(int64) error { return ask(known) }) })
		b.Run(name+"/kept/callers=32", func(b *testing.B) { measure(b, 32, func(int64) error { return ask(known) }) })
		b.Run(name+"/signed", func(b *testing.B) {
			o := c.open.Load().ocsp
			measure(b, 1, func(int64) error {
				o.mu.Lock()
				clear(o.kept)
				o.used.Init()
				o.mu.Unlock()
				return ask(known)
			})
		})
		b.Run(name+"/stranger", func(b *testing.B) { measure(b, 1, func(n int64) error { return ask(strange[n%1000]) }) })
	}
}

// BenchmarkOCSPAhead: answers for many certificates, signed in advance: time and memory of each.
func BenchmarkOCSPAhead(b *testing.B) {
	const certificates = 20_000
	dir := standing(b)
	many(b, dir, certificates, false)
	for range b.N {
		c := open(b, dir, Options{}, "ocsp: {keep: 1000000}")
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		used := cpu(b)
		if err := c.signAll(b.Context(), func(time.Duration) {}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/certificates, "cpu-µs/answer")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/certificates, "B/answer")
		if n := c.open.Load().ocsp.signed.Load(); n != certificates {
			b.Errorf("%d signed", n)
		}
		shut(b, c)
	}
}

// many puts rows into the ledger of a CA that is closed.
func many(tb testing.TB, dir string, n int, revoked bool) {
	tb.Helper()
	revocation := "NULL, NULL"
	if revoked {
		revocation = fmt.Sprintf("%d, 1", now.Unix())
	}
	execLedger(tb, dir, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d)
		INSERT INTO certificates (id, issuer, generation, serial, device, template, certificate, issued_at, not_after, revoked_at, reason)
		SELECT 'many-'||i, 'ec', 1, CAST(x'40' || randomblob(19) AS BLOB), '', x'00', x'00', %d, %d, %s FROM n;
		UPDATE keys SET revocations = revocations + 1`, n, now.Unix(), now.Add(365*day).Unix(), revocation))
}

// BenchmarkCRL: one of so many revoked certificates.
func BenchmarkCRL(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := standing(b)
			many(b, dir, n, true)
			clock := now
			c := open(b, dir, Options{Clock: func() time.Time { return clock }})
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				clock = clock.Add(4 * day) // the next is due
				var size counting
				if err := c.CRL(b.Context(), "ec", &size); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(size), "B/CRL")
			}
		})
	}
}

// BenchmarkShardCRL: that of a shard, where so many certificates are revoked in all.
func BenchmarkShardCRL(b *testing.B) {
	const n = 100_000
	for _, size := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("%d of %d", size, n), func(b *testing.B) {
			dir := standing(b)
			many(b, dir, n, true)
			execLedger(b, dir, fmt.Sprintf(`UPDATE certificates SET shard = 1 + (number %% %d);
				INSERT INTO keys (name, issuer, shard, uris, revocations) SELECT DISTINCT 'ec.1.' || shard, 'ec', shard, 'http://pki.test/ec.1.' || shard || '.crl', 1 FROM certificates`, n/size))
			clock := now
			c := open(b, dir, Options{Clock: func() time.Time { return clock }})
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				clock = clock.Add(4 * day) // the next is due
				var size counting
				if err := c.CRL(b.Context(), "ec.1.2", &size); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(size), "B/CRL")
			}
		})
	}
}

type counting int

func (c *counting) Write(p []byte) (int, error) { *c += counting(len(p)); return len(p), nil }
