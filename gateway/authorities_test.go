package gateway_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// asker asks for the CA certificates and says how many there were.
func asker(w *world, ctx context.Context) <-chan error {
	answer := make(chan error, 1)
	go func() {
		certs, err := w.gw.CACertificates(ctx, "est")
		if err == nil && len(certs) != 2 {
			err = errors.New("not the chain")
		}
		answer <- err
	}()
	return answer
}

func within(t *testing.T, what string, answer <-chan error) error {
	t.Helper()
	select {
	case err := <-answer:
		return err
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: no answer", what)
		return nil
	}
}

// A CA that hangs: nobody waits longer than he wants to, one call is under way however many ask, and the list that was
// there is served.
func TestCACertificatesOfACAThatHangs(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	var calls atomic.Int64
	reached, release := make(chan struct{}, 100), make(chan struct{})
	w.twist(&twisted{cas: func(ctx context.Context) ([]backend.CA, error) {
		calls.Add(1)
		reached <- struct{}{}
		select {
		case <-release:
			return w.memory.CACertificates(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	first := asker(w, t.Context())
	<-reached
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := within(t, "one who leaves", asker(w, ended)); gateway.AsError(err).Reason != gateway.Unavailable {
		t.Errorf("one who leaves: %v", err)
	}
	second := asker(w, t.Context())
	close(release)
	for _, a := range []<-chan error{first, second} {
		if err := within(t, "the CA is back", a); err != nil {
			t.Error(err)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
	// It hangs again when the list is old.
	release = make(chan struct{})
	w.clock.add(2 * time.Minute)
	for range 3 {
		if err := within(t, "an old list", asker(w, t.Context())); err != nil {
			t.Error(err)
		}
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	close(release)
}

// The one who asked first has left: what he asked for still serves the others. A failure is not kept when there is no list.
func TestCACertificatesSurviveTheirAsker(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	reached, release := make(chan struct{}, 1), make(chan error)
	w.twist(&twisted{cas: func(ctx context.Context) ([]backend.CA, error) {
		reached <- struct{}{}
		select {
		case err := <-release:
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return w.memory.CACertificates(ctx)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	first := asker(w, ctx)
	<-reached
	second := asker(w, t.Context())
	cancel()
	if err := within(t, "one who leaves", first); err == nil {
		t.Error("answered before the CA was")
	}
	release <- nil
	if err := within(t, "one who stays", second); err != nil {
		t.Error(err)
	}

	w.swap() // nothing is known any more
	first = asker(w, t.Context())
	<-reached
	release <- errors.New("away")
	if err := within(t, "a CA that is away", first); gateway.AsError(err).Reason != gateway.Unavailable {
		t.Error(err)
	}
	second = asker(w, t.Context())
	<-reached
	release <- nil
	if err := within(t, "and back", second); err != nil {
		t.Error(err)
	}
}

// A rollover shows once the list is a minute old; a failure then keeps the old list.
func TestCACertificatesAreRenewed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	calls, away := 0, false
	b := &twisted{cas: func(ctx context.Context) ([]backend.CA, error) {
		if calls++; away {
			panic("boom")
		}
		return w.memory.CACertificates(ctx)
	}}
	w.twist(b)
	for _, c := range []struct {
		after time.Duration
		away  bool
		calls int
	}{{0, false, 1}, {30 * time.Second, false, 1}, {31 * time.Second, false, 2}, {2 * time.Minute, true, 3}, {time.Second, true, 3}, {time.Minute, false, 4}} {
		w.clock.add(c.after)
		away = c.away
		if err := within(t, "a list", asker(w, t.Context())); err != nil {
			t.Error(err)
		}
		if calls != c.calls {
			t.Errorf("after %s: %d calls, want %d", c.after, calls, c.calls)
		}
	}
}

// roller is a CA that changes over.
type roller struct {
	*publisher
	next *backendtest.Memory
}

func (r *roller) Describe(ctx context.Context) (*backend.Description, error) {
	d, err := r.publisher.Describe(ctx)
	if err == nil {
		own := *d
		own.Capabilities = append([]backend.Capability{backend.CapRollover}, own.Capabilities...)
		d = &own
	}
	return d, err
}

func (r *roller) Rollover(ctx context.Context, _ *backend.RolloverRequest) (*backend.CA, error) {
	r.cas = func() []backend.CA {
		return []backend.CA{{Name: "ec", Chain: [][]byte{r.next.Issuer().Raw, r.next.Root().Raw}}}
	}
	return &r.cas()[0], nil
}

// A rollover through the gateway shows at once, though the list is fresh, and the process is told. A list that was asked
// for before it and comes after it is not taken for the new one.
func TestCACertificatesAfterARollover(t *testing.T) {
	told := make(chan string, 10)
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.opts.CAChanged = func(backend string) { told <- backend } })
	r := &roller{&publisher{Backend: w.memory}, backendtest.NewMemory(backendtest.MemoryOptions{Seed: "next", Clock: w.clock.now})}
	w.publish(r)
	first := func() *gateway.Authority {
		t.Helper()
		ca, err := w.gw.Authority(t.Context(), "est")
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	if !first().Chain[0].Equal(w.memory.Issuer()) {
		t.Fatal("another CA")
	}
	if _, err := w.gw.Rollover(t.Context(), "ca", &backend.RolloverRequest{ID: "1", Kind: backend.RolloverRekey}, "op"); err != nil {
		t.Fatal(err)
	}
	if !first().Chain[0].Equal(r.next.Issuer()) {
		t.Error("the list is that of before")
	}
	if len(told) != 1 || <-told != "ca" {
		t.Error("the process was not told")
	}

	// The list is asked for, the CA changes over, and only then the list of before arrives.
	reached, release := make(chan struct{}, 10), make(chan struct{})
	slow := &twisted{cas: func(ctx context.Context) ([]backend.CA, error) {
		cas, err := r.CACertificates(ctx)
		reached <- struct{}{}
		<-release
		return cas, err
	}}
	slow.Backend = r
	r.cas = nil
	w.publish(rolling{slow, r})
	answer := make(chan *gateway.Authority, 1)
	go func() { ca, _ := w.gw.Authority(context.WithoutCancel(t.Context()), "est"); answer <- ca }()
	<-reached
	if _, err := w.gw.Rollover(t.Context(), "ca", &backend.RolloverRequest{ID: "2", Kind: backend.RolloverRekey}, "op"); err != nil {
		t.Fatal(err)
	}
	close(release)
	if ca := <-answer; ca == nil || !ca.Chain[0].Equal(r.next.Issuer()) {
		t.Error("the list of before was given for the new one")
	}
}

// rolling gives a twisted CA its rollover back.
type rolling struct {
	*twisted
	roller *roller
}

func (r rolling) Describe(ctx context.Context) (*backend.Description, error) {
	return r.roller.Describe(ctx)
}

func (r rolling) Rollover(ctx context.Context, q *backend.RolloverRequest) (*backend.CA, error) {
	return r.roller.Rollover(ctx, q)
}
