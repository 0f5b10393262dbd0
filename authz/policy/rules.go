package policy

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Effect is what a rule does with a request of which its condition holds.
type Effect string

const (
	Allow   Effect = "allow"   // the stage lets it pass
	Deny    Effect = "deny"    // it is refused
	Hold    Effect = "hold"    // it waits for people
	Profile Effect = "profile" // it gets another profile, and goes on to the next rule
)

// Rule is one rule.
type Rule struct {
	Name   string
	File   string
	Line   int // of its item in File
	Effect Effect
	// Text is what the client is told with Deny, and what those who approve are told with Hold.
	Text      string
	Profile   string        // with Profile
	Approvers int           // with Hold
	Expires   time.Duration // with Hold
	If        string        // the condition as it stands there

	condition *expression
	at        place // of the condition
	profileAt *yaml.Node
}

// Place is "policy.yaml:4".
func (r *Rule) Place() string { return fmt.Sprintf("%s:%d", r.File, r.Line) }

// does says what the rule does, as it stands there.
func (r *Rule) does() string {
	if r.Effect == Profile {
		return "profile " + r.Profile
	}
	return string(r.Effect)
}

// Bounds of rules.
const (
	MaxRules         = 256
	MaxFile          = 1 << 20 // bytes of a file of rules
	maxConfiguration = 4 << 20 // bytes of one that rules stand in
	maxText          = 200     // bytes of what a client is told
	maxName          = 64      // bytes of a rule's name
)

// List is the rules of a configuration or a file, in order.
type List struct {
	rules []*Rule
	lines []string // of the file, where they are known
}

// ruleConfig is a rule as it stands in YAML.
type ruleConfig struct {
	// Name of the rule, for `muster explain`. No two have the same.
	Name string `yaml:"name,required"`
	// If is the condition, an expression of CEL over the facts of the request.
	If yaml.Node `yaml:"if,required"`
	// Allow: true lets the request pass. One of allow, deny, hold and profile stands in a rule.
	Allow *yaml.Node `yaml:"allow"`
	// Deny refuses the request, with this text for the client.
	Deny *yaml.Node `yaml:"deny"`
	// Hold has people approve the request; the text says why, for them.
	Hold *yaml.Node `yaml:"hold"`
	// Profile of those that the endpoint offers that the request gets; the rules behind it go on.
	Profile *yaml.Node `yaml:"profile"`
	// Approvers is how many people it takes, with hold. Default: 1.
	Approvers *int `yaml:"approvers"`
	// Expires is for how long they have time, with hold. Default: 7d.
	Expires *strictyaml.Duration `yaml:"expires"`
}

// UnmarshalStrict reads and checks the rules of a YAML list.
func (l *List) UnmarshalStrict(file string, n *yaml.Node) error {
	var items []yaml.Node
	if err := strictyaml.DecodeNode(file, n, &items); err != nil {
		return err
	}
	d := &reader{file: file, lines: l.lines}
	if d.lines == nil { // of a configuration, which is not at hand as text; without it, columns are those of the expression
		if data, err := strictyaml.ReadFile("", file, maxConfiguration); err == nil {
			d.lines = strings.Split(string(data), "\n")
		}
	}
	switch {
	case len(items) == 0:
		d.fail(n, "", "the list of rules is empty")
	case len(items) > MaxRules:
		d.fail(n, "", "%d rules; %d are the most", len(items), MaxRules)
		items = nil
	}
	names := map[string]int{}
	for i := range items {
		path := fmt.Sprintf("[%d]", i)
		r := d.rule(&items[i], path)
		if r == nil {
			continue
		}
		if line, twice := names[r.Name]; twice {
			d.fail(&items[i], path, "name: %q stands twice, first in line %d", r.Name, line)
		}
		names[r.Name] = r.Line
		l.rules = append(l.rules, r)
	}
	return d.err()
}

// reader gathers what is wrong with rules.
type reader struct {
	file  string
	lines []string
	errs  []error
}

func (d *reader) err() error { return joined(d.errs) }

func (d *reader) fail(n *yaml.Node, path, format string, args ...any) {
	e := strictyaml.Errorf(d.file, n, format, args...)
	e.Path = path
	d.errs = append(d.errs, e)
}

