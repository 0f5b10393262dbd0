package authz

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// NamesConfig configures the stage `names`: what subject and subjectAltName may be. Without any key a subject is
// required, of the attributes that the gateway knows and within RFC 5280's lengths, and no subjectAltName is allowed.
type NamesConfig struct {
	// Subject is "required" (the default) or "optional": then it may be empty where a subjectAltName stands.
	Subject string `yaml:"subject"`
	// Attributes that a subject may have, by long or short name (commonName, CN) or OID. Default: those with a name.
	Attributes []string `yaml:"attributes"`
	// CommonName is a pattern (RE2) that the whole commonName must match. It then has to be there when there is a
	// subject. There is never more than one commonName.
	CommonName string `yaml:"common-name"`
	// MaxLength, in characters, of each attribute's value, in place of RFC 5280's upper bounds (commonName: 64).
	MaxLength int `yaml:"max-length"`
	// SAN says which kinds of subjectAltName are allowed; a kind that is not named is refused.
	SAN SANConfig `yaml:"san"`
	// Wildcards allows "*" as the leftmost label of DNS names and commonNames ("*.example.com").
	Wildcards bool `yaml:"wildcards"`
	// DropOtherSANs leaves names of kinds that SAN does not allow out of the certificate instead of refusing the
	// request. What was left out stands in the operator's note.
	DropOtherSANs bool `yaml:"drop-other-sans"`
	// Device is a place in the names, such as subject.commonName, subject.serialNumber or san.uri, where the device
	// that an earlier stage named must stand, and nothing else; or a list of places: in the first it must stand, in the
	// others it or nothing.
	Device Places `yaml:"device"`
}

// SANConfig allows kinds of subjectAltName, each within a rule. `dns: {}` allows any one DNS name or several.
type SANConfig struct {
	DNS   *SANRule `yaml:"dns"`
	IP    *IPRule  `yaml:"ip"`
	Email *SANRule `yaml:"email"`
	URI   *SANRule `yaml:"uri"`
}

// SANRule is what names of one kind have to be.
type SANRule struct {
	Pattern  string `yaml:"pattern"`  // RE2 that the whole name must match; "": any
	Max      int    `yaml:"max"`      // how many; 0: 16
	Required bool   `yaml:"required"` // at least one
}

// IPRule is what IP addresses have to be.
type IPRule struct {
	Within   []netip.Prefix `yaml:"within"`   // networks, e.g. 10.0.0.0/8; none: any
	Max      int            `yaml:"max"`      // how many; 0: 16
	Required bool           `yaml:"required"` // at least one
}

const (
	defaultMaxSANs = 16
	maxSANLength   = 1024
)

// Names is the stage `names`. It denies with BadTemplate what cannot be certified here whoever asks: names that are
// missing, malformed, too long, of attributes or kinds that are not allowed, or too many. It denies with NotAuthorized
// names of the right form that this requester may not have: a pattern does not match, a network does not hold the
// address, a wildcard, another device's name.
//
// It judges the names of the grant, so what earlier stages made of those asked for; and, with a change of names, those
// of the change as well, wherever in the pipeline it stands.
type Names struct {
	config     NamesConfig // as it was made with, for Describe
	optional   bool
	attributes map[string]bool // by OID
	cn         *regexp.Regexp
	maxLength  int
	rules      map[string]*sanRule
	wildcards  bool
	drop       bool
	device     []field
}

type sanRule struct {
	pattern  *regexp.Regexp
	within   []netip.Prefix
	max      int
	required bool
}

