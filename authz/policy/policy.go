package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Policy is rules with what becomes of a request that none of them decides. It does not change, and is safe for concurrent use.
type Policy struct {
	rules     []*Rule
	file      string
	otherwise Effect // Allow or Deny
}

// New makes a policy of rules that stand in a file. otherwise is "allow" or "deny", "" is deny. An error is the first that
// makes of the rules something that decides nothing.
func New(file string, l List, otherwise string) (*Policy, error) {
	p := &Policy{rules: l.rules, file: file, otherwise: Effect(otherwise)}
	switch p.otherwise {
	case "":
		p.otherwise = Deny
	case Allow, Deny:
	default:
		return nil, &strictyaml.Error{File: file, Path: "otherwise", Message: fmt.Sprintf("%q is neither allow nor deny%s", otherwise, strictyaml.Suggest(otherwise, []string{"allow", "deny"}))}
	}
	if len(p.rules) == 0 {
		return nil, &strictyaml.Error{File: file, Message: "there are no rules: want `rules:` with a list, or `file:`"}
	}
	if p.otherwise == Deny && !slices.ContainsFunc(p.rules, func(r *Rule) bool { return r.Effect == Allow || r.Effect == Hold }) {
		return nil, &strictyaml.Error{File: file, Line: p.rules[0].Line, Message: "no rule allows or holds anything, and what no rule decides is denied: nobody could pass. Say `otherwise: allow`, or add a rule with `allow: true`"}
	}
	return p, nil
}

// Parse reads a file of rules: `rules:` and `otherwise:`.
func Parse(file string, data []byte) (*Policy, error) {
	if len(data) > MaxFile {
		return nil, &strictyaml.Error{File: file, Message: fmt.Sprintf("larger than %d bytes", MaxFile)}
	}
	var c struct {
		Rules     List   `yaml:"rules,required"`
		Otherwise string `yaml:"otherwise"`
	}
	c.Rules.lines = strings.Split(string(data), "\n")
	if err := strictyaml.Decode(file, data, &c); err != nil {
		return nil, err
	}
	return New(file, c.Rules, c.Otherwise)
}

// Load reads a file of rules that a configuration in dir names; it goes by the name that stands there.
func Load(dir, file string) (*Policy, error) {
	data, err := strictyaml.ReadFile(dir, file, MaxFile)
	if err != nil {
		return nil, err
	}
	return Parse(file, data)
}

// Rules are the rules in order.
func (p *Policy) Rules() []*Rule { return p.rules }

// Otherwise is what becomes of a request that no rule decides: Allow or Deny.
func (p *Policy) Otherwise() Effect { return p.otherwise }

// Holds reports whether a rule may hold a request.
func (p *Policy) Holds() bool {
	return slices.ContainsFunc(p.rules, func(r *Rule) bool { return r.Effect == Hold })
}

// CheckProfiles refuses rules that choose a profile which is not offered.
func (p *Policy) CheckProfiles(offered []string) error {
	var errs []error
	for i, r := range p.rules {
		if r.Effect == Profile && !slices.Contains(offered, r.Profile) {
			e := strictyaml.Errorf(r.File, r.profileAt, "%q is not a profile that the endpoint offers%s", r.Profile, strictyaml.Suggest(r.Profile, offered))
			e.Path, e.Column = fmt.Sprintf("rules[%d].profile", i), r.profileAt.Column
			errs = append(errs, e)
		}
	}
	return joined(errs)
}

// Tried is what a rule said of a request.
type Tried struct {
	Rule    *Rule
	Matched bool
	Reached bool   // no rule before it had decided
	Failed  string // why it could not be said, "" when it could
	Seen    []Seen
}

// Decision is what rules decide of a request.
type Decision struct {
	Decision gateway.Decision
	Rule     *Rule  // that decided, nil where none did
	Detail   string // for the client, with Deny
	Note     string // for the operator
}

