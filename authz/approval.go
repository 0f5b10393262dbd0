package authz

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// ApprovalConfig configures the stage `approval`: people have to approve the request before the CA is asked.
type ApprovalConfig struct {
	// Approvers is how many different people it takes, at most 10. Default: 1.
	Approvers int `yaml:"approvers"`
	// Expires is for how long they have time; the request is denied then. 1m to 90d. Default: 7d.
	Expires strictyaml.Duration `yaml:"expires"`
	// Operations that wait: enroll, renew, rekey. Default: all of the pipeline that the stage stands in.
	Operations []gateway.Operation `yaml:"operations"`
	// Strangers bounds what waits of requests that no stage before this one has authenticated, from one address (an IPv6 /64
	// counts as one). All addresses together get ten times as much. Default: {burst: 10, every: 1m, sources: 4096}.
	Strangers PasswordLimit `yaml:"strangers"`
}

// Approval is the stage `approval`. It holds. Of those whom nobody has authenticated it denies with Busy what goes beyond a
// bound: each of their requests is kept for days, and somebody has to read it.
type Approval struct {
	terms      gateway.HoldTerms
	operations []gateway.Operation // none: all
	strangers  *limiter            // per address
	crowd      *limiter            // all of them together
	now        func() time.Time
}

const (
	strangerEvery = time.Minute
	crowdFactor   = 10 // what all addresses together may have, of what one may
)

// NewApproval makes the stage. now is the clock.
func NewApproval(c ApprovalConfig, now func() time.Time) (*Approval, error) {
	if now == nil {
		return nil, errors.New("approval: no clock given")
	}
	if c.Approvers < 0 || c.Approvers > gateway.MaxApprovers {
		return nil, fmt.Errorf("approvers: 1 to %d", gateway.MaxApprovers)
	}
	terms := gateway.HoldTerms{Approvers: max(c.Approvers, 1), Expires: time.Duration(c.Expires)}
	if terms.Expires == 0 {
		terms.Expires = gateway.DefaultHold
	}
	if terms.Expires < gateway.MinHold || terms.Expires > gateway.MaxHold {
		return nil, errors.New("expires: 1m to 90d")
	}
	for i, op := range c.Operations {
		if !op.Certifies() {
			return nil, fmt.Errorf("operations: %q does not wait%s", op, strictyaml.Suggest(string(op), []string{"enroll", "renew", "rekey"}))
		}
		if slices.Contains(c.Operations[:i], op) {
			return nil, fmt.Errorf("operations: %q stands twice", op)
		}
	}
	if c.Strangers.Every == 0 {
		c.Strangers.Every = strictyaml.Duration(strangerEvery)
	}
	strangers, err := c.Strangers.limiter()
	if err != nil {
		return nil, errors.New("strangers: burst and sources are 0 to 1000000")
	}
	crowd := newLimiter(crowdFactor*int(strangers.burst), max(strangers.every/crowdFactor, 1), 1)
	return &Approval{terms, c.Operations, strangers, crowd, now}, nil
}

// Name is "approval".
func (s *Approval) Name() string { return "approval" }

// Decide holds the request.
func (s *Approval) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	if len(s.operations) > 0 && !slices.Contains(s.operations, r.Operation) {
		return gateway.Allowed(fmt.Sprintf("%s waits for nobody's approval", r.Operation))
	}
	if g.Requester == "" {
		if denied, ok := s.stranger(r); !ok {
			return denied
		}
	}
	return heldFor("", s.terms)
}

// heldFor is the verdict that waits for people by these terms. why goes before them, "" for nothing.
func heldFor(why string, terms gateway.HoldTerms) gateway.Verdict {
	people := "1 person"
	if terms.Approvers > 1 {
		people = fmt.Sprintf("%d people", terms.Approvers)
	}
	if why != "" {
		why += "; "
	}
	v := gateway.Held(fmt.Sprintf("%s%s to approve within %s", why, people, strictyaml.Duration(terms.Expires)))
	v.Terms = terms
	return v
}

// stranger counts a request that nobody has authenticated, and denies one too many.
func (s *Approval) stranger(r *gateway.Request) (denied gateway.Verdict, ok bool) {
	who := fmt.Sprintf("nobody has authenticated requests of %s", sourceOf(r.Source))
	wait, ok := s.strangers.take(r.Source, s.now())
	if ok {
		if wait, ok = s.crowd.take(netip.Addr{}, s.now()); ok {
			return gateway.Verdict{}, true
		}
		s.strangers.giveBack(r.Source, s.now())
		who = "nobody has authenticated requests of any address"
	}
	wait = max(wait.Round(time.Second), time.Second)
	v := gateway.Denied(gateway.Busy, fmt.Sprintf("too many requests wait for approval, try again in %v", wait),
		fmt.Sprintf("%s, and too many have come to wait for approval: this one does not; next in %v. A stage that authenticates, before this one, has no such bound", who, wait))
	v.RetryAfter = wait
	return v, false
}
