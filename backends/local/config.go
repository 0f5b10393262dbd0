package local

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config is the backend's YAML configuration. Everything but dir may be left out.
//
// Names, key sizes and validities shape the CA when it is made, on the first start. They never change one that stands: a
// name or size that contradicts it is refused, a validity is not looked at again.
type Config struct {
	// Dir holds the CA: keys, certificates, ledger. An absolute path, made if it does not exist.
	Dir string `yaml:"dir"`
	// Organization is the O of all four CA names. Default "Muster".
	Organization string `yaml:"organization"`
	// Validity of the CA certificates.
	Validity Validity `yaml:"validity"`
	// CRLValidity is the time from a CRL's thisUpdate to its nextUpdate; half of it later the next CRL is made.
	// 1h to 366d. Default 7d.
	CRLValidity strictyaml.Duration `yaml:"crl-validity"`
	// Issuers are the two issuing CAs. "ec" is the default one.
	Issuers Issuers `yaml:"issuers"`
}

// Validity is how long the CA certificates are valid, counted from the moment they are made.
type Validity struct {
	Root    strictyaml.Duration `yaml:"root"`    // default 9131d, 25 years
	Issuing strictyaml.Duration `yaml:"issuing"` // default 3652d, 10 years; not longer than root
}

// Issuers configures each issuing CA.
type Issuers struct {
	EC  Issuer `yaml:"ec"`  // P-256 under a P-256 root
	RSA Issuer `yaml:"rsa"` // RSA under an RSA root of the same size: no key in the chain is of another kind (SCEP)
}

// Issuer is one issuing CA. The URLs go into every certificate that it issues from then on, in the order given.
type Issuer struct {
	RootName string `yaml:"root-name"` // CN of its root: "Muster Root CA", "Muster RSA Root CA"
	Name     string `yaml:"name"`      // CN: "Muster Issuing CA", "Muster RSA Issuing CA"
	// Bits of the RSA keys, of the issuing CA and its root: 2048, 3072 (the default) or 4096. The smallest sign three
	// times as fast as the default; NIST SP 800-57 has them protect until 2030. For rsa only.
	Bits int `yaml:"bits"`
	// CRL is where its CRL is served (RFC 5280 section 4.2.1.13).
	CRL []string `yaml:"crl"`
	// OCSP is where its OCSP responder is (RFC 5280 section 4.2.2.1).
	OCSP []string `yaml:"ocsp"`
	// CAIssuers is where its own certificate is served, DER (RFC 5280 section 4.2.2.1).
	CAIssuers []string `yaml:"ca-issuers"`
}

const (
	day = 24 * time.Hour

	defaultOrganization    = "Muster"
	defaultRootValidity    = 9131 * day
	defaultIssuingValidity = 3652 * day
	defaultCRLValidity     = 7 * day
	defaultRSABits         = 3072

	minCRLValidity, maxCRLValidity = time.Hour, 366 * day
	maxCAValidity                  = 36525 * day // a century

	maxNameLength = 64 // ub-common-name, ub-organization-name: RFC 5280 appendix A.1
)

// parseConfig reads and checks a configuration; it touches no file. given is what stands there, full has the defaults.
func parseConfig(data []byte) (given, full *Config, err error) {
	given = new(Config)
	if err := strictyaml.Decode("config", data, given); err != nil {
		return nil, nil, err
	}
	full = given.withDefaults()
	if err := full.check(); err != nil {
		return nil, nil, err
	}
	return given, full, nil
}

func (c *Config) withDefaults() *Config {
	full := *c
	text := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	period := func(d *strictyaml.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = strictyaml.Duration(otherwise)
		}
	}
	text(&full.Organization, defaultOrganization)
	text(&full.Issuers.EC.RootName, "Muster Root CA")
	text(&full.Issuers.EC.Name, "Muster Issuing CA")
	text(&full.Issuers.RSA.RootName, "Muster RSA Root CA")
	text(&full.Issuers.RSA.Name, "Muster RSA Issuing CA")
	if full.Issuers.RSA.Bits == 0 {
		full.Issuers.RSA.Bits = defaultRSABits
	}
	period(&full.Validity.Root, defaultRootValidity)
	period(&full.Validity.Issuing, defaultIssuingValidity)
	period(&full.CRLValidity, defaultCRLValidity)
	return &full
}

func (c *Config) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Dir == "":
		fail("dir: required: the directory that holds the CA")
	case !filepath.IsAbs(c.Dir):
		fail("dir: %q is not an absolute path", c.Dir)
	}
	name := func(key, s string) {
		if utf8.RuneCountInString(s) > maxNameLength || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			fail("%s: at most %d characters, none of them a control character", key, maxNameLength)
		}
	}
	name("organization", c.Organization)
	seen := map[string]string{}
	for _, i := range []struct {
		key string
		is  Issuer
	}{{"issuers.ec", c.Issuers.EC}, {"issuers.rsa", c.Issuers.RSA}} {
		for _, n := range []struct{ key, name string }{{i.key + ".root-name", i.is.RootName}, {i.key + ".name", i.is.Name}} {
			name(n.key, n.name)
			// A CA is found by its name: by Revoke, by relying parties, by everyone who builds a chain.
			if other, ok := seen[n.name]; ok {
				fail("%s: %q is already %s", n.key, n.name, other)
			}
			seen[n.name] = n.key
		}
		for key, urls := range map[string][]string{"crl": i.is.CRL, "ocsp": i.is.OCSP, "ca-issuers": i.is.CAIssuers} {
			for _, u := range urls {
				if !distributable(u) {
					fail("%s.%s: %q is not an absolute http, https or ldap URL in ASCII", i.key, key, u)
				}
			}
		}
	}
	if c.Issuers.EC.Bits != 0 {
		fail("issuers.ec.bits: its keys are P-256: leave it out")
	}
	switch c.Issuers.RSA.Bits {
	case 2048, 3072, 4096:
	default:
		fail("issuers.rsa.bits: 2048, 3072 or 4096")
	}
	root, issuing := time.Duration(c.Validity.Root), time.Duration(c.Validity.Issuing)
	switch {
	case root < day || root > maxCAValidity || issuing < day:
		fail("validity: 1d to %dd", maxCAValidity/day)
	case issuing > root:
		fail("validity: an issuing CA cannot be valid for longer than its root")
	}
	if crl := time.Duration(c.CRLValidity); crl < minCRLValidity || crl > maxCRLValidity {
		fail("crl-validity: 1h to 366d")
	}
	return errors.Join(errs...)
}

// distributable reports whether s can stand as a URI in a certificate (RFC 5280 sections 4.2.1.6, 4.2.1.13: IA5String).
func distributable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f {
			return false
		}
	}
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "ldap")
}
