package ejbca

import (
	"cmp"
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

// Config is where EJBCA is, and what it is to certify with.
type Config struct {
	// URL is the server's, https://HOST[:PORT]: what follows, /ejbca/ejbca-rest-api, is added. CA, Cert and Key, and Timeout go with it:
	// Cert and Key are those of a member of the RA's role at EJBCA.
	upstream.Config `yaml:",inline"`
	// Token is a file with an OAuth bearer token, in place of Cert or beside it; not accessible to others, read for each call.
	Token string `yaml:"token"`
	// Authority is EJBCA's name of the CA that issues.
	Authority string `yaml:"authority,required"`
	// EndEntityProfile and CertificateProfile are EJBCA's names of the profiles.
	EndEntityProfile   string `yaml:"end-entity-profile,required"`
	CertificateProfile string `yaml:"certificate-profile,required"`
	// Username of the end entity that EJBCA makes: text with {{id}}, the transaction's ID, or {{device}}, or both. Default: {{id}}.
	// Without {{id}} requests are told apart by their account binding ID.
	Username string `yaml:"username"`
	// EndTime asks for the end of validity that was granted. Default: the certificate profile sets it.
	EndTime bool `yaml:"end-time"`
	// Decides lists what EJBCA sets by its profiles, whatever the request says: subject, subjectAltName, validity, keyUsage, extKeyUsage.
	// Default: all of them.
	Decides []string `yaml:"decides"`
	// Settle is how long a call whose answer was lost may still be under way at EJBCA. Default 10m, 1m to 24h.
	Settle strictyaml.Duration `yaml:"settle"`

	decides []backend.Field
}

// Paths are the keys of a configuration that are paths.
var Paths = append([]string{"token"}, upstream.Paths...)

const (
	restPath = "/ejbca/ejbca-rest-api"
	maxName  = 250 // characters of a name, as EJBCA's columns hold them

	// WildFly ends a transaction after 5 minutes (transactions subsystem, default-timeout 300).
	defaultSettle = 10 * time.Minute
	minSettle     = time.Minute
	maxSettle     = 24 * time.Hour
)

const (
	placeID     = "{{id}}"
	placeDevice = "{{device}}"
)

// literal is what a user name may have beside its places: what EJBCA keeps as it is (StringTools.strip), and no wildcard of SQL's LIKE.
var literal = regexp.MustCompile(`^[A-Za-z0-9.@-]{0,64}$`)

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
	if u, err := url.Parse(c.URL); err == nil && strings.Contains(u.Path, "ejbca-rest-api") {
		fail("url: leave out " + restPath + ": it is added")
	}
	if c.Cert == "" && c.Token == "" {
		fail("cert: EJBCA wants to know who asks: give the RA's certificate as cert and key, or an OAuth token as token")
	}
	for key, name := range map[string]string{"authority": c.Authority, "end-entity-profile": c.EndEntityProfile, "certificate-profile": c.CertificateProfile} {
		if len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
			fail(key + ": a name of at most 250 characters on one line")
		}
	}
	for key, path := range map[string]string{"ca": c.CA, "cert": c.Cert, "key": c.Key, "token": c.Token} {
		if path != "" && !filepath.IsAbs(path) {
			fail(key + ": not an absolute path")
		}
	}
	c.Username = cmp.Or(c.Username, placeID)
	if bare := strings.NewReplacer(placeID, "", placeDevice, "").Replace(c.Username); bare == c.Username || !literal.MatchString(bare) || strings.Count(c.Username, placeID) > 1 || strings.Count(c.Username, placeDevice) > 1 {
		fail(`username: wants {{id}} or {{device}} in it, or each once, and beside them letters, digits, ".", "@" and "-" only, at most 64`)
	}
	c.Settle = cmp.Or(c.Settle, strictyaml.Duration(defaultSettle))
	if s := time.Duration(c.Settle); s < minSettle || s > maxSettle || s < c.timeout() {
		fail("settle: 1m to 24h, and not less than the timeout")
	}
	var err error
	if c.decides, err = upstream.Decides(c.Decides, backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// timeout of one call.
func (c *Config) timeout() time.Duration {
	return cmp.Or(time.Duration(c.Timeout), upstream.DefaultTimeout)
}

// byBinding reports whether requests are told apart by their account binding ID, since their user names do not.
func (c *Config) byBinding() bool { return !strings.Contains(c.Username, placeID) }
