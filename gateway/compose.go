package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// composite is a stage made of pipelines.
//
// What stages decide makes a logic of four values. A list, and allOf, are as good as the first of their stages that denies or
// cannot answer; else they hold when one holds. anyOf allows when a branch does, else holds when one does, else cannot answer
// when one cannot: that branch might have allowed. not turns allow and hold into deny, and deny into allow. So nothing is
// allowed since something could not be asked, however these are nested.
type composite interface {
	identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (asked bool, v Verdict)
	branches() []Pipeline
}

// Branches are the pipelines that a stage is composed of: the branches of anyOf, the one list of allOf and not. Others have none.
func Branches(s Stage) []Pipeline {
	if c, ok := s.(composite); ok {
		return slices.Clone(c.branches())
	}
	return nil
}

// AnyOf allows what one of its branches allows: the first that does shapes the grant. When none does, the first that
// holds decides, then a branch that could not answer, then a refusal: of several the one that came farthest; of those that
// came equally far, one that found the credentials it looks for, before one that found wrong ones, before one that found none.
// A refusal leaves nothing in the grant but who authenticated in one of the branches.
func AnyOf(branches ...Pipeline) Stage { return anyOf(branches) }

type anyOf []Pipeline

func (anyOf) Name() string           { return "anyOf" }
func (a anyOf) branches() []Pipeline { return a }

func (a anyOf) Decide(ctx context.Context, r *Request, g *Grant) Verdict {
	var parts []Judged
	var best, held *ruling
	var heldGrant Grant
	requester := g.Requester
	for i, b := range a {
		tried := *g
		out := b.run(ctx, r, &tried, time.Now)
		parts = append(parts, Judged{
			Stage: fmt.Sprintf("branch %d", i+1), Decision: out.Decision, Reason: out.Reason, Note: out.Note, Parts: out.trail,
		})
		switch out.Decision {
		case Allow:
			*g = tried
			return Verdict{Decision: Allow, Note: fmt.Sprintf("branch %d allowed", i+1), Claims: out.Claims, parts: parts, reached: out.reached}
		case Hold:
			if held == nil {
				held, heldGrant = &out, tried
			}
		default:
			if best == nil || out.nearer(&best.Verdict) {
				best = &out
				if tried.Requester != "" {
					requester = tried.Requester
				}
			}
			if requester == "" {
				requester = tried.Requester
			}
		}
	}
	if held != nil {
		*g = heldGrant
		held.parts = parts
		return held.Verdict
	}
	if best == nil { // no branch at all: build refuses that, and so do we
		return Denied(NotAuthorized, "", "anyOf has no branch")
	}
	g.Requester = requester
	v := best.Verdict
	v.Note = "no branch allowed; nearest: " + best.stage + ": " + v.Note
	v.parts = parts
	return v
}

// nearer reports whether a branch that did not allow says more of why nothing is allowed than the one before.
func (v *Verdict) nearer(than *Verdict) bool {
	switch {
	case v.Decision != than.Decision:
		return v.Decision == CannotAnswer
	case v.reached != than.reached:
		return v.reached > than.reached
	case (v.Reason == Unauthenticated) != (than.Reason == Unauthenticated):
		return than.Reason == Unauthenticated
	}
	return v.found && !than.found
}

func (a anyOf) identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (bool, Verdict) {
	var best *Verdict
	requester := g.Requester
	for _, b := range a {
		tried := *g
		one, v := b.identify(ctx, r, &tried, clock)
		if !one {
			continue // a branch that asks nobody proves nobody
		}
		if v.Decision == Allow {
			*g = tried
			return true, v
		}
		if best == nil || v.nearer(best) {
			best = &v
		}
		if requester == "" {
			requester = tried.Requester
		}
	}
	if best == nil {
		return false, Allowed("")
	}
	g.Requester = requester
	return true, *best
}

// AllOf allows what all stages of the pipeline allow, as if they stood in its place.
func AllOf(p Pipeline) Stage { return allOf{p} }

type allOf struct{ p Pipeline }

func (allOf) Name() string           { return "allOf" }
func (a allOf) branches() []Pipeline { return []Pipeline{a.p} }

func (a allOf) Decide(ctx context.Context, r *Request, g *Grant) Verdict {
	out := a.p.run(ctx, r, g, time.Now)
	v := out.Verdict
	v.parts = out.trail
	switch {
	case out.Decision == Allow:
		v.Note = fmt.Sprintf("all %d allowed", len(a.p))
	case out.stage != "":
		v.Note = out.stage + ": " + v.Note
	}
	return v
}

func (a allOf) identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (bool, Verdict) {
	return a.p.identify(ctx, r, g, clock)
}

// Not allows what the pipeline denies, and denies what it allows or holds. What the pipeline cannot answer stays so. What its
// stages made of the grant, what they would use up, and whom they found to be asking, counts for nothing.
func Not(p Pipeline) Stage { return not{p} }

type not struct{ p Pipeline }

func (not) Name() string           { return "not" }
func (n not) branches() []Pipeline { return []Pipeline{n.p} }

func (n not) Decide(ctx context.Context, r *Request, g *Grant) Verdict {
	tried := *g
	out := n.p.run(ctx, r, &tried, time.Now)
	switch out.Decision {
	case Deny:
		return Verdict{Decision: Allow, Note: "denied by " + out.stage + ", as wanted", parts: out.trail}
	case CannotAnswer:
		return Verdict{Decision: CannotAnswer, Reason: Unavailable, Note: out.stage + ": " + out.Note, parts: out.trail}
	case Hold:
		return Verdict{Decision: Deny, Reason: NotAuthorized, Note: "held by " + out.stage + ", where it must not be allowed", found: true, parts: out.trail}
	}
	return Verdict{Decision: Deny, Reason: NotAuthorized, Note: "allowed, where it must not be", found: true, parts: out.trail}
}

// identify asks nobody: that somebody is not X says nothing about who it is.
func (not) identify(context.Context, *Request, *Grant, func() time.Time) (bool, Verdict) {
	return false, Allowed("")
}
