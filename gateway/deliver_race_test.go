package gateway_test

import (
	"context"
	"sync"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// noticed is a password that says when it is asked for.
type noticed struct {
	password
	asked chan struct{}
}

func (n noticed) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	n.asked <- struct{}{}
	return n.password.Decide(ctx, r, g)
}

// Of several copies of a request that are under way at once one has the key; the others come back, and the last one's counts.
func TestBareKeyAskedForAtOnce(t *testing.T) {
	judged := 0
	asked := make(chan struct{}, 100)
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) { w.enroll[0] = noticed{password{"secret"}, asked} })
	s := &bareSeal{}
	r := w.bare("device-1", s)
	// The CA takes its time with the first; the second has found that, and waits.
	began, goOn := make(chan struct{}), make(chan struct{})
	w.twist(&twisted{issue: func(ctx context.Context, q *backend.IssueRequest) (*backend.Issuance, error) {
		close(began)
		<-goOn
		return w.memory.Issue(ctx, q)
	}})
	var wg sync.WaitGroup
	results := make([]*gateway.Result, 2)
	ask := func(i int) {
		res, err := w.gw.Enroll(t.Context(), w.again(r))
		if results[i] = res; err != nil {
			t.Error(err)
		}
	}
	over := make(chan struct{})
	wg.Go(func() { defer close(over); ask(0) })
	select {
	case <-began:
	case <-over:
		t.Fatalf("the CA was not asked: %+v", results[0])
	}
	<-asked
	wg.Go(func() { ask(1) })
	<-asked
	close(goOn)
	wg.Wait()
	if results[0].Kind != gateway.ResultIssued || results[0].Key == nil || results[1].Kind != gateway.ResultPending || results[1].Key != nil || len(s.keys) != 1 {
		t.Fatalf("the first %+v, the second %+v", results[0], results[1])
	}
	w.onlyValid(results[0].Transaction)
	w.twist(&twisted{})
	// All at once, of what has been given.
	for range 2 { // in the worst case each of four gets a key
		errs := make([]error, 4)
		given := make([]*gateway.Result, 4)
		for i := range given {
			again := w.again(r)
			wg.Go(func() { given[i], errs[i] = w.gw.Enroll(t.Context(), again) })
		}
		wg.Wait()
		last := w.lastOf(given, errs)
		w.work(0)
		w.onlyValid(last)
	}
	if w.used(r) != 1 {
		t.Errorf("%d uses", w.used(r))
	}
}

// Two copies are under way at once, and the second finds the first when its stages have allowed it: the first one's key was handed
// out a moment ago, and stays; the second comes back.
func TestBareKeyOfTwin(t *testing.T) {
	s := &bareSeal{}
	var r *gateway.Request
	var first *gateway.Result
	judged := false
	w := newWorld(t, backendtest.FaultPlan{})
	w.enroll = gateway.Pipeline{password{"secret"}, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
		if !judged {
			judged = true
			first = w.gets(w.again(r), s)
		}
		return gateway.Allowed("")
	}), making("P-256")}
	w.swap()
	r = w.bare("device-1", s)
	if res := w.mustEnroll(r); res.Kind != gateway.ResultPending || res.Key != nil || res.RetryAfter == 0 || res.Transaction != first.Transaction {
		t.Errorf("%+v", res)
	}
	w.work(0)
	w.onlyValid(first.Transaction)
	w.gets(w.again(r), s)
	if !w.revoked(first.Transaction) {
		t.Error("who came back has not got another key")
	}
}

// lastOf is the one transaction, of those of several copies of a request that were under way at once, whose certificate is valid. Who
// has a certificate has its key.
func (w *world) lastOf(given []*gateway.Result, errs []error) (last string) {
	w.t.Helper()
	for i, res := range given {
		if errs[i] != nil || (res.Kind == gateway.ResultIssued) != (res.Key != nil) {
			w.t.Fatalf("%+v, %v", res, errs[i])
		}
		if res.Kind == gateway.ResultIssued && !w.revoked(res.Transaction) {
			if last != "" {
				w.t.Error("two certificates are valid")
			}
			last = res.Transaction
		}
	}
	return last
}

// Two replicas on one database: whoever asks at both has one valid certificate, the one of the last answer.
func TestBareKeyAtTwoReplicas(t *testing.T) {
	c := pgtest.Shared(t)
	one, two := replicas(t, c, backendtest.FaultPlan{}, backend.IdempotencyNative)
	judged := 0
	countedOnce(&judged)(one)
	two.enroll = one.enroll
	one.swap()
	two.swap()
	s := &bareSeal{}
	r := one.bare("device-1", s)
	first := one.gets(r, s)
	if second := two.gets(two.again(r), s); !two.revoked(first.Transaction) || one.revoked(second.Transaction) {
		t.Error("the second replica does not supersede the first one's")
	}
	one.oneOfCopies(two, r)
}

// oneOfCopies has eight copies of a request come to two replicas at once: in the end one certificate is valid, the last one's, and
// the device's enrollment is counted once.
func (w *world) oneOfCopies(two *world, r *gateway.Request) {
	w.t.Helper()
	var wg sync.WaitGroup
	given, errs := make([]*gateway.Result, 8), make([]error, 8)
	for i := range given {
		at := []*world{w, two}[i%2]
		again := at.again(r)
		wg.Go(func() { given[i], errs[i] = at.gw.Enroll(w.t.Context(), again) })
	}
	wg.Wait()
	last := w.lastOf(given, errs)
	w.work(0)
	two.work(0)
	w.onlyValid(last)
	if w.used(r) != 1 {
		w.t.Errorf("%d uses", w.used(r))
	}
}
