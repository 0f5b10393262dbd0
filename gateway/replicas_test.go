package gateway_test

import (
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// replicas are two gateways on one database, before one CA.
func replicas(t *testing.T, c *pgtest.Cluster, plan backendtest.FaultPlan, i backend.Idempotency) (one, two *world) {
	t.Helper()
	dsn := c.DSN(c.NewDatabase(t))
	one = newWorld(t, plan, idempotency(i), func(w *world) { w.dsn, w.name = dsn, "one" })
	two = newWorld(t, plan, idempotency(i), func(w *world) {
		w.dsn, w.name, w.clock, w.memory, w.ca = dsn, "two", one.clock, one.memory, one.ca
	})
	return one, two
}

func TestReplicas(t *testing.T) {
	c := pgtest.Shared(t)
	t.Run("the same request at both", func(t *testing.T) {
		one, two := replicas(t, c, backendtest.FaultPlan{}, backend.IdempotencyLookup)
		for range 10 {
			before := one.ca.Total()
			r := one.request("device")
			var wg sync.WaitGroup
			var mu sync.Mutex
			var issued []*gateway.Result
			for i := range 16 {
				w, r := []*world{one, two}[i%2], one.again(r)
				wg.Go(func() {
					res, err := w.gw.Enroll(t.Context(), r)
					for err == nil && res.Kind == gateway.ResultPending {
						res, err = w.gw.Enroll(t.Context(), w.again(r))
					}
					mu.Lock()
					defer mu.Unlock()
					if issued = append(issued, res); err != nil || !res.Certificate.Equal(issued[0].Certificate) {
						t.Errorf("%+v, %v", res, err)
					}
				})
			}
			wg.Wait()
			if n := one.ca.Total() - before; n != 1 || len(issued) != 16 {
				t.Fatalf("%d certificates, %d answers", n, len(issued))
			}
		}
	})
	// The first replica stands still while the CA signs; the second takes the transaction over when the lease has ended.
	// What the first one then knows changes nothing.
	t.Run("taken over while the CA signs", func(t *testing.T) {
		release := make(chan struct{})
		one, two := replicas(t, c, backendtest.FaultPlan{ByCall: map[int]backendtest.Fault{1: backendtest.FaultLate}, Release: release}, backend.IdempotencyNative)
		r := one.request("device")
		late := make(chan *gateway.Result, 1)
		go func() {
			res, err := one.gw.Enroll(t.Context(), r)
			if err != nil {
				t.Error(err)
			}
			late <- res
		}()
		for one.ca.Total() == 0 {
			time.Sleep(time.Millisecond)
		}
		two.work(20 * time.Second)
		if s := two.state(r.ID); s != gateway.StateIssuing {
			t.Errorf("taken within its lease: %s", s)
		}
		two.work(20 * time.Second)
		if s := two.state(r.ID); s != gateway.StateIssued {
			t.Errorf("not taken over: %s", s)
		}
		close(release)
		if res := <-late; res == nil || res.Kind != gateway.ResultPending {
			t.Errorf("an answer under a lost lease: %+v", res)
		}
		for _, w := range []*world{one, two} {
			res, err := w.gw.Enroll(t.Context(), w.again(r))
			if err != nil || !res.Repeated || res.Transaction != r.ID {
				t.Errorf("%+v, %v", res, err)
			}
		}
		if one.ca.Total() != 1 || len(one.transactions()) != 1 {
			t.Errorf("%d certificates, %d transactions", one.ca.Total(), len(one.transactions()))
		}
	})
}
