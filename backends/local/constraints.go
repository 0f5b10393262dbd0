package local

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// NameConstraints are the name constraints of an issuing CA (RFC 5280 section 4.2.1.10). They stand, critical, in its
// certificate, in that of its root, and in those that link an old root and a new one. Nothing outside of them is issued.
//
// They are settled when the CA is made. Left out, what stands stays; changed, they count at once for what is issued, together
// with those that stand, and are in the CA certificates after `muster ca renew --root`. Empty (`{}`), a renewal drops them.
type NameConstraints struct {
	Permitted ConstrainedNames `yaml:"permitted"` // names of a kind that is listed here have to be within one of its entries
	Excluded  ConstrainedNames `yaml:"excluded"`  // and within none of these
}

// ConstrainedNames are the constraints of each kind of name. Names of a kind without any are not constrained.
type ConstrainedNames struct {
	// DNS names: m2m.example.com is that name and all those below it. They go for a host name in the subject's CN as well, where
	// there is no dNSName: openssl verifies it so.
	DNS []string `yaml:"dns"`
	// URI hosts: m2m.example.com is that host alone, .m2m.example.com all hosts below it. With any of them no URI without
	// scheme and host can be verified: neither oneM2M's //m2m.example.com/S98821 nor urn:gsma:imei:...
	URI []string `yaml:"uri"`
	// IP addresses: 192.0.2.0/24, 2001:db8::/32. Excluding 0.0.0.0/0 and ::/0 leaves none.
	IP []string `yaml:"ip"`
}

const maxConstraints = 100 // of one kind, permitted or excluded

var (
	hostLabels     = regexp.MustCompile(`^(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$`)
	oidCommonNames = asn1.ObjectIdentifier{2, 5, 4, 3}
)

func constrainedHost(s string) bool { return len(s) <= 253 && hostLabels.MatchString(s) }

// check reports each fault, in an order of its own.
func (n *NameConstraints) check(report func(format string, args ...any)) {
	if n == nil {
		return
	}
	for _, part := range []struct {
		key   string
		names *ConstrainedNames
	}{{"permitted", &n.Permitted}, {"excluded", &n.Excluded}} {
		fail := func(format string, args ...any) {
			report("name-constraints."+part.key+"."+format, args...)
		}
		for kind, list := range map[string][]string{"dns": part.names.DNS, "uri": part.names.URI, "ip": part.names.IP} {
			if len(list) > maxConstraints {
				fail("%s: more than %d", kind, maxConstraints)
			}
		}
		for _, s := range part.names.DNS {
			if !constrainedHost(s) {
				fail("dns: %q is not a domain such as m2m.example.com, which stands for itself and all names below it", s)
			}
		}
		for _, s := range part.names.URI {
			if !constrainedHost(strings.TrimPrefix(s, ".")) {
				fail("uri: %q is neither a host such as m2m.example.com, nor .m2m.example.com for all hosts below it", s)
			}
		}
		for _, s := range part.names.IP {
			if p, err := netip.ParsePrefix(s); err != nil || p != p.Masked() || p.Addr().Is4In6() {
				fail("ip: %q is not a network such as 192.0.2.0/24 or 2001:db8::/32", s)
			}
		}
	}
	for kind, pair := range map[string][2][]string{"dns": {n.Permitted.DNS, n.Excluded.DNS}, "uri": {n.Permitted.URI, n.Excluded.URI}, "ip": {n.Permitted.IP, n.Excluded.IP}} {
		for _, s := range pair[0] {
			if x := slices.IndexFunc(pair[1], func(x string) bool { return strings.EqualFold(s, x) }); x >= 0 {
				report("name-constraints.excluded.%s: %q is permitted as well", kind, pair[1][x])
			}
		}
	}
}

// constrain puts the constraints into a CA certificate that is to be made.
func (n *NameConstraints) constrain(c *x509.Certificate) {
	if n == nil {
		return
	}
	networks := func(list []string) (all []*net.IPNet) {
		for _, s := range list {
			if _, network, err := net.ParseCIDR(s); err == nil { // check has parsed it
				all = append(all, network)
			}
		}
		return all
	}
	// "Conforming CAs MUST mark this extension as critical."
	c.PermittedDNSDomainsCritical = true
	c.PermittedDNSDomains, c.ExcludedDNSDomains = n.Permitted.DNS, n.Excluded.DNS
	c.PermittedURIDomains, c.ExcludedURIDomains = n.Permitted.URI, n.Excluded.URI
	c.PermittedIPRanges, c.ExcludedIPRanges = networks(n.Permitted.IP), networks(n.Excluded.IP)
}

