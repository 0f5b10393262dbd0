package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/admin/console"
)

// account is the whole story of a transaction, for a person: what it came to in one line, then how, in the order in which
// it happened.
func account(t *admin.Transaction, now time.Time) string { return tell(t, now).text.String() }

// accountInParts is the same for pages.
func accountInParts(t *admin.Transaction, now time.Time) console.Account {
	return console.Account{Summary: words.Plain(summary(t, now)), Sections: tell(t, now).parts}
}

func tell(t *admin.Transaction, now time.Time) *story {
	a := &story{parts: []console.Section{{}}}
	a.printf("%s\n\n", summary(t, now))
	a.request(t)
	a.part("Stages")
	_, stages := facts(t)
	if len(stages) == 0 {
		a.printf("  none was reached\n")
		a.noted(console.Row{Value: "none was reached"})
	}
	a.verdicts(stages, "  ", 0)
	a.hold(t.Hold)
	a.authority(t)
	a.certificate(t.Certificate, now)
	a.messages(t.Messages)
	return a
}

// facts takes apart what the adapter noted of the message and what the stages decided.
func facts(t *admin.Transaction) (notes []string, stages []admin.Verdict) {
	for i, v := range t.Verdicts {
		if v.Stage != t.Protocol || v.Decision != string(gateway.Allow) {
			return notes, t.Verdicts[i:]
		}
		notes = append(notes, v.Note)
	}
	return notes, nil
}

func (a *story) request(t *admin.Transaction) {
	a.row("Transaction", t.ID)
	a.row("State", states[gateway.State(t.State)])
	if t.Reason != "" {
		a.row("Reason", t.Reason+": "+reasons[gateway.Reason(t.Reason)])
	}
	a.row("Received", words.Moment(t.Received)+from(t.Source))
	a.row("Request", fmt.Sprintf("%s at endpoint %s (%s)", t.Operation, t.Endpoint, t.Protocol))
	notes, _ := facts(t)
	for _, n := range notes {
		if id, ok := strings.CutPrefix(n, gateway.TraceNote); ok {
			a.row("Trace", id)
			continue
		}
		a.row("Message", n)
	}
	a.row("Subject", t.Subject)
	a.row("Wire ID", t.WireID)
	a.row("Credentials", strings.Join(t.Credentials, ", "))
	a.row("Requester", cmp.Or(t.Requester, "nobody authenticated"))
	a.row("Device", t.Device)
	if t.Remembered {
		a.row("Kept", "in memory only"+asWith(t)+": lost with a restart")
	}
}

// asWith says with whom, or what, a refusal has in common that it is not in the store.
func asWith(t *admin.Transaction) string {
	switch {
	case t.Requester == "":
		return ", as with all who do not authenticate"
	case t.Reason == string(gateway.Unavailable), t.Reason == string(gateway.Busy):
		return ", as with all that is refused for the time being"
	}
	return ""
}

// hold is what a held request waits for, or waited.
func (a *story) hold(h *admin.Hold) {
	if h == nil {
		return
	}
	a.part("Approval")
	a.below("Held by", "the stage "+h.Stage)
	a.below("Needs", fmt.Sprintf("%d of %d approved, until %s", len(h.Approvals), h.Approvers, words.Moment(h.Until)))
	said := func(label string, one admin.Approval) {
		line := cmp.Or(one.By, "nobody in time") + " at " + words.Moment(one.At)
		if one.Reason != "" {
			line += ": " + one.Reason
		}
		a.below(label, line)
	}
	for _, one := range h.Approvals {
		said("Approved", one)
	}
	if h.Denied != nil {
		said("Denied", *h.Denied)
	}
}

