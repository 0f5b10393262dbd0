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

// Describer is a Stage that says in words what it checks, for `muster pipeline show`. Every stage of a configuration is one.
// It answers from the settings that it was made with, asks nobody, and tells no secret, nor the hash of one: names of files and
// patterns, and counts.
type Describer interface {
	Stage
	Describe() Description
}

// Description is what a stage says of itself to the operator.
type Description struct {
	// Checks says what has to be so for the stage to allow, a line each, at most about 100 characters, without a full stop.
	// The first is the gist: it stands alone where there is room for one.
	Checks  []string
	Refuses []Reason // with which it denies; what it cannot answer is Unavailable, and does not stand here
	Holds   string   // what it may wait for, e.g. "until somebody approves it"; "" for one that never holds
	Uses    string   // what of it is used up, e.g. "one use of the challenge"; "" for nothing
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
	reached    int  // stages that let it pass, within a composed stage and, of a ruling, before the one that decided
	found      bool // with Deny: the request carries what the stage looks at
}

// Claim is a use of something limited: a challenge, a device's number of enrollments, a quota. It is committed
// together with the intent, on the condition that fewer than Limit uses stand; a lost claim denies.
type Claim struct {
	Key   string `json:"key"`            // what is used, e.g. "challenge:<hash>"
	Limit int64  `json:"limit"`          // uses that Key has in all
	Lost  string `json:"lost,omitempty"` // the operator's note when it is lost

	Reason Reason `json:"reason,omitempty"` // of the refusal when it is lost; "": NotAuthorized
	Detail string `json:"detail,omitempty"` // for the client then; "": "already used"

	Until time.Time `json:"until,omitzero"` // the use lapses by itself then; zero: never. All claims of a key lapse, or none
	// Active: the use is a valid certificate's. It lapses with that (the gateway sets Until), ends with its revocation, and
	// whoever renews the certificate takes it over.
	Active bool `json:"active,omitempty"`

	stage string // that made it
}

// Judged is a stage's verdict as it is kept with the transaction.
type Judged struct {
	Stage    string        `json:"stage"`
	Decision Decision      `json:"decision"`
	Reason   Reason        `json:"reason,omitempty"`
	Note     string        `json:"note,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	Parts    []Judged      `json:"parts,omitempty"` // the branches of anyOf; the stages of a branch, of allOf and of not
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
