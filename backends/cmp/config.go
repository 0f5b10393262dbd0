package cmp

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Config is what stands under `config:`. One of Sign, MAC and Exchange is there.
type Config struct {
	upstream.Config `yaml:",inline"` // url may be http: messages protect themselves

	// Sign is the RA's key: what is asked for is signed with it.
	Sign *SignConfig `yaml:"sign"`
	// MAC is a secret that is shared with the CA, in the place of Sign.
	MAC *MACConfig `yaml:"mac"`
	// Trust is a PEM file of whom answers may be signed by: CAs, for certificates below them that are a CA's or have the purpose cmcRA
	// or cmcCA; or the very certificate of the signer. The CA's own root is one of them, or linked to one of them. Needed with Sign.
	Trust string `yaml:"trust"`

	// Request is cr, ir or p10cr, which is for a CA that takes PKCS#10 alone. Default cr.
	Request string `yaml:"request"`
	// Profile is sent as certProfile (RFC 9810 section 5.1.1.4). Default: none.
	Profile string `yaml:"profile"`
	// Confirm is implicit, which asks for implicit confirmation, or explicit. Default implicit.
	Confirm string `yaml:"confirm"`
	// Decides names what the CA sets by rules of its own: subject, subjectAltName, validity, keyUsage, extKeyUsage.
	Decides []backend.Field `yaml:"decides"`
	// Repeats says that the CA answers the same message again with the same certificate. messageTime is the template's notBefore then,
	// and Backdate (the profile's `backdate`) later.
	Repeats  bool                `yaml:"repeats"`
	Backdate strictyaml.Duration `yaml:"backdate"`

	// Name of the CA, for `issuer` in profiles. Default cmp.
	Name string `yaml:"name"`
	// Chain is a PEM file of the CA's chain, the issuing certificate first, the root last. Default: the CA is asked (genm caCerts).
	Chain string `yaml:"chain"`
	// Revoke says whether the CA takes an rr from this RA. Default: with Sign it does.
	Revoke *bool `yaml:"revoke"`
	// CRL says that the CA tells its CRL (genm currentCRL).
	CRL bool `yaml:"crl"`

	// Exchange passes messages of devices on: unchanged, or nested in messages that Sign signs.
	Exchange string `yaml:"exchange"`
}

// SignConfig is a key in files.
type SignConfig struct {
	Cert string `yaml:"cert,required"` // PEM, its chain behind it
	Key  string `yaml:"key,required"`  // PEM, not accessible to others
}

// MACConfig is a shared secret.
type MACConfig struct {
	Reference string `yaml:"reference,required"` // senderKID
	Secret    string `yaml:"secret,required"`    // file, not accessible to others
	Algorithm string `yaml:"algorithm"`          // pbmac1 or pbm; default pbmac1
}

// Paths are the keys that are paths, for those who resolve them.
var Paths = slices.Concat(upstream.Paths, []string{"sign.cert", "sign.key", "mac.secret", "trust", "chain"})

const (
	requestIR    = "ir"
	requestCR    = "cr"
	requestP10CR = "p10cr"

	confirmImplicit = "implicit"
	confirmExplicit = "explicit"

	exchangeUnchanged = "unchanged"
	exchangeNested    = "nested"

	algorithmPBMAC1 = "pbmac1"
	algorithmPBM    = "pbm"
)

// maxReference bounds senderKID, in bytes; maxFile a PEM file.
const (
	maxReference = 255
	maxFile      = 1 << 20
)

// check says what is wrong, without touching anything, and sets what is not said.
func (c *Config) check() error {
	errs := []error{c.Config.Check(true)}
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	one := func(key string, value *string, values ...string) {
		if *value == "" {
			*value = values[0]
		}
		if !slices.Contains(values, *value) {
			fail("%s: wants one of %v%s", key, values, strictyaml.Suggest(*value, values))
		}
	}
	one("request", &c.Request, requestCR, requestIR, requestP10CR)
	one("confirm", &c.Confirm, confirmImplicit, confirmExplicit)
	if c.Exchange != "" {
		one("exchange", &c.Exchange, exchangeUnchanged, exchangeNested)
	}
	if c.MAC != nil {
		one("mac.algorithm", &c.MAC.Algorithm, algorithmPBMAC1, algorithmPBM)
		if n := len(c.MAC.Reference); n > maxReference {
			fail("mac.reference: %d bytes, at most %d", n, maxReference)
		}
	}
	switch {
	case c.Sign != nil && c.MAC != nil:
		fail("sign and mac: one of them protects what is asked for; leave the other out")
	case !c.isRA() && c.Exchange == "":
		fail("nothing protects what is asked for: give it `sign: {cert: FILE, key: FILE}` or `mac: {reference: NAME, secret: FILE}`, or `exchange: unchanged` to pass messages on alone")
	case c.Sign != nil && c.Trust == "":
		fail("trust: wants a PEM file of the CAs or certificates that the CA's answers are signed by")
	}
	if c.Exchange == exchangeNested && c.Sign == nil {
		fail("exchange: nested messages are signed: give it `sign: {cert: FILE, key: FILE}`")
	}
	fields := []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
	for _, f := range c.Decides {
		if !slices.Contains(fields, f) {
			fail("decides: %q is none of %v", f, fields)
		}
	}
	if c.Backdate != 0 && !c.Repeats {
		fail("backdate: goes with `repeats: true`, for messageTime")
	}
	if c.Backdate < 0 || time.Duration(c.Backdate) > 24*time.Hour {
		fail("backdate: 0s to 1d, as the profile has it")
	}
	return errors.Join(errs...)
}

// isRA reports whether it asks with protection of its own.
func (c *Config) isRA() bool { return c.Sign != nil || c.MAC != nil }

// secure reports whether TLS says who answers.
func (c *Config) secure() bool { return len(c.URL) > 6 && c.URL[:6] == "https:" }

func (c *Config) name() string {
	if c.Name == "" {
		return "cmp"
	}
	return c.Name
}

func (c *Config) revokes() bool {
	if c.Revoke != nil {
		return *c.Revoke
	}
	return c.Sign != nil
}

// read reads a PEM file that is no secret.
func read(key, path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %s is larger than %d bytes", key, path, maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return text, nil
}
