package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/trace"
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
}

func (p Pipeline) run(ctx context.Context, r *Request, g *Grant, clock func() time.Time) ruling {
	out := ruling{Verdict: Verdict{Decision: Allow}}
	for _, s := range p {
		start := clock()
		v := traced(ctx, s, r, g)
		v.Claims = claimedBy(s.Name(), v.Claims)
		out.trail = append(out.trail, Judged{
			Stage: s.Name(), Decision: v.Decision, Reason: v.Reason, Note: v.Note, Took: clock().Sub(start), Parts: v.parts,
		})
		switch v.Decision {
		case Allow:
			out.Claims = append(out.Claims, v.Claims...)
			out.reached += max(v.reached, 1)
		case Hold:
			out.Claims = append(out.Claims, v.Claims...)
			out.reached += max(v.reached, 1)
			out.Terms = out.Terms.and(v.Terms)
			if out.Decision == Allow {
				out.Decision, out.Note, out.stage = Hold, v.Note, s.Name()
			}
		default:
			v.reached += out.reached
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

// traced is decide, as a step of the request's trace.
func traced(ctx context.Context, s Stage, r *Request, g *Grant) Verdict {
	ctx, span := trace.Start(ctx, "stage")
	defer span.End()
	v := decide(ctx, s, r, g)
	span.Set("muster.stage", s.Name())
	span.Set("muster.decision", string(v.Decision))
	span.Set("muster.reason", string(v.Reason))
	return v
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
		if _, composed := s.(composite); !composed {
			v.found = v.Reason != Unauthenticated || lookedAt(s, r)
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

// identify runs only the stages that say who is asking (Identifier). asked is false when there is none.
func (p Pipeline) identify(ctx context.Context, r *Request, g *Grant, clock func() time.Time) (asked bool, v Verdict) {
	reached := 0
	for _, s := range p {
		one, v := false, Allowed("")
		switch s := s.(type) {
		case composite:
			one, v = s.identify(ctx, r, g, clock)
		case Recogniser:
			asking := &asking{Stage: s, ask: s.Identify}
			v = decide(ctx, asking, r, g)
			one = asking.proves || v.Decision != Allow
		case Identifier:
			one, v = true, decide(ctx, s, r, g)
		}
		if one && v.Decision != Allow {
			v.reached += reached
			return true, v
		}
		if one {
			reached += max(v.reached, 1)
		}
		asked = asked || one
	}
	return asked, Verdict{Decision: Allow, reached: reached}
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

// lookedAt reports whether the request carries a credential of a kind that the stage looks at.
func lookedAt(s Stage, r *Request) bool {
	if a, ok := s.(*asking); ok {
		s = a.Stage
	}
	c, ok := s.(credentialReader)
	return ok && slices.ContainsFunc(c.Credentials(), func(k CredentialKind) bool { _, carried := r.Credential(k); return carried })
}

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
