//go:build bench

package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/cmd/muster/simulate"
	"github.com/muster-pki/muster/gateway/pkix"
)

// clients ask at once.
const clients = 16

// load is one kind of enrollment, at the servers that can do it.
type load struct {
	Name    string
	Servers []*served
	Crypto  []float64 // microseconds of the operations in it, in each round
	rsa     bool
	crypto  func() float64
}

// served is a server under one load.
type served struct {
	*server
	client simulate.Client
	Used   []float64 // microseconds of its processes for an enrollment, in each round
	Store  []float64 // of PostgreSQL's beside them
	Rate   []float64 // enrollments a second
	Took   []float64 // milliseconds of each
}

// PerEnrollment is the median of the rounds.
func (s *served) PerEnrollment() float64 { return median(s.Used) }

// pool are the RSA keys that devices share: making one takes as long as hundreds of signatures.
var pool = sync.OnceValues(func() ([]crypto.Signer, error) {
	keys := make([]crypto.Signer, 16)
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return keys, nil
})

var numbered atomic.Int64

// devices are new ones.
func devices(t testing.TB, n int, ofRSA bool) []simulate.Device {
	t.Helper()
	out := make([]simulate.Device, n)
	keys, err := pool()
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		number := numbered.Add(1)
		if out[i].Subject, err = pkix.ParseRFC4514(fmt.Sprintf("CN=bench-%08d", number)); err != nil {
			t.Fatal(err)
		}
		if out[i].Key = keys[i%len(keys)]; !ofRSA {
			if out[i].Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// round has new devices enrol, so many at a time as there are clients.
func (s *served) round(t testing.TB, n int, ofRSA bool) {
	t.Helper()
	all := devices(t, n, ofRSA)
	took := make([]float64, n)
	var next atomic.Int64
	var fault atomic.Pointer[simulate.Answer]
	var asking sync.WaitGroup
	began, before, stored := time.Now(), used(t, s.processes), used(t, s.database())
	for range clients {
		asking.Go(func() {
			for i := next.Add(1) - 1; int(i) < n; i = next.Add(1) - 1 {
				at := time.Now()
				if a := s.client.Ask(context.Background(), all[i]); a.Cert == nil {
					fault.Store(&a)
					return
				}
				took[i] = float64(time.Since(at).Microseconds()) / 1000
			}
		})
	}
	asking.Wait()
	if a := fault.Load(); a != nil {
		t.Fatalf("%s: %+v\n%s", s.Name, *a, s.log)
	}
	s.Used = append(s.Used, (used(t, s.processes)-before)/float64(n))
	s.Store = append(s.Store, (used(t, s.database())-stored)/float64(n))
	s.Rate = append(s.Rate, float64(n)/time.Since(began).Seconds())
	s.Took = append(s.Took, took...)
}

// measure has all loads take turns. The first round is not counted: connections are made in it, and what is made at first use.
func (w *world) measure(t *testing.T, s scale) []*load {
	t.Helper()
	for r := range s.rounds + 1 {
		for _, l := range w.loads {
			for i := range l.Servers {
				l.Servers[(i+r)%len(l.Servers)].round(t, s.each, l.rsa)
			}
			l.Crypto = append(l.Crypto, l.crypto())
		}
		if r > 0 {
			continue
		}
		for _, l := range w.loads {
			l.Crypto = nil
			for _, x := range l.Servers {
				x.Used, x.Store, x.Rate, x.Took = nil, nil, nil, nil
			}
		}
	}
	return w.loads
}
