package cmp

import (
	"fmt"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/wire"
)

// Config is the `cmp:` section of an endpoint. The zero value works.
type Config struct {
	// Type is a kind of endpoint whose settings belong together: 3gpp, base stations as 3GPP TS 33.310 clause 9 has them
	// (Type3GPP). Default: none.
	Type Type `yaml:"type"`
	// Bodies are the requests for certificates that are taken: a list of ir, cr, kur, p10cr. Default: all of them. p10cr alone suits
	// a CA that takes nothing but PKCS#10. rr, genm, and what follows on a request (certConf, pollReq, error) are not listed.
	Bodies []BodyName `yaml:"bodies"`
	// Confirm says whether a client can be spared the certConf: on-request (the default) grants implicitConfirm to those
	// who ask for it, explicit never does (RFC 9810 section 5.1.1.1).
	Confirm Confirm `yaml:"confirm"`
	// ConfirmWait is for how long a certificate waits for its certConf, 0 means 5m. From 1s to 90d. It is told to
	// clients that ask (confirmWaitTime, RFC 9810 section 5.1.1.2). The gateway acts on it.
	ConfirmWait strictyaml.Duration `yaml:"confirm-wait"`
	// Unconfirmed says what becomes of a certificate that nobody has confirmed by then: revoke (the default), or keep,
	// for a CA that cannot revoke. The gateway acts on it.
	Unconfirmed Unconfirmed `yaml:"unconfirmed"`
	// ClockSkew is how far a messageTime may be off this clock, 0 means 300s, from 1s to 90d; any takes every time, and
	// messages without one, for devices that have no clock. Replays are found by transactionID and content all the same.
	ClockSkew Skew `yaml:"clock-skew"`
	// Protection of answers: as-request (the default) answers a MAC with a MAC and a signature with a signature,
	// signature signs them all.
	Protection Protection `yaml:"protection"`
	// CAPubs puts the root into caPubs of every ip, cp and kup. The MAC-protected answer to an ir, where a client may
	// trust it (RFC 9810 section 5.3.2), has it always.
	CAPubs bool `yaml:"ca-pubs"`
	// Limits: max-body goes up to 262144; retry-after is the checkAfter of a pollRep, too.
	wire.Limits `yaml:",inline"`
	// Files is for messages that are carried in files (Handler.Process).
	Files Files `yaml:"files"`
	// Legacy lets in what is refused otherwise: sha1 takes SHA-1 in signatures over messages and proofs of possession
	// (never in certificates: that is the stage's to say), and where it derives the key of a MAC. HMAC-SHA-1 in PBM needs
	// no leave.
	Legacy []Legacy `yaml:"legacy"`
}

// Files is the `files:` section: messages that somebody carries to a gateway and back take days.
type Files struct {
	// ClockSkew is the window of messageTime for them, 0 means 14d, and never less than the endpoint's own. From 1s to 90d,
	// or any.
	ClockSkew Skew `yaml:"clock-skew"`
	// ConfirmWait is for how long a certificate that was asked for by file waits for its certConf, by whatever way that
	// comes; 0 means 14d, and never less than the endpoint's own. From 1s to 90d.
	ConfirmWait strictyaml.Duration `yaml:"confirm-wait"`
	// Spool is a folder that the running gateway watches: it takes messages from DIR/in and puts the answers into DIR/out.
	// Default: none. The adapter does not look at it.
	Spool string `yaml:"spool"`
}

func (f Files) check() error {
	if d := f.ClockSkew.Window; d != 0 && (d < time.Second || d > maxWait) {
		return fmt.Errorf("files: clock-skew: not from 1s to 90d, nor any")
	}
	if d := time.Duration(f.ConfirmWait); d != 0 && (d < minConfirmWait || d > maxWait) {
		return fmt.Errorf("files: confirm-wait: not from %s to 90d", minConfirmWait)
	}
	return nil
}

// withDefaults fills in what is 0, beside the rest of the section.
func (f Files) withDefaults(c Config) Files {
	if f.ClockSkew == (Skew{}) {
		f.ClockSkew = Skew{Any: c.ClockSkew.Any, Window: max(c.ClockSkew.Window, defaultFileWait)}
	}
	if f.ConfirmWait == 0 {
		f.ConfirmWait = max(c.ConfirmWait, strictyaml.Duration(defaultFileWait))
	}
	return f
}

// Confirm is on-request or explicit; "" means on-request.
type Confirm string

