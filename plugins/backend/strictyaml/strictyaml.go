// Package strictyaml decodes YAML into structs and refuses whatever it does not know: unknown and duplicate keys,
// further documents, wrong types, merge keys and tags. A value that stands twice can have an anchor (&name) and an alias
// (*name), within bounds. Every error names file and line, and the nearest key that exists. It walks yaml.v3's nodes itself,
// since KnownFields is lost inside UnmarshalYAML.
//
// The gateway reads its configuration with it, and CA backends theirs. It is not a general YAML decoder: what a
// configuration does not need, it does not read. Values never stand in its messages: they may be secrets.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	maxSize  = 4 << 20 // bytes of a document
	maxDepth = 32      // nesting of maps and lists
	maxShown = 50      // errors reported of one document
)

// Unmarshaler is a type that decodes its own subtree. It reports errors with Errorf or passes on those of DecodeNode.
type Unmarshaler interface {
	UnmarshalStrict(file string, n *yaml.Node) error
}

// Error is one fault in a file.
type Error struct {
	File    string
	Line    int    // from 1; 0 when it is not known
	Column  int    // from 1, in characters; 0 where the line says enough
	Path    string // of keys, e.g. profiles.base-station; "" for the document's top
	Message string

	form   form
	suffix string // unknownKey: the suggestion
}

// form is how path and message make a sentence.
type form int

const (
	remark     form = iota // PATH: MESSAGE
	predicate              // PATH MESSAGE
	unknownKey             // MESSAGE in PATH SUFFIX
)

func (e *Error) Error() string {
	at := e.File
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d", e.File, e.Line)
		if e.Column > 0 {
			at = fmt.Sprintf("%s:%d", at, e.Column)
		}
	}
	switch {
	case e.Path == "":
		return at + ": " + e.Message + e.suffix
	case e.form == unknownKey:
		return at + ": " + e.Message + " in " + e.Path + e.suffix
	case e.form == predicate:
		return at + ": " + e.Path + " " + e.Message
	}
	return at + ": " + e.Path + ": " + e.Message
}

// Errorf makes the error that n, in file, is at fault.
func Errorf(file string, n *yaml.Node, format string, args ...any) *Error {
	e := &Error{File: file, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line = n.Line
	}
	return e
}

// Decode reads one whole document into the struct, map or slice that into points to. The error joins an *Error for
// every fault found. An empty document leaves into as it is, but for its required keys.
func Decode(file string, data []byte, into any) error {
	root, err := Parse(file, data)
	if err != nil {
		return err
	}
	return DecodeNode(file, root, into)
}

// DecodeNode reads a subtree as Decode does. The nodes keep the lines of the file they were parsed from.
func DecodeNode(file string, n *yaml.Node, into any) error {
	return DecodeNodeAt(file, "", n, into)
}

// DecodeNodeAt is DecodeNode for a subtree that stands at path, e.g. "endpoints.ran.enroll", for the messages.
func DecodeNodeAt(file, path string, n *yaml.Node, into any) error {
	// A node need not come from Parse.
	if errs := inspect(file, n); errs != nil {
		return join(errs)
	}
	d := &decoder{file: file}
	d.root(n, into, path)
	return join(d.errs)
}

// Parse reads the one document of data and returns its content: never a document or alias node, and a null scalar
// on line 1 when there is none. Its structure has been checked: bounded depth, no merge keys, tags or duplicate keys. What
// stood as an alias is a copy of what it names, with the lines of that; no anchor is left.
func Parse(file string, data []byte) (*yaml.Node, error) {
	if len(data) > maxSize {
		return nil, &Error{File: file, Message: fmt.Sprintf("larger than %d bytes", maxSize)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: 1, Column: 1}, nil
	case err != nil:
		return nil, syntax(file, data, err)
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, Errorf(file, &second, "a second document begins here: a file holds one")
	case !errors.Is(err, io.EOF):
		return nil, syntax(file, data, err)
	}
	n := &doc
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	if errs := expand(file, n); errs != nil {
		return nil, join(errs)
	}
	if errs := inspect(file, n); errs != nil {
		return nil, join(errs)
	}
	return n, nil
}

var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

func syntax(file string, data []byte, err error) error {
	e := &Error{File: file, Message: err.Error()}
	if m := syntaxLine.FindStringSubmatch(err.Error()); m != nil {
		e.Message = m[2]
		e.Line, _ = strconv.Atoi(m[1])
	}
	if e.Line == 0 {
		e.Line = aliasLine(data, e.Message)
	}
	if strings.Contains(e.Message, "found character that cannot start any token") {
		e.Message += " (a tab, perhaps: lines are indented with spaces; @, ` and % go into quotes)"
	}
	return e
}

// inspect refuses what no decoding may meet. It ends at the first level that is too deep.
func inspect(file string, n *yaml.Node) []*Error {
	var errs []*Error
	var walk func(n *yaml.Node, depth int)
	fail := func(n *yaml.Node, format string, args ...any) { errs = append(errs, Errorf(file, n, format, args...)) }
	walk = func(n *yaml.Node, depth int) {
		switch {
		case n == nil || n.Kind == 0:
			return
		case depth > maxDepth:
			fail(n, "nested deeper than %d levels", maxDepth)
			return
		case n.Kind == yaml.AliasNode:
			fail(n, "the alias *%s does not stand for a value here: write the value out", n.Value)
			return
		case n.Anchor != "":
			fail(n, "the anchor &%s does not stand at a value here", n.Anchor)
			return
		case n.Style&yaml.TaggedStyle != 0:
			fail(n, "tags (%s) are not read", n.Tag)
			return
		}
		if n.Kind != yaml.MappingNode {
			for _, c := range n.Content {
				walk(c, depth+1)
			}
			return
		}
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			switch first, twice := seen[key.Value]; {
			case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
				fail(key, "merge keys (<<) are not read: write the keys out; an alias stands for a whole value")
			case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
				fail(key, "a key must be plain text")
			case key.ShortTag() != "!!str":
				fail(key, "key %s must be text: put it in quotes", key.Value)
			case twice:
				fail(key, "key %q stands twice, first in line %d", key.Value, first)
			default:
				seen[key.Value] = key.Line
			}
			walk(n.Content[i+1], depth+1)
		}
	}
	walk(n, 1)
	return errs
}

// join orders errors by line.
func join(errs []*Error) error {
	if len(errs) == 0 {
		return nil
	}
	slices.SortStableFunc(errs, func(a, b *Error) int { return a.Line - b.Line })
	var all []error
	for i, e := range errs {
		if i == maxShown {
			all = append(all, &Error{File: e.File, Message: fmt.Sprintf("and %d more", len(errs)-i)})
			break
		}
		all = append(all, e)
	}
	return errors.Join(all...)
}

// Line returns the line of what stands at the path below n: map keys, and list positions as decimal numbers.
// Where the path ends early, it is the line of the last part that exists: where the missing key would belong.
func Line(n *yaml.Node, path ...string) int {
	if n == nil {
		return 0
	}
	line := n.Line
	for _, p := range path {
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == p {
					line, next = n.Content[i].Line, n.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(p); err == nil && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
				line = next.Line
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return line
}
