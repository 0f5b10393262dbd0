package backendtest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// Fault is one way in which an Issue goes wrong.
type Fault string

const (
	FaultNone         Fault = ""
	FaultLate         Fault = "late"          // signs, answers after FaultPlan.Release; the call's own end comes first if it does
	FaultSlowSigning  Fault = "slow-signing"  // signs only after FaultPlan.Release, whether the caller still waits or not
	FaultDrop         Fault = "drop"          // signs, answers UNAVAILABLE
	FaultDie          Fault = "die"           // signs, calls FaultPlan.Exit; if that returns, answers UNAVAILABLE
	FaultDieBefore    Fault = "die-before"    // calls FaultPlan.Exit without having signed
	FaultUnavailable  Fault = "unavailable"   // answers UNAVAILABLE, nothing signed
	FaultNotAsked     Fault = "not-asked"     // answers UNAVAILABLE as a host does whose plugin does not run, nothing signed
	FaultRefuse       Fault = "refuse"        // answers INVALID_ARGUMENT, nothing signed
	FaultExhausted    Fault = "exhausted"     // answers RESOURCE_EXHAUSTED with a RetryInfo of 7 s, nothing signed
	FaultGarbage      Fault = "garbage"       // signs, answers bytes that are no certificate
	FaultOtherKey     Fault = "other-key"     // signs and answers a certificate for another key
	FaultWrongSubject Fault = "wrong-subject" // signs and answers a certificate for another subject
	FaultWrongDates   Fault = "wrong-dates"   // signs and answers a certificate that lives a day less
)

// FaultPlan says which Issue goes wrong, and how. ByID is asked first, then ByCall.
type FaultPlan struct {
	// ByID holds the faults of the first, second, ... Issue with an ID; later ones go well.
	ByID map[string][]Fault
	// ByCall holds the fault of the n-th Issue of all, counted from 1.
	ByCall map[int]Fault
	// Release lets FaultLate and FaultSlowSigning go on when it is closed, or once per value sent; nil never does.
	Release <-chan struct{}
	// Exit ends the process for FaultDie and FaultDieBefore, as os.Exit(137) does.
	Exit func()
	// Lookup fails the n-th Lookup, counted from 1, when it returns an error; nil never does.
	Lookup func(n int, id string) error
}

// FaultyBackend is a Backend that fails as planned, and keeps what was really issued.
type FaultyBackend struct {
	backend.Backend
	plan    FaultPlan
	mu      sync.Mutex
	calls   int
	lookups int
	byID    map[string]*record
}

// record is what happened under an ID.
type record struct {
	calls        int
	certificates map[[sha256.Size]byte][]byte
}

// Faulty wraps a backend so that it fails as planned.
func Faulty(inner backend.Backend, plan FaultPlan) *FaultyBackend {
	return &FaultyBackend{Backend: inner, plan: plan, byID: map[string]*record{}}
}

// Issued counts the different certificates that were signed under the ID, answered or not.
func (f *FaultyBackend) Issued(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.byID[id]; r != nil {
		return len(r.certificates)
	}
	return 0
}

// Calls counts the calls of Issue with the ID.
func (f *FaultyBackend) Calls(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.byID[id]; r != nil {
		return r.calls
	}
	return 0
}

// Total counts the different certificates that were signed under all IDs.
func (f *FaultyBackend) Total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.byID {
		n += len(r.certificates)
	}
	return n
}

// next counts the call and picks its fault.
func (f *FaultyBackend) next(id string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	r := f.byID[id]
	if r == nil {
		r = &record{certificates: map[[sha256.Size]byte][]byte{}}
		f.byID[id] = r
	}
	r.calls++
	if own := f.plan.ByID[id]; r.calls <= len(own) {
		return own[r.calls-1]
	}
	return f.plan.ByCall[f.calls]
}

// issue passes the request on and records what was signed.
func (f *FaultyBackend) issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	a, err := f.Backend.Issue(ctx, r)
	if err == nil && a.Certificate != nil {
		f.mu.Lock()
		f.byID[r.ID].certificates[sha256.Sum256(a.Certificate)] = a.Certificate
		f.mu.Unlock()
	}
	return a, err
}

