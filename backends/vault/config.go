package vault

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Config is the backend's YAML configuration.
type Config struct {
	// Config is where the server is: `url: https://HOST:8200`, and http at a loopback address only, where an agent of it listens.
	upstream.Config `yaml:",inline"`
	// Namespace of Vault Enterprise or OpenBao, such as team/devices.
	Namespace string `yaml:"namespace"`
	// Mount is where the PKI secrets engine is. Default pki.
	Mount string `yaml:"mount"`
	// Auth is how Muster logs in.
	Auth Auth `yaml:"auth,required"`
	// Issuers are the issuing CAs of the engine by name or ID, the default one first. Default: default.
	Issuers []string `yaml:"issuers"`
	// Sign is verbatim (sign-verbatim: the certificate is what was granted; the default) or role (sign: the role decides).
	Sign string `yaml:"sign"`
	// Role of the engine. With verbatim, which does without one, it only says whether certificates are stored, and by how much they are backdated.
	Role string `yaml:"role"`
	// Chain is a PEM file of CA certificates above the issuers that the engine does not have, the root among them.
	Chain string `yaml:"chain"`
	// Lookup is how a request is found again whose answer was lost: scan (the engine's certificates are read; the default) or none.
	Lookup string `yaml:"lookup"`
	// LookupLimit is how many certificates the engine may have for that, 1 to 1000000. Default 200000.
	LookupLimit int `yaml:"lookup-limit"`
	// Settle is how long a call whose answer was lost may still be under way at the server: 2m to 1h, and longer than timeout by 90s. Default 5m.
	Settle strictyaml.Duration `yaml:"settle"`
}

// Auth is one of three methods.
type Auth struct {
	// Token is a file with a token, not accessible to others. It is read for each call, so that it may be replaced.
	Token string `yaml:"token"`
	// AppRole is a role of the approle method.
	AppRole *AppRole `yaml:"approle"`
	// Kubernetes is a role of the kubernetes method.
	Kubernetes *Kubernetes `yaml:"kubernetes"`
}

// AppRole logs in with a role ID and a secret ID.
type AppRole struct {
	Mount    string `yaml:"mount"` // default approle
	RoleID   string `yaml:"role-id,required"`
	SecretID string `yaml:"secret-id"` // a file, not accessible to others, read for each login; none for a role with bind_secret_id=false
}

// Kubernetes logs in with a service account's token.
type Kubernetes struct {
	Mount string `yaml:"mount"` // default kubernetes
	Role  string `yaml:"role,required"`
	JWT   string `yaml:"jwt"` // a file, read for each login; default /var/run/secrets/kubernetes.io/serviceaccount/token
}

// The values of Config.Sign and Config.Lookup.
const (
	signVerbatim = "verbatim"
	signRole     = "role"
	lookupScan   = "scan"
	lookupNone   = "none"
)

const (
	defaultMount       = "pki"
	defaultIssuer      = "default"
	defaultJWT         = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	defaultLookupLimit = 200_000
	maxLookupLimit     = 1_000_000
	maxIssuers         = 16
	maxPath            = 256 // characters of a mount or namespace

	defaultSettle = 5 * time.Minute
	minSettle     = 2 * time.Minute
	maxSettle     = time.Hour
	// maxRequest is max_request_duration of a server's default configuration: how long it is at one request.
	maxRequest = 90 * time.Second
)

// Paths are the keys that are paths, for those who resolve them.
var Paths = append(slices.Clone(upstream.Paths), "auth.token", "auth.approle.secret-id", "auth.kubernetes.jwt", "chain")

