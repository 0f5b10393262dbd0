package stepca

import (
	"encoding/hex"
	"errors"
	"strings"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Config is the backend's YAML configuration.
type Config struct {
	// URL of step-ca: https://HOST[:PORT]. HOST is one of its dnsNames: tokens are made out to it.
	URL string `yaml:"url,required"`
	// Root is a PEM file of the CA's root certificates. It or Fingerprint.
	Root string `yaml:"root"`
	// Fingerprint is the SHA-256 of the root certificate, 64 hexadecimal digits: the root is fetched from the CA then.
	Fingerprint string `yaml:"fingerprint"`
	// Provisioner is the name of the provisioner at the CA.
	Provisioner string `yaml:"provisioner,required"`
	// JWK is the key of a JWK provisioner. It or X5C.
	JWK *JWK `yaml:"jwk"`
	// X5C is the certificate for an X5C provisioner.
	X5C *X5C `yaml:"x5c"`
	// Template is the provisioner's certificate template: muster (the default), which is configs/stepca.tpl, or default, step-ca's own.
	Template string `yaml:"template"`
	// Timeout of one call, answer included. Default 15s, at most 10m.
	Timeout strictyaml.Duration `yaml:"timeout"`
}

// JWK is the private key of a JWK provisioner.
type JWK struct {
	// Key is a file with the private key, a JSON Web Key (RFC 7517), plain or encrypted (JWE with a password, as step-ca's own
	// `encryptedKey` and `step crypto jwk create` have it), not accessible to others.
	Key string `yaml:"key,required"`
	// Password is a file with the password of an encrypted one, not accessible to others.
	Password string `yaml:"password"`
}

// X5C is a certificate that an X5C provisioner trusts. Both files are read for each token, so that they may be replaced.
type X5C struct {
	Cert string `yaml:"cert,required"` // PEM: the certificate first, then its chain
	Key  string `yaml:"key,required"`  // PEM, not encrypted, not accessible to others
}

// The values of Config.Template.
const (
	templateMuster  = "muster"
	templateDefault = "default"
)

// Paths are the keys that are paths, for those who resolve them.
var Paths = []string{"root", "jwk.key", "jwk.password", "x5c.cert", "x5c.key"}

// parseConfig reads and checks a configuration; it touches no file.
func parseConfig(data []byte) (*Config, error) {
	c := new(Config)
	if err := strictyaml.Decode("config", data, c); err != nil {
		return nil, err
	}
	if c.Template == "" {
		c.Template = templateMuster
	}
	return c, errors.Join(c.check()...)
}

func (c *Config) check() (errs []error) {
	fail := func(text string) { errs = append(errs, errors.New(text)) }
	if err := c.upstream().Check(false); err != nil {
		errs = append(errs, err)
	}
	switch sum, err := hex.DecodeString(strings.ReplaceAll(c.Fingerprint, ":", "")); {
	case c.Root == "" && c.Fingerprint == "":
		fail("root: name the file of the CA's root certificate, or give its SHA-256 as fingerprint")
	case c.Root != "" && c.Fingerprint != "":
		fail("root and fingerprint say the same: leave one out")
	case c.Fingerprint != "" && (err != nil || len(sum) != 32):
		fail("fingerprint: wants 64 hexadecimal digits: step certificate fingerprint root_ca.crt")
	}
	if c.Provisioner == "" {
		fail("provisioner: wants the name of the provisioner at the CA")
	}
	switch {
	case c.JWK == nil && c.X5C == nil:
		fail("jwk or x5c: wants the key of the provisioner")
	case c.JWK != nil && c.X5C != nil:
		fail("jwk and x5c: a provisioner is one of them")
	}
	if c.Template != templateMuster && c.Template != templateDefault {
		fail("template: wants muster or default")
	}
	return errs
}

func (c *Config) upstream() *upstream.Config {
	return &upstream.Config{URL: c.URL, CA: c.Root, Timeout: c.Timeout}
}
