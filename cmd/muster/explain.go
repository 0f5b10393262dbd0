package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

func newExplainCommand() *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Tell what became of a request, and why",
		Long: `Tells what a device asked for, what each stage decided and why, and what the CA did.
The ID stands in the gateway's answer and log, and in "muster ls"; 6 characters of its beginning or end will do.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New(`explain wants one ID: it stands in the gateway's answer and log, and in "muster ls"`)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.client().Explain(cmd.Context(), args[0])
			if err != nil {
				return f.explained(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), account(t, time.Now()))
			return err
		},
	}
	f.add(cmd)
	return cmd
}

// account is the whole story of a transaction, for a person: what it came to in one line, then how.
func account(t *admin.Transaction, now time.Time) string {
	a := &story{}
	a.printf("%s\n\n", summary(t, now))
	a.row("Transaction", t.ID)
	a.row("State", states[gateway.State(t.State)])
	if t.Reason != "" {
		a.row("Reason", t.Reason+": "+reasons[gateway.Reason(t.Reason)])
	}
	a.row("Received", moment(t.Received)+from(t.Source))
	a.row("Request", fmt.Sprintf("%s at endpoint %s (%s)", t.Operation, t.Endpoint, t.Protocol))
	a.row("Subject", t.Subject)
	a.row("Wire ID", t.WireID)
	a.row("Credentials", strings.Join(t.Credentials, ", "))
	a.row("Requester", cmp.Or(t.Requester, "nobody authenticated"))
	a.row("Device", t.Device)
	if t.Remembered {
		a.row("Kept", "in memory only, as with all who do not authenticate: lost with a restart")
	}
	a.printf("\nStages\n")
	if len(t.Verdicts) == 0 {
		a.printf("  none was reached\n")
	}
	a.verdicts(t.Verdicts, "  ")
	if t.Granted != nil || t.Backend != "" {
		a.printf("\nCA\n")
		a.below("Backend", t.Backend)
		a.below("Profile", t.Profile)
		if g := t.Granted; g != nil {
			a.below("Asked for", g.Subject)
			a.below("Alt names", strings.Join(g.SubjectAltName, ", "))
			a.below("Key", g.Key)
			a.below("Period", moment(g.NotBefore)+" to "+moment(g.NotAfter))
		}
		a.below("Replaces", t.Replaces)
		a.below("Ticket", t.Ticket)
		if t.ConfirmBy != nil {
			a.below("Confirm by", moment(*t.ConfirmBy))
		}
		a.below("Came to", fmt.Sprintf("%s at %s", t.State, moment(t.Updated)))
		if t.State != string(gateway.StateRefused) {
			a.below("Note", t.Note)
		}
	}
	if c := t.Certificate; c != nil {
		a.printf("\nCertificate\n")
		a.below("Serial", c.Serial)
		a.below("Subject", c.Subject)
		a.below("Issuer", c.Issuer)
		a.below("Period", moment(c.NotBefore)+" to "+moment(c.NotAfter))
		a.below("SHA-256", c.Fingerprint)
		status := standing(c, now)
		if c.RevokedAt != nil {
			status += " at " + moment(*c.RevokedAt) + ": " + c.Revocation
		}
		a.below("Status", status)
	}
	return a.text.String()
}

// summary is the one line: who, what became of it, and why.
func summary(t *admin.Transaction, now time.Time) string {
	who := requesterOf(t)
	asked := ""
	if t.Subject != "" && t.State != string(gateway.StateIssued) {
		asked = fmt.Sprintf(", asking to %s %s,", t.Operation, t.Subject)
	}
	stage, note := decided(t)
	by := ""
	if stage != "" {
		by = " by the stage " + stage
	}
	because := ""
	if note != "" {
		because = ": " + note
	}
	switch gateway.State(t.State) {
	case gateway.StateRefused:
		return fmt.Sprintf("%s%s was refused%s%s", who, asked, by, because)
	case gateway.StateHeld:
		return fmt.Sprintf("%s%s waits for approval, held%s%s", who, asked, by, because)
	case gateway.StateIssued:
		if c := t.Certificate; c != nil {
			return fmt.Sprintf("%s was issued a certificate for %s: %s, until %s", who, c.Subject, standing(c, now), moment(c.NotAfter))
		}
	case gateway.StateUnconfirmed:
		if t.ConfirmBy != nil {
			return fmt.Sprintf("%s%s was issued a certificate, which waits for the device's confirmation until %s", who, asked, moment(*t.ConfirmBy))
		}
	case gateway.StateRejected:
		return fmt.Sprintf("%s%s was issued a certificate that counts no more%s", who, asked, ending(t.Note))
	case gateway.StateFailed:
		return fmt.Sprintf("%s%s was allowed, but got no certificate from the CA %s%s", who, asked, t.Backend, ending(t.Note))
	}
	return fmt.Sprintf("%s%s was allowed: %s%s", who, asked, states[gateway.State(t.State)], ending(t.Note))
}

