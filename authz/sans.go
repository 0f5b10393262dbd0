package authz

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// judgeSAN judges a subjectAltName; nil is none. kept is what is certified of it.
func (s *Names) judgeSAN(asked []byte) (kept []byte, dropped string, denied gateway.Verdict, ok bool) {
	bad := func(reason gateway.Reason, detail, format string, args ...any) ([]byte, string, gateway.Verdict, bool) {
		return nil, "", gateway.Denied(reason, detail, fmt.Sprintf(format, args...)), false
	}
	names := &pkix.GeneralNames{}
	if asked != nil {
		var err error
		if names, err = pkix.ParseGeneralNames(asked); err != nil {
			return bad(gateway.BadTemplate, "the subjectAltName is malformed", "the subjectAltName: %v", err)
		}
	}
	counts := make(map[string]int)
	var gone []generalName
	for _, n := range namesOf(names) {
		rule := s.rules[n.kind]
		if rule == nil && s.drop {
			gone = append(gone, n)
			continue
		}
		if rule == nil {
			return bad(gateway.BadTemplate, "the subjectAltName has a kind of name that is not certified here", "the subjectAltName has %s, and san does not allow %s", n, n.kind)
		}
		if counts[n.kind]++; counts[n.kind] > rule.max {
			return bad(gateway.BadTemplate, "the subjectAltName has too many names", "the subjectAltName has more than %d names of kind %s", rule.max, n.kind)
		}
		if denied, ok := s.judgeGeneralName(n, rule); !ok {
			return nil, "", denied, false
		}
	}
	for _, kind := range sanKinds {
		if rule := s.rules[kind]; rule != nil && rule.required && counts[kind] == 0 {
			return bad(gateway.BadTemplate, "the subjectAltName lacks a name that is required", "the subjectAltName has no name of kind %s", kind)
		}
	}
	if len(gone) == 0 {
		return asked, "", gateway.Verdict{}, true
	}
	left := pkix.GeneralNames{}
	for kind, list := range map[string]struct{ from, to *[]string }{
		sanDNS: {&names.DNS, &left.DNS}, sanEmail: {&names.Email, &left.Email}, sanURI: {&names.URI, &left.URI},
	} {
		if s.rules[kind] != nil {
			*list.to = *list.from
		}
	}
	if s.rules[sanIP] != nil {
		left.IP = names.IP
	}
	kept, err := left.Marshal()
	if err != nil {
		return bad(gateway.BadTemplate, "the subjectAltName is malformed", "the subjectAltName cannot be written again: %v", err)
	}
	return kept, listNames(gone), gateway.Verdict{}, true
}

func (s *Names) judgeGeneralName(n generalName, rule *sanRule) (denied gateway.Verdict, ok bool) {
	bad := func(reason gateway.Reason, detail, format string, args ...any) (gateway.Verdict, bool) {
		return gateway.Denied(reason, detail, fmt.Sprintf(format, args...)), false
	}
	if len(n.text) > maxSANLength {
		return bad(gateway.BadTemplate, "a name of the subjectAltName is too long", "a name of kind %s has %d bytes, the most is %d", n.kind, len(n.text), maxSANLength)
	}
	switch n.kind {
	case sanDNS:
		if strings.Contains(n.text, "*") {
			if !s.wildcard(n.text) {
				return bad(gateway.NotAuthorized, "a DNS name is not allowed", "%s is a wildcard", n)
			}
		} else if !dnsName(n.text) {
			return bad(gateway.BadTemplate, "a DNS name is malformed", "%s is not a host name", n)
		} else if _, err := netip.ParseAddr(n.text); err == nil {
			// Some clients match it against the address that they connected to, past all rules for kind ip.
			return bad(gateway.BadTemplate, "a DNS name is an IP address", "%s is an address, which is a name of kind ip", n)
		}
	case sanEmail:
		if !pkix.IsMailbox(n.text) {
			return bad(gateway.BadTemplate, "an e-mail address is malformed", "%s is not an address", n)
		}
	case sanURI:
		if !pkix.IsURI(n.text) {
			return bad(gateway.BadTemplate, "a URI is malformed", "%s is not a URI", n)
		}
	case sanIP:
		if len(rule.within) > 0 && !contains(rule.within, n.ip) {
			return bad(gateway.NotAuthorized, "an IP address is not allowed", "%s is in none of %v", n, rule.within)
		}
	}
	if rule.pattern != nil && !rule.pattern.MatchString(n.text) {
		return bad(gateway.NotAuthorized, "a name of the subjectAltName is not allowed", "%s does not match %s", n, rule.pattern)
	}
	return gateway.Verdict{}, true
}

// contains reports whether a network holds the address; an IPv4-mapped IPv6 address counts as its IPv4 address too.
func contains(within []netip.Prefix, ip netip.Addr) bool {
	for _, p := range within {
		if p.Contains(ip) || p.Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

// dnsName reports whether s is a host name, underscores among its characters.
func dnsName(s string) bool { return pkix.IsHostName(s) }
