package strictyaml

import (
	"bytes"
	"regexp"

	"gopkg.in/yaml.v3"
)

// maxCopied bounds the nodes that the aliases of a document stand for, all together. A pipeline has some dozens; nine lines of aliases
// of aliases would have thousands of millions.
const maxCopied = 20_000

// expander puts values into the places of their aliases.
type expander struct {
	file    string
	anchors map[string]*yaml.Node
	copied  int
	full    bool // that it is too much has been said
	errs    []*Error
}

// expand replaces each alias of a document by a copy of what it names, and takes the anchors off. Copies keep the lines of the
// original: that is where a fault in them is mended. An anchor stands once, and on a value, not on a key.
func expand(file string, n *yaml.Node) []*Error {
	x := &expander{file: file, anchors: map[string]*yaml.Node{}}
	x.walk(n, 1)
	return x.errs
}

func (x *expander) fail(n *yaml.Node, format string, args ...any) {
	x.errs = append(x.errs, Errorf(x.file, n, format, args...))
}

// walk goes through the document in its order, so that what an alias names has been expanded when it is copied, but for one that
// contains the alias.
func (x *expander) walk(n *yaml.Node, depth int) {
	if n == nil || depth > maxDepth { // which inspect refuses
		return
	}
	anchor := n.Anchor
	if first := x.anchors[anchor]; anchor != "" && first != nil {
		x.fail(n, "the anchor &%s stands twice, first in line %d", anchor, first.Line)
		return
	}
	for i, c := range n.Content {
		switch {
		case n.Kind == yaml.MappingNode && i%2 == 0: // a key, which inspect judges
		case c.Kind == yaml.AliasNode:
			if named := x.named(c); named != nil {
				n.Content[i] = named
			}
		default:
			x.walk(c, depth+1)
		}
	}
	if anchor != "" {
		x.anchors[anchor], n.Anchor = n, ""
	}
}

// named is a copy of what an alias names, nil where that is said to be wrong.
func (x *expander) named(alias *yaml.Node) *yaml.Node {
	n := x.anchors[alias.Value]
	switch {
	case x.full:
		return nil
	case n == nil:
		x.fail(alias, "the alias *%s stands within what it names", alias.Value)
		return nil
	}
	made := x.copy(n)
	if x.copied > maxCopied {
		x.fail(alias, "the aliases of this file stand for more than %d values, together with *%s: write some of them out", maxCopied, alias.Value)
		x.full = true
		return nil
	}
	return made
}

// copy copies a node with all that is below it, until there are too many.
func (x *expander) copy(n *yaml.Node) *yaml.Node {
	made := *n
	made.Content = nil
	for _, c := range n.Content {
		if x.copied++; x.copied > maxCopied {
			break
		}
		made.Content = append(made.Content, x.copy(c))
	}
	return &made
}

var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.+)' referenced$`)

// aliasLine is the line in which an alias stands that names no anchor: yaml.v3 does not say. 0 where it is not found.
func aliasLine(data []byte, message string) int {
	m := unknownAnchor.FindStringSubmatch(message)
	if m == nil {
		return 0
	}
	// As a whole: *dev does not stand in *devices.
	alias := regexp.MustCompile(`(^|[\s,:\[{-])\*` + regexp.QuoteMeta(m[1]) + `($|[\s,\]}])`)
	for i, line := range bytes.Split(data, []byte("\n")) {
		if alias.Match(line) {
			return i + 1
		}
	}
	return 0
}