// constrainAs puts another certificate's constraints into a CA certificate that is to be made.
func constrainAs(c, other *x509.Certificate) {
	c.PermittedDNSDomainsCritical = true
	c.PermittedDNSDomains, c.ExcludedDNSDomains = other.PermittedDNSDomains, other.ExcludedDNSDomains
	c.PermittedURIDomains, c.ExcludedURIDomains = other.PermittedURIDomains, other.ExcludedURIDomains
	c.PermittedIPRanges, c.ExcludedIPRanges = other.PermittedIPRanges, other.ExcludedIPRanges
	c.PermittedEmailAddresses, c.ExcludedEmailAddresses = other.PermittedEmailAddresses, other.ExcludedEmailAddresses
}

// following constrains the next certificate of a CA: as configured, and where nothing is, as the one before.
func (n *NameConstraints) following(c, before *x509.Certificate) {
	if n == nil {
		constrainAs(c, before)
		return
	}
	n.constrain(c)
}

// constraintsOf are a certificate's constraints in one text, the same for the same constraints.
func constraintsOf(c *x509.Certificate) string {
	var all []string
	add := func(what string, list []string) {
		for _, s := range list {
			all = append(all, what+" "+strings.ToLower(s))
		}
	}
	networks := func(list []*net.IPNet) (texts []string) {
		for _, n := range list {
			texts = append(texts, n.String())
		}
		return texts
	}
	add("permitted dns", c.PermittedDNSDomains)
	add("permitted uri", c.PermittedURIDomains)
	add("permitted ip", networks(c.PermittedIPRanges))
	add("permitted email", c.PermittedEmailAddresses)
	add("excluded dns", c.ExcludedDNSDomains)
	add("excluded uri", c.ExcludedURIDomains)
	add("excluded ip", networks(c.ExcludedIPRanges))
	add("excluded email", c.ExcludedEmailAddresses)
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// changed says that a CA's certificates have other constraints than those that are configured; "" when they have not, or
// when none are configured.
func (n *NameConstraints) changed(g *generation) string {
	if n == nil {
		return ""
	}
	var wanted x509.Certificate
	n.constrain(&wanted)
	for _, c := range []*x509.Certificate{g.cert, g.root} {
		if stands, want := constraintsOf(c), constraintsOf(&wanted); stands != want {
			return fmt.Sprintf("the certificate of %q has other name constraints (%s) than those configured (%s), and a certificate does not change: "+
				"have it made anew by `muster ca renew --root`. Until then nothing is issued that either of them rules out", c.Subject.CommonName, stands, want)
		}
	}
	return ""
}

// limits lists what constrains the names that the issuer certifies: certificates of its chain, and, as a certificate that
// nobody made, what is configured.
func (i *issuer) limits(configured *NameConstraints) (by []*x509.Certificate) {
	all := i.certs
	if configured != nil {
		c := new(x509.Certificate)
		configured.constrain(c)
		all = append(slices.Clone(all), c)
	}
	for _, c := range all {
		if constraintsOf(c) != "none" {
			by = append(by, c)
		}
	}
	return by
}

// within refuses names that the constraints of the chain, or those that are configured, rule out: relying parties
// would not take the certificate. It is as strict as openssl and as crypto/x509, but for URIs without a host, which Go
// refuses under constraints of any kind.
func (i *issuer) within(subject, altName []byte) error {
	if len(i.limited) == 0 {
		return nil
	}
	names, err := constrainedNames(subject, altName)
	if err != nil {
		return err
	}
	for _, c := range i.limited {
		for _, n := range names {
			if err := n.within(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// constrained is a name that constraints can rule out.
type constrained struct {
	kind   string // dNSName, URI, iPAddress, rfc822Name; CN
	text   string
	octets []byte // of an address
}

// constrainedNames reads them from a Name and GeneralNames that were checked (either may be empty). The CN is among them, as
// for openssl, when it looks like a host name of two labels or more and there is no dNSName.
func constrainedNames(subject, altName []byte) (all []constrained, err error) {
	in := cryptobyte.String(altName)
	var names cryptobyte.String
	if len(altName) > 0 && !in.ReadASN1(&names, cbasn1.SEQUENCE) {
		return nil, errors.New("not DER GeneralNames")
	}
	dns := false
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return nil, errors.New("malformed GeneralName")
		}
		switch tag {
		case choice(1):
			all = append(all, constrained{kind: "rfc822Name", text: string(name)})
		case choice(2):
			dns = true
			all = append(all, constrained{kind: "dNSName", text: string(name)})
		case choice(6):
			all = append(all, constrained{kind: "URI", text: string(name)})
		case choice(7):
			all = append(all, constrained{kind: "iPAddress", text: net.IP(name).String(), octets: name})
		}
	}
	if dns || len(subject) == 0 {
		return all, nil
	}
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(subject, &rdns); err != nil {
		return all, nil // a string type that encoding/asn1 does not know: no host name
	}
	for _, rdn := range rdns {
		for _, a := range rdn {
			if cn, ok := a.Value.(string); ok && a.Type.Equal(oidCommonNames) && strings.Contains(cn, ".") && constrainedHost(cn) {
				all = append(all, constrained{kind: "CN", text: cn})
			}
		}
	}
	return all, nil
}

func (n constrained) within(c *x509.Certificate) error {
	switch n.kind {
	case "dNSName", "CN":
		return n.judge(c, c.PermittedDNSDomains, c.ExcludedDNSDomains, func(d string) bool { return below(n.text, d) }, func(d string) bool {
			rest, wild := strings.CutPrefix(n.text, "*.")
			return below(n.text, d) || wild && below(d, rest)
		})
	case "rfc822Name":
		_, host, _ := strings.Cut(n.text, "@")
		match := func(d string) bool {
			if strings.Contains(d, "@") {
				return strings.EqualFold(n.text, d)
			}
			return hostIn(host, d)
		}
		return n.judge(c, c.PermittedEmailAddresses, c.ExcludedEmailAddresses, match, match)
	case "URI":
		if len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) == 0 {
			return nil
		}
		// "If the URI does not include an authority component that includes a host name specified as a fully qualified domain
		// name, then the application MUST reject the certificate." openssl rejects it without a scheme as well.
		host, ok := uriHost(n.text)
		if !ok {
			return fmt.Errorf("subjectAltName: %s %q has no scheme and host name, and the certificate of %q constrains URIs by host: nobody could verify it (RFC 5280 section 4.2.1.10)", n.kind, n.text, constrainer(c))
		}
		match := func(d string) bool { return hostIn(host, d) }
		return n.judge(c, c.PermittedURIDomains, c.ExcludedURIDomains, match, match)
	case "iPAddress":
		texts := func(list []*net.IPNet) (all []string) {
			for _, x := range list {
				all = append(all, x.String())
			}
			return all
		}
		match := func(d string) bool {
			_, network, err := net.ParseCIDR(d)
			return err == nil && len(network.IP) == len(n.octets) && network.Contains(n.octets)
		}
		return n.judge(c, texts(c.PermittedIPRanges), texts(c.ExcludedIPRanges), match, match)
	}
	return nil
}

func (n constrained) judge(c *x509.Certificate, permitted, excluded []string, in, touches func(constraint string) bool) error {
	at := "subjectAltName"
	if n.kind == "CN" {
		at = "subject"
	}
	if x := slices.IndexFunc(excluded, touches); x >= 0 {
		return fmt.Errorf("%s: %s %q is excluded by the name constraints of %q: %s", at, n.kind, n.text, constrainer(c), excluded[x])
	}
	if len(permitted) > 0 && !slices.ContainsFunc(permitted, in) {
		return fmt.Errorf("%s: %s %q is outside of the name constraints of %q, which permit %s", at, n.kind, n.text, constrainer(c), strings.Join(permitted, ", "))
	}
	return nil
}

func constrainer(c *x509.Certificate) string {
	if c.Raw == nil {
		return "the configuration"
	}
	return c.Subject.CommonName
}

// below reports whether a DNS name is the domain or below it; an empty domain is above all.
func below(name, domain string) bool {
	name, domain = strings.ToLower(name), strings.ToLower(strings.TrimPrefix(domain, "."))
	return domain == "" || name == domain || strings.HasSuffix(name, "."+domain)
}

// hostIn reports whether a host is the constraint's, or below one that begins with a dot.
func hostIn(host, constraint string) bool {
	host, constraint = strings.ToLower(host), strings.ToLower(constraint)
	if strings.HasPrefix(constraint, ".") {
		return strings.HasSuffix(host, constraint) && host != constraint
	}
	return host == constraint
}

// uriHost is the host of an absolute URI, if it has one that is a name: no address, nor anything that readers differ on.
func uriHost(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || !constrainedHost(u.Hostname()) || net.ParseIP(u.Hostname()) != nil {
		return "", false
	}
	_, rest, _ := strings.Cut(s, ":")
	rest, ok := strings.CutPrefix(rest, "//"+u.Hostname())
	if !ok || rest != "" && rest[0] != '/' && rest[0] != ':' {
		return "", false
	}
	return u.Hostname(), true
}