// Judge asks the rules in order until one decides. A rule that chooses a profile calls choose with it, once: the first that
// matches counts. What choose returns, when it is not nil, is why the profile cannot be had, and refuses the request; it
// may bring f up to date.
func (p *Policy) Judge(ctx context.Context, f *gateway.Facts, choose func(profile string) error) Decision {
	if err := withinBounds(f); err != nil {
		return unanswered(nil, err.Error())
	}
	var notes []string
	chosen := false
	for _, r := range p.rules {
		if r.Effect == Profile && chosen {
			continue
		}
		matched, failed := r.condition.evaluate(ctx, f)
		if failed.message != "" {
			return unanswered(r, r.where(failed))
		}
		if !matched {
			continue
		}
		if r.Effect == Profile {
			chosen = true
			if err := choose(r.Profile); err != nil {
				return Decision{Decision: gateway.Deny, Rule: r, Note: fmt.Sprintf("rule %s (%s) chooses the profile %s: %v", r.Name, r.Place(), r.Profile, err)}
			}
			notes = append(notes, r.note(f))
			continue
		}
		d := Decision{Decision: decisions[r.Effect], Rule: r, Note: strings.Join(append(notes, r.note(f)), "; ")}
		if r.Effect == Deny {
			d.Detail = r.Text
		}
		return d
	}
	notes = append(notes, fmt.Sprintf("no rule of %s decides: otherwise %s", p.file, p.otherwise))
	d := Decision{Decision: decisions[p.otherwise], Note: strings.Join(notes, "; ")}
	if p.otherwise == Deny {
		d.Detail = "no rule allows this"
	}
	return d
}

var decisions = map[Effect]gateway.Decision{Allow: gateway.Allow, Deny: gateway.Deny, Hold: gateway.Hold}

func unanswered(r *Rule, why string) Decision {
	return Decision{Decision: gateway.CannotAnswer, Rule: r, Note: why}
}

// note says that a rule matched, what it does, and what it looked at.
func (r *Rule) note(f *gateway.Facts) string {
	var text strings.Builder
	fmt.Fprintf(&text, "rule %s (%s): %s", r.Name, r.Place(), r.does())
	if r.Text != "" {
		fmt.Fprintf(&text, " %q", r.Text)
	}
	for i, s := range r.condition.seen(f) {
		if text.Len() > maxNote {
			text.WriteString(", ...")
			break
		}
		text.WriteString([]string{", since ", ", "}[min(i, 1)])
		text.WriteString(s.String())
	}
	return text.String()
}

// maxNote is where a note stops to list values, in bytes.
const maxNote = 600

// where says that a rule could not be evaluated, and where and why.
func (r *Rule) where(f fault) string {
	at := r.Place()
	line, column, exact := r.at.at(f.line, f.column)
	if exact && f.line > 0 {
		at = fmt.Sprintf("%s:%d:%d", r.File, line, column)
	} else if f.line > 0 {
		at = fmt.Sprintf("%s:%d, column %d of the expression", r.File, line, f.column)
	}
	return fmt.Sprintf("rule %s (%s): %s", r.Name, at, f.message)
}

// Try asks every rule, those behind the one that decides as well, and says what is decided. The profile that a rule chooses
// is taken to be offered: f is changed as a grant would be.
func (p *Policy) Try(ctx context.Context, f *gateway.Facts) ([]Tried, Decision) {
	judged := *f
	decided := p.Judge(ctx, &judged, func(profile string) error {
		judged.Grant.Profile = profile
		return nil
	})
	if decided.Decision == gateway.CannotAnswer && decided.Rule == nil {
		return nil, decided
	}
	var all []Tried
	reached, chosen := true, false
	for _, r := range p.rules {
		t := Tried{Rule: r, Reached: reached && (r.Effect != Profile || !chosen), Seen: r.condition.seen(f)}
		var failed fault
		if t.Matched, failed = r.condition.evaluate(ctx, f); failed.message != "" {
			t.Failed = failed.message
		}
		if t.Reached && t.Matched && r.Effect == Profile {
			chosen, f.Grant.Profile = true, r.Profile
		}
		if decided.Rule == r {
			reached = false
		}
		all = append(all, t)
	}
	return all, decided
}

// joined is nil where there are none.
func joined(errs []error) error { return errors.Join(errs...) }
