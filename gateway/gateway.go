package gateway

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway/trace"
	"github.com/muster-pki/muster/plugins/backend"
)

// Endpoint is what a configured endpoint may do.
type Endpoint struct {
	Name      string
	Protocol  Protocol
	Profile   *Profile               // unless another is asked for, or the device's
	Profiles  map[string]*Profile    // all that it offers, by name; nil: Profile only
	Pipelines map[Operation]Pipeline // an operation without one is denied; Rekey without one passes Renew's
	Repeat    time.Duration          // for how long an equal request gets the same certificate again; 0: 10 minutes

	ConfirmWait     time.Duration // for how long a certificate waits for a confirmation that the protocol asks for; 0: 5 minutes
	KeepUnconfirmed bool          // one that is never confirmed is kept, not revoked
}

// pipeline returns what the operation passes, nil when it is not allowed.
func (e *Endpoint) pipeline(op Operation) Pipeline {
	if p := e.Pipelines[op]; len(p) > 0 {
		return p
	}
	if op == Rekey {
		return e.Pipelines[Renew]
	}
	return nil
}

// offers returns the profile with the name, the endpoint's own for "", nil when it has no such one.
func (e *Endpoint) offers(name string) *Profile {
	if name == "" || name == e.Profile.Name {
		return e.Profile
	}
	return e.Profiles[name]
}

