package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// cpu is the processor time of this process, user and system.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs op b.N times from so many callers and reports processor time beside the wall's.
func measure(b *testing.B, callers int, op func(n int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	before := cpu(b)
	for range callers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := op(n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkIssue(b *testing.B) {
	for _, issuer := range []string{IssuerEC, IssuerRSA} {
		for _, callers := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/callers=%d", issuer, callers), func(b *testing.B) {
				c := open(b, standing(b), Options{})
				q := request(b, "bench")
				q.Issuer = issuer
				measure(b, callers, func(n int64) error {
					q := *q
					q.ID = fmt.Sprintf("tx-%d", n)
					_, err := c.Issue(b.Context(), &q)
					return err
				})
			})
		}
	}
}

// BenchmarkLedgers is Issue with the ledger in a file and in PostgreSQL, which syncs, by one process and by two.
func BenchmarkLedgers(b *testing.B) {
	s := &sharing{cluster: pgtest.Start(b)}
	s.db = s.cluster.NewDatabase(b)
	s.url = s.cluster.DSN(s.db)
	for _, callers := range []int{1, 32} {
		for _, where := range []string{"file", "postgres", "postgres, two replicas"} {
			b.Run(fmt.Sprintf("%s/callers=%d", where, callers), func(b *testing.B) {
				dir, config := standing(b), ""
				if where != "file" {
					config = s.ledger()
				}
				cas := []*CA{open(b, dir, Options{}, config)}
				if where == "postgres, two replicas" {
					cas = append(cas, open(b, replicaOf(b, dir), Options{}, config))
				}
				q := request(b, "bench")
				measure(b, callers, func(n int64) error {
					q := *q
					q.ID = fmt.Sprintf("tx-%d", n)
					_, err := cas[n%int64(len(cas))].Issue(b.Context(), &q)
					return err
				})
			})
		}
	}
}

// BenchmarkRepeat is Issue of what is in the ledger.
func BenchmarkRepeat(b *testing.B) {
	c := open(b, standing(b), Options{})
	q := request(b, "bench")
	issue(b, c, q)
	measure(b, 1, func(int64) error {
		_, err := c.Issue(b.Context(), q)
		return err
	})
}

// BenchmarkBareCrypto is what no Issue can be cheaper than: the signature and its verification.
func BenchmarkBareCrypto(b *testing.B) {
	c := open(b, standing(b), Options{})
	digest := sha256.Sum256([]byte("to be signed"))
	for _, i := range c.open.Load().issuers {
		s := &signer{key: i.key}
		b.Run(i.name, func(b *testing.B) {
			measure(b, 1, func(int64) error {
				signature, err := s.Sign(nil, digest[:], crypto.SHA256)
				if err != nil {
					return err
				}
				switch k := i.cert.PublicKey.(type) {
				case *ecdsa.PublicKey:
					if !ecdsa.VerifyASN1(k, digest[:], signature) {
						b.Error("does not verify")
					}
				case *rsa.PublicKey:
					return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature)
				}
				return nil
			})
		})
	}
}

// BenchmarkWithoutLedger is all of Issue but the ledger: the checks, the signature and its verification.
func BenchmarkWithoutLedger(b *testing.B) {
	r := open(b, standing(b), Options{}).open.Load()
	q := request(b, "bench")
	for _, i := range r.issuers {
		b.Run(i.name, func(b *testing.B) {
			measure(b, 1, func(n int64) error {
				x, err := r.checkTemplate(&q.Template, i)
				if err == nil {
					_, err = i.sign(x, r.serialNumber(i.name, "bench"))
				}
				return err
			})
		})
	}
}

// BenchmarkFirstStart makes a CA; BenchmarkStart opens one.
func BenchmarkFirstStart(b *testing.B) {
	dir := b.TempDir()
	measure(b, 1, func(n int64) error {
		c := New(Options{})
		if err := c.Configure(b.Context(), []byte("dir: "+filepath.Join(dir, fmt.Sprint(n)))); err != nil {
			return err
		}
		return c.Close()
	})
}

func BenchmarkStart(b *testing.B) {
	dir := standing(b)
	measure(b, 1, func(n int64) error {
		c := New(Options{})
		if err := c.Configure(b.Context(), []byte("dir: "+dir)); err != nil {
			return err
		}
		return c.Close()
	})
}
