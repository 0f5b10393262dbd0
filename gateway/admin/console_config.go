package admin

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// ConsoleConfig switches the console on: pages for people with a browser, at /console/ of the admin API's listener. It may be
// empty ({}). People sign in with the certificates above, or at an identity provider.
type ConsoleConfig struct {
	// Session is for how long somebody stays signed in without asking for anything, 1m to 12h. Default: 15m. It ends 12 hours after the
	// sign-in in any case.
	Session strictyaml.Duration `yaml:"session"`
	// OIDC has people sign in at an identity provider. Default: by client certificate alone.
	OIDC *OIDCConfig `yaml:"oidc"`
}

// OIDCConfig is an identity provider (OpenID Connect Core 1.0), asked by the authorization code flow with PKCE.
type OIDCConfig struct {
	// Issuer is the provider's URL, https, as its ID tokens name it.
	Issuer string `yaml:"issuer,required"`
	// ClientID that the provider knows the console by.
	ClientID string `yaml:"client-id,required"`
	// ClientSecretFile has the client's secret in one line. Default: none, for a public client.
	ClientSecretFile string `yaml:"client-secret-file"`
	// URL is where browsers reach this listener: https://muster.example:9443. The provider has to know URL/console/oidc/callback as
	// a redirect URI.
	URL string `yaml:"url,required"`
	// CA is a PEM file with the roots of the provider's TLS certificate. Default: the system's.
	CA string `yaml:"ca"`
	// Scopes to ask for beside openid. Default: profile.
	Scopes []string `yaml:"scopes"`
	// NameClaim of the ID token is the person's name in the audit trail. Default: preferred_username. It has to be one that
	// people cannot change themselves: two approvals are two names.
	NameClaim string `yaml:"name-claim"`
	// RolesClaim of the ID token holds the person's groups, a text or a list; dots lead into objects. Default: groups.
	RolesClaim string `yaml:"roles-claim"`
	// Roles maps groups to roles: viewer, approver or admin. The highest counts; nobody without one comes in.
	Roles map[string]string `yaml:"roles,required"`
}

// Bounds of a session's time.
const (
	minSession     = time.Minute
	maxSession     = 12 * time.Hour
	defaultSession = 15 * time.Minute
)

// Idle is Session, or its default.
func (c *ConsoleConfig) Idle() time.Duration {
	if c.Session == 0 {
		return defaultSession
	}
	return time.Duration(c.Session)
}

// Check finds what is wrong without reading a file. key is what is at fault, below the configuration's.
func (c *ConsoleConfig) Check() (key []string, err error) {
	if idle := c.Idle(); idle < minSession || idle > maxSession {
		return []string{"session"}, fmt.Errorf("a session lasts %s to %s", strictyaml.Duration(minSession), strictyaml.Duration(maxSession))
	}
	if c.OIDC == nil {
		return nil, nil
	}
	key, err = c.OIDC.check()
	return append([]string{"oidc"}, key...), err
}

func (c *OIDCConfig) check() (key []string, err error) {
	if err := httpsURL(c.Issuer); err != nil {
		return []string{"issuer"}, err
	}
	if err := httpsURL(c.URL); err != nil {
		return []string{"url"}, err
	}
	if u, _ := url.Parse(c.URL); strings.Trim(u.Path, "/") != "" {
		return []string{"url"}, errors.New("the console's URL is https://HOST:PORT, without a path")
	}
	if c.ClientID == "" {
		return []string{"client-id"}, errors.New("it is empty")
	}
	if len(c.Roles) == 0 {
		return []string{"roles"}, errors.New("nobody could come in: say which group has which role")
	}
	if len(c.Roles) > maxCertificates {
		return []string{"roles"}, fmt.Errorf("more than %d", maxCertificates)
	}
	for group, role := range c.Roles {
		if _, err := ParseRole(role); err != nil {
			return []string{"roles", group}, err
		}
	}
	return nil, nil
}

func httpsURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is no address: want https://HOST", s)
	}
	return nil
}
