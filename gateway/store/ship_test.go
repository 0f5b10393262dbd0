package store_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// fakeSink fails or hangs on command. Of a Write that fails it may have taken half.
type fakeSink struct {
	mu     sync.Mutex
	got    []audit.Record
	err    error
	half   bool
	hang   chan struct{} // Write returns when it is closed; nil for at once
	closed int
}

func (f *fakeSink) Name() string { return "fake" }

func (f *fakeSink) Write(_ context.Context, records []audit.Record) error {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil && len(records) > 0 {
		<-hang
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil && f.half:
		f.got = append(f.got, records[:len(records)/2]...)
	case f.err == nil:
		f.got = append(f.got, records...)
	}
	return f.err
}

func (f *fakeSink) Close() error { f.closed++; return nil }

func (f *fakeSink) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// seqs are the numbers that it got, each once, which have to be in order.
func (f *fakeSink) seqs(t *testing.T) (list []int64) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[int64]bool{}
	for _, r := range f.got {
		if seen[r.Seq] {
			continue
		}
		if n := len(list); n > 0 && r.Seq != list[n-1]+1 {
			t.Errorf("record %d after %d", r.Seq, list[n-1])
		}
		seen[r.Seq], list = true, append(list, r.Seq)
	}
	return list
}

// shipped runs a test on both databases.
func shipped(t *testing.T, test func(t *testing.T, open func() *store.Store)) {
	at := func(db interface {
		Open(testing.TB, string, func() time.Time) storetest.Store
	}) func(t *testing.T) {
		return func(t *testing.T) {
			test(t, func() *store.Store { return db.Open(t, "one", storetest.NewClock().Now).(*store.Store) })
		}
	}
	t.Run("SQLite", func(t *testing.T) { at(newSQLite(t))(t) })
	t.Run("PostgreSQL", func(t *testing.T) {
		c := pgtest.Shared(t)
		at(postgresAt(c, c.NewDatabase(t)))(t)
	})
}

func record(s *store.Store) error {
	return s.Record(context.Background(), gateway.AuditEvent{Kind: "test"})
}

// ticking calls fn while all waits pass.
func ticking(tick func(), fn func() error) error {
	done := make(chan error)
	go func() { done <- fn() }()
	for {
		select {
		case err := <-done:
			return err
		default:
			tick()
			runtime.Gosched()
		}
	}
}

func last(list []int64) int64 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

// TestShip: what is committed is with the sink before the commit returns; a sink that fails has nothing begun, and gets all, in
// order, when it is back.
func TestShip(t *testing.T) {
	shipped(t, func(t *testing.T, open func() *store.Store) {
		s := open()
		tick := store.Tick(s)
		if err := record(s); err != nil { // before it is a sink
			t.Fatal(err)
		}
		sink := &fakeSink{}
		if err := s.ShipTo(t.Context(), []audit.Sink{sink}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := record(s); err != nil {
				t.Fatal(err)
			}
		}
		before := sink.seqs(t)
		if len(before) < 3 || s.Audited(t.Context()) != nil {
			t.Fatalf("it got %v", before)
		}
		secret := &gateway.StoredSecret{Endpoint: "ran", Reference: "a", Sealed: []byte("x"), Created: time.Unix(1, 0)}
		event := gateway.AuditEvent{Kind: "secret-put"}

		sink.half = true
		sink.set(errors.New("full"))
		if err := ticking(tick, func() error { return record(s) }); !errors.Is(err, gateway.ErrUnaudited) {
			t.Fatalf("recorded while the sink fails: %v", err)
		}
		for name, err := range map[string]error{
			"Ready": s.Ready(t.Context()), "Audited": s.Audited(t.Context()), "PutSecret": s.PutSecret(t.Context(), secret, event),
		} {
			if !errors.Is(err, gateway.ErrUnaudited) {
				t.Errorf("%s while the sink fails: %v", name, err)
			}
		}
		if _, err := s.Secret(t.Context(), "ran", "a"); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("a secret that no sink was told of: %v", err)
		}
		if states, err := s.Sinks(t.Context()); err != nil || len(states) != 1 || states[0].Lag < 1 || states[0].Since.IsZero() || states[0].Err == nil {
			t.Errorf("%+v, %v", states, err)
		}
		if err := record(s); !errors.Is(err, gateway.ErrUnaudited) { // what has happened is committed all the same
			t.Errorf("%v", err)
		}
		sink.set(nil)
		_ = ticking(tick, func() error { store.AwaitShipped(s); return nil })
		if got := sink.seqs(t); last(got) < last(before)+2 {
			t.Errorf("it got %v, then %v", before, got)
		}
		if err := errors.Join(s.Ready(t.Context()), s.PutSecret(t.Context(), secret, event)); err != nil {
			t.Errorf("with the sink back: %v", err)
		}
		all := last(sink.seqs(t))

		// It goes on where it stood, after a restart and when it was left out for a while.
		if err := s.ShipTo(t.Context(), nil); err != nil || sink.closed != 1 {
			t.Fatal(err, sink.closed)
		}
		if err := record(s); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
		if err := s.ShipTo(t.Context(), []audit.Sink{sink}); err != nil {
			t.Fatal(err)
		}
		if err := record(s); err != nil {
			t.Fatal(err)
		}
		if got := sink.seqs(t); last(got) < all+2 {
			t.Errorf("after a restart it got %v", got)
		}
	})
}

