package profile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Bounds of a template and of what it gives, in bytes where nothing else is said.
const (
	maxSource  = 1024
	maxActions = 16 // {{ }} of a template
	maxPipes   = 8  // of an action
	maxValue   = 256
	maxStep    = 1024 // between two pipes
	maxPattern = 256
)

// Template is text with values in it: "{{device.serial}}.ran.example". What stands between {{ and }} is one value of a
// source and pipes through which it goes; nothing else of Go's templates is read: no conditions, loops or definitions.
// It never changes after it was parsed.
type Template struct {
	source string
	parts  []part
}

// part is a literal, or an action when that is set.
type part struct {
	literal string
	action  *action
}

// action is the content of one {{ }}.
type action struct {
	source   string
	origin   string   // device, request, certificate, old, attributes; "" for a literal
	fields   []string // of the source: subject, CN
	lookup   func(*facts) (string, error)
	pipes    []pipe
	optional bool // | optional
}

// UnmarshalStrict parses the template where it stands in a configuration.
func (t *Template) UnmarshalStrict(file string, n *yaml.Node) error {
	var s string
	if err := strictyaml.DecodeNode(file, n, &s); err != nil {
		return err
	}
	parsed, err := ParseTemplate(s)
	if err != nil {
		return strictyaml.Errorf(file, n, "%v", err)
	}
	*t = *parsed
	return nil
}

// ParseTemplate parses a template. The error says what is wrong with it, and the nearest name where one is unknown.
func ParseTemplate(source string) (*Template, error) {
	if source == "" {
		return nil, errors.New("the template is empty")
	}
	if len(source) > maxSource {
		return nil, fmt.Errorf("the template has %d bytes, at most %d are taken", len(source), maxSource)
	}
	var parts []part
	for rest := source; rest != ""; {
		before, after, found := strings.Cut(rest, "{{")
		if before != "" {
			parts = append(parts, part{literal: before})
		}
		if !found {
			break
		}
		content, after, err := cutAction(after)
		if err != nil {
			return nil, err
		}
		a, err := parseAction(content)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{action: a})
		rest = after
	}
	return newTemplate(source, parts)
}

// newTemplate checks what parts make together.
func newTemplate(source string, parts []part) (*Template, error) {
	t := &Template{source: source, parts: parts}
	actions, literal := 0, 0
	for _, p := range parts {
		if p.action != nil {
			actions++
			continue
		}
		if strings.Contains(p.literal, "}}") {
			return nil, errors.New("}} stands without {{")
		}
		literal += len(p.literal)
	}
	switch {
	case actions > maxActions:
		return nil, fmt.Errorf("%d values in {{ }}, at most %d are taken", actions, maxActions)
	case literal > maxValue:
		return nil, fmt.Errorf("%d bytes beside the values, at most %d stand in a name", literal, maxValue)
	}
	return t, nil
}

// cutAction ends at the }} that closes the action that s begins within; one in quotes closes none.
func cutAction(s string) (content, after string, err error) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '`':
			for i++; i < len(s) && s[i] != c; i++ {
				if s[i] == '\\' && c == '"' {
					i++
				}
			}
		case '}':
			if strings.HasPrefix(s[i:], "}}") {
				return s[:i], s[i+2:], nil
			}
		}
	}
	return "", "", errors.New("{{ stands without }}")
}

var parserPrefix = regexp.MustCompile(`^template: [^:]*:\d+: `)

// control are the words of Go's templates that begin something else than a value.
var control = []string{"if", "else", "end", "range", "break", "continue", "with", "define", "block", "template"}

// parseAction reads what stands between {{ and }}.
func parseAction(content string) (*action, error) {
	source := "{{" + content + "}}"
	fail := func(format string, args ...any) (*action, error) {
		return nil, fmt.Errorf(source+": "+format, args...)
	}
	if strings.HasPrefix(content, "-") || strings.HasSuffix(content, "-") || strings.Contains(content, "/*") {
		return fail("want a value and its pipes, without - and comments")
	}
	if word, _, _ := strings.Cut(strings.TrimSpace(content), " "); slices.Contains(control, word) {
		return fail("only values stand in {{ }}: no conditions, loops or definitions. The pipes default, match and optional do for most")
	}
	tree := parse.New("profile")
	tree.Mode = parse.SkipFuncCheck // so that the names are ours to judge
	set := map[string]*parse.Tree{}
	if _, err := tree.Parse(source, "{{", "}}", set); err != nil {
		words := parserPrefix.ReplaceAllString(err.Error(), "")
		if strings.Contains(words, "'-'") {
			words = `a name with a hyphen is written in quotes: {{device.id "cse-id"}}; an attribute's has none`
		}
		return fail("%s", words)
	}
	if len(set) > 1 || tree.Root == nil || len(tree.Root.Nodes) != 1 {
		return fail("only values stand in {{ }}: no conditions, loops or definitions")
	}
	node, ok := tree.Root.Nodes[0].(*parse.ActionNode)
	if !ok || len(node.Pipe.Decl) > 0 {
		return fail("only values stand in {{ }}: no conditions, loops, definitions or variables")
	}
	commands := node.Pipe.Cmds
	if len(commands) > maxPipes+1 {
		return fail("%d pipes, at most %d are taken", len(commands)-1, maxPipes)
	}
	a := &action{source: source}
	var err error
	if a.origin, a.fields, a.lookup, err = parseValue(commands[0]); err != nil {
		return fail("%v", err)
	}
	for i, c := range commands[1:] {
		if name, ok := c.Args[0].(*parse.IdentifierNode); ok && name.Ident == "optional" {
			if len(c.Args) > 1 || i != len(commands)-2 {
				return fail("optional takes nothing and stands last")
			}
			a.optional = true
			continue
		}
		p, err := parsePipe(c)
		if err != nil {
			return fail("%v", err)
		}
		a.pipes = append(a.pipes, p)
	}
	return a, nil
}