// parseConfig reads and checks a configuration, and fills in the defaults; it touches no file.
func parseConfig(data []byte) (*Config, error) {
	c := new(Config)
	if err := strictyaml.Decode("config", data, c); err != nil {
		return nil, err
	}
	c.Namespace = strings.Trim(c.Namespace, "/")
	c.Mount = cmp.Or(strings.Trim(c.Mount, "/"), defaultMount)
	c.Sign = cmp.Or(c.Sign, signVerbatim)
	c.Lookup = cmp.Or(c.Lookup, lookupScan)
	c.LookupLimit = cmp.Or(c.LookupLimit, defaultLookupLimit)
	c.Settle = cmp.Or(c.Settle, strictyaml.Duration(defaultSettle))
	c.Timeout = cmp.Or(c.Timeout, strictyaml.Duration(upstream.DefaultTimeout))
	if len(c.Issuers) == 0 {
		c.Issuers = []string{defaultIssuer}
	}
	if a := c.Auth.AppRole; a != nil {
		a.Mount = cmp.Or(strings.Trim(a.Mount, "/"), "approle")
	}
	if k := c.Auth.Kubernetes; k != nil {
		k.Mount = cmp.Or(strings.Trim(k.Mount, "/"), "kubernetes")
		k.JWT = cmp.Or(k.JWT, defaultJWT)
	}
	return c, errors.Join(c.check()...)
}

// What stands in a URL's path: the engine's own pattern of names (framework.GenericNameRegex), and mounts and namespaces of such.
var (
	nameForm = regexp.MustCompile(`^\w(?:[\w.-]{0,126}\w)?$`)
	pathForm = regexp.MustCompile(`^[\w-][\w. -]*(?:/[\w-][\w. -]*)*$`)
)

func (c *Config) check() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := c.Config.Check(c.loopback()); err != nil {
		errs = append(errs, err)
	}
	place := func(key, value string) {
		if len(value) > maxPath || !pathForm.MatchString(value) {
			fail("%s: wants a path such as %s, without what stands before it in a URL", key, defaultMount)
		}
	}
	place("mount", c.Mount)
	if c.Namespace != "" {
		place("namespace", c.Namespace)
	}
	for i, name := range c.Issuers {
		switch {
		case !nameForm.MatchString(name):
			fail("issuers: wants the name or ID of an issuer in entry %d", i+1)
		case slices.Index(c.Issuers, name) != i:
			fail("issuers: %s stands twice", name)
		}
	}
	if len(c.Issuers) > maxIssuers {
		fail("issuers: at most %d", maxIssuers)
	}
	if c.Sign != signVerbatim && c.Sign != signRole {
		fail("sign: wants verbatim or role")
	}
	switch {
	case c.Sign == signRole && c.Role == "":
		fail("role: `sign: role` wants the name of a role of the engine")
	case c.Role != "" && !nameForm.MatchString(c.Role):
		fail("role: wants the name of a role of the engine")
	}
	if c.Lookup != lookupScan && c.Lookup != lookupNone {
		fail("lookup: wants scan or none")
	}
	if c.LookupLimit < 1 || c.LookupLimit > maxLookupLimit {
		fail("lookup-limit: 1 to %d", maxLookupLimit)
	}
	switch settle := time.Duration(c.Settle); {
	case settle < minSettle || settle > maxSettle:
		fail("settle: %s to %s", minSettle, maxSettle)
	case settle < time.Duration(c.Timeout)+maxRequest:
		fail("settle: longer than timeout by %s, which a server may be at a request", maxRequest)
	}
	return append(errs, c.Auth.check(place)...)
}

func (a *Auth) check(place func(key, value string)) (errs []error) {
	given := 0
	for _, there := range []bool{a.Token != "", a.AppRole != nil, a.Kubernetes != nil} {
		if there {
			given++
		}
	}
	if given != 1 {
		errs = append(errs, errors.New("auth: wants one of token, approle and kubernetes"))
	}
	if a.AppRole != nil {
		place("auth.approle.mount", a.AppRole.Mount)
	}
	if a.Kubernetes != nil {
		place("auth.kubernetes.mount", a.Kubernetes.Mount)
	}
	return errs
}

// loopback reports whether nobody is on the way to the server: an agent of it on this machine.
func (c *Config) loopback() bool {
	u, err := url.Parse(c.URL)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return ip != nil && ip.IsLoopback()
}
