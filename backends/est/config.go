package est

import (
	"errors"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Config is where the EST CA is, and what it does that RFC 7030 leaves open.
type Config struct {
	// URL is the server's, https://HOST[:PORT]: what follows, /.well-known/est, is added. CA, Cert and Key, and Timeout go with it:
	// Cert and Key are the RA's certificate (with id-kp-cmcRA, for most CAs) and its key.
	upstream.Config `yaml:",inline"`
	// Label of the CA (RFC 7030 section 3.2.2), a path segment. Default: none.
	Label string `yaml:"label"`
	// User and Password log in by HTTP Basic, beside Cert or in its place. Password is a file, not accessible to others, read for each call.
	User     string `yaml:"user"`
	Password string `yaml:"password"`
	// Chain is a PEM file of the CA's chain, its issuing certificate first and the root last, in the place of what `cacerts` says. It is
	// read whenever it is asked for.
	Chain string `yaml:"chain"`
	// Repeat is for how long after issuing the CA answers an equal request with the same certificate; also while it is still at the first
	// one. RFC 7030 promises nothing. Default: 0s, it does not. At most 30d.
	Repeat strictyaml.Duration `yaml:"repeat"`
	// Decides lists what the CA sets by rules of its own, whatever the request says: subject, subjectAltName, validity, keyUsage,
	// extKeyUsage. Default: the last three.
	Decides []string `yaml:"decides"`
	// CRL is the http or https URL of the issuing CA's CRL. Default: none, and the gateway has none of it.
	CRL string `yaml:"crl"`

	decides []backend.Field
}

// Paths are the keys of a configuration that are paths.
var Paths = append([]string{"password", "chain"}, upstream.Paths...)

const maxRepeat = 30 * 24 * time.Hour

// label is one path segment that needs no escape, and is no operation of EST's.
var label = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`)

var operations = []string{"cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs"}

// parseConfig reads and checks a configuration; it touches no file.
func parseConfig(data []byte) (*Config, error) {
	c := new(Config)
	if err := strictyaml.Decode("config", data, c); err != nil {
		return nil, err
	}
	var errs []error
	fail := func(text string) { errs = append(errs, errors.New(text)) }
	if err := c.Check(false); err != nil {
		errs = append(errs, err)
	}
	if u, err := url.Parse(c.URL); err == nil && strings.Contains(u.Path, "/.well-known") {
		fail("url: leave out /.well-known/est: it is added; the CA's label goes into `label`")
	} else if err == nil && u.RawQuery != "" {
		fail("url: wants no query")
	}
	if c.Label != "" && (!label.MatchString(c.Label) || isOperation(c.Label) || strings.Trim(c.Label, ".") == "") {
		fail("label: wants 1 to 64 letters, digits, \".\", \"_\", \"~\" and \"-\", and no operation's name (RFC 7030 section 3.2.2)")
	}
	switch {
	case (c.User == "") != (c.Password == ""):
		fail("user and password go together")
	case c.User == "" && c.Cert == "":
		fail("cert: an EST CA wants to know who asks: give the RA's certificate as cert and key, or user and password")
	case strings.ContainsAny(c.User, ":\x00\r\n"):
		fail("user: cannot hold a colon or a control character (RFC 7617 section 2)")
	}
	for key, path := range map[string]string{"ca": c.CA, "cert": c.Cert, "key": c.Key, "password": c.Password, "chain": c.Chain} {
		if path != "" && !filepath.IsAbs(path) {
			fail(key + ": not an absolute path")
		}
	}
	timeout := c.timeout()
	if r := time.Duration(c.Repeat); r != 0 && (r < 4*timeout || r > maxRepeat) {
		fail("repeat: at least four times the timeout (" + timeout.String() + "), at most 30d; leave it out where the CA promises nothing")
	}
	if c.CRL != "" {
		if u, err := url.Parse(c.CRL); err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			fail("crl: wants the http or https URL of a CRL")
		}
	}
	var err error
	if c.decides, err = upstream.Decides(c.Decides, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

func isOperation(s string) bool {
	for _, o := range operations {
		if s == o {
			return true
		}
	}
	return false
}

// timeout of one call.
func (c *Config) timeout() time.Duration {
	if c.Timeout == 0 {
		return upstream.DefaultTimeout
	}
	return time.Duration(c.Timeout)
}