// authority is what was asked of the CA, and how that differs from what the device asked for.
func (a *story) authority(t *admin.Transaction) {
	if t.Granted == nil && t.Backend == "" {
		return
	}
	a.part("CA")
	a.below("Backend", t.Backend)
	a.below("Profile", t.Profile)
	if g := t.Granted; g != nil {
		a.below("Granted", g.Subject)
		a.below("Alt names", strings.Join(g.SubjectAltName, ", "))
		a.below("Key", g.Key)
		a.below("Period", words.Moment(g.NotBefore)+" to "+words.Moment(g.NotAfter))
	}
	for _, c := range t.Changes {
		a.below("Changed", c)
	}
	a.below("Replaces", t.Replaces)
	a.below("Ticket", t.Ticket)
	if t.ConfirmBy != nil {
		a.below("Confirm by", words.Moment(*t.ConfirmBy))
	}
	a.below("Came to", fmt.Sprintf("%s at %s", t.State, words.Moment(t.Updated)))
	if t.State != string(gateway.StateRefused) {
		a.below("Note", t.Note)
	}
}

func (a *story) certificate(c *admin.Certificate, now time.Time) {
	if c == nil {
		return
	}
	a.part("Certificate")
	a.below("Serial", c.Serial)
	a.below("Subject", c.Subject)
	a.below("Issuer", c.Issuer)
	a.below("Period", words.Moment(c.NotBefore)+" to "+words.Moment(c.NotAfter))
	a.below("SHA-256", c.Fingerprint)
	status := standing(c, now)
	if c.RevokedAt != nil {
		status += " at " + words.Moment(*c.RevokedAt) + ": " + c.Revocation
	}
	a.below("Status", status)
}

// messages are what the requester sent later.
func (a *story) messages(all []admin.Message) {
	if len(all) == 0 {
		return
	}
	a.part("Later messages")
	for _, m := range all {
		line := m.Kind
		if m.Note != "" {
			line += " (" + m.Note + ")"
		}
		when := words.Moment(m.Last)
		if m.Count > 1 {
			line += fmt.Sprintf(", %d times", m.Count)
			when = words.Moment(m.First) + " to " + words.Moment(m.Last)
		}
		a.printf("  %s: %s%s\n", line, when, from(m.Source))
		a.noted(console.Row{Label: line, Value: when + from(m.Source)})
	}
}

// story gathers lines. What strangers sent cannot break them.
type story struct {
	text  strings.Builder
	parts []console.Section // the same for pages; nil where nobody wants them
}

// part begins another part, under a heading.
func (a *story) part(title string) {
	a.printf("\n%s\n", title)
	if a.parts != nil {
		a.parts = append(a.parts, console.Section{Title: title})
	}
}

// noted adds a row to the last part.
func (a *story) noted(r console.Row) {
	if a.parts == nil {
		return
	}
	r.Label, r.Value, r.Note = words.Plain(r.Label), words.Plain(r.Value), words.Plain(r.Note)
	last := &a.parts[len(a.parts)-1]
	last.Rows = append(last.Rows, r)
}

func (a *story) printf(format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = words.Plain(s)
		}
	}
	fmt.Fprintf(&a.text, format, args...)
}

// row writes a label and its value, unless that is empty.
func (a *story) row(label, value string) {
	if value != "" {
		a.printf("%-12s %s\n", label, value)
		a.noted(console.Row{Label: label, Value: value})
	}
}

func (a *story) below(label, value string) {
	if value != "" {
		a.printf("  %-10s %s\n", label, value)
		a.noted(console.Row{Label: label, Value: value})
	}
}

func (a *story) verdicts(all []admin.Verdict, indent string, depth int) {
	for _, v := range all {
		line := v.Stage
		if v.Reason != "" {
			line += "  (" + v.Reason + ")"
		}
		// The branches of a stage are not timed.
		if v.Took > 0 {
			line += "  " + (time.Duration(v.Took) * time.Microsecond).String()
		}
		a.printf("%s%-13s  %s\n", indent, v.Decision, line)
		a.noted(console.Row{Label: v.Decision, Value: line, Note: v.Note, Depth: min(depth, 3), Verdict: true})
		if v.Note != "" {
			a.printf("%s               %s\n", indent, v.Note)
		}
		a.verdicts(v.Parts, indent+"    ", depth+1)
	}
}
