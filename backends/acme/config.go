package acme

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/muster-pki/muster/plugins/backend/command"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Config is the backend's configuration.
type Config struct {
	upstream.Config `yaml:",inline"` // url is the CA's directory (RFC 8555 section 7.1.1)

	// AccountKey is a PEM file with the account's private key. One that is not there is made, P-256, mode 0600. Replicas have the same:
	// an order belongs to its account.
	AccountKey string `yaml:"account-key,required"`
	// Contact of the account: mailto: URLs.
	Contact []string `yaml:"contact"`
	// TermsAgreed says that the CA's terms of service are agreed to.
	TermsAgreed bool `yaml:"terms-agreed"`
	// ExternalAccount binds the account to one that the CA knows (RFC 8555 section 7.3.4).
	ExternalAccount *ExternalAccount `yaml:"external-account"`

	// Chain is a PEM file with the CA's certificates: the issuing one first, its root last, others that issue too behind that. ACME names
	// none before the first certificate. It is read again each time it is asked for.
	Chain string `yaml:"chain,required"`

	HTTP01 *HTTP01 `yaml:"http-01"` // of DNS names and IP addresses (RFC 8555 section 8.3, RFC 8738)
	DNS01  *Hook   `yaml:"dns-01"`  // of DNS names, wildcards too (RFC 8555 section 8.4)
	// Env is the environment of the hooks, beside the challenge; PATH is the system's unless it is here.
	Env map[string]string `yaml:"env"`
	// HookTimeout of one run. Default 10s; 100ms to 15s, since a step of an order has 20s.
	HookTimeout strictyaml.Duration `yaml:"hook-timeout"`
}

// ExternalAccount is what the CA gave its customer.
type ExternalAccount struct {
	KID string `yaml:"kid,required"`
	Key string `yaml:"key,required"` // a file, not accessible to others, with the HMAC key, base64url as the CA gave it
}

// HTTP01 is how answers come to the web server of a name: a folder, or a hook.
type HTTP01 struct {
	// Dir is served by the web servers as /.well-known/acme-challenge/.
	Dir  string `yaml:"dir"`
	Hook `yaml:",inline"`
}

// Hook is a pair of programs, each with its arguments, that learn of the challenge by their environment.
type Hook struct {
	Present command.Argv `yaml:"present"` // ends with 0 when the answer can be seen from everywhere
	Cleanup command.Argv `yaml:"cleanup"` // takes it away; also one that never was there
}

// Paths are the keys that are paths, for those who resolve them. A program's path is absolute.
var Paths = append([]string{"account-key", "external-account.key", "chain", "http-01.dir"}, upstream.Paths...)

const defaultHookTimeout = 10 * time.Second

// parseConfig reads and checks a configuration, with the defaults filled in; it touches no file.
func parseConfig(data []byte) (*Config, error) {
	root, err := strictyaml.Parse("config", data)
	if err != nil {
		return nil, err
	}
	c := new(Config)
	if err := strictyaml.DecodeNode("config", root, c); err != nil {
		return nil, err
	}
	var errs []error
	fail := func(key, format string, args ...any) {
		errs = append(errs, &strictyaml.Error{File: "config", Line: strictyaml.Line(root, key), Path: key, Message: fmt.Sprintf(format, args...)})
	}
	if err := c.Check(false); err != nil {
		fail("url", "%v", err)
	}
	paths := map[string]string{"account-key": c.AccountKey, "chain": c.Chain}
	if c.ExternalAccount != nil {
		paths["external-account"] = c.ExternalAccount.Key
	}
	if c.HTTP01 != nil && c.HTTP01.Dir != "" {
		paths["http-01"] = c.HTTP01.Dir
	}
	for key, path := range paths {
		if !filepath.IsAbs(path) {
			fail(key, "%q is not an absolute path", path)
		}
	}
	for _, contact := range c.Contact {
		if u, err := url.Parse(contact); err != nil || u.Scheme == "" || u.Opaque == "" && u.Host == "" {
			fail("contact", "%q is no URL: mailto:NAME@DOMAIN", contact)
		}
	}
	if c.HTTP01 == nil && c.DNS01 == nil {
		fail("http-01", "one of http-01 and dns-01 is required: the CA wants to see who has the names")
	}
	if h := c.HTTP01; h != nil {
		switch given := h.Present != nil || h.Cleanup != nil; {
		case h.Dir != "" && given:
			fail("http-01", "dir writes the answers already: leave out the programs")
		case h.Dir == "":
			h.check("http-01", fail)
		}
	}
	if c.DNS01 != nil {
		c.DNS01.check("dns-01", fail)
	}
	if err := command.CheckEnv(c.Env); err != nil {
		fail("env", "%v", err)
	}
	if c.HookTimeout == 0 {
		c.HookTimeout = strictyaml.Duration(defaultHookTimeout)
	}
	if t := time.Duration(c.HookTimeout); t < 100*time.Millisecond || t > 15*time.Second {
		fail("hook-timeout", "100ms to 15s")
	}
	return c, errors.Join(errs...)
}

func (h *Hook) check(key string, fail func(key, format string, args ...any)) {
	if h.Present == nil || h.Cleanup == nil {
		fail(key, "wants the programs `present` and `cleanup`%s", map[bool]string{true: ", or a folder, `dir`"}[key == "http-01"])
		return
	}
	for what, argv := range map[string]command.Argv{"present": h.Present, "cleanup": h.Cleanup} {
		if err := argv.Check(); err != nil {
			fail(key, "%s: %v", what, err)
		}
	}
}