// The values of Config.Confirm.
const (
	ConfirmOnRequest Confirm = "on-request"
	ConfirmExplicit  Confirm = "explicit"
)

// Unconfirmed is revoke or keep; "" means revoke.
type Unconfirmed string

// The values of Config.Unconfirmed.
const (
	UnconfirmedRevoke Unconfirmed = "revoke"
	UnconfirmedKeep   Unconfirmed = "keep"
)

// Protection is as-request or signature; "" means as-request.
type Protection string

// The values of Config.Protection.
const (
	ProtectAsRequest Protection = "as-request"
	ProtectSignature Protection = "signature"
)

// Legacy names something old that an endpoint takes.
type Legacy string

// LegacySHA1 is the one value of Config.Legacy.
const LegacySHA1 Legacy = "sha1"

// Skew is a period, or any. The zero value stands for the default.
type Skew struct {
	Any    bool
	Window time.Duration
}

// UnmarshalStrict reads `any` or a period.
func (s *Skew) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "any" {
		*s = Skew{Any: true}
		return nil
	}
	d, err := strictyaml.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return strictyaml.Errorf(file, n, "clock-skew wants a period such as 300s, or any")
	}
	*s = Skew{Window: time.Duration(d)}
	return nil
}

const (
	defaultConfirmWait = 5 * time.Minute
	minConfirmWait     = time.Second
	maxWait            = 90 * 24 * time.Hour
	defaultSkew        = 300 * time.Second
	defaultFileWait    = 14 * 24 * time.Hour
	maxMaxBody         = 256 << 10 // cmpmsg parses no more
)

// UnmarshalStrict decodes and checks the section.
func (c *Config) UnmarshalStrict(file string, n *yaml.Node) error {
	type section Config // without this method
	if typeOf(n) == Type3GPP {
		c.CAPubs = true // what is said there goes before
	}
	return wire.DecodeSection(file, n, (*section)(c), func() error { return c.check() })
}

func (c Config) check() error {
	if err := c.checkType(); err != nil {
		return err
	}
	if err := c.checkBodies(); err != nil {
		return err
	}
	switch c.Confirm {
	case "", ConfirmOnRequest, ConfirmExplicit:
	default:
		return fmt.Errorf("confirm: not one of on-request, explicit")
	}
	if d := time.Duration(c.ConfirmWait); d != 0 && (d < minConfirmWait || d > maxWait) {
		return fmt.Errorf("confirm-wait: not from %s to 90d", minConfirmWait)
	}
	switch c.Unconfirmed {
	case "", UnconfirmedRevoke, UnconfirmedKeep:
	default:
		return fmt.Errorf("unconfirmed: not one of revoke, keep")
	}
	if d := c.ClockSkew.Window; d != 0 && (d < time.Second || d > maxWait) {
		return fmt.Errorf("clock-skew: not from 1s to 90d, nor any")
	}
	switch c.Protection {
	case "", ProtectAsRequest, ProtectSignature:
	default:
		return fmt.Errorf("protection: not one of as-request, signature")
	}
	if err := c.Limits.Check(maxMaxBody); err != nil {
		return err
	}
	if d := c.WithDefaults(); d.RetryAfter >= d.ConfirmWait && c.RetryAfter != 0 {
		return fmt.Errorf("retry-after: shorter than confirm-wait, or a certificate that is fetched by polling is revoked before")
	}
	if err := c.Files.check(); err != nil {
		return err
	}
	for _, l := range c.Legacy {
		if l != LegacySHA1 {
			return fmt.Errorf("legacy: not a list of sha1")
		}
	}
	return nil
}

// WithDefaults returns the section with its defaults filled in, for whoever acts on ConfirmWait and Unconfirmed.
func (c Config) WithDefaults() Config {
	c = c.typed()
	if c.Confirm == "" {
		c.Confirm = ConfirmOnRequest
	}
	if c.ConfirmWait == 0 {
		c.ConfirmWait = strictyaml.Duration(defaultConfirmWait)
	}
	if c.Unconfirmed == "" {
		c.Unconfirmed = UnconfirmedRevoke
	}
	if c.ClockSkew == (Skew{}) {
		c.ClockSkew.Window = defaultSkew
	}
	if c.Protection == "" {
		c.Protection = ProtectAsRequest
	}
	c.Limits = c.Limits.WithDefaults()
	c.Files = c.Files.withDefaults(c)
	return c
}

func (c Config) allowSHA1() bool { return len(c.Legacy) > 0 }
