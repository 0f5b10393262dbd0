package vault

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// stocked has many certificates of others in the engine.
func stocked(t testing.TB, many int) *fake {
	t.Helper()
	f := newFake(t)
	der := f.issuers["other"].cert.Raw
	for i := range many {
		f.certs[fmt.Sprintf("%02x-%02x-%02x-%02x", 1, byte(i>>16), byte(i>>8), byte(i))] = der
	}
	return f
}

// TestStockGoesOn: an engine with more certificates than can be read while a Lookup lasts is read all the same, once, and what the
// gateway hears meanwhile says how far it is.
func TestStockGoesOn(t *testing.T) {
	const many = 40
	f, c := stocked(t, many), new(clock)
	begun, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.reading = func() { once.Do(func() { close(begun) }); <-gate }
	ca := started(t, f.config(t, ""), c)
	r, _ := asked(t, "one", x509.CertificateRequest{})
	r.Asked = c.now()
	c.forward(2 * defaultSettle)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	says := fmt.Sprintf("0 of %d", many)
	if o, err := ca.Lookup(ctx, r); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), says) {
		t.Errorf("%+v, %v", o, err)
	}
	soon, stop := context.WithTimeout(t.Context(), answers*9/10) // which is over already but for the answer
	defer stop()
	if o, err := ca.Lookup(soon, r); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), says) {
		t.Errorf("%+v, %v", o, err)
	}
	close(gate)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
				t.Errorf("%+v, %v", o, err)
			}
		})
	}
	all.Wait()
	if f.reads != many || f.lists != 1 {
		t.Errorf("%d reads and %d lists of %d certificates", f.reads, f.lists, many)
	}
}

// TestOldStock: `never` is not said by a list from before the request had settled, though it was still being read then.
func TestOldStock(t *testing.T) {
	f, c := stocked(t, 5), new(clock)
	begun, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.reading = func() { once.Do(func() { close(begun); <-gate }) }
	ca := started(t, f.config(t, ""), c)
	r, _ := asked(t, "one", x509.CertificateRequest{})
	r.Asked = c.now()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if o, err := ca.Lookup(ctx, r); err == nil {
		t.Fatalf("%+v", o)
	}
	// A gateway that is gone has it issued after the list.
	if _, err := started(t, f.config(t, ""), c).Issue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	c.forward(2 * defaultSettle)
	go close(gate)
	if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeIssued || f.lists != 2 {
		t.Errorf("%+v, %v after %d lists", o, err, f.lists)
	}
}

// BenchmarkFirstLookup is the first Lookup in an engine of that many certificates, server and all.
func BenchmarkFirstLookup(b *testing.B) {
	for _, many := range []int{20_000, 100_000} {
		b.Run(fmt.Sprint(many), func(b *testing.B) {
			f, c := stocked(b, many), new(clock)
			r, _ := asked(b, "one", x509.CertificateRequest{})
			r.Asked = c.now()
			c.forward(2 * defaultSettle)
			began, n := time.Now(), 0
			for b.Loop() {
				ca := started(b, f.config(b, ""), c)
				if o, err := ca.Lookup(b.Context(), r); err != nil || o.State != backend.OutcomeNever {
					b.Fatalf("%+v, %v", o, err)
				}
				f.mu.Lock()
				f.seen, f.bodies = nil, nil
				f.mu.Unlock()
				n += many
			}
			b.ReportMetric(float64(n)/time.Since(began).Seconds(), "certificates/s")
		})
	}
}