// Issue is Backend.Issue, with the planned fault.
func (f *FaultyBackend) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	changed := *r
	switch fault := f.next(r.ID); fault {
	case FaultNone:
		return f.issue(ctx, r)
	case FaultUnavailable:
		return nil, backend.Refuse(codes.Unavailable, "fault %s", fault)
	case FaultNotAsked:
		return nil, backend.NotAsked(backend.Refuse(codes.Unavailable, "fault %s", fault))
	case FaultRefuse:
		return nil, backend.Refuse(codes.InvalidArgument, "fault %s", fault)
	case FaultExhausted:
		return nil, backend.Exhausted(7*time.Second, "fault exhausted")
	case FaultDieBefore:
		f.exit()
		return nil, backend.Refuse(codes.Unavailable, "fault %s", fault)
	case FaultSlowSigning:
		<-f.plan.Release
		return f.issue(context.WithoutCancel(ctx), r)
	case FaultOtherKey:
		changed.Template.PublicKey = otherKey()
	case FaultWrongSubject:
		changed.Template.Subject = otherSubject()
	case FaultWrongDates:
		changed.Template.NotAfter = r.Template.NotAfter.Add(-24 * time.Hour)
	case FaultLate, FaultDrop, FaultDie, FaultGarbage:
		a, err := f.issue(ctx, r)
		if err != nil {
			return nil, err
		}
		return f.afterSigning(ctx, fault, a)
	default:
		return nil, backend.Refuse(codes.Internal, "the plan names an unknown fault %q", fault)
	}
	return f.issue(ctx, &changed)
}

func (f *FaultyBackend) afterSigning(ctx context.Context, fault Fault, a *backend.Issuance) (*backend.Issuance, error) {
	switch fault {
	case FaultLate:
		select {
		case <-f.plan.Release:
			return a, nil
		case <-ctx.Done():
			return nil, contextError(ctx.Err())
		}
	case FaultGarbage:
		return &backend.Issuance{Certificate: []byte("this is no certificate"), Chain: a.Chain}, nil
	case FaultDie:
		f.exit()
	}
	return nil, backend.Refuse(codes.Unavailable, "fault %s", fault)
}

func (f *FaultyBackend) exit() {
	if f.plan.Exit != nil {
		f.plan.Exit()
	}
}

// Lookup is Backend.Lookup, failing as planned.
func (f *FaultyBackend) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	f.mu.Lock()
	f.lookups++
	n := f.lookups
	f.mu.Unlock()
	if f.plan.Lookup != nil {
		if err := f.plan.Lookup(n, r.ID); err != nil {
			return nil, err
		}
	}
	return f.Backend.Lookup(ctx, r)
}

// SignCMS is CMSSigner.SignCMS, if the wrapped backend has it.
func (f *FaultyBackend) SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error) {
	if s, ok := f.Backend.(backend.CMSSigner); ok {
		return s.SignCMS(ctx, issuer, content)
	}
	return nil, backend.Refuse(codes.Unimplemented, "SignCMS")
}

// OCSP is OCSPResponder.OCSP, if the wrapped backend has it.
func (f *FaultyBackend) OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error) {
	if o, ok := f.Backend.(backend.OCSPResponder); ok {
		return o.OCSP(ctx, issuer, request)
	}
	return nil, backend.Refuse(codes.Unimplemented, "OCSP")
}

// Exchange is Exchanger.Exchange, if the wrapped backend has it.
func (f *FaultyBackend) Exchange(ctx context.Context, id string, message []byte) ([]byte, error) {
	if e, ok := f.Backend.(backend.Exchanger); ok {
		return e.Exchange(ctx, id, message)
	}
	return nil, backend.Refuse(codes.Unimplemented, "Exchange")
}

// Rollover is Roller.Rollover, if the wrapped backend has it.
func (f *FaultyBackend) Rollover(ctx context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
	if b, ok := f.Backend.(backend.Roller); ok {
		return b.Rollover(ctx, r)
	}
	return nil, backend.Refuse(codes.Unimplemented, "Rollover")
}

// Close closes the wrapped backend, if it can be closed.
func (f *FaultyBackend) Close() error {
	if c, ok := f.Backend.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func contextError(err error) error { return status.FromContextError(err).Err() }

// otherKey is a P-256 SubjectPublicKeyInfo that no test asks for.
func otherKey() []byte {
	der, err := x509.MarshalPKIXPublicKey((&Memory{o: MemoryOptions{Seed: "another device"}}).derive("key").Public())
	if err != nil {
		panic("backendtest: " + err.Error())
	}
	return der
}

func otherSubject() []byte {
	der, err := asn1.Marshal(pkix.Name{CommonName: "another device"}.ToRDNSequence())
	if err != nil {
		panic("backendtest: " + err.Error())
	}
	return der
}
