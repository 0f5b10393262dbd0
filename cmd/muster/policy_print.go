package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/muster-pki/muster/authz/policy"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
)

// triedPolicy is what a policy said of a request, as `muster policy test --json` prints it.
type triedPolicy struct {
	Policy  string           `json:"policy"` // its file, or where it stands in the configuration
	Rules   []triedRule      `json:"rules"`
	Outcome gateway.Decision `json:"outcome"`
	Rule    string           `json:"rule,omitempty"`   // that decided
	Detail  string           `json:"detail,omitempty"` // that the client is told
	Note    string           `json:"note"`             // for the operator
}

type triedRule struct {
	Name    string        `json:"name"`
	File    string        `json:"file"`
	Line    int           `json:"line"`
	If      string        `json:"if"`
	Effect  policy.Effect `json:"effect"`
	Profile string        `json:"profile,omitempty"`
	Text    string        `json:"text,omitempty"`
	Matched bool          `json:"matched"`
	Reached bool          `json:"reached"`         // no rule before it had decided
	Error   string        `json:"error,omitempty"` // why it cannot be said
	Seen    []policy.Seen `json:"seen"`
}

func triedOf(where string, tried []policy.Tried, d policy.Decision) triedPolicy {
	out := triedPolicy{Policy: where, Rules: []triedRule{}, Outcome: d.Decision, Detail: d.Detail, Note: d.Note}
	if d.Rule != nil {
		out.Rule = d.Rule.Name
	}
	for _, t := range tried {
		r := t.Rule
		out.Rules = append(out.Rules, triedRule{
			Name: r.Name, File: r.File, Line: r.Line, If: r.If, Effect: r.Effect, Profile: r.Profile, Text: r.Text,
			Matched: t.Matched, Reached: t.Reached, Error: t.Failed, Seen: t.Seen,
		})
	}
	return out
}

// says is what a rule says, in a word or two.
func (r *triedRule) says() string {
	word := "no"
	switch {
	case r.Error != "":
		word = "error"
	case r.Matched:
		word = "matched"
	}
	if !r.Reached {
		word = "(" + word + ")" // if it were reached
	}
	return word
}

func (r *triedRule) does() string {
	if r.Effect == policy.Profile {
		return "profile " + r.Profile
	}
	return string(r.Effect)
}

// printTried writes a table for each policy, a line for each value that a rule looked at.
func printTried(w io.Writer, all []triedPolicy, outcome gateway.Decision) error {
	for _, p := range all {
		fmt.Fprintln(w, words.Plain(p.Policy))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "RULE\tLINE\tSAYS\tEFFECT\tLOOKED AT")
		behind := false
		for _, r := range p.Rules {
			lines := []string{}
			if r.Error != "" {
				lines = append(lines, r.Error)
			}
			for _, s := range r.Seen {
				lines = append(lines, s.String())
			}
			if len(lines) == 0 {
				lines = []string{""}
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", words.Plain(r.Name), r.Line, r.says(), r.does(), words.Plain(lines[0]))
			for _, line := range lines[1:] {
				fmt.Fprintf(t, "\t\t\t\t%s\n", words.Plain(line))
			}
			behind = behind || !r.Reached
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if behind {
			fmt.Fprintln(w, "(in parentheses: rules that are not asked, since one before has decided)")
		}
		by := fmt.Sprintf("no rule decides, and otherwise is %s", p.Outcome)
		if p.Rule != "" {
			by = "by rule " + words.Plain(p.Rule)
		}
		switch {
		case p.Outcome == gateway.CannotAnswer:
			by = words.Plain(p.Note)
		case p.Detail != "":
			by += fmt.Sprintf("; the client is told %q", p.Detail)
		}
		fmt.Fprintf(w, "%s: %s\n", p.Outcome, by)
		if len(all) > 1 {
			fmt.Fprintln(w)
		}
	}
	if len(all) > 1 {
		_, err := fmt.Fprintf(w, "together, where all have to allow: %s\n", outcome)
		return err
	}
	return nil
}

// printFields writes a table for each kind of value.
func printFields(w io.Writer) error {
	for _, g := range policy.Fields() {
		fmt.Fprintln(w, g.Name)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range g.Fields {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", f.Path, f.Type, f.Meaning)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	_, err := fmt.Fprintf(w, "A rule names a field from its variable on: request.key.bits, device.attributes[\"site\"]. An example:\n\n%s\n", policy.Example)
	return err
}
