package authz

import (
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// Describe is gateway.Describer.
func (s *Inventory) Describe() gateway.Description {
	d := gateway.Description{
		Checks: lines(
			"the device's entry in the inventory, found by "+some(placeNames(s.by), "else")+when(s.kind != "", " (kind "+s.kind+")"),
			"not disabled, valid now, for this endpoint, vendor and profile",
			s.enrollments.words("first certificate")+", unless the entry says otherwise; renewals do not count",
			when(len(s.attributes) > 0, "the entry has "+some(s.attributes, "and")),
		),
		Refuses: []gateway.Reason{gateway.NotAuthorized},
		Uses:    "one enrollment of the device, by a first certificate",
	}
	return d
}

// Describe is gateway.Describer.
func (s *Registration) Describe() gateway.Description {
	return gateway.Description{
		Checks:  []string{"the " + some(s.types, "or") + " that the inventory registers for the device, and no other name"},
		Refuses: []gateway.Reason{gateway.NotAuthorized, gateway.BadTemplate},
	}
}

// approving says how many people it takes.
func approving(n int) string {
	if n == 1 {
		return "1 person approves"
	}
	return fmt.Sprintf("%d people approve", n)
}

// Describe is gateway.Describer.
func (s *Approval) Describe() gateway.Description {
	people := approving(s.terms.Approvers)
	var only []string
	for _, op := range s.operations {
		only = append(only, string(op))
	}
	return gateway.Description{
		Checks: lines(
			people+" within "+lasting(s.terms.Expires),
			when(len(only) > 0, "for "+some(only, "and")+"; else it lets pass"),
			s.strangers.words("requests that nobody has authenticated"),
		),
		Refuses: []gateway.Reason{gateway.Busy},
		Holds:   "until " + people + ", " + lasting(s.terms.Expires) + " at most",
	}
}

// Describe is gateway.Describer.
func (s *Keys) Describe() gateway.Description {
	checks := []string{"a key of " + s.allowed}
	if s.bounds && len(s.pop) > 1 {
		checks = append(checks, "its possession proven as the stage keys says")
	} else {
		var proofs []string
		for _, p := range s.pop {
			proofs = append(proofs, map[gateway.POP]string{
				gateway.POPSignature: "a signature", gateway.POPLinked: "a signature linked to the TLS connection", gateway.POPRA: "the word of an RA", gateway.POPConfirm: "decrypting the certificate",
			}[p])
		}
		checks = append(checks, "its possession proven by "+some(proofs, "or"))
	}
	d := gateway.Description{Refuses: []gateway.Reason{gateway.BadAlgorithm, gateway.BadTemplate, gateway.BadPOP, gateway.NotAuthorized}}
	if len(s.generate) > 0 {
		checks = append(checks, "or the gateway makes one: "+some(s.generate, "or"))
		d.Refuses = append(d.Refuses, gateway.Unauthenticated)
	}
	w := s.config.Wrapping
	d.Checks = append(checks, lines(
		when(len(w.Keys) > 0, counted(len(w.Keys), "key")+" of the configuration to encrypt it with"),
		when(w.Devices, "the devices' own keys to encrypt it with (muster secret add)"),
		when(w.Required, "given encrypted alone"),
		when(s.config.Blocklist != "", "none of the block list "+s.config.Blocklist),
	)...)
	return d
}

// Describe is gateway.Describer.
func (s *Names) Describe() gateway.Description {
	c := s.config
	gist := "any subject"
	if c.CommonName != "" {
		gist = "commonName " + c.CommonName
	}
	if s.optional {
		gist += ", or no subject"
	}
	checks := []string{gist, "no subjectAltName"}
	if s.drop {
		checks[1] = "the subjectAltName left out"
	}
	if len(s.rules) > 0 {
		checks = checks[:1]
		for _, kind := range sanKinds {
			if rule := s.rules[kind]; rule != nil {
				checks = append(checks, rule.words(kind, c.SAN))
			}
		}
		if s.drop {
			checks = append(checks, "other kinds of names are left out")
		}
	}
	if len(c.Device) > 0 {
		line := fmt.Sprintf("the device's name in %s", c.Device[0])
		if len(c.Device) > 1 {
			line += ", and it or nothing in " + some(c.Device[1:], "and")
		}
		if c.CommonName == "" && len(s.rules) == 0 {
			checks = append([]string{line}, checks...)
		} else {
			checks = append(checks, line)
		}
	}
	return gateway.Description{
		Checks: append(checks, lines(
			when(len(c.Attributes) > 0, "the subject of "+some(c.Attributes, "and")),
			when(c.MaxLength > 0, fmt.Sprintf("values of at most %d characters", c.MaxLength)),
			when(s.wildcards, "wildcards may stand first"),
		)...),
		Refuses: []gateway.Reason{gateway.BadTemplate, gateway.NotAuthorized},
	}
}

// words says which names of a kind pass.
func (r *sanRule) words(kind string, c SANConfig) string {
	of := ""
	switch kind {
	case sanDNS:
		of = c.DNS.Pattern
	case sanEmail:
		of = c.Email.Pattern
	case sanURI:
		of = c.URI.Pattern
	case sanIP:
		var nets []string
		for _, n := range r.within {
			nets = append(nets, n.String())
		}
		if len(nets) > 0 {
			of = "within " + some(nets, "and")
		}
	}
	if of == "" {
		of = "any"
	}
	need := "at most"
	if r.required {
		need = "1 to"
	}
	return fmt.Sprintf("subjectAltName %s: %s, %s %d", kind, of, need, r.max)
}

// Describe is gateway.Describer.
func (s *Forward) Describe() gateway.Description {
	return gateway.Description{Checks: []string{"the message is passed on unchanged, by the backend " + s.backend}, Refuses: []gateway.Reason{gateway.NotAuthorized}}
}
