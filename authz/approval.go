package authz

import (
	"context"
	"errors"
	"fmt"
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
}

// Approval is the stage `approval`. It holds, and never denies.
type Approval struct {
	terms      gateway.HoldTerms
	operations []gateway.Operation // none: all
}

const (
	maxApprovers      = 10
	defaultApprovalIn = 7 * 24 * time.Hour
	minApprovalIn     = time.Minute
	maxApprovalIn     = 90 * 24 * time.Hour
)

// NewApproval makes the stage.
func NewApproval(c ApprovalConfig) (*Approval, error) {
	if c.Approvers < 0 || c.Approvers > maxApprovers {
		return nil, fmt.Errorf("approvers: 1 to %d", maxApprovers)
	}
	terms := gateway.HoldTerms{Approvers: max(c.Approvers, 1), Expires: time.Duration(c.Expires)}
	if terms.Expires == 0 {
		terms.Expires = defaultApprovalIn
	}
	if terms.Expires < minApprovalIn || terms.Expires > maxApprovalIn {
		return nil, errors.New("expires: 1m to 90d")
	}
	known := []gateway.Operation{gateway.Enroll, gateway.Renew, gateway.Rekey}
	for i, op := range c.Operations {
		if !slices.Contains(known, op) {
			return nil, fmt.Errorf("operations: %q does not wait%s", op, strictyaml.Suggest(string(op), []string{"enroll", "renew", "rekey"}))
		}
		if slices.Contains(c.Operations[:i], op) {
			return nil, fmt.Errorf("operations: %q stands twice", op)
		}
	}
	return &Approval{terms, c.Operations}, nil
}

// Name is "approval".
func (s *Approval) Name() string { return "approval" }

// Decide holds the request.
func (s *Approval) Decide(ctx context.Context, r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	if len(s.operations) > 0 && !slices.Contains(s.operations, r.Operation) {
		return gateway.Allowed(fmt.Sprintf("%s waits for nobody's approval", r.Operation))
	}
	people := "1 person"
	if s.terms.Approvers > 1 {
		people = fmt.Sprintf("%d people", s.terms.Approvers)
	}
	v := gateway.Held(fmt.Sprintf("%s to approve within %s", people, strictyaml.Duration(s.terms.Expires)))
	v.Terms = s.terms
	return v
}
