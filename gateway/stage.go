package gateway

import (
	"context"
	"time"
)

// Stage is one step of a pipeline. It reads the request, shapes the grant, and never writes: what is to be
// counted or spent it returns as claims. Implementations are in authz, one file each.
type Stage interface {
	// Name is the stage's name in configuration, `muster explain` and metrics.
	Name() string
	Decide(ctx context.Context, r *Request, g *Grant) Verdict
}

// Identifier is a Stage whose verdict depends only on who is asking, not on time passed, counts or what was asked
// before. When a request may be a repeat, only these stages run before the earlier answer is given again.
type Identifier interface {
	Stage
	Identifies()
}

// Recogniser is a Stage whose Decide looks at more than who is asking, such as time or the profile. When a request may be
// a repeat, Identify runs in its place: it says who that is, and no more. proves is false when it takes the word of other
// stages, or of the request: a request that only such stages know is nobody's.
type Recogniser interface {
	Stage
	Identify(ctx context.Context, r *Request, g *Grant) (v Verdict, proves bool)
}

// Decision is the outcome of a stage.
type Decision string

const (
	Allow        Decision = "allow"
	Deny         Decision = "deny"
	Hold         Decision = "hold"          // wait for approval
	CannotAnswer Decision = "cannot-answer" // denies as Unavailable: what cannot be checked is not allowed
)

// Verdict is what a stage decided.
type Verdict struct {
	Decision   Decision
	Reason     Reason        // with Deny
	Detail     string        // for the client, with Deny
	RetryAfter time.Duration // with Deny for Busy: when the client may come back
	Note       string        // for the operator: what was seen and compared, in full, without secrets
	Claims     []Claim       // with Allow and Hold
	Terms      HoldTerms     // with Hold
	parts      []Judged
}

// Claim is a use of something limited: a challenge, a device's number of enrollments, a quota. It is committed
// together with the intent, on the condition that fewer than Limit uses stand; a lost claim denies.
type Claim struct {
	Key   string // what is used, e.g. "challenge:<hash>"; a quota per time has the period in its key
	Limit int64  // uses that Key has in all
	Lost  string // the operator's note when it is lost

	Reason Reason // of the refusal when it is lost; "": NotAuthorized
	Detail string // for the client then; "": "already used"

	stage string // that made it
}

// Judged is a stage's verdict as it is kept with the transaction.
type Judged struct {
	Stage    string        `json:"stage"`
	Decision Decision      `json:"decision"`
	Reason   Reason        `json:"reason,omitempty"`
	Note     string        `json:"note,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	Parts    []Judged      `json:"parts,omitempty"` // the branches of anyOf and not
}

// Allowed is the verdict that lets pass, with a note for the operator.
func Allowed(note string, claims ...Claim) Verdict {
	return Verdict{Decision: Allow, Note: note, Claims: claims}
}

// Denied is the verdict that refuses: detail is for the client, note for the operator.
func Denied(reason Reason, detail, note string) Verdict {
	return Verdict{Decision: Deny, Reason: reason, Detail: detail, Note: note}
}

// Held is the verdict that waits for approval.
func Held(note string, claims ...Claim) Verdict {
	return Verdict{Decision: Hold, Note: note, Claims: claims}
}

// Unanswered is the verdict of a stage that could not find out.
func Unanswered(err error) Verdict {
	return Verdict{Decision: CannotAnswer, Reason: Unavailable, Note: err.Error()}
}
