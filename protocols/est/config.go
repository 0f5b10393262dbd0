package est

import (
	"fmt"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config is the `est:` section of an endpoint. The zero value works.
type Config struct {
	// Wrap says whether the base64 of answers has line breaks: auto (the default) breaks lines for clients that
	// announce themselves as libest, which cannot read /cacerts otherwise, and for nobody else, since strongSwan cannot
	// read any line break; always and never overrule that.
	Wrap Wrap `yaml:"wrap"`
	// MaxBody is how many bytes a request body may have, base64 and line breaks included; 0 means 262144 (256 KiB).
	// From 4096 to 16777216.
	MaxBody int64 `yaml:"max-body"`
	// RetryAfter is when a client may come back after 202 or 503, where nothing else is known; 0 means 30s. It is sent
	// in whole seconds. From 1s to 24h.
	RetryAfter strictyaml.Duration `yaml:"retry-after"`
}

// Wrap is auto, always or never; "" means auto.
type Wrap string

// The values of Config.Wrap.
const (
	WrapAuto   Wrap = "auto"
	WrapAlways Wrap = "always"
	WrapNever  Wrap = "never"
)

const (
	defaultMaxBody    = 256 << 10
	minMaxBody        = 4 << 10
	maxMaxBody        = 16 << 20
	defaultRetryAfter = 30 * time.Second
	maxRetryAfter     = 24 * time.Hour
)

// UnmarshalStrict decodes and checks the section.
func (c *Config) UnmarshalStrict(file string, n *yaml.Node) error {
	type section Config // without this method
	s := section(*c)
	if err := strictyaml.DecodeNode(file, n, &s); err != nil {
		return err
	}
	if err := Config(s).check(); err != nil {
		return strictyaml.Errorf(file, n, "%v", err)
	}
	*c = Config(s)
	return nil
}

func (c Config) check() error {
	switch c.Wrap {
	case "", WrapAuto, WrapAlways, WrapNever:
	default:
		return fmt.Errorf("wrap: not one of auto, always, never")
	}
	if c.MaxBody != 0 && (c.MaxBody < minMaxBody || c.MaxBody > maxMaxBody) {
		return fmt.Errorf("max-body: not from %d to %d bytes", minMaxBody, maxMaxBody)
	}
	if d := time.Duration(c.RetryAfter); d != 0 && (d < time.Second || d > maxRetryAfter) {
		return fmt.Errorf("retry-after: not from 1s to %s", maxRetryAfter)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Wrap == "" {
		c.Wrap = WrapAuto
	}
	if c.MaxBody == 0 {
		c.MaxBody = defaultMaxBody
	}
	if c.RetryAfter == 0 {
		c.RetryAfter = strictyaml.Duration(defaultRetryAfter)
	}
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
		return len(userAgent) >= len(libest) && strings.EqualFold(userAgent[:len(libest)], libest)
	}
}

// libest begins the User-Agent of Cisco's libest client.
const libest = "libest"
