package gateway_test

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// watched is a store of which calls are seen, delayed or failed.
type watched struct {
	gateway.Store
	begun    func(b *gateway.Beginning)                  // after Begin
	claimed  func(lease time.Duration, w []gateway.Work) // after ClaimDue
	settling func(ctx context.Context) error             // before Settle
	postpone func(w gateway.Work, note string)
	reading  func() error // before Transaction
	record   func() error // before Record
	adopting func() error // before Adopt

	// fails is asked before the calls of operators and of those who poll, by name; done says that the call was made, and its
	// answer is lost.
	fails func(call string, done bool) error
}

// guarded makes a call unless it is to fail, before or after.
func guarded[T any](s *watched, name string, call func() (T, error)) (out T, err error) {
	if s.fails == nil {
		return call()
	}
	if err := s.fails(name, false); err != nil {
		return out, err
	}
	got, err := call()
	if lost := s.fails(name, true); err == nil && lost != nil {
		return out, lost
	}
	return got, err
}

func (s *watched) Approve(ctx context.Context, a *gateway.ApprovalOrder) (int64, error) {
	return guarded(s, "Approve", func() (int64, error) { return s.Store.Approve(ctx, a) })
}

func (s *watched) Deny(ctx context.Context, d *gateway.DenialOrder) error {
	_, err := guarded(s, "Deny", func() (struct{}, error) { return struct{}{}, s.Store.Deny(ctx, d) })
	return err
}

func (s *watched) OrderRevocation(ctx context.Context, o *gateway.RevocationOrder) (int64, error) {
	return guarded(s, "OrderRevocation", func() (int64, error) { return s.Store.OrderRevocation(ctx, o) })
}

func (s *watched) Supersede(ctx context.Context, p *gateway.Supersession) (int64, error) {
	return guarded(s, "Supersede", func() (int64, error) { return s.Store.Supersede(ctx, p) })
}

func (s *watched) Collect(ctx context.Context, c *gateway.Collection) (int64, error) {
	return guarded(s, "Collect", func() (int64, error) { return s.Store.Collect(ctx, c) })
}

func (s *watched) MarkRevoked(ctx context.Context, r *gateway.Revocation) error {
	_, err := guarded(s, "MarkRevoked", func() (struct{}, error) { return struct{}{}, s.Store.MarkRevoked(ctx, r) })
	return err
}

func (s *watched) Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	return guarded(s, "Certificate", func() (*gateway.Certificate, error) { return s.Store.Certificate(ctx, issuer, serial) })
}

func (s *watched) Device(ctx context.Context, kind, value string) (*gateway.Device, error) {
	return guarded(s, "Device", func() (*gateway.Device, error) { return s.Store.Device(ctx, kind, value) })
}

func (s *watched) AskedUnder(ctx context.Context, endpoint, wireID string, credentials []string) (*gateway.Transaction, error) {
	return guarded(s, "AskedUnder", func() (*gateway.Transaction, error) { return s.Store.AskedUnder(ctx, endpoint, wireID, credentials) })
}

func (s *watched) Pace(ctx context.Context, backend string, every time.Duration, burst int, most time.Duration) (wait time.Duration, ok bool, err error) {
	_, err = guarded(s, "Pace", func() (struct{}, error) {
		var err error
		wait, ok, err = s.Store.Pace(ctx, backend, every, burst, most)
		return struct{}{}, err
	})
	return wait, ok, err
}

func (s *watched) Adopt(ctx context.Context, a *gateway.Adoption) error {
	if s.adopting != nil {
		if err := s.adopting(); err != nil {
			return err
		}
	}
	return s.Store.Adopt(ctx, a)
}

func (s *watched) Begin(ctx context.Context, b *gateway.Beginning) (int64, error) {
	epoch, err := guarded(s, "Begin", func() (int64, error) { return s.Store.Begin(ctx, b) })
	if err == nil && s.begun != nil {
		s.begun(b)
	}
	return epoch, err
}

func (s *watched) ClaimDue(ctx context.Context, lease time.Duration, limit int, free func(backend string) int) ([]gateway.Work, error) {
	due, err := s.Store.ClaimDue(ctx, lease, limit, free)
	if err == nil && s.claimed != nil {
		s.claimed(lease, due)
	}
	return due, err
}