// offered lists the names of its profiles, its own first.
func (e *Endpoint) offered() string {
	names := []string{e.Profile.Name}
	for _, name := range slices.Sorted(maps.Keys(e.Profiles)) {
		if name != e.Profile.Name {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Runtime is what a configuration makes: it never changes once it runs, and is swapped as a whole.
type Runtime struct {
	Endpoints map[string]*Endpoint
	Backends  map[string]backend.Backend
	Retention Retention
	Rates     map[string]Rate // how fast backends may be asked to issue; one without: as fast as requests come

	Offline map[string]Offline // backends whose requests are kept while their CA cannot be asked

	Known map[string]*Known // backends whose CAs did not answer when the Runtime was made: their breakers are open from its first moment

	descriptions map[string]*backend.Description
	authorities  map[string]*authorities
	crls         map[string]*crls
	ocsp         map[string]*ocspAnswers
}

// Options are what a Gateway lives with from start to end.
type Options struct {
	Store   Store
	Clock   func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Crash   func(point string) // called at each named crash point; nil outside fault tests

	Wait func(ctx context.Context, d time.Duration) error // until a request's turn comes; nil: on the machine's clock

	// Trace begins a trace of work that no request waits for; nil: none.
	Trace func(ctx context.Context, name string) (context.Context, trace.Span)

	CAChanged func(backend string) // called after a CA was changed over through this gateway; it does not wait. nil: nobody

	CheckTimeout time.Duration // for pipeline and intent; 0: 30 s
	IssueTimeout time.Duration // for a CA to answer, however long the client waits; 0: 20 s
	TwinWait     time.Duration // for how long an equal request waits for the first one; 0: 10 s
	MaxInFlight  int           // requests beyond it are answered Busy; 0: 512
	Refusals     int           // unauthenticated refusals kept in memory for Explain; 0: 4096
}

// Crash points, in the order in which an issuance passes them.
const (
	CrashBeforeIntent = "gateway.before-intent"
	CrashAfterIntent  = "gateway.after-intent"
	CrashAfterIssue   = "gateway.after-issue" // the CA has answered, nothing is recorded yet
	CrashAfterSettle  = "gateway.after-settle"

	CrashAfterConclude = "gateway.after-conclude" // a confirmation is recorded, and not answered yet
)

// CrashPoints lists those that every issuance passes.
var CrashPoints = []string{CrashBeforeIntent, CrashAfterIntent, CrashAfterIssue, CrashAfterSettle}

// Crash points of Rollover.
const (
	CrashRolloverOrdered  = "gateway.rollover-ordered"  // the audit trail has the order, the CA does not
	CrashRolloverDone     = "gateway.rollover-done"     // the CA has changed over, the audit trail has the order alone
	CrashRolloverRecorded = "gateway.rollover-recorded" // the audit trail has the outcome, nobody was told
)

// RolloverCrashPoints lists them, in their order.
var RolloverCrashPoints = []string{CrashRolloverOrdered, CrashRolloverDone, CrashRolloverRecorded}

// Gateway takes canonical requests from the protocol adapters and answers them. The one that New makes lives as long as the
// process, and goes by the Runtime that is in force; those that Prepare makes of it go by theirs, and share all else with it.
type Gateway struct {
	*core
	runtime *atomic.Pointer[Runtime] // that it goes by: the one in force, or its own
}

// core is what a Gateway shares with those that it prepares: whatever is to outlive a Runtime has its place here.
type core struct {
	opt     Options
	store   Store
	now     func() time.Time
	log     *slog.Logger
	meter   *meter
	inForce atomic.Pointer[Runtime]
	next    atomic.Pointer[Gateway] // prepared, and not in force yet; nil mostly
	slots   chan struct{}
	wake    chan struct{}
	places  places
	strange *strangers
	looping looping
	chains  chainCache
	vouched vouched
	heard   heard
	pacers  pacers

	breakers breakers
	drains   drains

	making chan struct{} // RSA keys that are being made
	turns  atomic.Int32  // requests for one: those, and who waits

	sweepNext time.Time   // when is looked again; keepHouse alone, as the next
	swept     SweepResult // since that was last logged

	mu      sync.Mutex
	flights map[string]chan struct{} // transactions that this process is issuing, closed when settled
	passing map[string]int           // messages that are with a backend, by its name
}

// New makes a Gateway without endpoints: everything is refused until Swap.
func New(o Options) (*Gateway, error) {
	if o.Store == nil || o.Clock == nil || o.Log == nil || o.Metrics == nil {
		return nil, errors.New("gateway: store, clock, log and metrics are required")
	}
	if o.Crash == nil {
		o.Crash = func(string) {}
	}
	if o.Trace == nil {
		o.Trace = func(ctx context.Context, _ string) (context.Context, trace.Span) { return ctx, trace.Span{} }
	}
	if o.Wait == nil {
		o.Wait = sleep
	}
	o.CheckTimeout = orDefault(o.CheckTimeout, 30*time.Second)
	o.IssueTimeout = orDefault(o.IssueTimeout, 20*time.Second)
	o.TwinWait = orDefault(o.TwinWait, 10*time.Second)
	o.MaxInFlight = orDefault(o.MaxInFlight, 512)
	o.Refusals = orDefault(o.Refusals, 4096)
	m, err := newMeter(o.Metrics)
	if err != nil {
		return nil, err
	}
	g := &Gateway{core: &core{
		opt: o, store: o.Store, now: o.Clock, log: o.Log, meter: m,
		slots: make(chan struct{}, o.MaxInFlight), wake: make(chan struct{}, 1), places: newPlaces(),
		strange: newStrangers(o.Refusals), flights: map[string]chan struct{}{}, passing: map[string]int{}, making: make(chan struct{}, maxMaking),
		pacers: pacers{by: map[string]*pacer{}, seed: maphash.MakeSeed()},
	}}
	g.runtime = &g.inForce
	g.runtime.Store(&Runtime{})
	return g, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Accepts reports whether some stage of the endpoint looks at credentials of the kind, so that an adapter asks
// clients only for what can help them.
func (g *Gateway) Accepts(endpoint string, kind CredentialKind) bool {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return false
	}
	for _, p := range e.Pipelines {
		if p.reads(kind) {
			return true
		}
	}
	return false
}

// retryUnavailable is when a client may come back after something did not answer.
const retryUnavailable = 5 * time.Second
