package local

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config is the backend's YAML configuration. Everything but dir may be left out.
//
// Names, keys and validities shape a CA when it is made, on the first start that knows it. They never change one that
// stands: a name or key that contradicts it is refused; validity and name constraints are looked at again by a rollover.
type Config struct {
	// Dir holds the CA: keys, certificates, ledger. An absolute path, made if it does not exist.
	Dir string `yaml:"dir"`
	// Ledger is a PostgreSQL database, postgres://USER@HOST/DATABASE, which keeps the ledger for any number of replicas with the
	// same CA in their directories. Default: the gateway's store, where that is PostgreSQL; else a file in Dir.
	Ledger LedgerURL `yaml:"ledger"`
	// LedgerName tells the ledgers of several CAs in one database apart: 1 to 40 letters, digits, ".", "_" and "-". Replicas have
	// the same. Default: the backend's name in the gateway's configuration; else "ca".
	LedgerName string `yaml:"ledger-name"`
	// Organization is the O of all CA names. Default "Muster".
	Organization string `yaml:"organization"`
	// Validity of the CA certificates.
	Validity Validity `yaml:"validity"`
	// CRLValidity is the time from a CRL's thisUpdate to its nextUpdate; half of it later the next CRL is made.
	// 1h to 366d. Default 7d.
	CRLValidity strictyaml.Duration `yaml:"crl-validity"`
	// CRLShardSize is how many certificates share a CRL (RFC 5280 section 5.2.5): those of an issuer whose `crl` is given are put into
	// shards of so many from then on, and each names the CRL of its shard, beside which there is the complete one. 10 to 1000000.
	// Default: 0, the complete CRL is the only one.
	CRLShardSize int `yaml:"crl-shard-size"`
	// OCSP is how questions about certificates are answered (docs/ocsp.md).
	OCSP OCSP `yaml:"ocsp"`
	// Issuers are the issuing CAs, by name: 1 to 32 of a-z, 0-9 and hyphen. "ec", the default one, and "rsa" are always there;
	// one that was made stays, also when it is left out.
	Issuers map[string]Issuer `yaml:"issuers"`
	// PKCS11 has the private keys in a token. Default: in files in Dir.
	PKCS11 *PKCS11 `yaml:"pkcs11"`

	keyring keyring // by Configure
}

// Validity is how long the CA certificates are valid, counted from the moment they are made.
type Validity struct {
	Root    strictyaml.Duration `yaml:"root"`    // default 9131d, 25 years
	Issuing strictyaml.Duration `yaml:"issuing"` // default 3652d, 10 years; not longer than root
}

// OCSP is how the CA answers OCSP requests. Whether anybody can ask is the gateway's `distribution`.
type OCSP struct {
	// Validity is the time from an answer's thisUpdate to its nextUpdate; half of it later another one is signed for who asks then.
	// 1h to 30d. Default 1d.
	Validity strictyaml.Duration `yaml:"validity"`
	// Keep is how many answers are kept in memory, about 0.7 KB each: 1000 to 10000000. Default 100000.
	Keep int `yaml:"keep"`
	// Presign signs answers for all unexpired certificates before anybody asks, as many as are kept. Default: false
	Presign bool `yaml:"presign"`
	// Nonce answers a request that has a nonce with a signature of its own (RFC 9654), which is not kept. Default: false, the nonce
	// is ignored (RFC 5019 section 4).
	Nonce bool `yaml:"nonce"`
}

// Issuer is one issuing CA, under a root of its own or imported. The URLs go into every certificate that it issues from
// then on, in the order given.
type Issuer struct {
	RootName string `yaml:"root-name"` // CN of its root: "Muster Root CA", "Muster RSA Root CA", "Muster NAME Root CA"
	Name     string `yaml:"name"`      // CN: "Muster Issuing CA", "Muster RSA Issuing CA", "Muster NAME Issuing CA"
	// Key is the kind of its key and its root's: P-256, P-384, Ed25519, RSA-2048, RSA-3072 or RSA-4096. Default P-256; for rsa,
	// which is RSA throughout (SCEP), RSA-3072. RSA-2048 signs three times as fast; NIST SP 800-57 has it protect until 2030.
	Key string `yaml:"key"`
	// Bits is the older way to say key: for rsa only: 2048, 3072 or 4096.
	Bits int `yaml:"bits"`
	// NameConstraints are what its certificate says about the names that it certifies. Default: nothing.
	NameConstraints *NameConstraints `yaml:"name-constraints"`
	// Import takes an issuing CA that exists, instead of making one.
	Import *Import `yaml:"import"`
	// CRL is where its CRL is served (RFC 5280 section 4.2.1.13). {name} stands for the name of the issuing key's CRL, as
	// CA.CRLs lists it: NAME.1, after a new key NAME.2 or later; or of its shard's CRL: NAME.1.1, NAME.1.2 and so on. Without {name} a
	// new key breaks the URL in older certificates.
	CRL []string `yaml:"crl"`
	// OCSP is where its OCSP responder is (RFC 5280 section 4.2.2.1).
	OCSP []string `yaml:"ocsp"`
	// CAIssuers is where its own certificate is served, DER (RFC 5280 section 4.2.2.1).
	CAIssuers []string `yaml:"ca-issuers"`
}

