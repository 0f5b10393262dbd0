package authz

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// How stages describe themselves (gateway.Describer): describe_secrets.go, describe_certificates.go, describe_shape.go. They tell
// the names of files, counts and patterns, never what stands in a file of secrets, nor a hash, nor a URL, which may have a token in it.

// counted is a number of things: "1 user", "2 users".
func counted(n int, one string) string {
	switch {
	case n == 1:
		return "1 " + one
	case strings.HasSuffix(one, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(one, "y"))
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// some lists the first four words.
func some(words []string, between string) string {
	const most = 4
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + between + " " + words[len(words)-1]
}

// lines are those that are not empty.
func lines(all ...string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// when is the text where the condition holds.
func when(holds bool, text string) string {
	if holds {
		return text
	}
	return ""
}

// lasting is a period as configurations write it.
func lasting(d time.Duration) string { return strictyaml.Duration(d).String() }

// words says how much a limit leaves.
func (l *limiter) words(what string) string {
	return fmt.Sprintf("limit: %d %s from one address at once, then one every %s", int(l.burst), what, lasting(l.every))
}

// words says how often something may be used.
func (u Uses) words(one string) string {
	if u == Unlimited {
		return "any number of " + one + "s"
	}
	return counted(int(u), one)
}

// wordsOfKinds says what credentials a stage looks at.
func wordsOfKinds(kinds []gateway.CredentialKind) string {
	var words []string
	for _, k := range kinds {
		words = append(words, map[gateway.CredentialKind]string{
			gateway.CredentialTLS: "the TLS client certificate", gateway.CredentialSigner: "the certificate that signs the message", gateway.CredentialNested: "the certificate of the RA that passed it on",
			gateway.CredentialPassword: "the password",
		}[k])
	}
	return strings.Join(words, ", or ")
}

func placeNames(all []place) []string {
	var names []string
	for _, p := range all {
		names = append(names, p.name)
	}
	return names
}
