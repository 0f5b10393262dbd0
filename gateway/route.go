package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// stageRoute is where the trail shows that another CA than the profile's first is asked.
const stageRoute = "route"

// Crash points of a request that goes to another CA than the one that it was recorded for.
const (
	CrashBeforeReroute = "gateway.before-reroute" // the CA has nothing of it, and the record names it
	CrashAfterReroute  = "gateway.after-reroute"  // the record names the other one, which was not asked yet
)

// RerouteCrashPoints lists them, in their order.
var RerouteCrashPoints = []string{CrashBeforeReroute, CrashAfterReroute}

// Route is a CA that may certify for a profile.
type Route struct {
	Backend string // as configured
	Issuer  string // backend.CA.Name, "" for the backend's default
}

// Routes are the CAs of a profile, in the order in which they are asked. No two are of one backend.
func (p *Profile) Routes() []Route {
	return append([]Route{{p.Backend, p.Issuer}}, p.Standby...)
}

// route is the profile's CA at a backend; false when it has none there.
func (p *Profile) route(backend string) (Route, bool) {
	all := p.Routes()
	i := slices.IndexFunc(all, func(r Route) bool { return r.Backend == backend })
	if i < 0 {
		return Route{}, false
	}
	return all[i], true
}

// backendsOf are the backends of an endpoint's profiles, its own profile's first.
func (e *Endpoint) backendsOf() []string {
	var names []string
	add := func(p *Profile) {
		for _, r := range p.Routes() {
			if !slices.Contains(names, r.Backend) {
				names = append(names, r.Backend)
			}
		}
	}
	add(e.Profile)
	for _, p := range e.Profiles {
		add(p)
	}
	return names
}

// Rerouting is what Reroute commits.
type Rerouting struct {
	Transaction string
	Epoch       int64 // of the lease under which it was found that the CA has nothing of the request
	Backend     string
	Intent      *backend.IssueRequest // with the same ID, names, key and dates
	Verdicts    []Judged              // all of the transaction's
	Queue       *QueueRecord          // takes the place of the transaction's; nil: it stays
	At          time.Time
}

// Reroutes is the part of the Store for requests whose CA cannot be asked.
type Reroutes interface {
	// Reroute commits that the CA to ask is another one from now on, by who holds the lease of the epoch: the transaction is
	// StateIssuing with that backend, intent and verdicts, and its work asks that backend. The lease stays, with repeat keys and
	// claims. ErrStale as Settle, and when it is neither StateIssuing, StateQueued nor StateUnknown; nothing is written then.
	Reroute(ctx context.Context, r *Rerouting) error
}

// chosen is the CA to ask for a profile: the first that can be asked and whose certificates are known, and the first of all when there is
// none. why is what keeps those before it from being asked, "" when it is the first.
func (g *Gateway) chosen(ctx context.Context, rt *Runtime, p *Profile) (to Route, why string) {
	if len(p.Standby) == 0 {
		return Route{p.Backend, p.Issuer}, ""
	}
	for _, r := range p.Routes() {
		err := g.cannot(rt, r.Backend)
		if err == nil {
			err = rt.knows(ctx, r)
		}
		if err == nil {
			return r, why
		}
		why = leftOut(why, r.Backend, err)
	}
	return Route{p.Backend, p.Issuer}, ""
}

// knows reports why a CA's certificates are not known, which what is granted is held against.
func (rt *Runtime) knows(ctx context.Context, r Route) error {
	ctx, cancel := context.WithTimeout(ctx, keptPatience)
	defer cancel()
	_, err := rt.authorities[r.Backend].authority(ctx, r.Issuer)
	return err
}

// leftOut adds to what keeps CAs from being asked.
func leftOut(why, backend string, err error) string {
	if why != "" {
		why += "; "
	}
	return why + backend + " cannot be asked: " + err.Error()
}

// toStandby is the note of a verdict that another CA is asked.
func toStandby(why string, to Route, p *Profile) string {
	what := "standby "
	if to.Backend == p.Backend {
		what = "again "
	}
	return cut(why, maxNote-len(to.Backend)-16) + ": " + what + to.Backend
}

// routed has a grant go to the profile's CA that is to be asked now.
func (g *Gateway) routed(ctx context.Context, rt *Runtime, d *decision) {
	p := d.grant.profile
	to, why := g.chosen(ctx, rt, p)
	d.grant.Backend, d.grant.Issuer = to.Backend, to.Issuer
	if why != "" {
		d.trail = append(d.trail, Judged{Stage: stageRoute, Decision: Allow, Note: toStandby(why, to, p)})
	}
}

// wantsCSR reports whether one of a profile's CAs takes nothing but PKCS#10 requests, so that one has to be recorded.
func (rt *Runtime) wantsCSR(p *Profile) bool {
	return p != nil && slices.ContainsFunc(p.Routes(), func(r Route) bool { return takesCSR(rt.descriptions[r.Backend]) })
}

