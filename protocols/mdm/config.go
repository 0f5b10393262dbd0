package mdm

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/wire"
)

// Config is the `mdm:` section of an endpoint.
type Config struct {
	// URL is how devices reach the listener, without a path: https://pki.example.com.
	URL string `yaml:"url,required"`
	// SCEP says which SCEP endpoint the profiles lead to.
	SCEP SCEPConfig `yaml:"scep"`
	// Organization is shown on the device beside the profile's name.
	Organization string `yaml:"organization"`
	// Identifier is what the identifiers of payloads begin with: com.example.mdm.
	Identifier string `yaml:"identifier,required"`
	// Title is what the device shows as the profile's name. Default: "Enrollment".
	Title string `yaml:"title"`
	// DeviceCA are PEM files of CA certificates or public keys (-----BEGIN PUBLIC KEY-----): one of these keys has to have
	// signed a device's own certificate. Default: the key of the Apple iPhone Device CA.
	DeviceCA []string `yaml:"device-ca"`
	// FinalProfile is the file of what a device gets in the end: a configuration profile (XML property list) with placeholders.
	FinalProfile string `yaml:"final-profile,required"`
	// Sign says whether the profiles of phases 1 and 2, and the one of CA certificates, are signed. Default: true. The final
	// profile always is.
	Sign *bool `yaml:"sign"`
	// Challenge: required (the default) has a device's answers carry the token of a first profile that was fetched no longer
	// than Within ago. none does without it: who has recorded a device's answer gets from it what the device would, a challenge for SCEP among it.
	Challenge Challenge `yaml:"challenge"`
	// Within is how long a device has from one step to the next: the token of the first profile, and the challenges for SCEP.
	// From 1m to 24h. Default: 1h.
	Within strictyaml.Duration `yaml:"within"`
	// Trust are PEM files of further certificates for the profile of CA certificates, such as that of a proxy's TLS.
	Trust []string `yaml:"trust"`
	// Legacy lets in sha1, in the signatures of messages, for devices of old. Signatures of the device CA may always be SHA-1's.
	Legacy []Legacy `yaml:"legacy"`
	// Limits: max-body counts a device's message, up to 16777216; retry-after goes with 503.
	wire.Limits `yaml:",inline"`

	dir string // of the file, where relative paths start
}

// SCEPConfig is the SCEP endpoint that profiles lead to.
type SCEPConfig struct {
	// Endpoint of this configuration. Its enroll pipeline has `challenge: {issued: true}`.
	Endpoint string `yaml:"endpoint,required"`
	// URL of it. Default: that of the section, with /scep/ENDPOINT.
	URL string `yaml:"url"`
	// Subject that devices ask for, and their challenges are good for: RFC 4514, with placeholders. Default: CN={{device.name}}
	Subject string `yaml:"subject"`
	// KeySize in bits: 2048 or 4096. Default: 2048.
	KeySize int `yaml:"key-size"`
	// KeyUsage that devices ask for in the second certificate: 1 signing, 4 encryption, 5 both. Default: 5. In the first they always ask
	// for both: it signs, and the final profile is encrypted to it.
	KeyUsage int `yaml:"key-usage"`
}

// Challenge is required or none; "" means required.
type Challenge string

// The values of Config.Challenge.
const (
	ChallengeRequired Challenge = "required"
	ChallengeNone     Challenge = "none"
)

// Legacy names an algorithm that has to be let in.
type Legacy string

// LegacySHA1 is a value of Config.Legacy.
const LegacySHA1 Legacy = "sha1"

const (
	maxMaxBody    = 16 << 20
	maxFile       = 1 << 20
	maxText       = 256
	defaultWithin = time.Hour
	minWithin     = time.Minute
	maxWithin     = 24 * time.Hour
)

// UnmarshalStrict decodes and checks the section.
func (c *Config) UnmarshalStrict(file string, n *yaml.Node) error {
	type section Config // without this method
	return wire.DecodeSection(file, n, (*section)(c), func() error {
		c.dir = filepath.Dir(file)
		return c.check()
	})
}

