package decode

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/cmd/muster/words"
)

const (
	maxViewDepth = 32      // levels of indentation
	maxViewLines = 200_000 // of one message
	maxViewText  = 2000    // characters of one value
	maxViewHex   = 64      // bytes of a value in hexadecimal
	maxViewLabel = 24      // columns to which values are aligned at most
)

// node is a line of the view of a message, and what stands below it. Label and value are as the message has them:
// render alone makes them fit to be shown.
type node struct {
	label, value string
	children     []*node
}

// add puts a line below and returns it.
func (n *node) add(label, value string) *node {
	c := &node{label: label, value: value}
	n.children = append(n.children, c)
	return c
}

func (n *node) addf(label, format string, args ...any) *node {
	return n.add(label, fmt.Sprintf(format, args...))
}

// some is add for what may be absent: an empty value adds nothing.
func (n *node) some(label, value string) {
	if value != "" {
		n.add(label, value)
	}
}

// render writes the view, two spaces of indentation for each level, the values of siblings in one column.
func (n *node) render(w io.Writer) error {
	v := &view{lines: maxViewLines}
	v.line(n, 0, 0)
	_, err := io.WriteString(w, v.text.String())
	return err
}

type view struct {
	text  strings.Builder
	lines int // that may still be written
}

func (v *view) line(n *node, depth, column int) {
	indent := strings.Repeat("  ", depth)
	switch v.lines--; {
	case v.lines < 0:
		return
	case v.lines == 0:
		fmt.Fprintf(&v.text, "%s... (over %d lines: the rest is left out)\n", indent, maxViewLines)
		return
	case depth > maxViewDepth:
		fmt.Fprintf(&v.text, "%s... (deeper than %d levels: left out)\n", indent, maxViewDepth)
		return
	}
	label := words.Plain(shorten(n.label))
	v.text.WriteString(indent + label)
	if n.value != "" {
		gap := max(column-utf8.RuneCountInString(label), 0) + 2
		v.text.WriteString(strings.Repeat(" ", gap) + words.Plain(shorten(n.value)))
	}
	v.text.WriteByte('\n')
	column = 0
	for _, c := range n.children {
		if width := utf8.RuneCountInString(words.Plain(shorten(c.label))); c.value != "" && width <= maxViewLabel {
			column = max(column, width)
		}
	}
	for _, c := range n.children {
		v.line(c, depth+1, column)
	}
}

// shorten cuts a value that nobody reads to the end.
func shorten(s string) string {
	if len(s) <= maxViewText || utf8.RuneCountInString(s) <= maxViewText {
		return s
	}
	n := 0
	for i := range s {
		if n == maxViewText {
			return fmt.Sprintf("%s... (%d characters in all)", s[:i], utf8.RuneCountInString(s))
		}
		n++
	}
	return s
}

// hexOf shows bytes: what is longer than identifiers and nonces are is cut.
func hexOf(b []byte) string {
	switch {
	case len(b) == 0:
		return "(empty)"
	case len(b) > maxViewHex:
		return fmt.Sprintf("%s... (%d bytes)", hex.EncodeToString(b[:maxViewHex]), len(b))
	}
	return hex.EncodeToString(b)
}

// present is hexOf for a field that may be absent: nil gives nothing.
func present(b []byte) string {
	if b == nil {
		return ""
	}
	return hexOf(b)
}

// quoted shows text from a message, so that where it begins and ends is seen.
func quoted(s string) string { return `"` + s + `"` }

func quotedList(list []string) string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, quoted(s))
	}
	return strings.Join(out, ", ")
}

// when is a time of a message, "" when it has none.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return words.Moment(t)
}

// bytesOf is a size in words.
func bytesOf(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}
