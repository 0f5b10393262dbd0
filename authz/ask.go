package authz

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// What the stages have in common that ask a service of the operator's.

// maxAnswered bounds a name that a service answers with, in bytes.
const maxAnswered = 255

// answered reports whether a service's answer has one of its texts, if it has any, in a form that goes into records.
func answered(text string) bool {
	return len(text) <= maxAnswered && printable(text)
}

// legible reports whether a service's answer has a subject that could be read, if it has one.
func legible(subject string) bool {
	if subject == "" {
		return true
	}
	_, err := pkix.ParseRFC4514(subject)
	return err == nil
}

// quoted is a service's reason behind a colon, for the operator; "" when it gave none.
func quoted(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + cutName(fmt.Sprintf("%q", reason))
}

// wish is what somebody has laid down for a request: the subject that it may ask for, the profile that it gets.
type wish struct {
	what    string // whose it is, for the client: "the challenge is for"
	subject string // RFC 4514; "" for any
	profile string // "" for the endpoint's
}

// suits judges whether what is asked for is what somebody has laid down, and chooses the profile. subject is the DER Name that is
// asked for; note says for the operator who it was.
func (w wish) suits(subject []byte, note string, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	deny := func(what, format string, args ...any) gateway.Verdict {
		return gateway.Denied(gateway.NotAuthorized, w.what+" another "+what, note+": "+fmt.Sprintf(format, args...))
	}
	if w.subject != "" {
		switch same, err := isSubject(subject, w.subject); {
		case err != nil:
			return gateway.Unanswered(fmt.Errorf("%s: its subject %s cannot be read: %w", note, shown(w.subject), err))
		case !same:
			return deny("subject", "it is for subject %s, the request asks for %s", w.subject, formatSubject(subject))
		}
		note += ", for " + w.subject
	}
	if w.profile != "" {
		if (r.Profile != "" || g.ProfileChosen()) && g.Profile != w.profile {
			return deny("profile", "it is for profile %s, not %s", shown(w.profile), shown(g.Profile))
		}
		if !g.ChooseProfile(w.profile) {
			return deny("profile", "it is for profile %s, which endpoint %s does not offer", shown(w.profile), r.Endpoint)
		}
		note += ", profile " + w.profile
	}
	return gateway.Allowed(note)
}

// isSubject reports whether a DER Name is the one that an RFC 4514 string says.
func isSubject(der []byte, text string) (bool, error) {
	want, err := pkix.ParseRFC4514(text)
	if err != nil || isEmptyName(der) {
		return false, err
	}
	return pkix.SameName(der, want), nil
}

var oidChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7} // RFC 2985 section 5.4.1

// questionKey is what questions have in common that ask the same: same is the question without what differs from one time to the
// next. A device that repeats itself because an answer got lost is known by it. Whatever the service may have decided by is in it,
// extensions and the attributes of the PKCS#10 whole: it is told to answer the same key as it did before, and an answer about one name
// must not be had for another.
func questionKey(r *gateway.Request, same any) (string, error) {
	question, err := json.Marshal(same)
	if err != nil {
		return "", fmt.Errorf("the question cannot be encoded: %w", err)
	}
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	part(question)
	part(r.PublicKey)
	part(r.Subject)
	part(binary.BigEndian.AppendUint32(nil, uint32(len(r.Extensions))))
	for _, e := range r.Extensions {
		part([]byte(fmt.Sprintf("%v %t", e.Id, e.Critical)))
		part(e.Value)
	}
	if n := r.NewNames; n != nil {
		part(n.Subject)
		part(n.SubjectAltName)
	}
	if csr, err := pkix.ParseCSR(r.CSR); err == nil {
		for _, a := range csr.Attributes {
			if a.OID.Equal(oidChallengePassword) {
				continue // a secret, or what links the request to a connection (RFC 7030 section 3.5), which is another each time
			}
			part([]byte(a.OID.String()))
			for _, v := range a.Values {
				part(v)
			}
		}
	}
	for _, c := range r.Credentials {
		if c.Kind != gateway.CredentialChallenge && c.Kind != gateway.CredentialNested {
			part([]byte(c.String()))
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