// requesterOf says who asked.
func requesterOf(t *admin.Transaction) string {
	kind, id, _ := strings.Cut(t.Requester, ":")
	switch {
	case t.Device != "":
		return "Device " + t.Device
	case t.Requester == "":
		for _, c := range t.Credentials { // proven, and known to no stage that was reached
			switch kind, id, _ := strings.Cut(c, ":"); kind {
			case string(gateway.CredentialMAC):
				return "The holder of shared secret " + id + from(t.Source)
			case string(gateway.CredentialTLS), string(gateway.CredentialSigner):
				return "A stranger" + from(t.Source) + " with certificate " + cut(id, 13)
			}
		}
		return "A stranger" + from(t.Source)
	case kind == string(gateway.CredentialPassword):
		return "User " + id
	case kind == string(gateway.CredentialMAC):
		return "The holder of shared secret " + id
	case kind == string(gateway.CredentialChallenge):
		return "The holder of challenge " + id
	case kind == string(gateway.CredentialTLS), kind == string(gateway.CredentialSigner):
		return "The holder of certificate " + cut(id, 13)
	}
	return "Requester " + t.Requester
}

func ending(note string) string {
	if note == "" {
		return ""
	}
	return ": " + note
}

// decided returns the stage that refused or holds, and its note; when no stage was reached, the transaction's.
func decided(t *admin.Transaction) (stage, note string) {
	for _, v := range t.Verdicts {
		if v.Decision != string(gateway.Allow) {
			return innermost(v)
		}
	}
	return "", t.Note
}

// innermost goes down into a composed stage for as long as one part of it alone made the decision. Where several
// branches did, the composed stage's own note says which came nearest.
func innermost(v admin.Verdict) (stage, note string) {
	var same []admin.Verdict
	for _, p := range v.Parts {
		if p.Decision == v.Decision {
			same = append(same, p)
		}
	}
	if len(same) == 1 {
		return innermost(same[0])
	}
	return v.Stage, v.Note
}

func from(source string) string {
	if source == "" {
		return ""
	}
	return " from " + source
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// states says what each state means.
var states = map[gateway.State]string{
	gateway.StateRefused:     "refused: nothing was asked of the CA",
	gateway.StateHeld:        "held: waits for approval",
	gateway.StateIssuing:     "issuing: the CA is being asked",
	gateway.StateUnknown:     "unknown: the CA was asked, and it is not known what it did; the gateway is finding out",
	gateway.StateWaiting:     "waiting: the CA will answer later; the gateway asks again",
	gateway.StateStuck:       "stuck: it is not known what the CA did, and it cannot be asked; look into the CA's own records and decide",
	gateway.StateUnconfirmed: "unconfirmed: issued, and the device has yet to confirm that it takes the certificate",
	gateway.StateIssued:      "issued",
	gateway.StateRejected:    "rejected: issued, and refused by the device or not confirmed in time; the certificate is revoked",
	gateway.StateFailed:      "failed: the CA refused, or its certificate was not what was granted",
}

// reasons says what each reason means.
var reasons = map[gateway.Reason]string{
	gateway.Malformed:       "the message does not parse",
	gateway.Undecryptable:   "the message could not be decrypted, or what was in it is not a request",
	gateway.BadIntegrity:    "the signature or MAC of the message is wrong, or its key is not known",
	gateway.WrongProtection: "the message is protected in another way than its transaction",
	gateway.Untrusted:       "the certificate that was shown is not one that is trusted here",
	gateway.Unauthenticated: "a password, challenge or certificate is missing or wrong",
	gateway.BadAlgorithm:    "the algorithm is not accepted",
	gateway.BadTime:         "the time in the message is too far from the gateway's",
	gateway.BadPOP:          "that the device has the private key is not proven",
	gateway.BadTemplate:     "what was asked for cannot be certified",
	gateway.UnknownCert:     "the certificate that the request is about is not known, or not named",
	gateway.Revoked:         "the certificate that was shown is revoked",
	gateway.NotAuthorized:   "the requester is known, but may not do this",
	gateway.DuplicateCert:   "there is such a certificate already",
	gateway.Unsupported:     "the gateway or the CA does not do this",
	gateway.Busy:            "too many requests at the time",
	gateway.Unavailable:     "something that had to be asked could not answer at the time",
	gateway.Internal:        "a fault of the gateway or the CA: see the log",
}

// story gathers lines. What strangers sent cannot break them.
type story struct{ text strings.Builder }

func (a *story) printf(format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = plain(s)
		}
	}
	fmt.Fprintf(&a.text, format, args...)
}

// row writes a label and its value, unless that is empty.
func (a *story) row(label, value string) {
	if value != "" {
		a.printf("%-12s %s\n", label, value)
	}
}

func (a *story) below(label, value string) {
	if value != "" {
		a.printf("  %-10s %s\n", label, value)
	}
}

func (a *story) verdicts(all []admin.Verdict, indent string) {
	for _, v := range all {
		line := fmt.Sprintf("%-13s  %s", v.Decision, v.Stage)
		if v.Reason != "" {
			line += "  (" + v.Reason + ")"
		}
		// The branches of a stage are not timed.
		if v.Took > 0 {
			line += "  " + (time.Duration(v.Took) * time.Microsecond).String()
		}
		a.printf("%s%s\n", indent, line)
		if v.Note != "" {
			a.printf("%s               %s\n", indent, v.Note)
		}
		a.verdicts(v.Parts, indent+"    ")
	}
}
