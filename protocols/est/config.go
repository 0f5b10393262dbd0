package est

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/protocols/wire"
)

// Config is the `est:` section of an endpoint. The zero value works.
type Config struct {
	// Type is a kind of endpoint whose settings belong together: onem2m-mef, the M2M Enrolment Function of oneM2M TS-0003
	// clause 8.3.6.2 (TypeMEF). Default: none.
	Type Type `yaml:"type"`
	// Challenge of an MEF: supplied has /csrattrs give a value for challengePassword, for clients that know no channel binding;
	// that binding counts as well. Default: it alone.
	Challenge Challenge `yaml:"challenge"`
	// Allow lists what an MEF does without: unconstrained-ca, an issuing CA whose certificate has no name constraints. Default: nothing.
	Allow []Allow `yaml:"allow"`
	// Wrap says whether the base64 of answers has line breaks: auto (the default) breaks lines for clients that
	// announce themselves as libest, which cannot read /cacerts otherwise, and for nobody else, since strongSwan cannot
	// read any line break; always and never overrule that.
	Wrap Wrap `yaml:"wrap"`
	// CSRAttrs says how /csrattrs announces what a request should have (the profile's first key, names that the device has
	// to give): auto (the default) as RFC 8951 section 4 has it; template as RFC 9908 section 3.4 does, usages too, with what
	// older clients read beside it; none announces nothing but a challengePassword that is required.
	CSRAttrs CSRAttrs `yaml:"csrattrs"`
	// HTTPAuth lists how a client may log in by user name and password, where the endpoint has a stage that compares them: basic (the
	// default), digest, or both. Digest (RFC 7616, SHA-256) needs the stage password, with digest forms of passwords in it.
	HTTPAuth []HTTPAuth `yaml:"http-auth"`
	// RenewalHint says when /renewal-info tells clients to renew (draft-ietf-lamps-est-renewal-info). Default: from 66% to 83% of a
	// certificate's life, at another time for each.
	RenewalHint RenewalHint `yaml:"renewal-hint"`
	// Limits: max-body counts base64 and line breaks too, up to 16777216; retry-after goes with 202 and 503.
	wire.Limits `yaml:",inline"`
}

// Wrap is auto, always or never; "" means auto.
type Wrap string

// The values of Config.Wrap.
const (
	WrapAuto   Wrap = "auto"
	WrapAlways Wrap = "always"
	WrapNever  Wrap = "never"
)

// CSRAttrs is auto, template or none; "" means auto.
type CSRAttrs string

// The values of Config.CSRAttrs.
const (
	CSRAttrsAuto     CSRAttrs = "auto"
	CSRAttrsTemplate CSRAttrs = "template"
	CSRAttrsNone     CSRAttrs = "none"
)

// HTTPAuth is basic or digest.
type HTTPAuth string

// The values of Config.HTTPAuth.
const (
	HTTPAuthBasic  HTTPAuth = "basic"
	HTTPAuthDigest HTTPAuth = "digest"
)

// Offers reports whether clients may log in that way.
func (c Config) Offers(a HTTPAuth) bool {
	return slices.Contains(c.HTTPAuth, a) || c.HTTPAuth == nil && a == HTTPAuthBasic
}

const maxMaxBody = 16 << 20

// UnmarshalStrict decodes and checks the section.
func (c *Config) UnmarshalStrict(file string, n *yaml.Node) error {
	type section Config // without this method
	return wire.DecodeSection(file, n, (*section)(c), func() error { return c.check() })
}

func (c Config) check() error {
	switch c.Wrap {
	case "", WrapAuto, WrapAlways, WrapNever:
	default:
		return fmt.Errorf("wrap: not one of auto, always, never")
	}
	switch c.CSRAttrs {
	case "", CSRAttrsAuto, CSRAttrsTemplate, CSRAttrsNone:
	default:
		return fmt.Errorf("csrattrs: not one of auto, template, none")
	}
	for i, a := range c.HTTPAuth {
		switch {
		case a != HTTPAuthBasic && a != HTTPAuthDigest:
			return fmt.Errorf("http-auth: not one of basic, digest")
		case slices.Contains(c.HTTPAuth[:i], a):
			return fmt.Errorf("http-auth: %s stands twice", a)
		}
	}
	if c.HTTPAuth != nil && len(c.HTTPAuth) == 0 {
		return fmt.Errorf("http-auth: is empty: leave it out, or list basic, digest")
	}
	if err := c.RenewalHint.check(); err != nil {
		return err
	}
	if err := c.checkType(); err != nil {
		return err
	}
	return c.Limits.Check(maxMaxBody)
}

func (c Config) withDefaults() Config {
	if c.Wrap == "" {
		c.Wrap = WrapAuto
	}
	if c.CSRAttrs == "" {
		c.CSRAttrs = CSRAttrsAuto
	}
	c.RenewalHint, c.Limits = c.RenewalHint.WithDefaults(), c.Limits.WithDefaults()
	return c
}

// wraps decides about line breaks for a client. RFC 8951 section 3.1: receivers should tolerate white space, senders
// need not insert any; clients hold to neither.
func (w Wrap) wraps(userAgent string) bool {
	switch w {
	case WrapAlways:
		return true
	case WrapNever:
		return false
	default:
		return fromLibest(userAgent)
	}
}

func fromLibest(userAgent string) bool {
	return len(userAgent) >= len(libest) && strings.EqualFold(userAgent[:len(libest)], libest)
}

// libest begins the User-Agent of Cisco's libest client.
const libest = "libest"