// NewNames makes the stage.
func NewNames(c NamesConfig) (*Names, error) {
	s := &Names{config: c, attributes: make(map[string]bool), maxLength: c.MaxLength, rules: make(map[string]*sanRule), wildcards: c.Wildcards, drop: c.DropOtherSANs}
	switch c.Subject {
	case "", "required":
	case "optional":
		s.optional = true
	default:
		return nil, fmt.Errorf("subject: %q is not known (required or optional)", c.Subject)
	}
	listed := c.Attributes
	if len(listed) == 0 {
		listed = attributeNames()
	}
	for _, name := range listed {
		oid, ok := attributeOID(name)
		if !ok {
			return nil, fmt.Errorf("attributes: no attribute %q%s", name, strictyaml.Suggest(name, attributeNames()))
		}
		s.attributes[oid] = true
	}
	if c.MaxLength < 0 || c.MaxLength > 1024 {
		return nil, errors.New("max-length: 0 to 1024")
	}
	var err error
	if s.cn, err = anchored(c.CommonName); err != nil {
		return nil, fmt.Errorf("common-name: %w", err)
	}
	if s.cn != nil && !s.attributes[oidCommonName] {
		return nil, errors.New("common-name: there is a pattern, but attributes does not list commonName")
	}
	for kind, rule := range map[string]*SANRule{sanDNS: c.SAN.DNS, sanEmail: c.SAN.Email, sanURI: c.SAN.URI} {
		if rule == nil {
			continue
		}
		pattern, err := anchored(rule.Pattern)
		if err != nil {
			return nil, fmt.Errorf("san.%s.pattern: %w", kind, err)
		}
		s.rules[kind] = &sanRule{pattern: pattern, max: rule.Max, required: rule.Required}
	}
	if c.SAN.IP != nil {
		s.rules[sanIP] = &sanRule{within: c.SAN.IP.Within, max: c.SAN.IP.Max, required: c.SAN.IP.Required}
	}
	for kind, rule := range s.rules {
		if rule.max < 0 || rule.max > maxNames {
			return nil, fmt.Errorf("san.%s.max: 0 to %d", kind, maxNames)
		}
		if rule.max == 0 {
			rule.max = defaultMaxSANs
		}
	}
	for _, place := range c.Device {
		f, err := parseField(place)
		if err != nil {
			return nil, fmt.Errorf("device: %w", err)
		}
		if f.san != "" && s.rules[f.san] == nil {
			return nil, fmt.Errorf("device: %s is asked for, but san does not allow %s", f.name, f.san)
		}
		if f.oid != "" && !s.attributes[f.oid] {
			return nil, fmt.Errorf("device: %s is asked for, but attributes does not list it", f.name)
		}
		if slices.Contains(s.device, f) {
			return nil, fmt.Errorf("device: %s stands twice", f.name)
		}
		s.device = append(s.device, f)
	}
	return s, nil
}

// anchored compiles a pattern that has to match a whole name; nil for "".
func anchored(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, nil
	}
	// Compiled alone first, so that no parenthesis of it closes ours.
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + pattern + `)\z`)
}

// Name is "names".
func (s *Names) Name() string { return "names" }

// Decide judges the names to certify.
func (s *Names) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	if r.NewNames != nil {
		_, _, v := s.judge(r.NewNames.Subject, r.NewNames.SubjectAltName, g)
		if v.Decision != gateway.Allow {
			v.Note = "the names to change to: " + v.Note
			return v
		}
	}
	san, dropped, v := s.judge(g.Subject, g.SubjectAltName, g)
	if v.Decision != gateway.Allow {
		return v
	}
	if dropped != "" {
		v.Note += "; left out of the certificate: " + dropped
		g.SubjectAltName = san
	}
	return v
}

// judge judges one pair of names. san is the subjectAltName that remains, dropped what was left out of it.
func (s *Names) judge(subject, asked []byte, g *gateway.Grant) (san []byte, dropped string, v gateway.Verdict) {
	san, dropped, denied, ok := s.judgeSAN(asked)
	if !ok {
		return nil, "", denied
	}
	if denied, ok := s.judgeSubject(subject, san != nil); !ok {
		return nil, "", denied
	}
	note := fmt.Sprintf("subject %s, subjectAltName %s", formatSubject(subject), formatSAN(san))
	if len(s.device) == 0 {
		return san, dropped, gateway.Allowed(note)
	}
	if denied, ok := s.judgeDevice(subject, san, g); !ok {
		return nil, "", denied
	}
	return san, dropped, gateway.Allowed(note + ", of the device that authenticated")
}

