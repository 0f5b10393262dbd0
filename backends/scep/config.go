package scep

import (
	"crypto"
	_ "crypto/sha1" //nolint:gosec // legacy: sha1, in answers
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Config is where the SCEP CA is, and what it does that RFC 8894 leaves open.
type Config struct {
	// URL is the SCEP server's, to which ?operation= is added, such as http://HOST/scep or http://HOST/cgi-bin/pkiclient.exe. CA goes with
	// https, Cert and Key with a server that wants a TLS client; Timeout is that of one call.
	upstream.Config `yaml:",inline"`
	// RA signs the messages, and the answers are encrypted to it.
	RA RA `yaml:"ra,required"`
	// Identifier of the CA, for a server with several (the message of GetCACert, RFC 8894 section 4.2). Default: none.
	Identifier string `yaml:"identifier"`
	// Roots is a PEM file of the roots that the CA's certificates have to lead to. Required with http, where nothing else says whose
	// they are (RFC 8894 section 2.2).
	Roots string `yaml:"roots"`
	// Legacy lets in what is weaker than AES and SHA-256, each by its name: 3des, for a CA whose GetCACaps does not name AES; sha1, for
	// a CA that signs its answers so, or does not name SHA-256; des, for one that encrypts its answers so: nothing secret is in them, and no
	// message of ours is. Default: none of them.
	Legacy []Legacy `yaml:"legacy"`
	// Decides lists what the CA sets by rules of its own, whatever the request says: subject, subjectAltName, validity, keyUsage,
	// extKeyUsage. Default: the last three.
	Decides []string `yaml:"decides"`
	// Lookup is `certpoll` for a CA that answers a CertPoll truly at any time: with the certificate where it has issued one under the
	// transactionID, and badCertId only where it has not, and knows of nothing under way. Default: none; no RFC promises that.
	Lookup string `yaml:"lookup"`
	// Settle is for how long after a request was sent the CA may still be at it without knowing of it in a CertPoll. Default: 2m, 1s to 1h; three
	// times Timeout are added, for how late it may have been sent.
	Settle strictyaml.Duration `yaml:"settle"`
	// Poll is how often a CA that said PENDING is asked again: SCEP has no place to name a time. Default: 30s, 1s to 1h.
	Poll strictyaml.Duration `yaml:"poll"`
	// CRL is `getcrl` for the CRL by SCEP, or the http or https URL of the issuing CA's CRL. Default: none.
	CRL string `yaml:"crl"`

	decides []backend.Field
}

// RA is a registration authority's RSA key, and its certificate by an authority that the CA trusts for it.
type RA struct {
	Cert string `yaml:"cert,required"` // PEM file, its chain behind it; read for each message
	Key  string `yaml:"key,required"`  // PEM file (PKCS #8 or PKCS #1), not accessible to others
}

// Legacy names an algorithm that has to be let in.
type Legacy string

// The values of Config.Legacy.
const (
	LegacyTripleDES Legacy = "3des"
	LegacySHA1      Legacy = "sha1"
	LegacyDES       Legacy = "des"
)

const (
	lookupCertPoll = "certpoll"
	crlGetCRL      = "getcrl"
	defaultSettle  = 2 * time.Minute
	defaultPoll    = 30 * time.Second
)

// Paths are the keys of a configuration that are paths.
var Paths = append([]string{"ra.cert", "ra.key", "roots"}, upstream.Paths...)

// parseConfig reads and checks a configuration; it touches no file.
func parseConfig(data []byte) (*Config, error) {
	c := new(Config)
	if err := strictyaml.Decode("config", data, c); err != nil {
		return nil, err
	}
	var errs []error
	fail := func(text string) { errs = append(errs, errors.New(text)) }
	if err := c.Check(true); err != nil {
		errs = append(errs, err)
	}
	if u, err := url.Parse(c.URL); err == nil && u.RawQuery != "" {
		fail("url: wants no query: ?operation= is added")
	}
	if !c.private() && c.Roots == "" {
		fail("roots: required with http: the CA's certificates come by it, and nothing else says whose they are (RFC 8894 section 2.2)")
	}
	for key, path := range map[string]string{"ca": c.CA, "cert": c.Cert, "key": c.Key, "ra.cert": c.RA.Cert, "ra.key": c.RA.Key, "roots": c.Roots} {
		if path != "" && !filepath.IsAbs(path) {
			fail(key + ": not an absolute path")
		}
	}
	for i, l := range c.Legacy {
		if l != LegacyTripleDES && l != LegacySHA1 && l != LegacyDES || slices.Contains(c.Legacy[:i], l) {
			fail("legacy: wants some of 3des, sha1 and des, each once")
		}
	}
	if c.Lookup != "" && c.Lookup != lookupCertPoll {
		fail("lookup: wants certpoll, or is left out")
	}
	if c.Settle == 0 {
		c.Settle = strictyaml.Duration(defaultSettle)
	} else if c.Lookup == "" {
		fail("settle: goes with `lookup: certpoll`")
	}
	if s := time.Duration(c.Settle); s < time.Second || s > time.Hour {
		fail("settle: 1s to 1h")
	}
	if c.Poll == 0 {
		c.Poll = strictyaml.Duration(defaultPoll)
	}
	if p := time.Duration(c.Poll); p < time.Second || p > time.Hour {
		fail("poll: 1s to 1h")
	}
	if c.CRL != "" && c.CRL != crlGetCRL {
		if u, err := url.Parse(c.CRL); err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			fail("crl: wants getcrl, or the http or https URL of a CRL")
		}
	}
	if len(c.Identifier) > 256 {
		fail("identifier: longer than 256 bytes")
	}
	var err error
	if c.decides, err = upstream.Decides(c.Decides, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// timeout of one call.
func (c *Config) timeout() time.Duration {
	if c.Timeout == 0 {
		return upstream.DefaultTimeout
	}
	return time.Duration(c.Timeout)
}

// private reports whether what the server says is the server's, by TLS.
func (c *Config) private() bool { return strings.HasPrefix(c.URL, "https://") }

// digests that answers may be signed with.
func (c *Config) digests() []crypto.Hash {
	all := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	if slices.Contains(c.Legacy, LegacySHA1) {
		all = append(all, crypto.SHA1)
	}
	return all
}