// parseValue reads the first command of an action: SOURCE.FIELD..., SOURCE.FIELD "name", or a text in quotes.
func parseValue(c *parse.CommandNode) (origin string, fields []string, lookup func(*facts) (string, error), err error) {
	switch first := c.Args[0].(type) {
	case *parse.StringNode:
		if len(c.Args) > 1 {
			return "", nil, nil, errors.New("a text takes no arguments")
		}
		return "", nil, func(*facts) (string, error) { return first.Text, nil }, nil
	case *parse.IdentifierNode:
		origin = first.Ident
	case *parse.ChainNode:
		id, ok := first.Node.(*parse.IdentifierNode)
		if !ok {
			return "", nil, nil, errors.New("want a value such as device.serial")
		}
		origin, fields = id.Ident, first.Field
	case *parse.FieldNode:
		return "", nil, nil, errors.New("a value begins with its source, without a dot before it: device.serial")
	default:
		return "", nil, nil, errors.New("want a value such as device.serial")
	}
	if !slices.Contains(originNames, origin) {
		_, err := source(origin, nil)
		return "", nil, nil, err
	}
	args, err := texts(c.Args[1:])
	if err != nil {
		return "", nil, nil, err
	}
	if len(args) > 1 {
		return "", nil, nil, fmt.Errorf("%s takes one name at most; pipes stand behind |", origin)
	}
	// device.attr "site" reads as device.attr.site, but that the name may be any.
	fields = append(slices.Clone(fields), args...)
	lookup, err = source(origin, fields)
	return origin, fields, lookup, err
}

// texts are arguments that have to be texts in quotes.
func texts(nodes []parse.Node) ([]string, error) {
	var list []string
	for _, n := range nodes {
		s, ok := n.(*parse.StringNode)
		if !ok {
			return nil, fmt.Errorf("%s: want a text in quotes", n)
		}
		list = append(list, s.Text)
	}
	return list, nil
}

// absent says that a value is not there.
type absent struct{ what string }

func (e *absent) Error() string { return e.what }

// valueError is what is wrong with the value of an action.
type valueError struct {
	action *action
	err    error
}

func (e *valueError) Error() string { return e.action.source + ": " + e.err.Error() }
func (e *valueError) Unwrap() error { return e.err }

// value runs one action. An empty value is *absent. Every error is a *valueError.
func (a *action) value(f *facts) (string, error) {
	text, err := a.lookup(f)
	for _, p := range a.pipes {
		if text, err = p(text, err); err == nil && len(text) > maxStep {
			err = fmt.Errorf("a value of %d bytes, at most %d are taken", len(text), maxStep)
		}
	}
	if err == nil && text == "" {
		err = &absent{"the value is empty"}
	}
	if err != nil {
		return "", &valueError{a, err}
	}
	return text, nil
}

// render gives the template's text. ok is false when a value is not there and said to be optional: then what the template
// makes is left out as a whole.
func (t *Template) render(f *facts) (text string, ok bool, err error) {
	var s strings.Builder
	for _, p := range t.parts {
		if p.action == nil {
			s.WriteString(p.literal)
			continue
		}
		value, err := p.action.value(f)
		if _, missing := errors.AsType[*absent](err); missing && p.action.optional {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		s.WriteString(value)
	}
	if s.Len() > maxValue {
		return "", false, fmt.Errorf("%s: it makes %d bytes, at most %d are taken", t.source, s.Len(), maxValue)
	}
	return s.String(), true, nil
}

// reads reports whether a value of the source stands in the template.
func (t *Template) reads(origin string) bool {
	return slices.ContainsFunc(t.parts, func(p part) bool { return p.action != nil && p.action.origin == origin })
}

// sure reports whether the template never gives way: no value in it is optional.
func (t *Template) sure() bool {
	return !slices.ContainsFunc(t.parts, func(p part) bool { return p.action != nil && p.action.optional })
}

// fixed is the text of a template without values.
func (t *Template) fixed() (string, bool) {
	var s strings.Builder
	for _, p := range t.parts {
		if p.action != nil {
			return "", false
		}
		s.WriteString(p.literal)
	}
	return s.String(), true
}

// String is the template as it was written.
func (t *Template) String() string { return t.source }
