package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/muster-pki/muster/plugins/backend"
)

// Prepare makes a Gateway that goes by another Runtime, before that is in force and after it is no longer. An adapter that is made
// with it answers a request by one configuration from its first byte to its last, however many are put into force meanwhile.
// Until Use the running Gateway does not know it, but that its worker settles by it the requests of the gateway itself: so
// what a configuration needs of its own can be had before anybody sees it. One is prepared at a time; it ends with Use or Drop.
// It fails when an endpoint names a backend that is not there or has an empty pipeline.
func (g *Gateway) Prepare(ctx context.Context, rt *Runtime) (*Gateway, error) {
	next := &Runtime{
		Endpoints: rt.Endpoints, Backends: rt.Backends, Rates: rt.Rates, Offline: rt.Offline, Retention: rt.Retention, Known: rt.Known,
		descriptions: map[string]*backend.Description{}, authorities: map[string]*authorities{}, crls: map[string]*crls{}, ocsp: map[string]*ocspAnswers{},
	}
	if err := g.checkRates(rt); err != nil {
		return nil, err
	}
	for name, b := range rt.Backends {
		d, err := b.Describe(ctx)
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", name, err)
		}
		next.descriptions[name] = d
		if next.authorities[name], err = seeded(newAuthorities(b, g.now), name, rt.Known[name]); err != nil {
			return nil, err
		}
		next.crls[name] = newCRLs(b, next.authorities[name], slices.Contains(d.Capabilities, backend.CapCRL), g.now)
		next.ocsp[name] = newOCSPAnswers(b, next.authorities[name], slices.Contains(d.Capabilities, backend.CapOCSP), g.now)
	}
	for name, e := range rt.Endpoints {
		if e.Name != name || e.Profile == nil {
			return nil, fmt.Errorf("endpoint %s: incomplete", name)
		}
		if next.Backends[e.Profile.Backend] == nil {
			return nil, fmt.Errorf("endpoint %s: profile %s names the backend %q, which is not configured", name, e.Profile.Name, e.Profile.Backend)
		}
		for _, p := range append([]*Profile{e.Profile}, slices.Collect(maps.Values(e.Profiles))...) {
			for i, r := range p.Routes() {
				if next.Backends[r.Backend] == nil || slices.ContainsFunc(p.Routes()[:i], func(o Route) bool { return o.Backend == r.Backend }) {
					return nil, fmt.Errorf("endpoint %s: profile %s names the backend %q, which is not configured, or twice", name, p.Name, r.Backend)
				}
			}
		}
		for op, p := range e.Pipelines {
			if len(p) == 0 {
				return nil, fmt.Errorf("endpoint %s: the pipeline of %s is empty; leave it out to deny the operation", name, op)
			}
			if to := p.forwardsTo(); to != "" && (next.descriptions[to] == nil || !slices.Contains(next.descriptions[to].Capabilities, backend.CapExchange)) {
				return nil, fmt.Errorf("endpoint %s: %s is forwarded to the backend %q, which is not configured or passes nothing on", name, op, to)
			}
		}
	}
	prepared := &Gateway{core: g.core, runtime: new(atomic.Pointer[Runtime])}
	prepared.runtime.Store(next)
	g.next.Store(prepared)
	return prepared, nil
}

// Use puts what was prepared into force: it cannot fail. Requests under way end with the Runtime that they began with.
func (g *Gateway) Use(prepared *Gateway) {
	g.startsOpen(prepared.runtime.Load())
	g.inForce.Store(prepared.runtime.Load())
	g.next.CompareAndSwap(prepared, nil)
}

// Drop forgets what was prepared and is not used.
func (g *Gateway) Drop(prepared *Gateway) { g.next.CompareAndSwap(prepared, nil) }

// Swap prepares a Runtime and puts it into the place of the running one; when it fails, nothing has changed.
func (g *Gateway) Swap(ctx context.Context, rt *Runtime) error {
	prepared, err := g.Prepare(ctx, rt)
	if err != nil {
		return err
	}
	g.Use(prepared)
	return nil
}

// worksFor is the Gateway by which the worker does what a transaction needs: the gateway's own requests may be those of a Runtime
// that is being prepared, and to which their backend belongs.
func (g *Gateway) worksFor(t *Transaction) *Gateway {
	if next := g.next.Load(); next != nil && t.Protocol == Self {
		return next
	}
	return g
}

// runtimes are all that requests may go by now, but for those that end with an earlier one.
func (g *Gateway) runtimes() []*Runtime {
	all := []*Runtime{g.inForce.Load()}
	if mine := g.runtime.Load(); mine != all[0] {
		all = append(all, mine)
	}
	if next := g.next.Load(); next != nil && next != g {
		all = append(all, next.runtime.Load())
	}
	return all
}
