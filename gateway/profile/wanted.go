package profile

import (
	"encoding/asn1"
	"errors"
	"slices"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

var (
	oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

	// sanTags are those of sanFields in a GeneralName (RFC 5280 section 4.2.1.6).
	sanTags = map[string]uint8{"email": 1, "dns": 2, "uri": 6, "ip": 7}
)

// NamesWanted lists what the templates read from a request and cannot do without. Where the names are as asked for, it is a
// common name, or a DNS name if no subject may be asked for. See gateway.NameAsker.
func (s *Shaper) NamesWanted() gateway.NamesWanted {
	var w gateway.NamesWanted
	for _, t := range s.templates() {
		for _, p := range t.template.parts {
			if p.action != nil && p.action.demands() {
				w = with(w, p.action.fields)
			}
		}
	}
	if s.subject != nil || len(w.Subject)+len(w.SAN) > 0 {
		return w
	}
	switch {
	case s.ask.Subject == Allow:
		w.Subject = []asn1.ObjectIdentifier{oidCommonName}
	case s.ask.SAN == Allow && !s.sanSure():
		w.SAN = []uint8{sanTags["dns"]}
	}
	return w
}

// demands reports whether the action is nothing without a name that the device asks for.
func (a *action) demands() bool { return a.needs(originRequest) }

// needs reports whether the action is nothing without what the source has.
func (a *action) needs(origin string) bool {
	if a.origin != origin || a.optional {
		return false
	}
	_, err := a.value(&facts{&gateway.Request{}, &gateway.Grant{}})
	_, missing := errors.AsType[*absent](err)
	return missing
}

// with adds what the fields of a request's value name: subject.CN, san.dns. source has judged them.
func with(w gateway.NamesWanted, fields []string) gateway.NamesWanted {
	if len(fields) != 2 {
		return w
	}
	if fields[0] == "san" {
		if tag := sanTags[fields[1]]; !slices.Contains(w.SAN, tag) {
			w.SAN = append(w.SAN, tag)
		}
		return w
	}
	if attribute, ok := pkix.AttributeTypeNamed(fields[1]); ok && !slices.ContainsFunc(w.Subject, attribute.OID.Equal) {
		w.Subject = append(w.Subject, attribute.OID)
	}
	return w
}