func (s *watched) Reroute(ctx context.Context, r *gateway.Rerouting) error {
	_, err := guarded(s, "Reroute", func() (struct{}, error) { return struct{}{}, s.Store.Reroute(ctx, r) })
	return err
}

func (s *watched) AskAgain(ctx context.Context, transaction string, epoch int64, now time.Time) error {
	_, err := guarded(s, "AskAgain", func() (struct{}, error) { return struct{}{}, s.Store.AskAgain(ctx, transaction, epoch, now) })
	return err
}

func (s *watched) Settle(ctx context.Context, st *gateway.Settlement) error {
	if s.settling != nil {
		if err := s.settling(ctx); err != nil {
			return err
		}
	}
	return s.Store.Settle(ctx, st)
}

func (s *watched) Postpone(ctx context.Context, w gateway.Work, delay time.Duration, note string) error {
	if s.postpone != nil {
		s.postpone(w, note)
	}
	return s.Store.Postpone(ctx, w, delay, note)
}

func (s *watched) Transaction(ctx context.Context, id string) (*gateway.Transaction, error) {
	if s.reading != nil {
		if err := s.reading(); err != nil {
			return nil, err
		}
	}
	return guarded(s, "Transaction", func() (*gateway.Transaction, error) { return s.Store.Transaction(ctx, id) })
}

func (s *watched) Record(ctx context.Context, e gateway.AuditEvent) error {
	if s.record != nil {
		if err := s.record(); err != nil {
			return err
		}
	}
	return s.Store.Record(ctx, e)
}

// watch puts s between gateway and store.
func watch(s *watched) func(*world) {
	return func(w *world) { w.wrap = func(inner gateway.Store) gateway.Store { s.Store = inner; return s } }
}

func idempotency(i backend.Idempotency) func(*world) {
	return func(w *world) { w.desc = func(d *backend.Description) { d.Idempotency = i } }
}

// twisted is a CA of which single calls are replaced.
type twisted struct {
	backend.Backend
	issue  func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error)
	lookup func(ctx context.Context, id string) (*backend.Outcome, error)
	poll   func(ctx context.Context, ticket string) (*backend.Issuance, error)
	revoke func(ctx context.Context, r *backend.RevokeRequest) error
	cas    func(ctx context.Context) ([]backend.CA, error)
}

func (b *twisted) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if b.issue != nil {
		return b.issue(ctx, r)
	}
	return b.Backend.Issue(ctx, r)
}

func (b *twisted) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if b.lookup != nil {
		return b.lookup(ctx, r.ID)
	}
	return b.Backend.Lookup(ctx, r)
}

func (b *twisted) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	if b.poll != nil {
		return b.poll(ctx, ticket)
	}
	return b.Backend.Poll(ctx, r, ticket)
}

func (b *twisted) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	if b.revoke != nil {
		return b.revoke(ctx, r)
	}
	return b.Backend.Revoke(ctx, r)
}

func (b *twisted) CACertificates(ctx context.Context) ([]backend.CA, error) {
	if b.cas != nil {
		return b.cas(ctx)
	}
	return b.Backend.CACertificates(ctx)
}

// twist puts b between gateway and CA.
func (w *world) twist(b *twisted) {
	w.t.Helper()
	b.Backend = w.memory
	w.ca = backendtest.Faulty(b, backendtest.FaultPlan{})
	w.swap()
}

// twin is a store in which every request has a twin.
type twin struct{ gateway.Store }

func (twin) Begin(context.Context, *gateway.Beginning) (int64, error) {
	return 0, &gateway.TwinError{Transaction: "another"}
}

// lostOnce is a CA's Issue whose answer is lost as long as *lost: it has signed, and nobody knows.
func lostOnce(w *world, lost *bool) func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
	return func(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
		got, err := w.memory.Issue(ctx, r)
		if *lost && err == nil {
			*lost = false
			return nil, status.Error(codes.DeadlineExceeded, "lost")
		}
		return got, err
	}
}
