package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
)

// maxLine bounds one line of what a stage says of itself, in characters, before it is broken.
const maxLine = 400

// strokes are what a tree is drawn with.
type strokes struct{ tee, last, down, arrow, dot string }

var (
	boxes = strokes{"├─ ", "└─ ", "│  ", "▼", "·"}
	ascii = strokes{"|- ", "`- ", "|  ", "v", "-"}
)

// drawing is a picture under way.
type drawing struct {
	text  strings.Builder
	width int
	strokes
}

// draw is the picture of an endpoint: what each operation passes, from top to bottom.
func draw(v endpointView, width int, plain bool) string {
	d := &drawing{width: width, strokes: boxes}
	if plain {
		d.strokes = ascii
	}
	d.put("", "", fmt.Sprintf("Endpoint %s (%s)", v.Endpoint, v.Protocol))
	if v.Running != "" {
		d.put("  ", "  ", v.Running)
	}
	for _, l := range v.Listeners {
		name := "listener " + l.Name
		if l.Proxy {
			name += ", behind proxies, where the clients' TLS ends"
		}
		d.put("  ", "    ", name)
		for _, url := range l.URLs {
			d.put("    ", "    ", url)
		}
	}
	for _, o := range v.Operations {
		d.operation(o)
	}
	if len(v.Denied) > 0 {
		d.put("", "", "")
		d.put("", "  ", "Denied, since there is no pipeline for it: "+operationsOf(v.Denied, ", "))
	}
	if plain {
		return plainOf(d.text.String())
	}
	return d.text.String()
}

func (d *drawing) operation(o operationView) {
	d.put("", "", "")
	d.put("", "  ", fmt.Sprintf("%s (%s)", operationsOf(o.Operations, " and "), o.Asks))
	if len(o.Credentials) > 0 {
		d.put("  ", "    ", "by "+strings.Join(o.Credentials, ", or "))
	}
	d.put("  "+d.down, "", "")
	all := append(append([]stageView{}, o.Stages...), o.Behind...)
	for i, s := range all {
		if i == len(o.Stages) {
			d.put("  "+d.arrow, "", "")
		}
		d.stage("  ", s, i == len(all)-1)
	}
	if len(o.Refusals) > 0 {
		d.put("", "", "")
		d.put("  ", "", "When it is refused, the client is told")
		reason, told := 0, 0
		for _, r := range o.Refusals {
			reason, told = max(reason, len(r.Reason)), max(told, len(r.Told))
		}
		for _, r := range o.Refusals {
			by := "of what could not be asked just then"
			if len(r.By) > 0 {
				by = "by " + strings.Join(r.By, ", ")
			}
			head := fmt.Sprintf("    %-*s  %-*s  ", told, r.Told, reason, r.Reason)
			d.put(head, strings.Repeat(" ", len(head)), by)
		}
	}
}

// stage draws one stage: its name with the gist of what it checks, then the rest below.
func (d *drawing) stage(indent string, s stageView, last bool) {
	branch, below := d.tee, indent+d.down
	if last {
		branch, below = d.last, indent+"   "
	}
	head := s.Name
	if s.Added {
		head += " (of the profile, always)"
	}
	rest := s.Checks
	if len(rest) > 0 {
		head += ": " + rest[0]
		rest = rest[1:]
	}
	text := below
	if len(s.Branches) > 0 {
		text += d.down
	} else {
		text += "   "
	}
	d.put(indent+branch, text, head)
	for _, line := range rest {
		d.put(text+d.dot+" ", text+"  ", line)
	}
	if s.Holds != "" {
		d.put(text+d.dot+" ", text+"  ", "HOLDS the request "+s.Holds)
	}
	if s.Uses != "" {
		d.put(text+d.dot+" ", text+"  ", "USES UP "+s.Uses)
	}
	for i, b := range s.Branches {
		if len(s.Branches) == 1 && s.Name != "anyOf" {
			d.list(below, b)
			continue
		}
		end := i == len(s.Branches)-1
		mark, under := d.tee, below+d.down
		if end {
			mark, under = d.last, below+"   "
		}
		d.put(below+mark, "", fmt.Sprintf("branch %d", i+1))
		d.list(under, b)
	}
}

func (d *drawing) list(indent string, all []stageView) {
	for i, s := range all {
		d.stage(indent, s, i == len(all)-1)
	}
}

// put writes a text behind first, broken between words where it is wider than the drawing: further lines begin with next.
func (d *drawing) put(first, next, text string) {
	text = words.Cut(words.Plain(text), maxLine)
	at := first
	for {
		room := max(d.width-utf8.RuneCountInString(at), 24)
		line := text
		if utf8.RuneCountInString(text) > room {
			runes := []rune(text)
			cut := strings.LastIndex(string(runes[:room+1]), " ")
			if cut <= 0 { // one long word
				cut = len(string(runes[:room]))
			}
			line = text[:cut]
		}
		d.text.WriteString(strings.TrimRight(at+line, " ") + "\n")
		if text = strings.TrimLeft(text[len(line):], " "); text == "" {
			return
		}
		at = next
	}
}

// plainOf replaces what is not ASCII, such as in the names of a configuration.
func plainOf(s string) string {
	return strings.Map(func(r rune) rune {
		if r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

func operationsOf(all []gateway.Operation, between string) string {
	var names []string
	for _, op := range all {
		names = append(names, string(op))
	}
	return strings.Join(names, between)
}

// pipelineTable is the table of all endpoints, a line for each pipeline.
func pipelineTable(all []endpointView) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENDPOINT\tPROTOCOL\tOPERATION\tSTAGES")
	for _, v := range all {
		for _, o := range v.Operations {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", words.Plain(v.Endpoint), v.Protocol, operationsOf(o.Operations, ", "), inLine(o.Stages, " > "))
		}
	}
	t.Flush() //nolint:errcheck // into memory
	return b.String()
}

// inLine writes stages in one line: "vendor-ca > anyOf(password | challenge > names) > not(keys) > keys*". A * is what the
// gateway adds, a ? what may hold.
func inLine(all []stageView, between string) string {
	var names []string
	for _, s := range all {
		name := s.Name
		if len(s.Branches) > 0 {
			var branches []string
			for _, b := range s.Branches {
				branches = append(branches, inLine(b, between))
			}
			name += "(" + strings.Join(branches, " | ") + ")"
		}
		switch {
		case s.Added:
			name += "*"
		case s.Holds != "":
			name += "?"
		}
		names = append(names, name)
	}
	return strings.Join(names, between)
}
