package policy

import (
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// place finds where a part of a scalar's text stands in the file that the scalar was read from.
type place struct {
	node  *yaml.Node
	lines []string // of the file from the scalar's on, nil where it is not at hand
}

// placeOf keeps of the lines of a file those that the scalar stands in.
func placeOf(n *yaml.Node, lines []string) place {
	p := place{node: n}
	for i := n.Line - 1; i >= 0 && i < len(lines) && i <= n.Line+strings.Count(n.Value, "\n"); i++ {
		p.lines = append(p.lines, strings.Clone(lines[i]))
	}
	return p
}

// at gives line and column in the file, counted from 1 in characters, of a line and column in the text. exact is false where
// the text is folded or not as it stands in the file: line is then the scalar's, and column that of the expression.
func (p place) at(line, column int) (fileLine, fileColumn int, exact bool) {
	n := p.node
	if line < 1 {
		return n.Line, n.Column, true
	}
	switch {
	case n.Style&yaml.LiteralStyle != 0: // the text begins in the line below its header
		text := strings.Split(n.Value, "\n")
		if line > len(text) {
			return n.Line, column, false
		}
		if raw := p.line(n.Line + line); strings.HasSuffix(strings.TrimSuffix(raw, "\r"), text[line-1]) {
			raw = strings.TrimSuffix(raw, "\r")
			return n.Line + line, utf8.RuneCountInString(raw) - utf8.RuneCountInString(text[line-1]) + column, true
		}
	case n.Style&yaml.FoldedStyle != 0, line > 1:
	default:
		if offset, ok := p.offset(column - 1); ok {
			return n.Line, n.Column + offset, true
		}
	}
	return n.Line, column, false
}

// line is the one of that number in the file.
func (p place) line(n int) string {
	if n -= p.node.Line; n < 0 || n >= len(p.lines) {
		return ""
	}
	return p.lines[n]
}

// offset is how many characters stand in the file between the beginning of a scalar in one line and the character of that
// number in its text.
func (p place) offset(character int) (int, bool) {
	raw := []rune(strings.TrimSuffix(p.line(p.node.Line), "\r"))
	start := p.node.Column - 1
	if start < 0 || start >= len(raw) {
		return 0, false
	}
	raw = raw[start:]
	text := []rune(p.node.Value)
	if character > len(text) {
		return 0, false
	}
	at := 0
	if raw[0] == '&' { // an anchor, which no text begins with
		for at < len(raw) && raw[at] != ' ' {
			at++
		}
		for at < len(raw) && raw[at] == ' ' {
			at++
		}
	}
	switch {
	case p.node.Style&yaml.SingleQuotedStyle != 0:
		at++
		for i, r := range text {
			if i == character {
				return at, true
			}
			if at >= len(raw) || raw[at] != r {
				return 0, false
			}
			if at++; r == '\'' { // stands twice
				at++
			}
		}
		return at, at < len(raw) && raw[at] == '\''
	case p.node.Style&yaml.DoubleQuotedStyle != 0:
		at++
		for i, r := range text {
			if i == character {
				return at, true
			}
			switch {
			case at < len(raw) && raw[at] == r && r != '\\':
				at++
			case at+1 < len(raw) && raw[at] == '\\' && strings.ContainsRune(`"\/`, raw[at+1]) && raw[at+1] == r:
				at += 2
			case at+1 < len(raw) && raw[at] == '\\' && (raw[at+1] == 'n' && r == '\n' || raw[at+1] == 't' && r == '\t'):
				at += 2
			default: // an escape by number, or the end of the line
				return 0, false
			}
		}
		return at, at < len(raw) && raw[at] == '"'
	}
	for i, r := range text {
		if i == character {
			return at, true
		}
		if at >= len(raw) || raw[at] != r {
			return 0, false
		}
		at++
	}
	return at, true
}