// Import names the operator's own hierarchy. The files are read when they are imported, and copied into Dir; later starts
// compare the certificate, if the file is still there.
type Import struct {
	Cert string `yaml:"cert,required"` // PEM: the issuing certificate first, the self-signed root last; an absolute path
	// Key is PEM, not encrypted: the issuing certificate's private key; an absolute path. Or pkcs11:object=LABEL (RFC 7512): it is in
	// the token, and stays there.
	Key string `yaml:"key,required"`
	// Generation counts the imports of this CA, from 1 (the default): one more than the CA stands at takes the files as its next
	// certificate.
	Generation int `yaml:"generation"`
}

const (
	day = 24 * time.Hour

	defaultOrganization    = "Muster"
	defaultRootValidity    = 9131 * day
	defaultIssuingValidity = 3652 * day
	defaultCRLValidity     = 7 * day
	defaultKey             = "P-256"
	defaultRSAKey          = "RSA-3072"

	minCRLValidity, maxCRLValidity = time.Hour, 366 * day

	defaultOCSPValidity = day
	defaultOCSPKeep     = 100_000

	minOCSPValidity, maxOCSPValidity = time.Hour, 30 * day
	minOCSPKeep, maxOCSPKeep         = 1000, 10_000_000

	maxCAValidity = 36525 * day // a century

	maxNameLength = 64 // ub-common-name, ub-organization-name: RFC 5280 appendix A.1

	crlPlaceholder = "{name}"
)

