package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Pipeline is the stages that a request passes, in order: all of them have to allow it. The first that denies ends
// it; after one that holds, the others still run, so that nothing waits for approval which would be refused anyway.
//
// A stage replaces a field of the grant, it never changes a slice in place: AnyOf tries branches on copies.
type Pipeline []Stage

// ruling is a pipeline's outcome.
type ruling struct {
	Verdict
	stage string // that decided; "" for Allow
	trail []Judged
	depth int // stages that allowed, before one did not
}

func (p Pipeline) run(ctx context.Context, r *Request, g *Grant, clock func() time.Time) ruling {
	out := ruling{Verdict: Verdict{Decision: Allow}}
	for _, s := range p {
		start := clock()
		v := decide(ctx, s, r, g)
		v.Claims = claimedBy(s.Name(), v.Claims)
		out.trail = append(out.trail, Judged{
			Stage: s.Name(), Decision: v.Decision, Reason: v.Reason, Note: v.Note, Took: clock().Sub(start), Parts: v.parts,
		})
		switch v.Decision {
		case Allow:
			out.Claims = append(out.Claims, v.Claims...)
			out.depth++
		case Hold:
			out.Claims = append(out.Claims, v.Claims...)
			out.Terms = out.Terms.and(v.Terms)
			if out.Decision == Allow {
				out.Decision, out.Note, out.stage = Hold, v.Note, s.Name()
			}
		default:
			out.Verdict, out.stage = v, s.Name()
			out.Claims = nil
			return out
		}
	}
	return out
}

// claimedBy says on each claim which stage made it; a composed one does not speak for its parts.
func claimedBy(stage string, claims []Claim) []Claim {
	claims = slices.Clone(claims)
	for i := range claims {
		claims[i].stage = orDefault(claims[i].stage, stage)
	}
	return claims
}

// decide asks one stage, and turns all that is not a decision into CannotAnswer.
func decide(ctx context.Context, s Stage, r *Request, g *Grant) (v Verdict) {
	if err := ctx.Err(); err != nil {
		return Unanswered(err)
	}
	defer func() {
		if p := recover(); p != nil {
			v = Unanswered(fmt.Errorf("stage %s panicked: %v", s.Name(), p))
		}
		v.Note = cut(v.Note, maxNote)
	}()
	v = s.Decide(ctx, r, g)
	switch v.Decision {
	case Allow, Hold:
	case Deny:
		if v.Reason == "" {
			v.Reason = NotAuthorized
		}
	case CannotAnswer:
		v.Reason = Unavailable
	default:
		return Unanswered(fmt.Errorf("stage %s decided nothing", s.Name()))
	}
	return v
}

// maxNote bounds a stage's note, in bytes: it may quote what a stranger sent.
const maxNote = 2 << 10

// cut shortens a text to at most n bytes and a mark.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// composite is a stage made of pipelines.
type composite interface {
	identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (asked bool, v Verdict)
	branches() []Pipeline
}

// identify runs only the stages that say who is asking (Identifier). asked is false when there is none.
func (p Pipeline) identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (asked bool, v Verdict) {
	for _, s := range p {
		one, v := false, Allowed("")
		switch s := s.(type) {
		case composite:
			one, v = s.identify(ctx, r, g, clock)
		case Recogniser:
			asking := &asking{Stage: s, ask: s.Identify}
			v = decide(ctx, asking, r, g)
			if one = asking.proves; v.Decision != Allow {
				return true, v
			}
		case Identifier:
			one, v = true, decide(ctx, s, r, g)
		}
		if one && v.Decision != Allow {
			return true, v
		}
		asked = asked || one
	}
	return asked, Allowed("")
}

// asking is a Recogniser that is asked who it is only.
type asking struct {
	Stage
	ask    func(context.Context, *Request, *Grant) (Verdict, bool)
	proves bool
}

func (a *asking) Decide(ctx context.Context, r *Request, g *Grant) (v Verdict) {
	v, a.proves = a.ask(ctx, r, g)
	return v
}

// credentialReader is implemented by stages that look at credentials, so that an adapter knows what to ask a client for.
type credentialReader interface{ Credentials() []CredentialKind }

// reads reports whether a stage of the pipeline looks at credentials of the kind.
func (p Pipeline) reads(kind CredentialKind) bool {
	for _, s := range p {
		if c, ok := s.(composite); ok {
			for _, b := range c.branches() {
				if b.reads(kind) {
					return true
				}
			}
		}
		if c, ok := s.(credentialReader); ok {
			for _, k := range c.Credentials() {
				if k == kind {
					return true
				}
			}
		}
	}
	return false
}

// Stages calls f for every stage of the pipeline and of what it is composed of.
func (p Pipeline) Stages(f func(Stage)) {
	for _, s := range p {
		f(s)
		if c, ok := s.(composite); ok {
			for _, b := range c.branches() {
				b.Stages(f)
			}
		}
	}
}

// AnyOf allows what one of its branches allows: the first that does shapes the grant. When none does, the first that
// holds decides, then the refusal of the branch that came farthest; of those that came equally far, of one that found
// the credentials it looks for. A refusal leaves nothing in the grant but who authenticated in one of the branches.
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
			return Verdict{Decision: Allow, Note: fmt.Sprintf("branch %d allowed", i+1), Claims: out.Claims, parts: parts}
		case Hold:
			if held == nil {
				held, heldGrant = &out, tried
			}
		default:
			if best == nil || out.depth > best.depth || out.depth == best.depth && best.Reason == Unauthenticated && out.Reason != Unauthenticated {
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

func (a anyOf) identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (bool, Verdict) {
	asked, last := false, Allowed("")
	for _, b := range a {
		tried := *g
		one, v := b.identify(ctx, r, &tried, clock)
		if !one {
			continue // a branch that asks nobody proves nobody
		}
		asked = true
		if v.Decision == Allow {
			*g = tried
			return true, v
		}
		last = v
	}
	return asked, last
}

// Not allows what the pipeline denies, and denies what it allows or holds. What the pipeline cannot answer stays so.
func Not(p Pipeline) Stage { return not{p} }

type not struct{ p Pipeline }

func (not) Name() string           { return "not" }
func (n not) branches() []Pipeline { return []Pipeline{n.p} }

func (n not) Decide(ctx context.Context, r *Request, g *Grant) Verdict {
	tried := *g
	out := n.p.run(ctx, r, &tried, time.Now)
	parts := []Judged{{Stage: "branch 1", Decision: out.Decision, Reason: out.Reason, Note: out.Note, Parts: out.trail}}
	switch out.Decision {
	case Deny:
		return Verdict{Decision: Allow, Note: "denied by " + out.stage + ", as wanted", parts: parts}
	case CannotAnswer:
		v := out.Verdict
		v.parts = parts
		return v
	}
	return Verdict{Decision: Deny, Reason: NotAuthorized, Note: "allowed, where it must not be", parts: parts}
}

// identify asks nobody: that somebody is not X says nothing about who it is.
func (not) identify(context.Context, *Request, *Grant, func() time.Time) (bool, Verdict) {
	return false, Allowed("")
}
