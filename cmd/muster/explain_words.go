package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// What one line takes of a text that a device chose, and of a note, in characters. All of them stands below the line.
const (
	maxWho    = 64
	maxAsked  = 96
	maxReason = 400
)

// summary is the one line: who, what became of it, and why.
func summary(t *admin.Transaction, now time.Time) string {
	who := requesterOf(t)
	asked := ""
	if t.Subject != "" && t.State != string(gateway.StateIssued) {
		asked = fmt.Sprintf(", asking to %s %s,", t.Operation, words.Cut(t.Subject, maxAsked))
	}
	stage, note := decided(t)
	by := ""
	if stage != "" {
		by = " by the stage " + stage
	}
	because := ""
	if note != "" {
		because = ": " + ends(desc(note), maxReason)
	}
	switch gateway.State(t.State) {
	case gateway.StateRefused:
		return fmt.Sprintf("%s%s was refused%s%s", who, asked, by, because)
	case gateway.StateHeld:
		return fmt.Sprintf("%s%s waits for approval, held%s%s", who, asked, by, because)
	case gateway.StateApproved:
		return fmt.Sprintf("%s%s was approved, and has yet to come for its key", who, asked)
	case gateway.StateDenied:
		return fmt.Sprintf("%s%s was held, and denied%s", who, asked, ending(t.Note))
	case gateway.StateIssued:
		if c := t.Certificate; c != nil {
			return fmt.Sprintf("%s was issued a certificate for %s: %s, until %s", who, words.Cut(c.Subject, maxAsked), standing(c, now), words.Moment(c.NotAfter))
		}
	case gateway.StateUnconfirmed:
		if t.ConfirmBy != nil {
			return fmt.Sprintf("%s%s was issued a certificate, which waits for the device's confirmation until %s", who, asked, words.Moment(*t.ConfirmBy))
		}
	case gateway.StateForwarded:
		return fmt.Sprintf("%s%s was allowed, and is passed on to %s%s", who, asked, t.Backend, ending(t.Note))
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
		return "Device " + words.Cut(t.Device, maxWho)
	case t.Requester == "":
		for _, c := range t.Credentials { // proven, and known to no stage that was reached
			switch kind, id, _ := strings.Cut(c, ":"); kind {
			case string(gateway.CredentialMAC):
				return "The holder of shared secret " + words.Cut(id, maxWho) + from(t.Source)
			case string(gateway.CredentialTLS), string(gateway.CredentialSigner):
				return "A stranger" + from(t.Source) + " with certificate " + words.Cut(id, 13)
			}
		}
		return "A stranger" + from(t.Source)
	case kind == string(gateway.CredentialPassword):
		return "User " + words.Cut(id, maxWho)
	case kind == string(gateway.CredentialMAC):
		return "The holder of shared secret " + words.Cut(id, maxWho)
	case kind == string(gateway.CredentialChallenge):
		return "The holder of challenge " + id
	case kind == string(gateway.CredentialTLS), kind == string(gateway.CredentialSigner):
		return "The holder of certificate " + words.Cut(id, 13)
	case kind == string(gateway.CredentialDevice):
		return "A device with its maker's certificate " + words.Cut(id, 13)
	}
	return "Requester " + t.Requester
}

func ending(note string) string {
	if note == "" {
		return ""
	}
	return ": " + ends(desc(note), maxReason)
}

// ends shortens a note in its middle: who it was stands at its beginning, and what was wrong at its end.
func ends(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n/2]) + " … " + string(r[len(r)-n/2:])
	}
	return s
}

// desc leaves out how gRPC says that what follows is an error of the CA's plugin: the words are the plugin's own.
func desc(note string) string {
	before, after, found := strings.Cut(note, "rpc error: code = ")
	if _, words, ok := strings.Cut(after, " desc = "); found && ok {
		return before + words
	}
	return note
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

// states says what each state means.
var states = map[gateway.State]string{
	gateway.StateRefused:     "refused: nothing was asked of the CA",
	gateway.StateHeld:        "held: waits for approval",
	gateway.StateApproved:    "approved: the key is made, and the CA asked, when the device asks again",
	gateway.StateIssuing:     "issuing: the CA is being asked",
	gateway.StateQueued:      "queued: the CA cannot be asked now, and has nothing of it; it is asked in the order of arrival when it can",
	gateway.StateUnknown:     "unknown: the CA was asked, and it is not known what it did; the gateway is finding out",
	gateway.StateWaiting:     "waiting: the CA will answer later; the gateway asks again",
	gateway.StateStuck:       "stuck: it is not known what the CA did, and it cannot be asked; look into the CA's own records, then muster settle",
	gateway.StateUnconfirmed: "unconfirmed: issued, and the device has yet to confirm that it takes the certificate",
	gateway.StateForwarded:   "forwarded: its messages are passed on, and the last answer did not end it",
	gateway.StateIssued:      "issued",
	gateway.StateRejected:    "rejected: issued, and refused by the device or not confirmed in time; the certificate is revoked",
	gateway.StateFailed:      "failed: the CA refused, or its certificate was not what was granted",
	gateway.StateRevoked:     "revoked: the certificate that the request named counts no more; its CA is told until it has it",
	gateway.StateDenied:      "denied: it was held, and nobody approved it, or the device did not come for its key; nothing was asked of the CA",
}

// reasons says what each reason means.
var reasons = map[gateway.Reason]string{
	gateway.Malformed:       "the message does not parse",
	gateway.Undecryptable:   "the message could not be decrypted, or what was in it is not a request",
	gateway.BadIntegrity:    "the signature or MAC of the message is wrong, or its key is not known",
	gateway.WrongProtection: "the message is protected in another way than its transaction, or than the endpoint takes",
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