// judgeDevice compares the places that say which device this is with the one that an earlier stage named.
func (s *Names) judgeDevice(subject, san []byte, g *gateway.Grant) (denied gateway.Verdict, ok bool) {
	if g.Device == "" {
		return gateway.Denied(gateway.NotAuthorized, "the device is not known", "no stage before this one has named the device that "+s.device[0].name+" must be"), false
	}
	for i, place := range s.device {
		value, found, err := place.find(subject, san)
		if err == nil && !found {
			if i > 0 {
				continue
			}
			_, err = place.of(subject, san)
		}
		if err != nil {
			return gateway.Denied(gateway.BadTemplate, "the names do not say which device this is", err.Error()), false
		}
		if !g.NameDevice(value) { // by any of its names, where the inventory knows several
			return gateway.Denied(gateway.NotAuthorized, "the names are another device's",
				fmt.Sprintf("%s is %s, the device that authenticated is %s", place.name, shown(value), shown(g.Device))), false
		}
	}
	return gateway.Verdict{}, true
}

func (s *Names) judgeSubject(subject []byte, hasSAN bool) (denied gateway.Verdict, ok bool) {
	bad := func(reason gateway.Reason, detail, format string, args ...any) (gateway.Verdict, bool) {
		return gateway.Denied(reason, detail, fmt.Sprintf(format, args...)), false
	}
	var attrs []attribute
	if subject != nil {
		var err error
		if attrs, err = parseName(subject); err != nil {
			return bad(gateway.BadTemplate, "the subject is malformed: "+err.Error(), "the subject: %v", err)
		}
	}
	if len(attrs) == 0 {
		switch {
		case !s.optional:
			return bad(gateway.BadTemplate, "a subject is required", "the subject is empty")
		case !hasSAN:
			return bad(gateway.BadTemplate, "a subject or a subjectAltName is required", "subject and subjectAltName are empty")
		}
		return gateway.Verdict{}, true
	}
	commonNames := 0
	for _, a := range attrs {
		name := attributeName(a.oid)
		bound := s.maxLength
		if bound == 0 {
			bound = attributeBound(a.oid)
		}
		switch length := utf8.RuneCountInString(a.value); {
		case !s.attributes[a.oid]:
			return bad(gateway.BadTemplate, "the subject has an attribute that is not certified here", "the subject %s has a %s, which attributes does not list", formatSubject(subject), name)
		case length == 0:
			return bad(gateway.BadTemplate, "the subject has an empty attribute", "the %s is empty", name)
		case a.oid == oidCountryName && length != 2: // RFC 5280 appendix A.1: SIZE (2)
			return bad(gateway.BadTemplate, "the country of the subject is no code of two letters", "the countryName %s is no code of two letters", shown(a.value))
		case length > bound:
			return bad(gateway.BadTemplate, "an attribute of the subject is too long", "the %s has %d characters, the most is %d", name, length, bound)
		}
		if a.oid != oidCommonName {
			continue
		}
		if commonNames++; commonNames > 1 {
			return bad(gateway.BadTemplate, "the subject has more than one common name", "the subject %s has more than one commonName", formatSubject(subject))
		}
		if strings.Contains(a.value, "*") && !s.wildcard(a.value) {
			return bad(gateway.NotAuthorized, "the common name is not allowed", "the commonName %s is a wildcard", shown(a.value))
		}
		if s.cn != nil && !s.cn.MatchString(a.value) {
			return bad(gateway.NotAuthorized, "the common name is not allowed", "the commonName %s does not match %s", shown(a.value), s.cn)
		}
	}
	if s.cn != nil && commonNames == 0 {
		return bad(gateway.BadTemplate, "a common name is required", "the subject %s has no commonName", formatSubject(subject))
	}
	return gateway.Verdict{}, true
}

// wildcard reports whether a name with asterisks is one that may pass.
func (s *Names) wildcard(name string) bool {
	rest, ok := strings.CutPrefix(name, "*.")
	return s.wildcards && ok && !strings.Contains(rest, "*") && dnsName(rest)
}
