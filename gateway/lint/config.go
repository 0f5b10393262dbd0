package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zmap/zcrypto/encoding/asn1"
	zlint "github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/cabf_br" // the lints of each source register themselves
	_ "github.com/zmap/zlint/v3/lints/community"
	_ "github.com/zmap/zlint/v3/lints/rfc"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config says which lints a profile's certificates have to pass. The zero value is the set rfc5280.
type Config struct {
	// Set of lints: rfc5280 (the default), none, or a list of zlint's sources: RFC5280, RFC3279, RFC5480, RFC5891, RFC8813,
	// Community, CABF_BR (publicly trusted TLS servers).
	Set Set `yaml:"set"`
	// Ignore are lints of the set that are left out, by zlint's names (e_rfc_dnsname_underscore_in_sld).
	Ignore []Name `yaml:"ignore"`
	// Add are lints that are run beside those of the set.
	Add []Name `yaml:"add"`
	// Fail is the severity that refuses a certificate: error (the default) or warn, which refuses for errors too.
	Fail Severity `yaml:"fail"`
}

// Set is a set of lints: one word, or a list of sources.
type Set []string

const (
	setRFC5280 = "rfc5280"
	setNone    = "none"
)

// rfc5280 are the sources of the set of that name: the profile itself, and the algorithms and names that it refers to.
var rfc5280 = []zlint.LintSource{zlint.RFC5280, zlint.RFC3279, zlint.RFC5480, zlint.RFC5891, zlint.RFC8813}

// sources are those that a list may name.
var sources = append(slices.Clone(rfc5280), zlint.Community, zlint.CABFBaselineRequirements)

// UnmarshalStrict reads a word or a list.
func (s *Set) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		var word string
		if err := strictyaml.DecodeNode(file, n, &word); err != nil {
			return err
		}
		if word != setRFC5280 && word != setNone {
			return strictyaml.Errorf(file, n, "there is no set %q%s; a list names zlint's sources", word, strictyaml.Suggest(word, []string{setRFC5280, setNone}))
		}
		*s = Set{word}
		return nil
	}
	var list []string
	if err := strictyaml.DecodeNode(file, n, &list); err != nil {
		return err
	}
	if len(list) == 0 {
		return strictyaml.Errorf(file, n, "the list is empty: `set: none` turns linting off")
	}
	var known []string
	for _, source := range sources {
		known = append(known, string(source))
	}
	for i, name := range list {
		if !slices.Contains(known, name) {
			return strictyaml.Errorf(file, n.Content[i], "there is no source %q%s", name, strictyaml.Suggest(name, known))
		}
	}
	*s = list
	return nil
}

// Name is a lint's.
type Name string

// UnmarshalText checks that there is such a lint.
func (n *Name) UnmarshalText(text []byte) error {
	all := zlint.GlobalRegistry().CertificateLints()
	if all.ByName(string(text)) == nil {
		near := strictyaml.Nearest(string(text), all.Names())
		if near != "" {
			near = fmt.Sprintf(" (did you mean %q?)", near)
		}
		return fmt.Errorf("there is no lint %q%s", text, near)
	}
	*n = Name(text)
	return nil
}

// Severity is how bad a finding is.
type Severity string

const (
	Error Severity = "error"
	Warn  Severity = "warn"
)

// UnmarshalText reads one of the words.
func (s *Severity) UnmarshalText(text []byte) error {
	if *s = Severity(text); *s != Error && *s != Warn {
		return fmt.Errorf("%q is not known (%s or %s)", text, Error, Warn)
	}
	return nil
}

// unsuited are lints of the sets that are wrong about devices' certificates, each with the reason. docs/profiles.md lists
// them. `add` brings one back.
var unsuited = map[string]string{
	"e_key_usage_and_extended_key_usage_inconsistent": "it refuses keyEncipherment beside clientAuth, which every SCEP client needs, since answers are encrypted " +
		"to its certificate (RFC 8894 section 2.3); RFC 5280 section 4.2.1.12 says which bits may be consistent, and forbids none",
}

// addedByCA are lints that want what a CA adds to an end entity's certificate by itself: where its CRL and OCSP responder are, and
// its policies. No draft has that, so they are run on the certificate only.
var addedByCA = []string{
	"e_missing_crl_distrib_point", "e_sub_cert_aia_missing", "e_sub_cert_aia_does_not_contain_ocsp_url", "w_sub_cert_aia_does_not_contain_issuing_ca_url",
	"e_sub_cert_cert_policy_empty", "e_sub_cert_certificate_policies_missing", "e_sub_cert_given_name_surname_contains_correct_policy",
}

// looksAt names the extension without which a lint finds nothing, by a part of the lint's name. It is not run then: these are
// a quarter of the cost.
var looksAt = []struct {
	part string
	oid  asn1.ObjectIdentifier
}{
	{"_ian_", asn1.ObjectIdentifier{2, 5, 29, 18}},
	{"_name_constraint", asn1.ObjectIdentifier{2, 5, 29, 30}},
	{"_ext_cert_policy_", asn1.ObjectIdentifier{2, 5, 29, 32}},
	{"_policy_map_", asn1.ObjectIdentifier{2, 5, 29, 33}},
	{"_policy_constraints_", asn1.ObjectIdentifier{2, 5, 29, 36}},
	{"_ext_aia_", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}},
	{"_ext_san_", asn1.ObjectIdentifier{2, 5, 29, 17}},
}

// chosen is a lint that is run where the certificate has the extension; nil: on every certificate.
type chosen struct {
	*zlint.CertificateLint
	extension asn1.ObjectIdentifier
	addedByCA bool // not run on a draft

	kept zlint.CertificateLintInterface // see stateless
}

// choose lists the lints of a configuration, in the order of their names.
func (c *Config) choose() []chosen {
	wanted := rfc5280
	switch {
	case len(c.Set) == 1 && c.Set[0] == setNone:
		wanted = nil
	case len(c.Set) > 0 && c.Set[0] != setRFC5280:
		wanted = nil
		for _, s := range c.Set {
			wanted = append(wanted, zlint.LintSource(s))
		}
	}
	all := zlint.GlobalRegistry().CertificateLints()
	var list []chosen
	for _, name := range all.Names() {
		l := all.ByName(name)
		in := slices.Contains(wanted, l.Source) && !slices.Contains(c.Ignore, Name(name))
		if _, unsuited := unsuited[name]; unsuited {
			in = false
		}
		if !in && !slices.Contains(c.Add, Name(name)) {
			continue
		}
		one := chosen{CertificateLint: l, addedByCA: slices.Contains(addedByCA, name), kept: stateless(l)}
		for _, e := range looksAt {
			if strings.Contains(name, e.part) && !strings.Contains(name, "_no_") && !strings.Contains(name, "missing") {
				one.extension = e.oid
			}
		}
		list = append(list, one)
	}
	return list
}