// profileOf is a transaction's, nil when it is no longer configured.
func (rt *Runtime) profileOf(t *Transaction) *Profile {
	e := rt.Endpoints[t.Endpoint]
	if e == nil {
		return nil
	}
	return e.offers(t.Profile)
}

// reroute has a request go to the next of its profile's CAs that can be asked, in one commit, when the one that it is recorded for
// provably has nothing of it: it was not asked, has said that it cannot now, or Lookup has said never. It reports whether a is another
// CA's then. A CA of whose answer nothing is known is never left: whoever calls this knows better.
//
// Each CA is left once by one who asks; a worker may come back to one later, by its word that it has nothing.
func (g *Gateway) reroute(ctx context.Context, a *ask, why error) bool {
	rt := g.runtime.Load()
	p := rt.profileOf(a.t)
	if p == nil || len(p.Standby) == 0 {
		return false
	}
	note := leftOut("", a.t.Backend, why)
	for _, to := range p.Routes() {
		if to.Backend == a.t.Backend || slices.Contains(a.left, to.Backend) {
			continue
		}
		intent, err := g.intentAt(ctx, rt, p, a.t, a.t.Intent, to)
		if err == nil {
			err = g.cannot(rt, to.Backend)
		}
		if err != nil {
			note = leftOut(note, to.Backend, err)
			continue
		}
		return g.move(ctx, rt, a, to, intent, toStandby(note, to, p))
	}
	g.log.Debug("no CA can be asked in another's place", "id", a.t.ID, "why", note)
	return false
}

// move commits it.
func (g *Gateway) move(ctx context.Context, rt *Runtime, a *ask, to Route, intent *backend.IssueRequest, note string) bool {
	r := &Rerouting{
		Transaction: a.t.ID, Epoch: a.epoch, Backend: to.Backend, Intent: intent, At: g.now(),
		Verdicts: append(slices.Clip(a.t.Verdicts), Judged{Stage: stageRoute, Decision: Allow, Note: note}),
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout/2)
	defer cancel()
	g.opt.Crash(CrashBeforeReroute)
	if err := g.store.Reroute(ctx, r); err != nil {
		// Should it be committed all the same, then the one CA has nothing of the request, and the other one was not asked.
		g.log.Error("a request could not go to another CA", "id", a.t.ID, "from", a.t.Backend, "to", to.Backend, "err", err)
		return false
	}
	g.opt.Crash(CrashAfterReroute)
	g.meter.reroutes.WithLabelValues(a.t.Backend, to.Backend).Inc()
	g.log.Warn("another CA is asked", "id", a.t.ID, "from", a.t.Backend, "to", to.Backend, "why", note)
	a.call.drop()
	a.call, a.left = nil, append(a.left, a.t.Backend)
	a.t.Backend, a.t.Intent, a.t.Verdicts, a.t.Updated, a.t.State = r.Backend, r.Intent, r.Verdicts, r.At, StateIssuing
	a.backend, a.desc = rt.Backends[to.Backend], rt.descriptions[to.Backend]
	return true
}

// intentAt is what to ask of another of the profile's CAs for the same. The error says that it would certify otherwise, or cannot do
// what becomes of the certificate.
func (g *Gateway) intentAt(ctx context.Context, rt *Runtime, p *Profile, t *Transaction, intent *backend.IssueRequest, to Route) (*backend.IssueRequest, error) {
	desc := rt.descriptions[to.Backend]
	if rt.Backends[to.Backend] == nil || desc == nil {
		return nil, fmt.Errorf("%w: %s", errNoBackend, to.Backend)
	}
	if t.Delivery != nil && !rt.canRevoke(to.Backend) {
		return nil, errors.New("it revokes nothing, and the key of this certificate is given without protection of its own")
	}
	q := *intent
	q.Issuer = to.Issuer
	if takesCSR(desc) && q.CSR != nil {
		inItsOwnWords(&q, desc)
	}
	if refused := asItStands(&q, desc, to.Backend, false); refused != nil {
		return nil, refused
	}
	ctx, cancel := context.WithTimeout(ctx, keptPatience)
	defer cancel()
	if refused := g.lintBefore(ctx, rt, p, to.Backend, to.Issuer, &q.Template); refused != nil {
		return nil, refused
	}
	return &q, nil
}

// request is what the CA is asked: without the PKCS#10 that is recorded for another of the profile's.
func (a *ask) request() *backend.IssueRequest {
	if a.t.Intent == nil || a.t.Intent.CSR == nil || a.desc == nil || takesCSR(a.desc) {
		return a.t.Intent
	}
	q := *a.t.Intent
	q.CSR = nil
	return &q
}