var issuerName = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$`)

// parseConfig reads and checks a configuration; it touches no file. given is what stands there, full has the defaults.
func parseConfig(data []byte) (given, full *Config, err error) {
	given = new(Config)
	if err := strictyaml.Decode("config", data, given); err != nil {
		return nil, nil, err
	}
	full = given.withDefaults()
	if err := errors.Join(given.checkGiven(), full.check()); err != nil {
		return nil, nil, err
	}
	return given, full, nil
}

// issuerNames lists the configured issuers in their order: ec, rsa, and the others by name.
func (c *Config) issuerNames() []string {
	return slices.SortedFunc(maps.Keys(c.Issuers), inOrder)
}

// inOrder compares names of issuers.
func inOrder(a, b string) int {
	rank := func(s string) int { return slices.Index([]string{IssuerRSA, IssuerEC}, s) }
	return cmp.Or(cmp.Compare(rank(b), rank(a)), strings.Compare(a, b))
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
	if full.Ledger != "" {
		text(&full.LedgerName, defaultLedgerName)
	}
	full.Issuers = map[string]Issuer{IssuerEC: {}, IssuerRSA: {}}
	maps.Copy(full.Issuers, c.Issuers)
	for name, is := range full.Issuers {
		full.Issuers[name] = is.withDefaults(name)
	}
	period(&full.Validity.Root, defaultRootValidity)
	period(&full.Validity.Issuing, defaultIssuingValidity)
	period(&full.CRLValidity, defaultCRLValidity)
	period(&full.OCSP.Validity, defaultOCSPValidity)
	full.OCSP.Keep = cmp.Or(full.OCSP.Keep, defaultOCSPKeep)
	return &full
}

func (is Issuer) withDefaults(name string) Issuer {
	middle, key := " "+name, defaultKey
	switch name {
	case IssuerEC:
		middle = ""
	case IssuerRSA:
		middle, key = " RSA", defaultRSAKey
	}
	is.Key = cmp.Or(is.keyKind(), key)
	is.RootName = cmp.Or(is.RootName, "Muster"+middle+" Root CA")
	is.Name = cmp.Or(is.Name, "Muster"+middle+" Issuing CA")
	if is.Import != nil {
		at := *is.Import
		at.Generation = cmp.Or(at.Generation, 1)
		is.Import = &at
	}
	return is
}

// keyKind is the configured kind of key, "" for none.
func (is *Issuer) keyKind() string {
	if is.Key == "" && is.Bits != 0 {
		return fmt.Sprintf("RSA-%d", is.Bits)
	}
	return is.Key
}

// checkGiven checks what cannot be seen any more when the defaults are filled in.
func (c *Config) checkGiven() error {
	var errs []error
	for _, name := range c.issuerNames() {
		is := c.Issuers[name]
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("issuers.%s.%s", name, fmt.Sprintf(format, args...)))
		}
		if is.Bits != 0 {
			switch {
			case name != IssuerRSA:
				fail("bits: for rsa only: say `key: RSA-%d` in a CA of its own", is.Bits)
			case is.Key != "":
				fail("bits: key says it already: leave it out")
			case is.Bits != 2048 && is.Bits != 3072 && is.Bits != 4096:
				fail("bits: 2048, 3072 or 4096")
			}
		}
		if is.Import != nil {
			for what, given := range map[string]bool{"name": is.Name != "", "root-name": is.RootName != "", "key": is.Key != "", "bits": is.Bits != 0,
				"name-constraints": is.NameConstraints != nil} {
				if given {
					fail("%s: it is that of the imported certificate: leave it out", what)
				}
			}
		}
	}
	return errors.Join(errs...)
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
	checkText := func(key, s string) {
		if utf8.RuneCountInString(s) > maxNameLength || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			fail("%s: at most %d characters, none of them a control character", key, maxNameLength)
		}
	}
	checkText("organization", c.Organization)
	if c.PKCS11 != nil {
		errs = append(errs, c.PKCS11.Check())
		for _, name := range c.issuerNames() {
			if im := c.Issuers[name].Import; im != nil && namesToken([]byte(im.Key)) {
				if label, err := labelIn(im.Key); err == nil && slices.Contains(c.PKCS11.Keys, label) {
					fail("pkcs11.keys: %q is the key of CA %s, which signs nothing for the gateway", label, name)
				}
			}
		}
	}
	switch {
	case c.Ledger == "":
		if c.LedgerName != "" {
			fail("ledger-name: it names a ledger in PostgreSQL, and there is no `ledger`")
		}
	case !ledgerName.MatchString(c.LedgerName):
		fail("ledger-name: %q is not a name: 1 to 40 letters, digits, \".\", \"_\" and \"-\", a letter or digit first", c.LedgerName)
	default:
		if _, err := postgresConfig(c.Ledger, c.LedgerName); err != nil {
			fail("ledger: %v", err)
		}
	}
	if len(c.Issuers) > backend.MaxCAs {
		fail("issuers: more than %d", backend.MaxCAs)
	}
	seen := map[string]string{}
	for _, name := range c.issuerNames() {
		is, key := c.Issuers[name], "issuers."+name
		if !issuerName.MatchString(name) {
			fail("issuers: %q is not a name: 1 to 32 of a-z, 0-9 and hyphen, which does not begin or end it", name)
			continue
		}
		errs = append(errs, is.check(name))
		if is.Import != nil {
			continue
		}
		for _, n := range []struct{ key, name string }{{key + ".root-name", is.RootName}, {key + ".name", is.Name}} {
			checkText(n.key, n.name)
			// A CA is found by its name: by Revoke, by relying parties, by everyone who builds a chain.
			if other, ok := seen[n.name]; ok {
				fail("%s: %q is already %s", n.key, n.name, other)
			}
			seen[n.name] = n.key
		}
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
	errs = append(errs, c.checkShards())
	if v := time.Duration(c.OCSP.Validity); v < minOCSPValidity || v > maxOCSPValidity {
		fail("ocsp.validity: 1h to 30d")
	}
	if c.OCSP.Keep < minOCSPKeep || c.OCSP.Keep > maxOCSPKeep {
		fail("ocsp.keep: %d to %d", minOCSPKeep, maxOCSPKeep)
	}
	return errors.Join(errs...)
}

func (is *Issuer) check(name string) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("issuers."+name+"."+format, args...))
	}
	switch {
	case is.Bits != 0: // checkGiven
	case keyKinds[is.Key] == nil:
		fail("key: %q is not one of %s%s", is.Key, strings.Join(keyNames, ", "), strictyaml.Suggest(is.Key, keyNames))
	case name == IssuerRSA && !isRSA(is.Key):
		fail("key: this CA is RSA throughout (SCEP): give a CA with another key a name of its own")
	case name == IssuerEC && isRSA(is.Key):
		fail("key: this CA is not RSA: give one that is a name of its own, or use rsa")
	}
	is.NameConstraints.check(fail)
	for key, urls := range map[string][]string{"crl": is.CRL, "ocsp": is.OCSP, "ca-issuers": is.CAIssuers} {
		for _, u := range urls {
			bare := u
			if key == "crl" {
				bare = strings.ReplaceAll(u, crlPlaceholder, "ec.1")
			}
			if !distributable(bare) {
				fail("%s: %q is not an absolute http, https or ldap URL in ASCII%s", key, u,
					map[bool]string{true: ", in which {name} may stand"}[key == "crl"])
			}
		}
	}
	if im := is.Import; im != nil {
		for key, path := range map[string]string{"cert": im.Cert, "key": im.Key} {
			if key == "key" && namesToken([]byte(path)) {
				if _, err := labelIn(path); err != nil {
					fail("import.key: %v", err)
				}
			} else if !filepath.IsAbs(path) {
				fail("import.%s: %q is not an absolute path", key, path)
			}
		}
		if im.Generation < 1 || im.Generation > maxGenerations {
			fail("import.generation: 1 to %d", maxGenerations)
		}
	}
	return errors.Join(errs...)
}

// distributable reports whether s can stand as a URI in a certificate (RFC 5280 sections 4.2.1.6, 4.2.1.13: IA5String).
func distributable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || r == '{' || r == '}' {
			return false
		}
	}
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "ldap")
}