// rule reads one rule, nil where something is wrong with it.
func (d *reader) rule(n *yaml.Node, path string) *Rule {
	faults := len(d.errs)
	var c ruleConfig
	if err := strictyaml.DecodeNodeAt(d.file, path, n, &c); err != nil {
		d.errs = append(d.errs, err)
		return nil
	}
	r := &Rule{Name: c.Name, File: d.file, Line: n.Line, If: strings.TrimSpace(c.If.Value)}
	if len(c.Name) > maxName || c.Name == "" || !printable(c.Name) {
		d.fail(n, path, "name: 1 to %d printable characters", maxName)
	}
	d.effect(r, &c, n, path)
	d.condition(r, &c.If, path+".if")
	if len(d.errs) > faults {
		return nil
	}
	return r
}

// effect reads what a rule does.
func (d *reader) effect(r *Rule, c *ruleConfig, n *yaml.Node, path string) {
	effects := 0
	for _, e := range []struct {
		effect Effect
		node   *yaml.Node
	}{{Allow, c.Allow}, {Deny, c.Deny}, {Hold, c.Hold}, {Profile, c.Profile}} {
		if e.node == nil {
			continue
		}
		if effects++; effects > 1 {
			d.fail(n, path, "%s and %s in one rule: give each a rule of its own", r.Effect, e.effect)
			return
		}
		r.Effect = e.effect
		if e.effect == Allow {
			allow := false
			if err := strictyaml.DecodeNodeAt(d.file, path+".allow", e.node, &allow); err != nil {
				d.errs = append(d.errs, err)
			} else if !allow {
				d.fail(e.node, path+".allow", "is false: write `deny: \"why\"`")
			}
			continue
		}
		into := &r.Text
		if e.effect == Profile {
			into, r.profileAt = &r.Profile, e.node
		}
		if err := strictyaml.DecodeNodeAt(d.file, path+"."+string(e.effect), e.node, into); err != nil {
			d.errs = append(d.errs, err)
		} else if *into == "" || len(*into) > maxText || !printable(*into) {
			d.fail(e.node, path+"."+string(e.effect), "wants 1 to %d bytes of text in one line", maxText)
		}
	}
	if effects == 0 {
		d.fail(n, path, "says not what to do: one of `allow: true`, `deny: \"why\"`, `hold: \"why\"` and `profile: NAME`")
	}
	if r.Effect != Hold {
		if c.Approvers != nil || c.Expires != nil {
			d.fail(n, path, "approvers and expires go with hold")
		}
		return
	}
	r.Approvers, r.Expires = 1, gateway.DefaultHold
	if c.Approvers != nil {
		r.Approvers = *c.Approvers
	}
	if c.Expires != nil {
		r.Expires = time.Duration(*c.Expires)
	}
	if r.Approvers < 1 || r.Approvers > gateway.MaxApprovers {
		d.fail(n, path+".approvers", "1 to %d", gateway.MaxApprovers)
	}
	if r.Expires < gateway.MinHold || r.Expires > gateway.MaxHold {
		d.fail(n, path+".expires", "1m to 90d")
	}
}

// condition compiles a rule's condition, and says where in the file something is wrong with it.
func (d *reader) condition(r *Rule, n *yaml.Node, path string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		d.fail(n, path, "wants an expression, as in device.known")
		return
	}
	x, faults := compile(n.Value)
	r.condition, r.at = x, placeOf(n, d.lines)
	for _, f := range faults {
		d.errs = append(d.errs, r.at.fault(d.file, path, f))
	}
}

// fault is an error at its place in the file.
func (p place) fault(file, path string, f fault) error {
	line, column, exact := p.at(f.line, f.column)
	e := &strictyaml.Error{File: file, Line: line, Path: path, Message: f.message}
	switch {
	case exact:
		e.Column = column
	case f.line > 1:
		e.Message += fmt.Sprintf(" (line %d, column %d of the expression)", f.line, f.column)
	default:
		e.Message += fmt.Sprintf(" (column %d of the expression)", f.column)
	}
	return e
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) && strings.ToValidUTF8(s, "") == s
}

// Empty reports whether there are no rules.
func (l List) Empty() bool { return len(l.rules) == 0 }