func (c Config) check() error {
	switch c.Challenge {
	case "", ChallengeRequired, ChallengeNone:
	default:
		return fmt.Errorf("challenge: not one of required, none")
	}
	for i, l := range c.Legacy {
		if l != LegacySHA1 || slices.Contains(c.Legacy[:i], l) {
			return fmt.Errorf("legacy: %q is not sha1, or stands twice", string(l))
		}
	}
	if d := time.Duration(c.Within); d != 0 && (d < minWithin || d > maxWithin) {
		return fmt.Errorf("within: not from %s to %s", minWithin, maxWithin)
	}
	if c.FinalProfile == "" {
		return errors.New("final-profile: say in which file the profile lies that devices get")
	}
	if err := checkURL(c.URL); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if u, _ := url.Parse(c.URL); strings.Trim(u.Path, "/") != "" {
		return errors.New("url: without a path: devices are sent to /ota/NAME below it")
	}
	if c.SCEP.URL != "" {
		if err := checkURL(c.SCEP.URL); err != nil {
			return fmt.Errorf("scep.url: %w", err)
		}
	}
	switch {
	case c.SCEP.Endpoint == "":
		return errors.New("scep.endpoint: say which SCEP endpoint certifies the devices")
	case c.SCEP.KeySize != 0 && c.SCEP.KeySize != 2048 && c.SCEP.KeySize != 4096:
		return errors.New("scep.key-size: not 2048 or 4096")
	case c.SCEP.KeyUsage != 0 && c.SCEP.KeyUsage != 1 && c.SCEP.KeyUsage != 4 && c.SCEP.KeyUsage != 5:
		return errors.New("scep.key-usage: not 1 (signing), 4 (encryption) or 5 (both)")
	case !identifierForm(c.Identifier):
		return errors.New("identifier: letters, digits, dots and hyphens, such as com.example.mdm")
	}
	for what, text := range map[string]string{"organization": c.Organization, "title": c.Title} {
		if len(text) > maxText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("%s: at most %d bytes, without control characters", what, maxText)
		}
	}
	return c.Limits.Check(maxMaxBody)
}

// checkURL judges where devices are sent. Only TLS keeps a challenge for SCEP to its device: there is no fingerprint of the CA in the
// payload by which a device would notice another one.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%q is no URL such as https://pki.example.com", s)
	}
	return nil
}

func identifierForm(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-')
	})
}

func (c Config) withDefaults() Config {
	if c.Sign == nil {
		sign := true
		c.Sign = &sign
	}
	c.URL = strings.TrimRight(c.URL, "/")
	c.Title = cmp.Or(c.Title, "Enrollment")
	c.Challenge = cmp.Or(c.Challenge, ChallengeRequired)
	c.Within = cmp.Or(c.Within, strictyaml.Duration(defaultWithin))
	c.SCEP.URL = cmp.Or(c.SCEP.URL, c.URL+"/scep/"+c.SCEP.Endpoint)
	c.SCEP.Subject = cmp.Or(c.SCEP.Subject, "CN={{device.name}}")
	c.SCEP.KeySize = cmp.Or(c.SCEP.KeySize, 2048)
	c.SCEP.KeyUsage = cmp.Or(c.SCEP.KeyUsage, usageBoth)
	c.Limits = c.Limits.WithDefaults()
	return c
}

// digests are those that a message may be signed with.
func (c Config) digests() []crypto.Hash {
	list := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	if slices.Contains(c.Legacy, LegacySHA1) {
		list = append(list, crypto.SHA1)
	}
	return list
}

// read reads a bounded file that the section names.
func (c Config) read(path string) ([]byte, error) { return strictyaml.ReadFile(c.dir, path, maxFile) }

// readCertificates reads all certificates of PEM files.
func readCertificates(c Config, files []string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for _, file := range files {
		data, err := c.read(file)
		if err != nil {
			return nil, err
		}
		before := len(certs)
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			certs = append(certs, cert)
		}
		if len(certs) == before {
			return nil, fmt.Errorf("%s has no certificate (PEM)", file)
		}
	}
	return certs, nil
}
