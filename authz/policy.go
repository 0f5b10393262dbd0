package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/authz/policy"
	"github.com/muster-pki/muster/gateway"
)

// PolicyConfig configures the stage `policy`: rules of the operator's own decide, expressions of CEL over what is known of
// the request.
type PolicyConfig struct {
	// File has the rules, as `rules` and `otherwise` say it here.
	File string `yaml:"file"`
	// Rules are asked in order: the first whose condition holds decides, but for those that choose a profile.
	Rules policy.List `yaml:"rules"`
	// Otherwise is what becomes of a request that no rule decides: allow or deny. Default: deny.
	Otherwise string `yaml:"otherwise"`

	file string // that the settings stand in
}

// In says in which file the settings stand, for errors and notes.
func (c PolicyConfig) In(file string) PolicyConfig {
	c.file = file
	return c
}

// Policy makes the rules. Errors are of strictyaml, with the file that is at fault.
func (c PolicyConfig) Policy(dir string) (*policy.Policy, error) {
	if c.File == "" {
		return policy.New(c.file, c.Rules, c.Otherwise)
	}
	if !c.Rules.Empty() || c.Otherwise != "" {
		return nil, errors.New("file has the rules, and otherwise: leave those out here")
	}
	return policy.Load(dir, c.File)
}

// Policy is the stage `policy`. It authenticates nobody and names no device.
type Policy struct {
	rules *policy.Policy
	now   func() time.Time
}

// NewPolicy makes the stage. now is the clock.
func NewPolicy(c PolicyConfig, dir string, now func() time.Time) (*Policy, error) {
	if now == nil {
		return nil, errors.New("policy: no clock given")
	}
	rules, err := c.Policy(dir)
	if err != nil {
		return nil, err
	}
	return &Policy{rules, now}, nil
}

// Name is "policy".
func (s *Policy) Name() string { return "policy" }

// Rules are the rules of the stage.
func (s *Policy) Rules() *policy.Policy { return s.rules }

// Holds reports whether one of the rules may hold a request.
func (s *Policy) Holds() bool { return s.rules.Holds() }

// Decide asks the rules.
func (s *Policy) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	now := s.now()
	facts := gateway.FactsOf(r, g, now)
	d := s.rules.Judge(ctx, facts, func(profile string) error {
		if g.ProfileChosen() && g.Profile != profile {
			return fmt.Errorf("an earlier stage has chosen %s", g.Profile)
		}
		if !g.ChooseProfile(profile) {
			return errors.New("the endpoint does not offer it")
		}
		facts.Grant = gateway.FactsOf(r, g, now).Grant
		return nil
	})
	switch d.Decision {
	case gateway.Allow:
		return gateway.Allowed(d.Note)
	case gateway.Deny:
		return gateway.Denied(gateway.NotAuthorized, d.Detail, d.Note)
	case gateway.Hold:
		return heldFor(d.Note, gateway.HoldTerms{Approvers: d.Rule.Approvers, Expires: d.Rule.Expires})
	}
	return gateway.Unanswered(errors.New(d.Note))
}
