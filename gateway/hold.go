package gateway

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// HoldTerms is what a stage that holds asks for. Where several hold, the most approvers and the least time count.
type HoldTerms struct {
	Approvers int           // different people who have to approve; 0: 1
	Expires   time.Duration // after it the request is denied; 0: DefaultHold
}

// DefaultHold is for how long a request waits for approval where no stage says.
const DefaultHold = 7 * 24 * time.Hour

// Bounds of what stages ask for.
const (
	MaxApprovers = 10
	MinHold      = time.Minute
	MaxHold      = 90 * 24 * time.Hour
)

// heldConfirmWait is for how long at least a certificate waits to be confirmed that was held first: its requester learns of
// it when it polls next, not when it is approved.
const heldConfirmWait = 24 * time.Hour

// and joins the terms of two stages that hold.
func (t HoldTerms) and(o HoldTerms) HoldTerms {
	t.Approvers = max(t.Approvers, o.Approvers)
	if t.Expires == 0 || o.Expires != 0 && o.Expires < t.Expires {
		t.Expires = o.Expires
	}
	return t
}

// HoldRecord is the part of a held transaction's record that approval reads and writes. It stays when the hold is over.
type HoldRecord struct {
	Stage     string    `json:"stage"` // that held
	Approvers int       `json:"approvers"`
	Until     time.Time `json:"until"`
	Basis
	// Claims are taken with the last approval, and are not in it then any more: counts of a device for which a request only says
	// that it is. A stranger's would keep the device itself out, for as long as nobody has looked at it.
	Claims    []Claim    `json:"claims,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"`
	Denied    *Approval  `json:"denied,omitempty"` // who denied it; By "" for the time that ran out
}

// Basis is what a later decision about an intent goes by, in the record of it.
type Basis struct {
	Since    time.Time `json:"since"`           // what the dates in the intent count from
	Fixed    bool      `json:"fixed,omitempty"` // they are as asked for: what comes later does not move them
	Entry    string    `json:"entry,omitempty"` // the device's name in the inventory, where a stage found it there
	Replaces *Replaced `json:"replaces,omitempty"`
	// Registered is the identifier in that entry which the certificate names, where a stage has read one.
	Registered *DeviceID `json:"registered,omitempty"`
}

// Approval is what one person said of a held request.
type Approval struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// takenLater are the claims of a request that its last approval takes, apart from those that are taken at once, where no stage knows
// who sent it. Claims that lapse he has none of. What would be spent by its sender alone is no count of somebody else's.
func takenLater(claims []Claim) (atOnce, later []Claim) {
	for _, c := range claims {
		switch {
		case strings.HasPrefix(c.Key, MessageClaims):
			atOnce = append(atOnce, c)
		case !c.lapses():
			later = append(later, c)
		}
	}
	return atOnce, later
}

// approved reports whether all have approved who have to.
func (h *HoldRecord) approved() bool { return len(h.Approvals) >= max(h.Approvers, 1) }

// Holds is the part of the Store that ends holds. A held transaction (StateHeld, Transaction.Hold) is begun with Begin, which
// also has WorkHold wait until Hold.Until.
type Holds interface {
	// Approve commits one person's approval of a held transaction with its audit event. With the last one that it takes,
	// the transaction becomes StateIssuing with the intent given, under a lease as in Begin: epoch is not 0 then.
	// With Until it becomes StateApproved instead, without a lease, and WorkHold waits until then; the intent stays.
	// The last one takes Hold.Claims: *ClaimLostError when one has no use left; nothing is written then.
	// ErrStale when it is no longer held, or its time is over; ErrApproved when the same person has approved before; ErrLast (NotLast).
	Approve(ctx context.Context, a *ApprovalOrder) (epoch int64, err error)
	// Deny commits that a held or approved transaction becomes StateDenied, with its audit event: its claims are given back, and its
	// repeat key stands until RepeatUntil, so that the requester is told. The resume key is free at once: the same wish in a
	// new exchange is judged anew, and goes on from nothing but that. ErrStale when it is no longer held, or the lease
	// (Work) was lost.
	Deny(ctx context.Context, d *DenialOrder) error
}

// ErrApproved is returned when somebody approves what he has approved already.
var ErrApproved = errors.New("you have approved this request already")

// ErrLast is returned for an approval that turned out to be the last one that it takes (ApprovalOrder.NotLast). Nothing is written.
var ErrLast = errors.New("it is the last approval")

// ApprovalOrder is what Approve commits.
type ApprovalOrder struct {
	Transaction string
	Approval    Approval
	Intent      *backend.IssueRequest // what to ask the CA once all have approved: dates from now on
	Lease       time.Duration
	NotLast     bool      // no turn was taken: the last one that it takes is refused with ErrLast
	Until       time.Time // nobody is asked yet: until then the requester may come for its key; zero otherwise
	Audit       AuditEvent
}

// DenialOrder is what Deny commits.
type DenialOrder struct {
	Transaction string
	Denied      Approval // By "" when the time ran out
	Note        string   // the operator's line
	RepeatUntil time.Time
	Work        *Work // whose lease it was done under; nil when a person did it
	Audit       AuditEvent
}