// TestShipHangs: a commit waits for a sink that hangs until its time is over, no longer, and nothing is begun until it goes on.
func TestShipHangs(t *testing.T) {
	shipped(t, func(t *testing.T, open func() *store.Store) {
		s := open()
		tick := store.Tick(s)
		sink := &fakeSink{}
		if err := s.ShipTo(t.Context(), []audit.Sink{sink}); err != nil {
			t.Fatal(err)
		}
		sink.mu.Lock()
		sink.hang = make(chan struct{})
		sink.mu.Unlock()
		err := ticking(tick, func() error { return record(s) })
		if !errors.Is(err, gateway.ErrUnaudited) || !errors.Is(s.Ready(t.Context()), gateway.ErrUnaudited) {
			t.Fatalf("a sink hangs: %v, %v", err, s.Ready(t.Context()))
		}
		close(sink.hang)
		_ = ticking(tick, func() error { store.AwaitShipped(s); return nil })
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestShipPruned: what a sink has yet to get stays, however old; and a sink that goes takes nothing with it.
func TestShipPruned(t *testing.T) {
	shipped(t, func(t *testing.T, open func() *store.Store) {
		s := open()
		tick := store.Tick(s)
		sink := &fakeSink{}
		if err := s.ShipTo(t.Context(), []audit.Sink{sink}); err != nil {
			t.Fatal(err)
		}
		sink.set(errors.New("away"))
		for range 3 {
			_ = ticking(tick, func() error { return s.RecordSigned(context.Background(), gateway.AuditEvent{Kind: "test"}) })
		}
		old := time.Now().AddDate(100, 0, 0) // all of it
		prune := func() int64 {
			n, err := s.PruneAudit(context.Background(), old)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := prune(); n != 0 {
			t.Errorf("%d were removed that a sink has yet to get", n)
		}
		sink.set(nil)
		_ = ticking(tick, func() error { store.AwaitShipped(s); return nil })
		if n := prune(); n == 0 {
			t.Error("nothing was removed, with the sink back")
		}
		if got := sink.seqs(t); len(got) < 6 {
			t.Errorf("it got %v", got)
		}
		if err := s.VerifyAudit(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestShipGone: how far sinks are stays known while there is something that they may have yet to get, also of one that was taken out of the configuration,
// and goes with the stream of an instance that is gone.
func TestShipGone(t *testing.T) {
	for name, db := range map[string]func(t *testing.T) *database{
		"SQLite":     func(t *testing.T) *database { return newSQLite(t) },
		"PostgreSQL": func(t *testing.T) *database { return newPostgres(t, pgtest.Shared(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			d, clock := db(t), storetest.NewClock()
			gone := d.Open(t, "gone", clock.Now).(*store.Store)
			for _, sinks := range [][]audit.Sink{{&fakeSink{}}, {}} { // and taken out
				if err := gone.ShipTo(t.Context(), sinks); err != nil {
					t.Fatal(err)
				}
				if err := gone.RecordSigned(t.Context(), gateway.AuditEvent{Kind: "test"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := gone.Close(); err != nil {
				t.Fatal(err)
			}
			s := d.Open(t, "one", clock.Now).(*store.Store)
			if err := s.ShipTo(t.Context(), []audit.Sink{&fakeSink{}}); err != nil {
				t.Fatal(err)
			}
			for _, step := range []struct {
				before time.Time
				want   string
			}{{time.Time{}, "[gone one]"}, {time.Now().AddDate(100, 0, 0), "[one]"}} {
				if err := s.RecordSigned(t.Context(), gateway.AuditEvent{Kind: "test"}); err != nil {
					t.Fatal(err)
				}
				store.AwaitShipped(s)
				if _, err := s.PruneAudit(t.Context(), step.before); err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(store.SinksOf(t, s)); got != step.want {
					t.Errorf("the sinks of %s are known, want %s", got, step.want)
				}
			}
			if err := s.VerifyAudit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestShipHangsForGood: a sink that never goes on keeps neither a reload that takes it out from that, nor a stop.
func TestShipHangsForGood(t *testing.T) {
	shipped(t, func(t *testing.T, open func() *store.Store) {
		for name, end := range map[string]func(*store.Store) error{
			"reload": func(s *store.Store) error { return s.ShipTo(context.Background(), nil) },
			"stop":   (*store.Store).Close,
		} {
			s := open()
			tick := store.Tick(s)
			hang := make(chan struct{})
			sink := &fakeSink{}
			if err := s.ShipTo(t.Context(), []audit.Sink{sink}); err != nil {
				t.Fatal(err)
			}
			sink.mu.Lock()
			sink.hang = hang
			sink.mu.Unlock()
			if err := ticking(tick, func() error { return record(s) }); !errors.Is(err, gateway.ErrUnaudited) {
				t.Fatal(err)
			}
			if err := ticking(tick, func() error { return end(s) }); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if name == "reload" {
				if err := errors.Join(record(s), s.Ready(t.Context()), s.Close()); err != nil {
					t.Errorf("without it: %v", err)
				}
			}
			close(hang)
		}
	})
}

// TestShipMany: many at once, over several batches, in order.
func TestShipMany(t *testing.T) {
	shipped(t, func(t *testing.T, open func() *store.Store) {
		s := open()
		tick := store.Tick(s)
		sink := &fakeSink{}
		if err := s.ShipTo(t.Context(), []audit.Sink{sink}); err != nil {
			t.Fatal(err)
		}
		sink.set(errors.New("away"))
		_ = ticking(tick, func() error {
			for range 600 {
				_ = record(s)
			}
			return nil
		})
		sink.set(nil)
		_ = ticking(tick, func() error { store.AwaitShipped(s); return nil })
		var together sync.WaitGroup
		for i := range 16 {
			together.Go(func() {
				if err := s.Record(context.Background(), gateway.AuditEvent{Kind: "test", Note: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
		if got := sink.seqs(t); len(got) < 616 {
			t.Errorf("%d records", len(got))
		}
	})
}
