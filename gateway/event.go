package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// AuditAsked is what a request asked for, in its own words. Lists and texts are cut short.
type AuditAsked struct {
	Profile   string    `json:"profile,omitempty"`
	Subject   string    `json:"subject,omitempty"` // RFC 4514
	SANs      []string  `json:"sans,omitempty"`    // "dns:...", "ip:...", "email:...", "uri:..."
	Key       string    `json:"key,omitempty"`     // "P-256", "RSA-3072"
	KeySHA256 string    `json:"keySHA256,omitempty"`
	Generates bool      `json:"generates,omitempty"` // the gateway is to make the key
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Renews    string    `json:"renews,omitempty"` // serial number, hexadecimal
	Target    string    `json:"target,omitempty"` // revoke, query: serial number, hexadecimal
}

// AuditVerdict is one stage's; those within anyOf, allOf and not follow it, with the stage's name before theirs.
type AuditVerdict struct {
	Stage    string   `json:"stage"`
	Decision Decision `json:"decision"`
	Reason   Reason   `json:"reason,omitempty"`
	Note     string   `json:"note,omitempty"`
}

// AuditGranted is what is, or was to be, certified.
type AuditGranted struct {
	Backend   string    `json:"backend,omitempty"`
	Profile   string    `json:"profile,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	KeySHA256 string    `json:"keySHA256,omitempty"`
	Changes   []string  `json:"changes,omitempty"` // what is granted otherwise than asked for
}

// Bounds of an event: a requester chooses what stands in it.
const (
	eventText     = 256 // bytes of a text
	eventNote     = 2 << 10
	eventList     = 16 // elements of a list
	eventVerdicts = 32
)

// requestHash is the SHA-256 of the message as received, hexadecimal; "" where there is none.
func requestHash(r *Request) string {
	if len(r.Raw) == 0 {
		return ""
	}
	sum := sha256.Sum256(r.Raw)
	return hex.EncodeToString(sum[:])
}

// askedFrom is what the facts of a request say of what it asked for, and its hash.
func askedFrom(f *FactsRequest) *AuditAsked {
	a := &AuditAsked{
		Profile: cut(f.Profile, eventText), Subject: cut(f.Subject.DN, eventText), Key: f.Key.Type, KeySHA256: f.Key.SHA256, Generates: f.Generates,
		NotBefore: f.NotBefore, NotAfter: f.NotAfter, Renews: cut(f.Renews.Serial, eventText), Target: cut(f.Target.Serial, eventText),
	}
	sans := f.SANs
	if f.NewSubject.DN != "" {
		a.Subject = cut(f.NewSubject.DN, eventText)
	}
	if n := f.NewSANs; len(n.DNS)+len(n.IP)+len(n.Email)+len(n.URI)+n.Other > 0 {
		sans = n
	}
	for _, kind := range []struct {
		name string
		list []string
	}{{"dns:", sans.DNS}, {"ip:", sans.IP}, {"email:", sans.Email}, {"uri:", sans.URI}} {
		for _, value := range kind.list {
			a.SANs = append(a.SANs, kind.name+value)
		}
	}
	if sans.Other > 0 {
		a.SANs = append(a.SANs, fmt.Sprintf("%d of other kinds", sans.Other))
	}
	a.SANs = listed(a.SANs)
	return a
}

// listed is a list cut short, with a last element that says by how much.
func listed(list []string) []string {
	var out []string
	for i, s := range list {
		if i == eventList {
			return append(out, fmt.Sprintf("... and %d more", len(list)-i))
		}
		out = append(out, cut(s, eventText))
	}
	return out
}

// verdictsFor are verdicts as an event has them.
func verdictsFor(list []Judged) []AuditVerdict {
	var out []AuditVerdict
	var add func(list []Judged, within string)
	add = func(list []Judged, within string) {
		for _, j := range list {
			if len(out) == eventVerdicts {
				return
			}
			stage := cut(within+j.Stage, eventText)
			out = append(out, AuditVerdict{stage, j.Decision, j.Reason, cut(j.Note, eventText)})
			add(j.Parts, stage+"/")
		}
	}
	add(list, "")
	return out
}

// grantedFor is what a transaction grants, nil where nothing was.
func grantedFor(t *Transaction) *AuditGranted {
	if t.Backend == "" && t.Profile == "" && t.Intent == nil {
		return nil
	}
	a := &AuditGranted{Backend: t.Backend, Profile: t.Profile, Changes: listed(t.Changes)}
	if t.Intent != nil {
		p := &t.Intent.Template
		a.NotBefore, a.NotAfter = p.NotBefore.UTC(), p.NotAfter.UTC()
		if len(p.PublicKey) > 0 {
			a.KeySHA256 = hex.EncodeToString(keyHash(p.PublicKey))
		}
	}
	return a
}

// askedOf is what a transaction's request asked for, and its hash: from its facts, which are kept with it.
func (t *Transaction) askedOf() (*AuditAsked, string) {
	if t.asked != nil || len(t.Facts) == 0 {
		return t.asked, t.requestHash
	}
	var f struct {
		Request FactsRequest `json:"request"`
	}
	if json.Unmarshal(t.Facts, &f) != nil {
		return nil, ""
	}
	return askedFrom(&f.Request), f.Request.SHA256
}

// plain is a text of an event without control characters, so that JSON does not write six bytes for each.
func plain(s string, most int) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		s = strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, s)
	}
	return cut(s, most)
}
