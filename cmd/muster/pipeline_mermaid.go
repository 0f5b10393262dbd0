package main

import (
	"fmt"
	"strings"

	"github.com/muster-pki/muster/cmd/muster/words"
)

// chart is a Mermaid flowchart under way (https://mermaid.js.org/syntax/flowchart.html). Its node labels are quoted strings, in which
// entities stand for what would end them.
type chart struct {
	text strings.Builder
	n    int
}

// mermaid writes a flowchart for each operation.
func mermaid(v endpointView) string {
	c := &chart{}
	for i, o := range v.Operations {
		if i > 0 {
			c.text.WriteByte('\n')
		}
		fmt.Fprintf(&c.text, "%%%% %s: %s\nflowchart TD\n", words.Plain(v.Endpoint), operationsOf(o.Operations, " and "))
		c.n = 0
		from := []string{c.node(`(["%s"])`, operationsOf(o.Operations, " and ")+" at "+v.Endpoint, o.Asks)}
		from = c.list(from, o.Stages)
		for _, s := range o.Behind {
			to := c.stage(s)
			c.arrows(from, to)
		}
	}
	return c.text.String()
}

// node writes one node with its lines, and returns its name.
func (c *chart) node(shape string, lines ...string) string {
	c.n++
	name := fmt.Sprintf("n%d", c.n)
	for i, line := range lines {
		lines[i] = entities.Replace(words.Cut(words.Plain(line), maxLine))
	}
	fmt.Fprintf(&c.text, "  "+name+shape+"\n", strings.Join(lines, "<br/>"))
	return name
}

// entities are what a label cannot hold as it is.
var entities = strings.NewReplacer(`"`, "#quot;", "<", "#lt;", ">", "#gt;", "#", "#35;", "&", "#amp;", "`", "#96;", "[", "#91;", "]", "#93;", "{", "#123;", "}", "#125;")

func (c *chart) arrows(from []string, to string) {
	for _, f := range from {
		fmt.Fprintf(&c.text, "  %s --> %s\n", f, to)
	}
}

func (c *chart) stage(s stageView) string {
	lines := []string{s.Name}
	if len(s.Checks) > 0 {
		lines = append(lines, s.Checks[0])
	}
	if s.Holds != "" {
		return c.node(`[/"%s"/]`, append(lines, "HOLDS "+s.Holds)...)
	}
	return c.node(`["%s"]`, lines...)
}

// list writes stages one behind the other, and returns what leads on.
func (c *chart) list(from []string, all []stageView) []string {
	for _, s := range all {
		switch {
		case s.Name == "allOf" && len(s.Branches) == 1:
			from = c.list(from, s.Branches[0])
		case s.Name == "not" && len(s.Branches) == 1:
			to := c.node(`{{"%s"}}`, "not", inLine(s.Branches[0], ", "))
			c.arrows(from, to)
			from = []string{to}
		case len(s.Branches) > 0:
			to := c.node(`{"%s"}`, s.Name)
			c.arrows(from, to)
			from = nil
			for _, b := range s.Branches {
				from = append(from, c.list([]string{to}, b)...)
			}
		default:
			to := c.stage(s)
			c.arrows(from, to)
			from = []string{to}
		}
	}
	return from
}
